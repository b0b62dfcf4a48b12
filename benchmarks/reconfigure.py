"""How long a change takes to hold in every replica, and what it does to the requests under way.

Trimtab's envelope goes to all replicas by a broadcast; its serve section, as Ray Serve's own `user_config`, by a PUT to
Serve. The peer is Ray Serve's fastest form, changed by its `user_config` and by a redeploy. Both are under the same
closed loop of 16 connections, in turns, with 1, 2 and 4 replicas; a request is lost that gets anything but an answer.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import endpoint, payloads, report, servers
from benchmarks.arena import has_mnist
from benchmarks.changes import CONNECTIONS, TIMEOUT_S, Change, Load, Round, put_ours, put_peer
from benchmarks.endpoint import Endpoint
from benchmarks.servers import PEERS, PeerError, Server
from cluster import session
from serve import presence

PEER = "serve-batch"
REPLICAS = (1, 2, 4)
BETWEEN_S = 0.25
BROADCASTS, PUTS = 12, 2  # changes in one round of Trimtab's
LEAST_REQUESTS, GOAL_MS = 100_000, 100.0


@dataclass
class Results:
    """All rounds by side and number of replicas."""

    rounds: dict[tuple[str, int], list[Round]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, side: str, num_replicas: int, one: Round) -> None:
        self.rounds.setdefault((side, num_replicas), []).append(one)
        changes = {kind: f"{1000 * np.median(one.seconds(kind)):.0f} ms" for kind in {c.kind for c in one.changes}}
        print(
            f"{side}, {num_replicas} replicas: {len(one.answers.ended_s)} answers, lost {one.lost or 0}, {changes}",
            file=sys.stderr,
            flush=True,
        )


def main() -> int:
    arguments = _arguments()
    if not has_mnist(arguments.data):
        return 2
    results = Results()
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(
            endpoint.served(arguments.scratch, endpoint.mnist(arguments.data, adapt={"enabled": False}))
        )
        theirs = _peer(stack, arguments.scratch, ours.model, results)
        session.connect(ours.cluster)
        stack.callback(_disconnect)
        for num_replicas in arguments.replicas:
            _scale(ours, theirs, num_replicas)
            for _ in range(arguments.rounds):
                results.add("trimtab", num_replicas, ours_round(ours, num_replicas))
                if theirs is not None:
                    results.add(PEER, num_replicas, peer_round(theirs, ours.model, num_replicas))
    write(arguments, results)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reconfigure", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round with 2 replicas")
    parser.add_argument("--replicas", nargs="+", type=int, help="1 2 4 by default")
    parser.add_argument("--rounds", type=int, help="with each number of replicas, 6 by default")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"), help="folder of MNIST's gz files")
    parser.add_argument("--scratch", type=Path, default=servers.SCRATCH, help="environments and the trained model")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    arguments = parser.parse_args()
    arguments.replicas = arguments.replicas or list(REPLICAS[1:2] if arguments.quick else REPLICAS)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 6)
    arguments.scratch = arguments.scratch.absolute()
    return arguments


def _peer(stack: contextlib.ExitStack, scratch: Path, model: Path, results: Results) -> Server | None:
    try:
        return stack.enter_context(servers.started(PEERS[PEER], model, scratch, wait_ms=0.0, options=("--by-rest",)))
    except PeerError as error:
        results.missing[PEER] = str(error)
        print(f"{PEERS[PEER].title}: not measured, it {error}", file=sys.stderr, flush=True)
        return None


def _disconnect() -> None:
    import ray

    ray.shutdown()  # first: Ray ends a driver whose cluster goes away


def _scale(ours: Endpoint, theirs: Server | None, num_replicas: int) -> None:
    ours.redeploy(rungs=["onnx-fp32"], replicas={"min": num_replicas, "max": num_replicas})
    if theirs is not None:
        put_peer(theirs, ours.model, num_replicas, next(_numbers))
    time.sleep(servers.SETTLE_S)


# One round of each side

_numbers = itertools.count(1)  # of settings, one after the other over the whole run


def ours_round(ours: Endpoint, num_replicas: int) -> Round:
    from ray import serve

    handle = serve.get_deployment_handle(presence.DEPLOYMENT, ours.bundle.name)
    row = np.zeros((1, *ours.bundle.encoding.shape), np.uint8)
    body, head_length = payloads.binary_body(row)
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(head_length)}
    request = payloads.http_request(f"{ours.path}/infer", body, headers | ours.headers)
    handle.broadcast("stats").results(timeout_s=TIMEOUT_S)  # the first call finds the replicas
    with Load(ours.server, request, '"envelope_epoch":') as load:
        changes = []
        for _ in range(BROADCASTS):
            number = next(_numbers)
            envelope = {"epoch": number, "max_batch": 16 + number % 2, "max_wait_s": 0.0005 * (number % 2)}
            ordered_s = time.perf_counter()
            replies = handle.broadcast("apply", envelope).results(timeout_s=TIMEOUT_S)
            changes.append(Change("envelope", ordered_s, time.perf_counter(), number))
            held = [reply["epoch"] for reply in replies]
            assert held == [number] * num_replicas, f"{held} in {num_replicas} replicas, wanted {number}"
            time.sleep(BETWEEN_S)
        for _ in range(PUTS):
            ordered_s = time.perf_counter()
            put_ours(ours, num_replicas, 24 + next(_numbers) % 8)
            changes.append(Change("put", ordered_s, time.perf_counter()))
            time.sleep(BETWEEN_S)
    return Round(changes, load.answers, load.lost)


def peer_round(theirs: Server, model: Path, num_replicas: int) -> Round:
    row = payloads.zeros(model)
    request = payloads.http_request("/raw", *payloads.BODIES["raw"](row))
    with Load(theirs, request, "x-epoch:") as load:
        changes = []
        for kind in ("put", "put", "redeploy"):
            number = next(_numbers)
            ordered_s = time.perf_counter()
            put_peer(theirs, model, num_replicas, number, restart=kind == "redeploy")
            changes.append(Change(kind, ordered_s, time.perf_counter(), number))
            time.sleep(BETWEEN_S)
    return Round(changes, load.answers, load.lost)


# What is said


def write(arguments: argparse.Namespace, results: Results) -> None:
    figures = []
    for num_replicas in arguments.replicas:
        figures += list(_figures(results, num_replicas))
    figures += _lost(results)
    title = PEERS[PEER].title
    notes = (
        f"{CONNECTIONS} connections in a closed loop, one MNIST image per request. An envelope's time is until each "
        "replica has replied, and until the last answer that a client saw under the old one; a PUT's until Serve says "
        "RUNNING. During: requests under way from the order to 0.1 s after; before: all that saw no change."
    )
    for name, why in results.missing.items():
        notes += f" Not measured: {PEERS[name].title}, it {why}."
    if arguments.quick:
        notes += " A quick run: one round, fewer requests than the goal asks for; rough."
    report.write(
        arguments.out, "reconfigure", quick=arguments.quick, seed=0, figures=figures, notes=notes, peer=title,
        missing=results.missing,
    )  # fmt: skip


def _figures(results: Results, num_replicas: int) -> Iterator[dict[str, Any]]:
    ours = results.rounds[("trimtab", num_replicas)]
    theirs = results.rounds.get((PEER, num_replicas), [])
    words = f"{num_replicas} replica{'s' * (num_replicas > 1)}"
    title = PEERS[PEER].title

    def medians(rounds: list[Round], kind: str) -> list[float]:
        return [1000 * float(np.median(one.seconds(kind))) for one in rounds]

    def seen(rounds: list[Round], kind: str) -> list[float]:
        return [1000 * float(np.median(one.until_last_old(kind))) for one in rounds]

    envelope = [1000 * second for one in ours for second in one.seconds("envelope")]
    is_met = float(np.median(envelope)) <= GOAL_MS
    made = report.figure(
        f"{words}: a new envelope, until all have said so", medians(ours, "envelope"), "ms", goal=GOAL_MS, met=is_met
    )
    yield made | {"worst": round(max(envelope), 1), "changes": len(envelope)}
    yield report.figure(f"{words}: a new envelope, until the last answer under the old", seen(ours, "envelope"), "ms",
                        peer=f"{title}, user_config", peer_values=seen(theirs, "put"))  # fmt: skip
    yield report.figure(f"{words}: a new serve section by PUT", medians(ours, "put"), "ms",
                        peer=f"{title}, user_config", peer_values=medians(theirs, "put"))  # fmt: skip
    for kind, name, other in (("envelope", "envelope", "put"), ("put", "PUT", "redeploy")):
        mine = [during / calm for during, calm in (one.p99s_ms(kind) for one in ours)]
        peer = [during / calm for during, calm in (one.p99s_ms(other) for one in theirs)]
        words_peer = f"{title}, {'user_config' if other == 'put' else 'redeploy'}"
        yield report.figure(f"{words}: p99 during / before, {name}", mine, "times", peer=words_peer, peer_values=peer)


def _lost(results: Results) -> list[dict[str, Any]]:
    """Over the whole run: what was lost of how many."""
    made = []
    for side, title in (("trimtab", "Trimtab"), (PEER, PEERS[PEER].title)):
        rounds = [one for (name, _), found in results.rounds.items() if name == side for one in found]
        if not rounds:
            continue
        total = sum(len(one.answers.ended_s) for one in rounds)
        lost = sum(sum(one.lost.values()) for one in rounds)
        is_ours = side == "trimtab"
        one = report.figure(f"{title}: requests lost of {total:,}", [lost], "requests")
        if is_ours:
            one |= {"goal": 0, "met": lost == 0 and total >= LEAST_REQUESTS}
        made.append(one)
    return made


if __name__ == "__main__":
    raise SystemExit(main())
