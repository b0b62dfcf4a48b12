"""Rounds of measurements become ratios of like with like."""

from __future__ import annotations

from typing import Any

from benchmarks import compare

TITLES = {"trimtab": "Trimtab, fp32", "trimtab-free": "Trimtab, ladder free", "fastapi": "F1", "fastapi-2": "F2",
          "serve-batch": "S", "bentoml": "B"}  # fmt: skip


def measured(server: str, encoding: str, per_s: float, connections: int = 64) -> dict[str, Any]:
    return {
        "server": server,
        "encoding": encoding,
        "connections": connections,
        "per_s": per_s,
        **dict.fromkeys(("cpu_ms", "p50_ms", "p99_ms", "client_ms"), 1.0),
        "failed": {},
    }


def test_a_family_of_settings_counts_by_its_best() -> None:
    rounds = [
        [measured("trimtab", "json", 100.0), measured("fastapi", "json", 50.0), measured("fastapi-2", "json", 80.0)]
    ]

    [per_s, cpu] = compare.figures(rounds, TITLES, loss=0.0)

    assert (per_s["peer"], per_s["ratio"]["median"], per_s["goal"], per_s["met"]) == ("F2, json", 1.25, 1.0, True)
    assert (cpu["unit"], cpu["goal"]) == ("CPU ms/request", None)


def test_json_is_compared_with_json_and_the_best_encoding_with_the_best() -> None:
    ours = [measured("trimtab", "json", 100.0), measured("trimtab", "raw", 300.0)]
    rounds = [[*ours, measured("fastapi", "json", 50.0), measured("fastapi", "raw", 200.0)]]

    found = {(f["name"], f["peer"]): f["ratio"]["median"] for f in compare.figures(rounds, TITLES, 0.0) if f["goal"]}

    assert found == {
        ("c = 64, Trimtab, fp32, json", "F1, json"): 2.0,
        ("c = 64, Trimtab, fp32, raw", "F1, raw"): 1.5,
    }


def test_a_peer_that_stopped_is_compared_by_the_rounds_it_was_in() -> None:
    rounds = [[measured("trimtab", "raw", 90.0), measured("bentoml", "rows", 30.0)], [measured("trimtab", "raw", 50.0)]]

    [per_s, _] = compare.figures(rounds, TITLES, loss=0.0)

    assert (per_s["ratio"]["median"], per_s["rounds"]) == (3.0, 1)


def test_a_free_ladder_that_loses_accuracy_has_not_met_its_goal() -> None:
    rounds = [[measured("trimtab-free", "raw", 400.0), measured("bentoml", "rows", 100.0)]]

    [met] = compare.figures(rounds, TITLES, loss=0.0)
    [missed] = compare.figures(rounds, TITLES, loss=0.002)

    assert (met["met"], missed["met"], met["ratio"]["median"]) == (True, False, 4.0)


def test_who_is_ahead_is_named() -> None:
    theirs = [measured("fastapi", "raw", 200.0), measured("bentoml", "rows", 9.0)]
    rounds = [[measured("trimtab", "raw", per_s), *theirs] for per_s in (100.0, 110.0)]

    assert compare.ahead(rounds, TITLES) == "More requests per second than Trimtab's fp32, at 64: F1."


def test_a_table_has_the_fastest_first() -> None:
    rounds = [[measured("bentoml", "rows", 9.0), measured("trimtab", "raw", 100.0)]]

    [table] = compare.tables(rounds, TITLES)

    assert [row[0] for row in table["rows"]] == ["Trimtab, fp32", "B"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
