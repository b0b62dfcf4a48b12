"""Executable forms of a model: made from a network at training time, run by a replica.

The two halves share a file because they share a contract: one input of encoded rows, one output `outputs` float32
[n, width], as the task has them. Making needs torch; running must not, so that a replica starts light.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cluster.errors import TrimtabError, first_line
from tasks.task import Encoding, Task, trimmed

if TYPE_CHECKING:
    import onnx
    import torch

REFERENCE = "onnx-fp32"  # the trained network itself; every bundle has it
OUTPUT = "outputs"
CHECKED_ROWS = 5  # not the two of the example: the batch must not be fixed in the graph
TOLERANCE = 1e-3  # of a probability, or of the largest value; kernels of the two engines round differently
CALIBRATION_BATCH = 64  # rows of one pass while ranges are collected
# Where the time goes, and ReLU, which then is only the range behind a convolution; the rest keeps its range in fp32.
QUANTISED = ("Conv", "Gemm", "MatMul", "Relu")


class ExportError(TrimtabError):
    """The network has no form that a replica could run."""


def export_onnx(network: torch.nn.Module, encoding: Encoding, task: Task) -> bytes:
    """The network with `task.outputs` as an ONNX graph; rows [n, *shape] in, `outputs` float32 [n, width] out.

    Where the task trims its rows, their length is free in the graph.

    Raises:
        ExportError: it cannot be exported, answers something that is not finite, or answers unlike the network.
    """
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return task.outputs(self.network(rows))

    model = Whole().cpu().eval()
    rows = task.example(encoding, CHECKED_ROWS)
    try:
        data = _traced(model, torch.from_numpy(rows[:2]), task.input_spec(encoding).name, task.trims)
    except Exception as error:  # the exporter raises errors of many libraries
        reason = first_line(error.__cause__ or error)  # the exporter's own first line is how many tries there were
        raise ExportError(f"the network cannot be exported to ONNX ({reason})") from error
    with torch.inference_mode():
        expected = model(torch.from_numpy(rows)).numpy()
    check(OnnxPredictor(data), rows, expected, "ONNX")
    return data


def _pool_last(graph: onnx.GraphProto) -> None:
    """Move batch norms and ReLUs from behind a max pooling to before it where that is the same.

    A ReLU, and a norm without negative scales, never turn an order round, so the largest stays the largest. Before the
    pooling they become one operation with the convolution, and in 8 bits nothing between two convolutions goes back to
    fp32. In training the pooling comes first, because there it saves work.
    """
    import onnx
    from onnx import numpy_helper

    values = {constant.name: constant for constant in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    moved = set()
    for node in graph.node:
        pooling = makers.get(node.input[0]) if node.input else None
        if pooling is None or pooling.op_type != "MaxPool" or len(pooling.output) != 1 or uses[pooling.output[0]] != 1:
            continue
        if node.op_type == "BatchNormalization":
            scale = values.get(node.input[1])
            if scale is None or (numpy_helper.to_array(scale) < 0).any():
                continue
        elif node.op_type != "Relu":
            continue
        before, between, after = pooling.input[0], pooling.output[0], node.output[0]
        first, second = onnx.NodeProto(), onnx.NodeProto()
        first.CopyFrom(node)
        second.CopyFrom(pooling)
        first.input[0], first.output[0], second.input[0], second.output[0] = before, between, between, after
        pooling.CopyFrom(first)  # in its place, so that nodes stay in the order of their inputs
        node.CopyFrom(second)
        moved.add(between)
    for info in [info for info in graph.value_info if info.name in moved]:
        graph.value_info.remove(info)  # it has the shape from before


def shifted(graph: bytes, by: np.ndarray) -> bytes:
    """An exported graph that adds float32 [width] to each of its answers."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(graph)
    before = f"{OUTPUT}_{len(model.graph.node)}"  # a name that no earlier shift has taken
    for node in model.graph.node:
        node.output[:] = [before if name == OUTPUT else name for name in node.output]
        node.input[:] = [before if name == OUTPUT else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(by.astype(np.float32), f"{before}_shift"))
    model.graph.node.append(helper.make_node("Add", [before, f"{before}_shift"], [OUTPUT]))
    data: bytes = model.SerializeToString()
    return data


