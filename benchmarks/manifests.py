"""Seconds to render an experiment's Kubernetes objects, and to check them.

`python -m benchmarks.manifests [--quick] [--out FILE.json]`. In one process, imports done before: what a test or an
editor that keeps the objects fresh pays, not what the command line's start costs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import report
from cluster import experiment as experiments
from trimtab.kubernetes import check, verbs
from trimtab.kubernetes.render import Version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    whole = experiments.load(Path(__file__).resolve().parents[1] / "experiments" / "digits.yaml")
    version, rounds = Version("0" * 16, 1), 3 if options.quick else 15
    objects = [one for file in verbs.files(whole, version, "production").values() for one in file]
    check.objects_together(objects)  # imports Serve's schema and the application once
    rendered, checked = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        verbs.files(whole, version, "production")
        between = time.perf_counter()
        check.objects_together(objects)
        rendered.append(between - started)
        checked.append(time.perf_counter() - between)
    figures = [
        report.figure("render, production overlay", rendered, "s"),
        report.figure(f"check, {len(objects)} objects", checked, "s"),
    ]
    report.write(options.out, "manifests", quick=options.quick, seed=0, figures=figures, notes=__doc__ or "")


if __name__ == "__main__":
    main()
