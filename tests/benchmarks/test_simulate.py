from __future__ import annotations

from benchmarks import simulate, traces


def test_all_contestants_are_shown_and_ours_is_measured_against_each():
    trace = traces.burst(seconds=8, every_s=4, length_s=1, ratio=3).scaled(simulate.LOAD * simulate.BEST_PER_S)

    figures = {figure["name"]: figure for figure in simulate.fleet_figures(trace, 1, (0,))}

    ours = figures["violations, adaptation, 1 replicas"]
    assert ours["met"]
    assert len([name for name in figures if name.startswith("violations, ")]) == 5
    assert all(figures[name]["met"] for name in figures if name.startswith("violations beside"))


def test_the_parts_of_a_tick_are_timed():
    figures = simulate.tick_figures(3, rounds=2)

    assert [figure["unit"] for figure in figures] == ["ms"] * 3
    assert all(figure["value"] >= 0 for figure in figures)
