"""What a trained network makes of a row before its last layer: changes of inputs show there that no answer may show.

Taken from the exported graph, so it needs neither torch nor the task. Knows nothing of what it is compared with.
"""

from __future__ import annotations

import numpy as np

from ladder.variants import OnnxPredictor

WIDTH = 32  # wider ones are projected: distances stay about as they were (W. Johnson, J. Lindenstrauss, 1984)
_LAYERS = ("Gemm", "MatMul")
_OUTPUT = "before_the_last_layer"  # a name that no layer of a network has


class Embedder:
    """Rows [n, *shape] in the encoding's dtype -> float32 [n, at most WIDTH]."""

    def __init__(self, graph: bytes) -> None:
        """From the graph that `ladder.variants.export_onnx` made. Raises ValueError where it has no last layer."""
        self._forward = OnnxPredictor(_cut(graph))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        found = self._forward(rows)
        if found.shape[1] <= WIDTH:
            return found
        towards = np.random.default_rng(0).standard_normal((found.shape[1], WIDTH)) / np.sqrt(WIDTH)
        return np.asarray(found @ towards.astype(np.float32))


def _cut(graph: bytes) -> bytes:
    """The graph up to what goes into its last product with weights."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in _LAYERS and node.input[1] in weights]
    if not layers:
        raise ValueError("no layer multiplies by weights")
    model.graph.node.append(helper.make_node("Flatten", [layers[-1].input[0]], [_OUTPUT], axis=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, ["n", None]))
    data: bytes = model.SerializeToString()
    return data
