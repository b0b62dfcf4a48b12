"""Accuracy, ladders and CPU time of the use cases on real data, each measured by its module in `benchmarks/cases`.

Every case goes through the steps a user's experiment goes through. A module has `DATA`, the folders in --data that it
needs, and `run(context) -> list of figures`; what it puts into `context.tables` is printed as well.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import cases, report
from benchmarks.arena import private
from cluster.store import Store


@dataclass
class Context:
    """What a case gets; `tables` are titles, columns and rows of text for the page."""

    data: Path
    store: Store
    seeds: tuple[int, ...]
    quick: bool
    tables: list[dict[str, Any]] = field(default_factory=list)


def main() -> int:
    known = sorted(found.name for found in pkgutil.iter_modules(cases.__path__))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.use_cases", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, and what takes minutes cut short")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the data sets")
    parser.add_argument("--only", action="append", choices=known, help="a case; may be given more than once")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    arguments = parser.parse_args()
    chosen = {name: importlib.import_module(f"benchmarks.cases.{name}") for name in arguments.only or known}
    for name, case in chosen.items():
        for folder in case.DATA:
            if not (arguments.data / folder).is_dir():
                print(f"--data {arguments.data}: no folder {folder} there, which {name} needs", file=sys.stderr)
                return 2
    seeds = (0,) if arguments.quick else tuple(range(arguments.seeds))
    figures: list[dict[str, Any]] = []
    with private("benchmark-use-cases") as (_, folder):
        context = Context(arguments.data.absolute(), Store.open(str(folder)), seeds, arguments.quick)
        for case in chosen.values():
            figures += case.run(context)
    notes = f"seeds {', '.join(map(str, seeds))}; a seed changes split, weights and order; figures are over seeds"
    report.write(
        arguments.out, "use_cases", quick=arguments.quick, seed=0, figures=figures, notes=notes, tables=context.tables
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
