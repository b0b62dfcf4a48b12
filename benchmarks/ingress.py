"""What a request costs from socket to socket: Trimtab's HTTP and gRPC against other servers with the same model.

One MNIST image per request, fp32 weights from one ONNX file with one thread everywhere, a closed loop of 1, 16 and 64
connections. Requests per second depend on how busy the machine is; CPU milliseconds per request over all processes
of a server are the steadier figure. Trimtab is measured twice: held to the peers' fp32, and with its ladder free.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import compare, endpoint, payloads, report, servers
from benchmarks.arena import has_mnist
from benchmarks.compare import FREE_AT, MOST_LOSS
from benchmarks.endpoint import Endpoint
from benchmarks.servers import PEERS, PeerError, Server

CONCURRENCIES = (1, 16, 64)
QUICK_PEERS = ("fastapi", "fastapi-2", "serve-batch")
SEED = 0
FP32 = "onnx-fp32"
SETTLE_S = 1.0  # after a standstill, and for Serve to give a replica its new section

Measured = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One server asked in one encoding; `job` is the client's."""

    server: str
    encoding: str
    running: Server
    job: dict[str, Any]


def main() -> int:
    arguments = _arguments()
    if arguments.experiment is None and not has_mnist(arguments.data):
        return 2
    random.seed(SEED)
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(endpoint.served(arguments.scratch, experiment(arguments)))
        shape = ours.bundle.encoding.shape
        row = np.random.default_rng(SEED).integers(0, 256, (1, *shape)).astype(np.uint8)
        rungs = ours.bundle.ladder["rungs"] if ours.bundle.ladder else []
        settings = serve_sections(rungs)
        cases = [case for setting in settings for case in our_cases(ours, setting, row)]
        for name, running in _peers(stack, arguments, ours.model, missing):
            cases += peer_cases(name, running, row)
            running.freeze()
        ours.server.freeze()
        rounds = [measure(ours, settings, cases, arguments, missing, number) for number in range(arguments.rounds)]
    write(arguments, rounds, missing, rungs)
    return 0


