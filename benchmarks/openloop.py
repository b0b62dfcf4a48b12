"""Send requests at times fixed in advance, whatever the server does, and write down what came of each.

Open loop: a request's latency counts from the moment it was meant to be sent, so that a server that stalls is not
spared the requests that a waiting client would not have sent (G. Tene, "coordinated omission"). The client is a
process of its own, talks to loopback only and ends by itself; keep-alive connections are taken from a pool that
grows, so nothing waits for another's answer. What it did late itself is in the records too: figures of a saturated
client are worth nothing. A closed loop (`Plan.clients`) is there to find capacities. The
process itself is `benchmarks.openloop_client`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FAILED = 0  # status of what got no answer: connection lost, or given up on
_GRACE_S = 60.0  # to start the process and to read what came


@dataclass(frozen=True)
class Target:
    """Where requests go. `wire` is `oip` (binary tensors) or `raw` (rows as bytes, probabilities as bytes)."""

    port: int
    path: str
    wire: str = "oip"
    headers: Mapping[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    input_name: str = "image"


@dataclass(frozen=True)
class Plan:
    """`arrivals` are seconds from the start, ascending; with `clients` they are left out and a closed loop runs."""

    target: Target
    rows: int = 1  # of each request
    seed: int = 0  # decides which rows
    give_up_s: float = 2.0  # a client that has waited so long closes its connection
    clients: int = 0  # of a closed loop, each with one request at a time
    seconds: float = 0.0  # of a closed loop


@dataclass(frozen=True)
class Records:
    """One entry per request; times are seconds from `started` (time.monotonic()), NaN where there was none."""

    intended: np.ndarray  # float64 [n]
    sent: np.ndarray  # float64 [n], when the client came to it
    done: np.ndarray  # float64 [n], when its answer was whole
    status: np.ndarray  # int64 [n], of HTTP, or FAILED
    variant: np.ndarray  # int64 [n], index into `variants`, -1 where nobody said
    predicted: np.ndarray  # int64 [n, rows], -1 where there was no answer
    correct: np.ndarray  # int64 [n], rows that were right
    variants: tuple[str, ...]
    started: float
    cpu_share: float  # of one processor that the client took

    @property
    def rows(self) -> int:
        return self.predicted.shape[1]

    @property
    def latency_s(self) -> np.ndarray:
        """From the intended time; infinite where no answer came."""
        return np.where(np.isnan(self.done), np.inf, self.done - self.intended)

    def lateness_s(self, quantile: float = 0.99) -> float:
        """How late the client itself was."""
        return float(np.quantile(self.sent - self.intended, quantile)) if len(self.sent) else 0.0


def poisson(phases: Sequence[tuple[float, float]], seed: int) -> np.ndarray:
    """Arrival times float64 [n] of a Poisson process, for phases of (seconds, requests per second)."""
    generator = np.random.default_rng(seed)
    start, parts = 0.0, []
    for seconds, per_s in phases:
        count = generator.poisson(seconds * per_s)
        parts.append(start + np.sort(generator.random(count)) * seconds)
        start += seconds
    return np.concatenate(parts) if parts else np.empty(0)


def chosen(num_images: int, num_requests: int, rows: int, seed: int) -> np.ndarray:
    """Which images each request brings: int64 [n, rows]."""
    return np.random.default_rng(seed).integers(0, num_images, (num_requests, rows))


class Load:
    """A running client; `result` waits for its end."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, timeout_s: float) -> None:
        self._process, self._folder, self._timeout_s = process, folder, timeout_s

    def result(self) -> Records:
        """Raises RuntimeError when the client failed."""
        if self._process.wait(self._timeout_s) != 0:
            raise RuntimeError("the load generator failed; its traceback stands above")
        return read(self._folder)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def running(plan: Plan, arrivals: np.ndarray, images: np.ndarray, labels: np.ndarray) -> Iterator[Load]:
    """Start it beside what this process does meanwhile. `images` [m, *shape] uint8, `labels` int64 [m]."""
    if plan.target.host not in LOOPBACK:
        raise ValueError(f"{plan.target.host}: load is made for this machine alone")
    if len(arrivals) and (np.any(np.diff(arrivals) < 0) or arrivals[0] < 0):
        raise ValueError("arrivals must ascend from 0")
    with tempfile.TemporaryDirectory(prefix="openloop-") as name:
        folder = Path(name)
        (folder / "plan.json").write_text(json.dumps(asdict(plan)))
        for part, array in (("arrivals", arrivals), ("images", images), ("labels", labels)):
            np.save(folder / f"{part}.npy", array)
        root = Path(__file__).resolve().parent.parent
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.openloop_client", name], cwd=root)
        longest_s = plan.seconds if plan.clients else float(arrivals[-1]) if len(arrivals) else 0.0
        load = Load(process, folder, longest_s + plan.give_up_s + _GRACE_S)
        try:
            yield load
        finally:
            load.end()


def replay(plan: Plan, arrivals: np.ndarray, images: np.ndarray, labels: np.ndarray) -> Records:
    """The whole of it: start, wait, read."""
    with running(plan, arrivals, images, labels) as load:
        return load.result()


def read(folder: Path) -> Records:
    with np.load(folder / "records.npz") as arrays:
        facts = json.loads((folder / "facts.json").read_text())
        facts["variants"] = tuple(facts["variants"])
        return Records(**{name: arrays[name] for name in arrays.files}, **facts)
