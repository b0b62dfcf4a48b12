from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cluster.config import Experiment, Model
from ladder import profile
from ladder.latency import Latency
from ladder.profile import Ladder, LeftOut, Measured, arrange
from ladder.variants import export_onnx, quantise
from tasks import cnn
from tasks.images import Images
from tasks.task import Encoding

ENCODING = Encoding(("a", "b", "c"), (8, 8, 1), "uint8", {"mean": [100.0], "std": [50.0]})
IMAGES = Images(Experiment.model_validate({"name": "t", "data": {"source": {"kind": "digits"}}}))
REFERENCE = "onnx-fp32"


def measured(variant: str, accuracy: float, ms: tuple[float, float], *, is_finite: bool = True) -> Measured:
    """With passes of 1 and 32 rows in so many milliseconds."""
    seconds = {1: ms[0] / 1000, 32: ms[1] / 1000}
    return Measured(variant, accuracy, 0.99, seconds, Latency.fit(seconds.items()), 1000, 0.1, is_finite=is_finite)


def rungs(ladder: Ladder) -> list[str]:
    return [rung.variant for rung in ladder.rungs]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param([], ["onnx-fp32"], id="the reference alone"),
        pytest.param([("s-fp32", 0.98, (1, 8)), ("m-fp32", 0.985, (2, 9))], ["onnx-fp32", "m-fp32", "s-fp32"],
                     id="from the most accurate to the cheapest"),
        pytest.param([("onnx-int8", 0.99, (2, 9))], ["onnx-int8"], id="as accurate and faster takes its place"),
        pytest.param([("onnx-int8", 0.99, (5, 9))], ["onnx-fp32", "onnx-int8"], id="slower at one size: both stay"),
        pytest.param([("onnx-int8", 0.995, (5, 9))], ["onnx-fp32", "onnx-int8"], id="better by luck: not above"),
        pytest.param([("onnx-int8", 0.99, (5, 11))], ["onnx-fp32"], id="slower everywhere is dropped"),
        pytest.param([("onnx-int8", 0.985, (2, 5)), ("s-fp32", 0.985, (1, 4))], ["onnx-fp32", "s-fp32"],
                     id="a student may dominate what is not the top"),
        pytest.param([("m-fp32", 0.975, (3, 9)), ("s-fp32", 0.97, (1, 2))], ["onnx-fp32", "s-fp32"],
                     id="two neighbours do its work better together"),
        pytest.param([("m-fp32", 0.975, (1.2, 9)), ("s-fp32", 0.97, (1, 2))], ["onnx-fp32", "m-fp32", "s-fp32"],
                     id="but not at every size: it stays"),
        pytest.param([("s-fp32", 0.999, (1, 4))], ["onnx-fp32", "s-fp32"], id="no student in its teacher's place"),
        pytest.param([("onnx-int8", 0.99, (2, 9)), ("s-fp32", 0.999, (1, 4))], ["onnx-int8", "s-fp32"],
                     id="nor in the place of the form that took it"),
    ],
)  # fmt: skip
def test_the_ladder_goes_from_the_most_accurate_to_the_cheapest(others, expected):
    ladder = arrange([measured(REFERENCE, 0.99, (4, 10)), *(measured(*o) for o in others)], REFERENCE, 0.03, 100)

    assert rungs(ladder) == expected
    assert {each.variant for each in ladder.left_out} == {REFERENCE, *(o[0] for o in others)} - set(expected)
    assert all("dominated by" in each.reason or "together" in each.reason for each in ladder.left_out)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        pytest.param(measured("s-fp32", 0.97, (1, 2)), r"loses 0\.0200 .* ladder\.max_accuracy_loss 0\.01", id="loss"),
        pytest.param(measured("s-fp32", 0.99, (1, 2), is_finite=False), "NaN", id="NaN"),
    ],
)
def test_a_variant_of_no_use_is_refused_with_the_reason(other: Measured, reason: str):
    ladder = arrange([measured(REFERENCE, 0.99, (4, 10)), other], REFERENCE, 0.01, 100)

    assert rungs(ladder) == [REFERENCE]
    (left_out,) = ladder.left_out
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(left_out.reason)


