from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.config import Experiment, Model
from ladder.variants import ExportError, OnnxPredictor, export_onnx, quantise, shifted
from tasks import cnn
from tasks.images import Images
from tasks.task import Encoding

IMAGES = Images(Experiment.model_validate({"name": "t", "data": {"source": {"kind": "digits"}}}))


def encoding(shape: tuple[int, ...] = (8, 8, 1)) -> Encoding:
    statistics = {"mean": [100.0] * shape[-1], "std": [50.0] * shape[-1]}
    return Encoding(("a", "b", "c"), shape, "uint8", statistics)


def network(name: str, shape: tuple[int, ...]) -> torch.nn.Module:
    torch.manual_seed(0)
    return cnn.build(Model(network=name, dropout=0.5), encoding(shape))


@functools.cache
def exported(name: str = "small", shape: tuple[int, ...] = (8, 8, 1)) -> bytes:
    """Of `network`; an export takes a second."""
    return export_onnx(network(name, shape), encoding(shape), IMAGES)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("small", (8, 8, 1), id="small, grey"),
        pytest.param("large", (32, 32, 3), id="large, colour"),
        pytest.param("small", (65, 40, 3), id="small, with a pooled grid"),
    ],
)
def test_the_exported_form_answers_like_the_network_at_any_batch(name: str, shape: tuple[int, ...]):
    made = network(name, shape)
    rows = np.random.default_rng(0).integers(0, 256, (17, *shape), dtype=np.uint8)

    predictor = OnnxPredictor(exported(name, shape))

    with torch.inference_mode():
        expected = torch.softmax(made.eval()(torch.from_numpy(rows)), dim=1).numpy()
    for n in (1, 2, 17):
        answer = predictor(rows[:n])
        assert answer.dtype == np.float32
        assert np.allclose(answer, expected[:n], atol=1e-4)
        assert np.allclose(answer.sum(axis=1), 1.0, atol=1e-5)


def test_a_network_that_answers_nan_is_refused():
    made = network("small", (8, 8, 1))
    with torch.no_grad():
        next(made.parameters()).fill_(float("nan"))

    with pytest.raises(ExportError, match="NaN"):
        export_onnx(made, encoding(), IMAGES)


def test_a_network_that_cannot_be_traced_is_refused_in_one_sentence():
    class Undecided(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows.float().mean((1, 2)) if rows.sum() > 0 else rows.float().amax((1, 2))

    with pytest.raises(ExportError, match="cannot be exported") as caught:
        export_onnx(Undecided(), encoding(), IMAGES)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [pytest.param("small", (28, 28, 1), id="small, grey"), pytest.param("large", (16, 16, 3), id="large, colour")],
)
def test_the_8_bit_form_is_close_smaller_and_takes_any_batch(name: str, shape: tuple[int, ...]):
    graph = exported(name, shape)
    rows = np.random.default_rng(0).integers(0, 256, (130, *shape), dtype=np.uint8)

    int8 = quantise(graph, rows)

    assert len(int8) < len(graph)
    for n in (1, 130):
        answer = OnnxPredictor(int8)(rows[:n])
        assert answer.dtype == np.float32
        assert np.allclose(answer, OnnxPredictor(graph)(rows[:n]), atol=0.05)


@pytest.mark.parametrize(
    ("scale", "order"),
    [
        pytest.param(0.5, ["Conv", "BatchNormalization", "Relu", "MaxPool"], id="never turns an order round"),
        pytest.param(-0.5, ["Conv", "MaxPool", "BatchNormalization", "Relu"], id="turns it round in one channel"),
    ],
)
def test_what_keeps_the_order_goes_before_a_max_pooling_and_changes_no_answer(scale: float, order: list[str]):
    import onnx

    made = network("small", (8, 8, 1))
    with torch.no_grad():
        for norm in (part for part in made.modules() if isinstance(part, torch.nn.BatchNorm2d)):
            norm.weight[0], norm.bias[0] = scale, 0.3
    rows = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)

    graph = export_onnx(made, encoding(), IMAGES)

    found = [node.op_type for node in onnx.load_from_string(graph).graph.node]
    start = found.index("Conv")
    assert found[start : start + 8] == order * 2
    with torch.inference_mode():
        expected = torch.softmax(made.eval()(torch.from_numpy(rows)), dim=1).numpy()
    assert np.allclose(OnnxPredictor(graph)(rows), expected, atol=1e-5)


def test_between_two_8_bit_convolutions_nothing_goes_back_to_fp32():
    import onnx

    shape = (16, 16, 3)
    rows = np.random.default_rng(0).integers(0, 256, (130, *shape), dtype=np.uint8)

    int8 = onnx.load_from_string(quantise(exported("large", shape), rows))

    assert not {"Relu", "BatchNormalization"} & {node.op_type for node in int8.graph.node}


def test_only_convolutions_and_matrix_products_are_quantised():
    import onnx

    graph = onnx.load_from_string(quantise(exported(), _rows(64)))

    made_by = {output: node.op_type for node in graph.graph.node for output in node.output}
    inputs = {node.op_type: made_by.get(node.input[0]) for node in graph.graph.node}
    assert (inputs["Conv"], inputs["Gemm"]) == ("DequantizeLinear", "DequantizeLinear")
    assert (inputs["Sub"], inputs["Div"]) == ("Cast", "Sub")


def test_quantising_is_quiet(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    graph = exported()
    capfd.readouterr()
    caplog.clear()

    with caplog.at_level("WARNING"):
        quantise(graph, _rows(64))

    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_what_is_no_graph_is_refused():
    with pytest.raises(ExportError, match="cannot be quantised"):
        quantise(b"not a graph", _rows(8))


def _rows(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)


def quantise_some(graph: bytes) -> bytes:
    return quantise(graph, _rows(64))


@pytest.mark.parametrize("form", [pytest.param(lambda g: g, id="fp32"), pytest.param(quantise_some, id="int8")])
def test_a_shifted_graph_adds_to_each_answer(form: Callable[[bytes], bytes]):
    graph = form(exported())
    by = np.array([0.0, 1.5, -2.0], np.float32)

    again = shifted(shifted(graph, by), by)

    np.testing.assert_allclose(OnnxPredictor(again)(_rows(5)), OnnxPredictor(graph)(_rows(5)) + 2 * by, atol=1e-5)


def test_running_a_variant_needs_no_torch(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(exported())
    code = (
        "import sys, numpy; from pathlib import Path; from ladder.variants import OnnxPredictor;"
        f"answer = OnnxPredictor(Path({str(tmp_path / 'model.onnx')!r}).read_bytes())(numpy.zeros((3, 8, 8, 1), 'u1'));"
        "assert answer.shape == (3, 3); sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
