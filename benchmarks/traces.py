"""Arrivals of real services, and made-up ones, as rates per second: cut, squeezed in time, scaled, and drawn.

    trace = twitter(folder, "bursts").squeezed(60).scaled(35.0)  # or azure(folder, "code"), step(), burst(), diurnal()
    at = trace.arrivals(seed=1)  # float64 [n], ascending seconds from 0
    for rate in trace.rates: ...  # requests per second, one per `trace.bin_s` seconds

`window(start_s, seconds)` cuts, `squeezed(k)` lets time run k times as fast at the same rates, `scaled(mean)` gives
the whole another mean rate: `scaled(load * capacity)` is a load as a share of what somebody carries. Within a bin
arrivals are a Poisson process, seeded: the same seed gives the same requests to every contestant.
`folder` holds twitter_trace_2021 and azure_llm_trace_2023; `data_folder()` is where it is unless an option says so.
Knows nothing of who serves the requests.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

DAY_S = 86_400
# Of the Twitter stream: (first second, seconds). Its mean is about 64 requests a second; bursts are 4 to 5 times as
# much as just before. From 23:31 to midnight of every day the archive has a hole, which no window may meet.
WINDOWS = {
    "calm": (50_400, 3600),  # 14 to 15 h of the first day: no minute is 10 % off the median
    "burst": (3600, 3600),  # 1 to 2 h: one burst to 4.8 times the median
    "bursts": (19_800, 14_400),  # 5:30 to 9:30 h: three bursts to 3.5 times a level that rises and falls
    "day": (0, 84_600),  # 0 to 23:30 h
}


@dataclass(frozen=True, eq=False)
class Trace:
    """`rates` is float64 [num_bins]: requests per second in each `bin_s` seconds."""

    name: str
    rates: np.ndarray
    bin_s: float = 1.0

    @property
    def seconds(self) -> float:
        return len(self.rates) * self.bin_s

    @property
    def mean(self) -> float:
        """Requests per second."""
        return float(self.rates.mean())

    @property
    def peak(self) -> float:
        """Requests per second in the highest bin."""
        return float(self.rates.max())

    def window(self, start_s: float, seconds: float) -> Trace:
        """Raises ValueError when the trace does not reach so far, or nothing is left."""
        first, last = round(start_s / self.bin_s), round((start_s + seconds) / self.bin_s)
        if not 0 <= first < last <= len(self.rates):
            raise ValueError(f"no window of {seconds:g} s from {start_s:g} s in {self.name}'s {self.seconds:g} s")
        return replace(self, rates=self.rates[first:last])

    def squeezed(self, factor: float) -> Trace:
        """What took `factor` seconds takes one; rates stay, so there are so many times fewer requests."""
        return replace(self, bin_s=self.bin_s / factor)

    def scaled(self, mean_per_s: float) -> Trace:
        """With this mean rate and the same shape. Raises ValueError for a trace without requests."""
        if self.mean <= 0:
            raise ValueError(f"{self.name} has no requests to scale")
        return replace(self, rates=self.rates * (mean_per_s / self.mean))

    def arrivals(self, seed: int) -> np.ndarray:
        """Ascending seconds, float64 [n]: in each bin a Poisson number of them, anywhere in it."""
        rng = np.random.default_rng(seed)
        bins = np.repeat(np.arange(len(self.rates)), rng.poisson(self.rates * self.bin_s))
        return np.sort((bins + rng.random(len(bins))) * self.bin_s)


def data_folder() -> Path:
    """TRIMTAB_DATA, or where the data lies beside a checkout."""
    return Path(os.environ.get("TRIMTAB_DATA") or "../shared/data")


def has_traces(folder: Path) -> bool:
    return all(path.is_file() for path in (_twitter_path(folder), *(_azure_path(folder, kind) for kind in AZURE)))


def twitter(folder: Path, window: str | tuple[float, float] = "bursts") -> Trace:
    """Requests per second of a stream; `window` is a name in `WINDOWS`, or (first second, seconds).

    Raises:
        FileNotFoundError: the file is not in `folder`.
        ValueError: the window is not in the trace, or meets its hole of every night.
    """
    import pyarrow.parquet as pq

    start_s, seconds = WINDOWS[window] if isinstance(window, str) else window
    whole = pq.read_table(_twitter_path(folder), columns=["requests"])["requests"].to_numpy().astype(np.float64)
    name = f"twitter-{window if isinstance(window, str) else f'{start_s:g}'}"
    cut = Trace(name, whole).window(start_s, seconds)
    if _longest_silence(cut.rates) > 120:
        raise ValueError(f"{name}: from 23:31 h on the archive has a hole of half an hour; choose another window")
    return cut


AZURE = ("conv", "code")


def azure(folder: Path, kind: str = "code", bin_s: float = 1.0) -> Trace:
    """Requests per second of a language model's service in one hour: "conv" (even) or "code" (many together).

    Raises:
        FileNotFoundError: the file is not in `folder`.
    """
    with _azure_path(folder, kind).open(newline="") as file:
        stamps = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in csv.DictReader(file)]
    at = np.array(stamps) - stamps[0]
    counts = np.bincount((at / bin_s).astype(int)).astype(np.float64)
    return Trace(f"azure-{kind}", counts / bin_s, bin_s)


def step(seconds: float = 120.0, at_s: float = 60.0, ratio: float = 3.0, bin_s: float = 0.1) -> Trace:
    """1 request a second, and `ratio` from `at_s` on; to be scaled."""
    return _shaped("step", seconds, bin_s, lambda now: np.where(now < at_s, 1.0, ratio))


def burst(
    seconds: float = 120.0, every_s: float = 20.0, length_s: float = 5.0, ratio: float = 3.0, bin_s: float = 0.1
) -> Trace:
    """1 request a second, and `ratio` in the last `length_s` of every `every_s`; to be scaled."""
    return _shaped("burst", seconds, bin_s, lambda now: np.where(now % every_s < every_s - length_s, 1.0, ratio))


def diurnal(seconds: float = 600.0, period_s: float = 300.0, swing: float = 0.8, bin_s: float = 1.0) -> Trace:
    """A sine around 1 request a second, lowest at the beginning; to be scaled."""
    return _shaped("diurnal", seconds, bin_s, lambda now: 1.0 - swing * np.cos(2 * math.pi * now / period_s))


def _shaped(name: str, seconds: float, bin_s: float, shape: Callable[[np.ndarray], np.ndarray]) -> Trace:
    return Trace(name, shape((np.arange(round(seconds / bin_s)) + 0.5) * bin_s).astype(np.float64), bin_s)


def _twitter_path(folder: Path) -> Path:
    return folder / "twitter_trace_2021" / "requests_per_second.parquet"


def _azure_path(folder: Path, kind: str) -> Path:
    return folder / "azure_llm_trace_2023" / f"AzureLLMInferenceTrace_{kind}.csv"


def _longest_silence(rates: np.ndarray) -> int:
    """Bins without a request, one after the other."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (rates == 0).astype(int), [0]))))
    return int((edges[1::2] - edges[::2]).max(initial=0))
