"""Opening a bundle's rungs, and which envelopes they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from cluster.errors import ConfigError, TrimtabError
from cluster.store import Store
from ladder.bundle import Bundle
from ladder.choose import Envelope, Rung
from ladder.latency import Latency
from serve.ladder import Ladder, check_served, open_forwards, open_ladder, time_passes

Rungs = Mapping[str, tuple[float, bytes]]


def made(**accuracies: float) -> Ladder:
    rungs = [Rung(variant, accuracy, Latency(0.001, 0.001)) for variant, accuracy in accuracies.items()]
    return Ladder(rungs, {rung.variant: lambda rows: rows for rung in rungs})


def test_all_rungs_of_a_bundle_are_opened_in_its_order_and_timed(
    make_bundle: Callable[..., Bundle], two_rungs: Rungs, store: Store
) -> None:
    ladder = open_ladder(make_bundle(store, rungs=two_rungs), 8)

    assert [(rung.variant, rung.accuracy) for rung in ladder.rungs] == [("onnx-fp32", 0.95), ("student-fp32", 0.9)]
    slow, fast = (rung.latency.predict(8) for rung in ladder.rungs)
    assert slow > 5 * fast > 0


def test_a_bundle_without_a_table_has_one_rung_of_its_own_accuracy(bundle: Bundle) -> None:
    (rung,) = open_ladder(bundle, 4).rungs

    assert (rung.variant, rung.accuracy) == ("onnx-fp32", 1.0)


def test_one_rung_that_cannot_be_run_refuses_the_whole_bundle(
    make_bundle: Callable[..., Bundle], two_rungs: Rungs, store: Store
) -> None:
    rungs = {**two_rungs, "student-int8": (0.8, b"not a model")}

    with pytest.raises(TrimtabError, match="student-int8 cannot be run"):
        open_ladder(make_bundle(store, rungs=rungs), 4)


def test_passes_of_all_sizes_are_timed_in_turns() -> None:
    seen: list[tuple[str, int]] = []
    forwards = {name: lambda rows, name=name: seen.append((name, len(rows))) or rows for name in ("a", "b")}

    samples = time_passes(forwards, np.zeros((6, 1)))

    assert seen[:6] == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 4), ("b", 4)]
    assert {size for size, _ in samples["a"]} == {1, 2, 4, 6}
    assert len(samples["a"]) == len(samples["b"]) >= 12


@pytest.mark.parametrize(
    ("envelope", "words"),
    [
        pytest.param(
            Envelope(variants=frozenset({"best", "worse"})),
            "serve.rungs = 'worse': no rung of this version; use one or more of best, cheap",
            id="unknown rung",
        ),
        pytest.param(Envelope(variants=frozenset()), r"serve.rungs = \[\]: allows no rung", id="none"),
        pytest.param(Envelope(least_accuracy=0.95), "no allowed rung reaches it.*best .0.9000", id="floor"),
        pytest.param(Envelope(variants=frozenset({"cheap"}), least_accuracy=0.85), "no allowed rung", id="both"),
    ],
)
def test_an_impossible_envelope_is_refused_with_what_there_is(envelope: Envelope, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(best=0.9, cheap=0.8).check(envelope)


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        pytest.param({}, None, id="all"),
        pytest.param({"objective": {"accuracy_at_least": 0.95}}, None, id="the best reaches the floor"),
        pytest.param({"gpus_per_replica": 0.5}, "gpus_per_replica = 0.5: this version was made for none", id="GPU"),
        pytest.param(
            {"objective": {"accuracy_at_least": 0.96}},
            r"accuracy_at_least = 0\.96: no allowed rung reaches it on the validation .* onnx-fp32 \(0\.9500\)",
            id="none reaches the floor",
        ),
        pytest.param(
            {"objective": {"accuracy_at_least": 0.95}, "rungs_allowed": ["student-fp32"]},
            "no allowed rung reaches it",
            id="the allowed one is below it",
        ),
        pytest.param({"rungs_allowed": ["tiny"]}, "serve.rungs = 'tiny'", id="unknown rung"),
    ],
)
def test_what_the_serve_section_allows_is_checked_before_anything_is_loaded(
    make_bundle: Callable[..., Bundle], two_rungs: Rungs, store: Store, serve: dict[str, Any], words: str | None
) -> None:
    bundle = make_bundle(store, rungs=two_rungs, **serve)

    if words is None:
        check_served(bundle)
        return
    with pytest.raises(ConfigError, match=words):
        check_served(bundle)


def test_rungs_with_other_threads_answer_alike(
    make_bundle: Callable[..., Bundle], two_rungs: Rungs, store: Store
) -> None:
    bundle = make_bundle(store, rungs=two_rungs)
    ladder, rows = open_ladder(bundle, 2, threads=2), np.full((2, 4, 6, 1), 200, np.uint8)
    before = ladder.forwards["student-fp32"](rows)

    ladder.use(open_forwards(bundle, 2, 1), 1)

    assert ladder.threads == 1
    assert ladder.forwards["student-fp32"](rows) == pytest.approx(before)


def test_an_envelope_opens_only_for_a_ladder_that_has_none_of_its_rungs() -> None:
    ladder, fits, alien = made(best=0.9), Envelope(8, frozenset({"best"})), Envelope(8, frozenset({"other"}))

    assert ladder.within(fits) is fits
    assert ladder.within(alien) == Envelope(8)


def test_a_rung_without_a_forward_pass_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no forward pass"):
        Ladder([Rung("lost", 1.0, Latency(0.001, 0.001))], {})