def quantise_dynamic(graph: bytes) -> bytes:
    """An exported graph with matrix products in int8: weights per channel, activations in the range each pass has.

    Raises:
        ExportError: it cannot be quantised.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own internals
        exported, quantised = (Path(folder, f"{part}.onnx") for part in ("exported", "quantised"))
        exported.write_bytes(graph)
        try:
            quantize_dynamic(str(exported), str(quantised), weight_type=QuantType.QInt8, per_channel=True)
        except Exception as error:  # errors of onnx, of its runtime and of numpy
            raise ExportError(f"the graph cannot be quantised ({first_line(error)})") from error
        return quantised.read_bytes()


def quantise(graph: bytes, rows: np.ndarray) -> bytes:
    """An exported graph with convolutions and matrix products in int8, their ranges taken from `rows`.

    Static quantisation: weights int8 per channel, activations uint8 (B. Jacob et al., Quantization and Training
    of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018). `rows` [n, *shape] are training
    rows in the encoding's dtype; a few hundred are enough.

    Raises:
        ExportError: it cannot be quantised.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        name = OnnxPredictor(graph).input_name
    except Exception as error:  # onnxruntime's own classes have no common base
        raise ExportError(f"the graph cannot be quantised ({first_line(error)})") from error
    batches = iter(np.array_split(rows, -(-len(rows) // CALIBRATION_BATCH)))

    class Rows(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {name: batch}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own internals
        exported, folded, quantised = (Path(folder, f"{part}.onnx") for part in ("exported", "folded", "quantised"))
        exported.write_bytes(graph)
        try:
            quant_pre_process(str(exported), str(folded), skip_symbolic_shape=True)
            quantize_static(
                str(folded),
                str(quantised),
                Rows(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(QUANTISED),
            )
        except Exception as error:  # errors of onnx, of its runtime and of numpy
            raise ExportError(f"the graph cannot be quantised ({first_line(error)})") from error
        return quantised.read_bytes()


def _traced(model: torch.nn.Module, example: torch.Tensor, input_name: str, trims: bool) -> bytes:
    import torch

    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    free = {0: torch.export.Dim("n"), **({1: torch.export.Dim("length")} if trims else {})}
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own internals
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[input_name],
                output_names=[OUTPUT],
                dynamic_shapes=(free,),
            )
    finally:
        exporter.setLevel(level)
    assert program is not None
    made = program.model_proto
    _pool_last(made.graph)
    data: bytes = made.SerializeToString()
    return data


def check(predictor: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, expected: np.ndarray, form: str) -> None:
    """Raises ExportError where a form of a network answers rows [n, *shape] unlike it, or nothing that is finite."""
    if not np.isfinite(expected).all():
        raise ExportError("the network answers NaN or infinity; train it with a lower train.learning_rate")
    for n in (1, len(rows)):
        difference = float(np.abs(predictor(rows[:n]) - expected[:n]).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise ExportError(f"the {form} form differs from the network by {difference:.2g} in an answer")


class OnnxPredictor:
    """Runs an exported model; one instance may be called from several threads."""

    def __init__(self, data: bytes, threads: int = 1) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # would steal the next replica's core
        options.log_severity_level = 3
        self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        given = self._session.get_inputs()[0]
        self.input_name: str = given.name
        self._trims = len(given.shape) == 2 and isinstance(given.shape[1], str)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows [n, *shape] in the encoding's dtype -> answers float32 [n, width].

        Rows whose length is free in the graph are cut to the longest of the batch.
        """
        if self._trims:
            rows = np.ascontiguousarray(trimmed(rows))
        answer: np.ndarray = self._session.run(None, {self.input_name: rows})[0]
        return answer
