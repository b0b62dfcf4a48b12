from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ladder.embedding import WIDTH, Embedder
from ladder.variants import export_onnx
from tasks.task import Encoding, load_task


@pytest.fixture
def encoding() -> Encoding:
    return Encoding(("a", "b"), (8, 8, 1), "uint8", {"mean": [0.5], "std": [0.25]})


def exported(layers: list[nn.Module], encoding: Encoding, parse: Any) -> bytes:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.layers(rows.float().flatten(1) / 255)
            return answer

    experiment = parse({"name": "digits", "data": {"source": {"kind": "digits"}}})
    return export_onnx(Network().eval(), encoding, load_task(experiment))


@pytest.fixture
def parse() -> Any:
    from cluster import experiment as experiments

    return experiments.parse


@pytest.mark.parametrize(("width", "found"), [pytest.param(7, 7, id="narrow"), pytest.param(48, WIDTH, id="projected")])
def test_an_embedding_is_what_goes_into_the_last_layer(encoding: Encoding, parse: Any, width: int, found: int) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(64, width), nn.Linear(width, 2)
    rows = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)

    embedded = Embedder(exported([first, nn.ReLU(), last], encoding, parse))(rows)

    assert embedded.shape == (5, found)
    assert embedded.dtype == np.float32
    if found == width:
        with torch.inference_mode():
            expected = torch.relu(first(torch.from_numpy(rows).float().flatten(1) / 255))
        np.testing.assert_allclose(embedded, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_names_of_a_networks_own_are_no_matter() -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rows, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("rows", "outputs"))
    nodes = [
        helper.make_node("Relu", ["rows"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "w"], ["outputs"]),
    ]
    weights = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "g", [rows], [outputs], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])

    embedded = Embedder(model.SerializeToString())(np.array([[1.0, -1.0]], np.float32))

    np.testing.assert_array_equal(embedded, [[1.0, 0.0]])


def test_a_graph_without_a_last_layer_has_no_embeddings() -> None:
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("rows", "outputs")]
    graph = helper.make_graph([helper.make_node("Relu", ["rows"], ["outputs"])], "g", ends[:1], ends[1:])

    with pytest.raises(ValueError, match="no layer"):
        Embedder(onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
