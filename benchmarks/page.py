"""Write `docs/performance.md` from the JSON files in `benchmarks/results/`: figures as measured, also the bad ones.

python -m benchmarks.page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Performance

Made by `python -m benchmarks.page` from the last full runs, whose JSON is in `benchmarks/results/`. Each benchmark
runs Trimtab and its peer in turns within one run, on the same data; a figure is the median of its rounds with the
least and the greatest beside it, a ratio is Trimtab's figure over the peer's, round by round. Machines differ and are
noisy: trust the ratios, and rerun them on yours.

Serving is measured against other servers that hold the same ONNX file with the same threads. Each is started from its
script in `benchmarks/peers/`, with what it needs pinned in it and installed into an environment of its own, and with
the settings that are its best; a peer that could not be installed or started is named with the reason. Where a peer
is faster, the page says so: a thin server around one small model does less for a request than an endpoint that checks
tokens, holds deadlines and changes its settings while it runs.
"""


def main() -> None:
    reports = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]
    (ROOT / "docs" / "performance.md").write_text("\n".join([HEAD, *(section(report) for report in reports)]))


def section(report: dict[str, Any]) -> str:
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    tables = [line for made in report.get("tables", ()) for line in table(made)]
    lines = [
        f"## {report['benchmark']}",
        "",
        f"`python -m benchmarks.{report['benchmark']}`. {report['notes']}",
        "",
        "| figure | Trimtab | peer | ratio | goal |",
        "|---|---|---|---|---|",
        *(row(figure) for figure in report["figures"]),
        "",
        *tables,
        f"Machine: {machine['cores']} cores of {machine['cpu']} ({', '.join(machine['flags'])}), load average "
        f"{machine['load_average'][0]} at the end; Python {machine['python']}, {versions}.",
        "",
    ]
    return "\n".join(lines)


def row(figure: dict[str, Any]) -> str:
    ours = f"{shown(figure['spread'])} {figure['unit']}"
    peer = f"{figure['peer']}: {shown(figure['peer_spread'])}" if "peer" in figure else ""
    ratio = shown(figure["ratio"]) if "ratio" in figure else ""
    goal = "" if figure["goal"] is None else f"{figure['goal']:g}, {'met' if figure['met'] else 'not met'}"
    rounds = f"{figure['rounds']} round{'s' * (figure['rounds'] > 1)}"
    return f"| {figure['name']} ({rounds}) | {ours} | {peer} | {ratio} | {goal} |"


def table(made: dict[str, Any]) -> list[str]:
    """What a benchmark gives as text already: a title, columns, rows."""
    columns = made["columns"]
    rows = [columns, ["---"] * len(columns), *made["rows"]]
    return [f"{made['title']}:", "", *(f"| {' | '.join(cells)} |" for cells in rows), ""]


def shown(spread: dict[str, float]) -> str:
    values = (spread[name] for name in ("min", "median", "max"))
    low, middle, high = (f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" for value in values)
    return middle if low == high else f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