def test_a_loss_equal_to_the_budget_is_within_it():
    ladder = arrange(
        [measured(REFERENCE, 0.99, (4, 10)), measured("s-fp32", 0.99 - 0.01, (1, 2))], REFERENCE, 0.01, 100
    )

    assert rungs(ladder) == [REFERENCE, "s-fp32"]


def test_a_reference_that_answers_nan_makes_no_ladder():
    with pytest.raises(ValueError, match="onnx-fp32"):
        arrange([measured(REFERENCE, 0.99, (4, 10), is_finite=False)], REFERENCE, 0.01, 100)


def test_the_table_is_json_and_its_latencies_are_read_back():
    ladder = Ladder(
        REFERENCE,
        100,
        (measured(REFERENCE, 0.99, (4, 10)),),
        (LeftOut("x-fp32", "cannot be made"), LeftOut("y", "NaN", measured("y", 0.1, (1, 2), is_finite=False))),
    )

    tree = json.loads(json.dumps(ladder.to_json(), allow_nan=False))

    assert Latency.from_json(tree["rungs"][0]["latency"]).predict(32) == pytest.approx(0.01)
    assert tree["left_out"] == [
        {"variant": "x-fp32", "reason": "cannot be made"},
        {"variant": "y", "reason": "NaN"},
    ]


@pytest.mark.parametrize(
    ("max_batch", "expected"), [(1, [1]), (2, [1, 2]), (12, [1, 2, 4, 8, 12]), (32, [1, 2, 4, 8, 16, 32])]
)
def test_sizes_double_up_to_the_largest_batch(max_batch: int, expected: list[int]):
    assert profile.sizes(max_batch) == expected


def test_no_more_rows_are_measured_than_have_answers_that_fit_into_memory(monkeypatch: pytest.MonkeyPatch):
    rows, truth = np.arange(100).reshape(100, 1), np.arange(100)
    monkeypatch.setattr(profile, "ANSWER_BYTES", 30 * 4 * len(ENCODING.labels))

    some, theirs = profile.measurable(rows, truth, IMAGES, ENCODING)

    assert len(set(theirs.tolist())) == 30
    assert np.array_equal(some[:, 0], theirs)
    assert np.array_equal(profile.measurable(rows, truth, IMAGES, ENCODING)[1], theirs)
    assert np.array_equal(profile.measurable(rows[:30], truth[:30], IMAGES, ENCODING)[1], truth[:30])


def test_real_variants_are_measured_at_every_size(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    rows = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8)
    graph = export_onnx(cnn.build(Model(), ENCODING), ENCODING, IMAGES)
    broken = cnn.build_tiny(ENCODING)
    graphs = {REFERENCE: graph, "onnx-int8": quantise(graph, rows), "broken-fp32": _nan(broken)}
    monkeypatch.setattr(profile, "ROUNDS", 3)

    found = profile.measure(
        graphs, REFERENCE, rows, np.zeros(70, np.int64), max_batch=96, task=IMAGES, encoding=ENCODING
    )

    assert [each.variant for each in found] == list(graphs)
    assert [each.is_finite for each in found] == [True, True, False]
    assert found[0].agreement == 1.0
    assert found[1].agreement > 0.9
    for each in found:
        assert list(each.seconds) == [1, 2, 4, 8, 16, 32, 64, 96]
        assert each.memory_bytes >= each.num_bytes == len(graphs[each.variant])
        assert each.latency.predict(96) > each.latency.predict(1) * 0.5 > 0
    assert "broken-fp32" not in rungs(arrange(found, REFERENCE, 0.9, 70))


def _nan(network: torch.nn.Module) -> bytes:
    """A graph that passed its export and answers NaN."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(export_onnx(network, ENCODING, IMAGES))
    last = graph.graph.initializer[-1]
    for each in graph.graph.initializer:
        if each.dims == [3] and each.data_type == onnx.TensorProto.FLOAT:
            last = each
    last.CopyFrom(numpy_helper.from_array(np.full(tuple(last.dims), np.nan, np.float32), last.name))
    data: bytes = graph.SerializeToString()
    return data
