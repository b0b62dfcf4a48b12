"""The closed loop, unattended, with real processes and real traffic on MNIST: cures, bad versions, false alarms.

One endpoint with the loop on goes through all parts, in this order: `alarms` (nothing has changed), `bad` (five kinds
of bad versions at the gate, and some of them past it by force), `beside` (a retraining while it serves), `cure`
(the world changes and nobody looks). Labels come back for 30 % of the answers, two seconds later, from an operator's
token.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks import endpoint, report
from benchmarks.arena import has_mnist
from benchmarks.loops.setting import LOOP, SERVE, Setting

PARTS = ("alarms", "bad", "beside", "cure")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of each, less traffic")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=int, default=10, help="of each kind of bad version")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with mnist, kmnist_test")
    parser.add_argument("--scratch", type=Path, default=Path("~/.cache/trimtab-benchmarks"), help="the model; kept")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    asked = parser.parse_args()
    if not has_mnist(asked.data / "mnist"):
        return 2
    scratch = asked.scratch.expanduser().absolute() / "loop"
    tree = endpoint.mnist(asked.data / "mnist", serve=SERVE, **LOOP)
    figures: list[dict[str, Any]] = []
    with endpoint.served(scratch, tree) as served:
        path = scratch / f"{tree['name']}.json"
        setting = Setting(served, asked.data.absolute(), path, asked.quick, 1 if asked.quick else asked.runs)
        for name in [part for part in PARTS if part in asked.parts]:
            print(f"{name} ...", file=sys.stderr, flush=True)
            figures += importlib.import_module(f"benchmarks.loops.{name}").run(setting)
    notes = f"{setting.per_s:g} requests/s of one image, objective {1000 * setting.objective_s:g} ms"
    report.write(asked.out, "loop", quick=asked.quick, seed=0, figures=figures, notes=notes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
