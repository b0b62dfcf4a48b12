"""From what was measured of several servers in several rounds to figures with ratios, and tables.

Pure: a round is a list of measurements, each a dict with `server`, `encoding`, `connections`, `per_s`, `cpu_ms`,
`p50_ms`, `p99_ms`, `failed`. A family of settings of one server counts by its best.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import figure, spread

FAMILIES = {"FastAPI + uvicorn": ("fastapi", "fastapi-2"), "Ray Serve, HAProxy + @serve.batch": ("serve-batch",)}
JSON = ("json", "json-as-bytes", "rows")
GOAL, FREE_GOAL, MOST_LOSS = 1.0, 3.0, 0.001
FREE_AT = 64

Rounds = Sequence[Sequence[Mapping[str, Any]]]
Key = tuple[str, str, int]  # server, encoding, connections
Cases = Mapping[Key, Sequence[Mapping[str, Any]]]


def by_case(rounds: Rounds) -> dict[Key, list[Mapping[str, Any]]]:
    """Each case's measurements, one per round, with its `round`."""
    found: dict[Key, list[Mapping[str, Any]]] = {}
    for number, measured in enumerate(rounds):
        for one in measured:
            key = one["server"], one["encoding"], one["connections"]
            found.setdefault(key, []).append({**one, "round": number})
    return found


def best(
    cases: Mapping[Key, Sequence[Mapping[str, Any]]], servers: Sequence[str], connections: int, json: bool
) -> Key | None:
    """The case of these servers with the most requests per second, by its median; `json`: of those in JSON only."""
    candidates = [key for key in cases if key[0] in servers and key[2] == connections and (not json or key[1] in JSON)]
    return max(candidates, key=lambda key: _per_s(cases[key]), default=None)


def figures(rounds: Rounds, titles: Mapping[str, str], loss: float) -> list[dict[str, Any]]:
    """Trimtab's fp32 against each peer, JSON against JSON and best against best; the free ladder against all."""
    cases = by_case(rounds)
    peers = [name for name in titles if not name.startswith("trimtab")]
    families = dict(FAMILIES) | {
        titles[name]: (name,) for name in peers if not any(name in family for family in FAMILIES.values())
    }
    made = []
    for connections in sorted({key[2] for key in cases}):
        for family, names in families.items():
            goal = GOAL if _has_goal(family, connections) else None
            pairs = [
                (best(cases, ["trimtab"], connections, json=json), best(cases, names, connections, json=json))
                for json in (True, False)
            ]
            for ours, theirs in dict.fromkeys(pairs):  # JSON may be the best of both
                if ours and theirs:
                    made += _pair(cases, ours, theirs, titles, goal)
        free = best(cases, ["trimtab-free"], connections, json=False)
        rival = best(cases, peers, connections, json=False)
        if free and rival and connections == FREE_AT:
            one = _pair(cases, free, rival, titles, FREE_GOAL)[0]
            one["met"] = bool(one["met"] and loss < MOST_LOSS)
            made.append(one)
    return made


def _has_goal(family: str, connections: int) -> bool:
    return family in FAMILIES and (connections > 1 or "Serve" in family)


def _pair(
    cases: Cases,
    ours: Key,
    theirs: Key,
    titles: Mapping[str, str],
    goal: float | None,
) -> list[dict[str, Any]]:
    """Requests per second, more is better, and CPU per request, less is better; of the rounds that both were in."""
    name = f"c = {ours[2]}, {titles[ours[0]]}, {ours[1]}"
    peer = f"{titles[theirs[0]]}, {theirs[1]}"
    by_round = [{one["round"]: one for one in cases[key]} for key in (ours, theirs)]
    both = sorted(by_round[0].keys() & by_round[1].keys())
    made = []
    for field, unit in (("per_s", "requests/s"), ("cpu_ms", "CPU ms/request")):
        mine, other = ([float(side[number][field]) for number in both] for side in by_round)
        one = figure(name, mine, unit, peer=peer, peer_values=other)
        if field == "per_s" and goal is not None:
            one |= {"goal": goal, "met": one["ratio"]["median"] >= goal}
        made.append(one)
    return made


def ahead(rounds: Rounds, titles: Mapping[str, str]) -> str:
    """Who answers more requests per second than Trimtab's fp32, best against best, in words."""
    cases, said = by_case(rounds), []
    peers = [name for name in titles if not name.startswith("trimtab")]
    for connections in sorted({key[2] for key in cases}):
        ours = best(cases, ["trimtab"], connections, json=False)
        if ours is None:
            continue
        theirs = {name: best(cases, [name], connections, json=False) for name in peers}
        won = [titles[name] for name, key in theirs.items() if key and _per_s(cases[key]) > _per_s(cases[ours])]
        said.append(f"at {connections}: {', '.join(won) or 'nobody'}")
    return f"More requests per second than Trimtab's fp32, {'; '.join(said)}."


def _per_s(measured: Sequence[Mapping[str, Any]]) -> float:
    return statistics.median(one["per_s"] for one in measured)


def tables(rounds: Rounds, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """One per concurrency: every server and encoding, the most requests per second first."""
    cases = by_case(rounds)
    made = []
    for connections in sorted({key[2] for key in cases}):
        rows = []
        for (server, encoding, at), measured in cases.items():
            if at != connections:
                continue
            middle = {
                field: statistics.median(one[field] for one in measured)
                for field in ("per_s", "cpu_ms", "p50_ms", "p99_ms", "client_ms")
            }
            failed = sum(sum(one["failed"].values()) for one in measured)
            per_s = spread([one["per_s"] for one in measured], 0)
            rows.append(
                (
                    middle["per_s"],
                    [
                        titles[server],
                        encoding,
                        f"{per_s['median']:,.0f} ({per_s['min']:,.0f} to {per_s['max']:,.0f})",
                        f"{middle['cpu_ms']:.3f}",
                        f"{middle['p50_ms']:.2f}",
                        f"{middle['p99_ms']:.2f}",
                        f"{middle['client_ms']:.3f}",
                        str(failed),
                    ],
                )
            )
        rows.sort(key=lambda row: -row[0])
        columns = ["server", "encoding", "requests/s", "CPU ms", "p50 ms", "p99 ms", "client's CPU ms", "failed"]
        title = f"{connections} connection{'s' * (connections > 1)}"
        made.append({"title": title, "columns": columns, "rows": [row for _, row in rows]})
    return made


def line(one: Mapping[str, Any]) -> str:
    """A measurement for whoever watches."""
    failed = f", failed {dict(one['failed'])}" if one["failed"] else ""
    return (
        f"{one['server']} {one['encoding']} c={one['connections']}: {one['per_s']:.0f}/s, {one['cpu_ms']:.3f} CPU ms, "
        f"p50 {one['p50_ms']:.2f} p99 {one['p99_ms']:.2f} ms{failed}"
    )
