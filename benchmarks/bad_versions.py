"""Versions that are worse than the one they were made of, in ways that a gate or a canary has to find.

Each is a whole bundle of its own, with the good version's figures and other graphs, so that it looks good to whoever
only reads. Five kinds: it crashes on load, answers NaN, takes ten times as long, has its labels in another order, or
is wrong on five points more of the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Literal

import numpy as np

from ladder.bundle import Bundle, write_bundle
from ladder.opening import executable
from ladder.variants import OUTPUT, OnnxPredictor

Kind = Literal["crash", "nan", "slow", "order", "worse"]
KINDS: tuple[Kind, ...] = ("crash", "nan", "slow", "order", "worse")
SIDES = (48, 256)  # of the square matrices that `slow` multiplies, for a pass shorter than LONG_S or a longer one
LONG_S = 0.002
SLOWER, WORSE = 10.0, 0.05


def make(good: Bundle, kind: Kind, key: str) -> Bundle:
    """Publish the bad version of `good` under `key`."""
    changes: dict[Kind, Callable[[bytes, np.ndarray], bytes]] = {
        "crash": crashing,
        "nan": answering_nan,
        "slow": slower,
        "order": reordered,
        "worse": less_accurate,
    }
    rows, variants = good.probe(good.experiment.serve.max_batch), executable(good)
    files = {role: (entry["file"], good.read(role)) for role, entry in good.files.items()}
    for role in {*variants, "onnx-fp32"} & files.keys():
        name, graph = files[role]
        files[role] = (name, changes[kind](graph, rows))
    return write_bundle(
        good.store,
        key,
        experiment=good.experiment,
        encoding=good.encoding,
        dataset=good.dataset,
        run=good.run,
        metrics=good.metrics,
        files=files,
        variants=variants,
        ladder=good.ladder,
    )


def crashing(graph: bytes, rows: np.ndarray) -> bytes:  # noqa: ARG001
    """Its first pass, which a replica makes when it loads it, ends the process.

    The least int32 divided by -1, which the processors of x86 answer by SIGFPE; others give answers of a wrong width.
    """
    _, numpy_helper, helper = _onnx()
    model, before = _renamed(graph)
    constants = {
        "nought": np.zeros(1, np.float32),
        "less_one": np.full(1, -1, np.int32),
        "least": np.full(1, -(2**31), np.int32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", [before], ["largest"], keepdims=0),  # not known when the graph is loaded
            helper.make_node("Mul", ["largest", "nought"], ["noughts"]),
            helper.make_node("Cast", ["noughts"], ["whole_noughts"], to=6),
            helper.make_node("Add", ["whole_noughts", "less_one"], ["divisor"]),
            helper.make_node("Div", ["least", "divisor"], ["ratio"]),
            helper.make_node("Cast", ["ratio"], [OUTPUT], to=1),
        ]
    )
    return _bytes(model)


def answering_nan(graph: bytes, rows: np.ndarray) -> bytes:  # noqa: ARG001
    """Every answer is NaN."""
    _, numpy_helper, helper = _onnx()
    model, before = _renamed(graph)
    model.graph.initializer.append(numpy_helper.from_array(np.full(1, np.nan, np.float32), "nothing"))
    model.graph.node.append(helper.make_node("Add", [before, "nothing"], [OUTPUT]))
    return _bytes(model)


def slower(graph: bytes, rows: np.ndarray) -> bytes:
    """The same answers in `SLOWER` times the time that a full batch takes, whatever the batch."""
    pass_s = _pass_s(graph, rows)
    side = SIDES[pass_s > LONG_S]
    few, many = (_pass_s(_busy(graph, number, side), rows) for number in (10, 60))
    return _busy(graph, 1 + round((SLOWER - 1.0) * pass_s / max((many - few) / 50, 1e-6)), side)


def reordered(graph: bytes, rows: np.ndarray) -> bytes:
    """Each label has the answer of the one before it."""
    _, numpy_helper, helper = _onnx()
    order = np.roll(np.arange(OnnxPredictor(graph)(rows[:1]).shape[1]), 1)
    model, before = _renamed(graph)
    model.graph.initializer.append(numpy_helper.from_array(order, "order"))
    model.graph.node.append(helper.make_node("Gather", [before, "order"], [OUTPUT], axis=1))
    return _bytes(model)


def less_accurate(graph: bytes, rows: np.ndarray, share: float = WORSE) -> bytes:
    """On a `share` of the rows, chosen by what is in them, each label has the answer of the one before it."""
    _, numpy_helper, helper = _onnx()
    model, before = _renamed(graph)
    width, size = OnnxPredictor(graph)(rows[:1]).shape[1], int(np.prod(rows.shape[1:]))
    weights = np.random.default_rng(0).uniform(0.5, 1.5, (size, 1)).astype(np.float32)
    constants = {
        "bad_order": np.roll(np.arange(width), 1),
        "bad_shape": np.array([-1, size]),
        "bad_weights": weights,
        "bad_share": np.array([np.cos(np.pi * share)], np.float32),  # of a cosine's values, the largest
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Cast", [model.graph.input[0].name], ["bad_rows"], to=1),
            helper.make_node("Reshape", ["bad_rows", "bad_shape"], ["bad_flat"]),
            helper.make_node("MatMul", ["bad_flat", "bad_weights"], ["bad_sum"]),  # large: its cosine is anything
            helper.make_node("Cos", ["bad_sum"], ["bad_place"]),
            helper.make_node("Greater", ["bad_place", "bad_share"], ["is_bad"]),
            helper.make_node("Gather", [before, "bad_order"], ["bad_answers"], axis=1),
            helper.make_node("Where", ["is_bad", "bad_answers", before], [OUTPUT]),
        ]
    )
    return _bytes(model)


def _busy(graph: bytes, number: int, side: int) -> bytes:
    """With so many products of matrices, whose result adds nothing."""
    _, numpy_helper, helper = _onnx()
    model, before = _renamed(graph)
    square = np.random.default_rng(0).standard_normal((side, side)).astype(np.float32) / side**0.5
    model.graph.initializer.append(numpy_helper.from_array(square, "square"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "nought"))
    # It begins with an answer, so that nothing of it can be computed when the graph is loaded.
    model.graph.node.append(helper.make_node("ReduceMax", [before], ["busy_from"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["square", "busy_from"], ["busy_0"]))
    for i in range(number):
        model.graph.node.append(helper.make_node("MatMul", [f"busy_{i}", "square"], [f"turn_{i}"]))
        model.graph.node.append(helper.make_node("Tanh", [f"turn_{i}"], [f"busy_{i + 1}"]))
    model.graph.node.append(helper.make_node("ReduceMean", [f"busy_{number}"], ["busy_mean"], keepdims=0))
    model.graph.node.append(helper.make_node("Mul", ["busy_mean", "nought"], ["busy_nothing"]))
    model.graph.node.append(helper.make_node("Add", [before, "busy_nothing"], [OUTPUT]))
    return _bytes(model)


def _pass_s(graph: bytes, rows: np.ndarray) -> float:
    predictor = OnnxPredictor(graph)
    predictor(rows)
    times = []
    for _ in range(7):
        start = time.thread_time()
        predictor(rows)
        times.append(time.thread_time() - start)
    return median(times)


def _renamed(graph: bytes) -> tuple[Any, str]:
    """The model with another name for what it answered, and that name."""
    onnx, _, _ = _onnx()
    model, name = onnx.load_from_string(graph), "good_answers"
    for node in model.graph.node:
        node.output[:] = [name if one == OUTPUT else one for one in node.output]
        node.input[:] = [name if one == OUTPUT else one for one in node.input]
    return model, name


def _bytes(model: Any) -> bytes:
    data: bytes = model.SerializeToString()
    return data


def _onnx() -> tuple[Any, Any, Any]:
    import onnx
    from onnx import helper, numpy_helper

    return onnx, numpy_helper, helper
