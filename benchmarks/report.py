"""What every benchmark's JSON has in common: the machine, the versions, and figures with their spread.

Knows nothing of what is measured.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = ("ray", "torch", "numpy", "pyarrow", "onnxruntime")


def machine() -> dict[str, Any]:
    """Cores, CPU model, the vector units that matter here, and how busy it is now."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in info.split("\n\n")[0].splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    flags = set(fields.get("flags", "").split())
    return {
        "cores": os.cpu_count(),
        "cpu": fields.get("model name", platform.processor()),
        "flags": [flag for flag in FLAGS if flag in flags],
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    return {
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
    }


def figure(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    peer: str = "",
    peer_values: Sequence[float] = (),
    goal: float | None = None,
    met: bool | None = None,
) -> dict[str, Any]:
    """A figure as the median of interleaved rounds; with a peer also the ratio to it, round by round."""
    made: dict[str, Any] = {"name": name, "value": spread(values)["median"], "unit": unit, "spread": spread(values)}
    if peer_values:
        made["ratio"] = spread([ours / theirs for ours, theirs in zip(values, peer_values, strict=True)])
        made |= {"peer": peer, "peer_value": spread(peer_values)["median"], "peer_spread": spread(peer_values)}
    return made | {"rounds": len(values), "goal": goal, "met": met}


def over_seeds(name: str, values: Sequence[float], unit: str, goal: float | None = None) -> dict[str, Any]:
    """A figure of which more is better, with its mean; the goal is for the mean."""
    mean = sum(values) / len(values)
    return figure(name, values, unit, goal=goal, met=None if goal is None else mean >= goal) | {"mean": mean}


def write(
    path: Path | None, name: str, *, quick: bool, seed: int, figures: list[dict[str, Any]], notes: str, **more: Any
) -> None:
    """To `path`, or to stdout. Of `more`, the page shows `tables`: a title, columns and rows of text each."""
    report = {"benchmark": name, "quick": quick, "seed": seed, "machine": machine(), "figures": figures, "notes": notes}
    report |= more
    text = json.dumps(report, indent=1)
    if path is None:
        print(text)
    else:
        path.write_text(text + "\n")