def experiment(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.experiment is None:
        return endpoint.mnist(arguments.data)
    tree: dict[str, Any] = yaml.safe_load(arguments.experiment.read_text())
    return tree | {"serve": {}}


def serve_sections(rungs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Trimtab held to fp32 and, where the ladder has more rungs of nearly its accuracy, free to choose among these.

    The objective is half of what fp32 needs for 64 requests, so that 64 connections ask for more than it can do.
    """
    settings: dict[str, dict[str, Any]] = {"trimtab": {"rungs": [FP32]}}
    by_variant = {rung["variant"]: rung for rung in rungs}
    near = [name for name, rung in by_variant.items() if rung["accuracy"] > by_variant[FP32]["accuracy"] - MOST_LOSS]
    if len(near) > 1:
        latency_ms = max(20.0, 500 * FREE_AT * by_variant[FP32]["latency"]["per_row_s"])
        settings["trimtab-free"] = {"rungs": near, "objective": {"latency_ms": latency_ms}}
    return settings


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingress", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"one short round, peers {', '.join(QUICK_PEERS)}")
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="by default all")
    parser.add_argument("--concurrency", nargs="+", type=int, default=list(CONCURRENCIES))
    parser.add_argument("--rounds", type=int, help="5 by default")
    parser.add_argument("--seconds", type=float, help="of each measurement, 1.5 by default")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"), help="folder of MNIST's gz files")
    parser.add_argument("--experiment", type=Path, help="another experiment file, instead of MNIST's small network")
    parser.add_argument("--scratch", type=Path, default=servers.SCRATCH, help="environments and the trained model")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    arguments = parser.parse_args()
    if arguments.peers is None:
        arguments.peers = list(QUICK_PEERS if arguments.quick else PEERS)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.seconds = arguments.seconds or (0.8 if arguments.quick else 1.5)
    arguments.scratch = arguments.scratch.absolute()
    return arguments


def _peers(
    stack: contextlib.ExitStack, arguments: argparse.Namespace, model: Path, missing: dict[str, str]
) -> Iterator[tuple[str, Server]]:
    """Those that start; why another one does not is put into `missing`."""
    for name in arguments.peers:
        try:
            yield name, stack.enter_context(servers.started(PEERS[name], model, arguments.scratch))
        except PeerError as error:
            missing[name] = str(error)
            print(f"{PEERS[name].title}: not measured, it {error}", file=sys.stderr, flush=True)


# Who is asked what


def our_cases(ours: Endpoint, setting: str, row: np.ndarray) -> list[Case]:
    binary, head_length = payloads.binary_body(row)
    bodies = {
        "json": ("infer", payloads.json_body(row), {"content-type": "application/json"}),
        "raw": (
            "infer",
            binary,
            {"content-type": "application/octet-stream", "inference-header-content-length": str(head_length)},
        ),
        "png": ("predict", payloads.png_body(row[0]), {"content-type": "image/png"}),
    }
    made = []
    for encoding, (verb, body, headers) in bodies.items():
        request = payloads.http_request(f"{ours.path}/{verb}", body, headers | ours.headers)
        made.append(Case(setting, encoding, ours.server, _http_job(ours.server, request)))
    message = payloads.grpc_message(row, ours.bundle.name)
    return [*made, Case(setting, "grpc", ours.server, _grpc_job(ours.server, message, ours.headers))]


def peer_cases(name: str, running: Server, row: np.ndarray) -> list[Case]:
    made = []
    for encoding, path in PEERS[name].paths.items():
        if encoding == "grpc":
            job = _grpc_job(running, payloads.grpc_message(row, "model"), {})
        else:
            job = _http_job(running, payloads.http_request(path, *payloads.BODIES[encoding](row)))
        made.append(Case(name, encoding, running, job))
    return made


def _http_job(running: Server, request: bytes) -> dict[str, Any]:
    text = base64.b64encode(request).decode()
    return {"kind": "http", "host": running.host, "port": running.port, "request": text}


def _grpc_job(running: Server, message: bytes, headers: dict[str, str]) -> dict[str, Any]:
    text = base64.b64encode(message).decode()
    job = {"kind": "grpc", "host": running.host, "port": running.grpc_port, "request": text}
    return job | {"path": payloads.GRPC_PATH, "headers": headers}


# Measuring


def measure(
    ours: Endpoint,
    settings: Mapping[str, Mapping[str, Any]],
    cases: list[Case],
    arguments: argparse.Namespace,
    missing: dict[str, str],
    number: int,
) -> list[Measured]:
    """One round: every case once at each concurrency, servers in an order of chance."""
    measured = []
    for connections in arguments.concurrency:
        names = sorted({case.server for case in cases})
        random.shuffle(names)
        for name in names:
            mine = [case for case in cases if case.server == name]
            mine[0].running.thaw()
            if name in settings:
                ours.redeploy(**settings[name])
            time.sleep(SETTLE_S)
            try:
                for case in mine:
                    measured.append(ask(case, connections, arguments.seconds))
                    print(f"round {number}: {compare.line(measured[-1])}", file=sys.stderr, flush=True)
            except PeerError as error:
                if name in settings:
                    raise
                missing[name] = str(error)
                print(f"{PEERS[name].title}: not measured any more, it {error}", file=sys.stderr, flush=True)
                cases[:] = [case for case in cases if case.server != name]
            mine[0].running.freeze()
    return measured


def ask(case: Case, connections: int, seconds: float) -> Measured:
    """One client process against one server, and what both used of the processor."""
    command = [sys.executable, "-m", "benchmarks.client"]
    job = json.dumps(case.job | {"connections": connections, "seconds": seconds})
    with subprocess.Popen(
        command, cwd=endpoint.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(job + "\n")
        client.stdin.flush()
        if not client.stdout.readline():
            raise PeerError("stopped answering")
        before = case.running.cpu_s()
        client.stdin.write("go\n")
        client.stdin.flush()
        line = client.stdout.readline()
        if not line:
            raise PeerError("stopped answering")
        spent_s = case.running.cpu_s() - before
        said = json.loads(line)
    num = max(1, said["requests"])
    return {
        "server": case.server,
        "encoding": case.encoding,
        "connections": connections,
        "per_s": said["requests"] / said["seconds"],
        "cpu_ms": spent_s * 1000 / num,
        "client_ms": said["client_cpu_s"] * 1000 / num,
        "client_share": said["client_cpu_s"] / said["seconds"],
        **{name: said[name] for name in ("p50_ms", "p99_ms", "requests", "failed", "variants")},
    }


# What is said


def write(
    arguments: argparse.Namespace,
    rounds: list[list[Measured]],
    missing: dict[str, str],
    rungs: Sequence[Mapping[str, Any]],
) -> None:
    titles = {name: peer.title for name, peer in PEERS.items()}
    titles |= {"trimtab": "Trimtab, fp32", "trimtab-free": "Trimtab, ladder free"}
    accuracies = {rung["variant"]: float(rung["accuracy"]) for rung in rungs}
    loss, free = accuracy_loss([one for measured in rounds for one in measured], accuracies)
    busiest = max(one["client_share"] for measured in rounds for one in measured)
    model = "MNIST's small network" if arguments.experiment is None else arguments.experiment.stem
    notes = (
        f"One image per request for {model}, closed loop, one replica or process with the model unless said, fp32 from "
        "one ONNX file on one thread; peers batch up to 32 and wait 2 ms where they can. Trimtab checks a token, none "
        "of the peers does. Fewer CPU ms per request are better; they are those of all processes of a server, with "
        "Ray's own, so idle work weighs where requests are few. Who is not asked stands still "
        "(SIGSTOP). The client is one process and used at most "
        f"{busiest:.0%} of a core. {free} {compare.ahead(rounds, titles)}"
    )
    if missing:
        notes += " Not measured: " + "; ".join(f"{titles[name]} {why}" for name, why in missing.items()) + "."
    if arguments.quick:
        notes += " A quick run: one short round, a few of the peers; rough."
    figures = compare.figures(rounds, titles, loss)
    tables = compare.tables(rounds, titles)
    more = {"missing": missing, "rounds": rounds, "accuracy_loss": loss}
    report.write(
        arguments.out, "ingress", quick=arguments.quick, seed=SEED, figures=figures, notes=notes, tables=tables, **more
    )


def accuracy_loss(measured: Sequence[Measured], accuracies: Mapping[str, float]) -> tuple[float, str]:
    """What the free ladder lost against fp32 at the most connections, and its rungs, in words."""
    free = [one for one in measured if one["server"] == "trimtab-free" and one["variants"]]
    if not free:
        have = ", ".join(f"{variant} ({accuracy:.4f})" for variant, accuracy in accuracies.items())
        return 0.0, f"The ladder ({have}) has no other rung within {MOST_LOSS * 100:g} points: there is none to free."
    most = max(one["connections"] for one in free)
    counts: Counter[str] = Counter()
    for one in free:
        if one["connections"] == most:
            counts.update(one["variants"])
    loss = accuracies[FP32] - sum(accuracies[variant] * num for variant, num in counts.items()) / counts.total()
    mix = ", ".join(f"{variant} {num / counts.total():.0%}" for variant, num in sorted(counts.items()))
    return loss, f"With the ladder free, {mix} answered, {loss * 100:.2f} points of accuracy under fp32."


if __name__ == "__main__":
    raise SystemExit(main())
