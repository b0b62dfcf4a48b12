"""The peers that Trimtab is measured against: started in their own environments, watched, and ended by their pid.

Each is one script in `benchmarks/peers/` and is told a model file, a port and its batch. Knows nothing of what is
measured; a peer that cannot be installed or started is a `PeerError` with the reason.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import payloads, venvs
from cluster import head, ports

SCRIPTS = Path(__file__).resolve().parent / "peers"
SCRATCH = Path.home() / ".cache" / "trimtab-benchmarks"
START_TIMEOUT_S, END_TIMEOUT_S = 120.0, 40.0
SETTLE_S = 3.0  # a proxy takes up a new replica only after a while

# What Serve's documentation names for throughput; workers run at niceness 15 otherwise.
FAST_SERVE = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_worker_niceness": "0"}


class PeerError(Exception):
    """Why a peer is not there, in one line."""


@dataclass(frozen=True)
class Peer:
    """One server with its settings. `paths` has the path of each encoding that it takes."""

    name: str
    title: str  # as tables show it
    script: str
    paths: Mapping[str, str]
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ray(self) -> bool:
        return self.script.startswith("ray_serve")


_BOTH = {"json": "/json", "raw": "/raw"}
PEERS = {
    peer.name: peer
    for peer in (
        Peer("fastapi", "FastAPI + uvicorn, 1 process", "fastapi_uvicorn", _BOTH),
        Peer("fastapi-2", "FastAPI + uvicorn, 2 processes", "fastapi_uvicorn", _BOTH, ("--workers", "2")),
        Peer("serve-default", "Ray Serve, default options", "ray_serve_default", _BOTH),
        Peer("serve-batch", "Ray Serve, HAProxy + @serve.batch", "ray_serve_batch", _BOTH, (), FAST_SERVE),
        Peer("litserve", "LitServe", "litserve_batch", {"json-as-bytes": "/infer", "raw": "/infer"}),
        Peer("bentoml", "BentoML", "bentoml_batch", {"rows": "/json"}),
        Peer("mlserver", "MLServer", "mlserver_batch", {"json": "/v2/models/model/infer", "grpc": ""}),
    )
}


@dataclass(frozen=True)
class Server:
    """A running server: where it is, and the process whose children are all of it."""

    name: str
    host: str
    port: int
    pid: int
    grpc_port: int = 0
    dashboard_port: int = 0  # of a Ray cluster that was asked for one

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def cpu_s(self) -> float:
        """CPU-seconds of all its processes up to now."""
        return cpu_s(self.pid)

    def freeze(self) -> None:
        """Stop all its processes where they are, so that what it does when idle does not weigh on others."""
        _signal(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on, as if time had stood still for them; does nothing to a server that runs."""
        _signal(self.pid, signal.SIGCONT)


def cpu_s(pid: int) -> float:
    """CPU-seconds, user and system, of a process and all its descendants."""
    total, root = 0.0, psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextlib.contextmanager
def started(
    peer: Peer,
    model: Path,
    scratch: Path,
    *,
    max_batch: int = 32,
    wait_ms: float = 2.0,
    options: tuple[str, ...] = (),
) -> Iterator[Server]:
    """The peer with `model` (an ONNX file), warm, until the block ends.

    `options` are for the peer's script, after the peer's own. Raises PeerError with the reason when it cannot be
    installed or does not answer.
    """
    script = SCRIPTS / f"{peer.script}.py"
    try:
        interpreter = venvs.python(scratch, script)
    except venvs.InstallError as error:
        raise PeerError(f"cannot be installed: {error}") from None
    log, chosen = scratch / "logs" / f"{peer.name}.txt", ports.choose()
    log.parent.mkdir(parents=True, exist_ok=True)
    # A short path, as sockets need.
    with tempfile.TemporaryDirectory(prefix="peer-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        words = [str(interpreter), str(script), "--model", str(model.absolute()), "--folder", folder]
        words += ["--port", str(chosen.http), "--grpc-port", str(chosen.grpc)]
        words += ["--dashboard-port", str(chosen.dashboard)]
        words += ["--max-batch", str(max_batch), "--wait-ms", str(wait_ms), *peer.options, *options]
        environment = _environment(peer, chosen, folder)
        with log.open("wb") as sink:
            process = subprocess.Popen(
                words, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
        try:
            server = Server(peer.name, "127.0.0.1", chosen.http, process.pid, chosen.grpc, chosen.dashboard)
            _wait_ready(process, server, peer, model, log)
            yield server
        finally:
            _signal(process.pid, signal.SIGCONT)  # what is stopped cannot end
            _end(process)
            chosen.release()


def _environment(peer: Peer, chosen: ports.Ports, folder: str) -> dict[str, str]:
    """The caller's without what is of its own Python or cluster, with one thread per forward pass."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TRIMTAB_", "PYTHON"))}
    mine = {"PYTHONPATH": str(SCRIPTS), "OMP_NUM_THREADS": "1"}
    return kept | mine | dict(peer.environment) | (_ray_environment(chosen, folder) if peer.is_ray else {})


def _ray_environment(chosen: ports.Ports, folder: str) -> dict[str, str]:
    return head.places_env(folder, chosen) | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # a token of its own would be left in the user's home
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # the end takes 30 s longer otherwise
    }


def _wait_ready(process: subprocess.Popen[bytes], server: Server, peer: Peer, model: Path, log: Path) -> None:
    """Until it has answered for a while without a miss."""
    encoding = next(iter(peer.paths))
    body, headers = payloads.BODIES[encoding](payloads.zeros(model))
    request = urllib.request.Request(server.url + peer.paths[encoding], body, headers)
    deadline = time.monotonic() + START_TIMEOUT_S
    well_since = None
    while well_since is None or time.monotonic() < well_since + SETTLE_S:
        if process.poll() is not None:
            raise PeerError(f"ended as it started: {venvs.reason(log.read_text(errors='replace'))}")
        if time.monotonic() > deadline:
            why = venvs.reason(log.read_text(errors="replace"))
            raise PeerError(f"did not answer within {START_TIMEOUT_S:.0f} s: {why}")
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                response.read()
            well_since = well_since or time.monotonic()
        except (urllib.error.URLError, OSError):
            well_since = None
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and end what it leaves."""
    tree = []
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    left = [child for child in tree if child.is_running()]
    for child in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    for child in psutil.wait_procs(left, timeout=5)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
