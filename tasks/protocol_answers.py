"""The half of a task that answers, checked: what a replica gives out, and what it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.protocol_words import Say
from tasks.task import MEDIA_TYPES, Ask, Asked, Encoding, Rejected, Task, TensorSpec

if TYPE_CHECKING:
    import torch


def check_outputs(task: Task, encoding: Encoding, logits: torch.Tensor, truth: np.ndarray, say: Say) -> np.ndarray:
    import torch

    spec, n = task.output_spec(encoding), len(logits)
    if not isinstance(spec, TensorSpec) or len(spec.shape) != 2 or spec.shape[0] != -1:
        raise say.wrong("output_spec", f"gave {spec!r}", "give a TensorSpec of [-1, width]")
    made = task.outputs(logits)
    if not isinstance(made, torch.Tensor) or made.dtype != torch.float32 or made.dim() != 2 or len(made) != n:
        shape = list(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise say.wrong("outputs", f"gave {shape} for {n} rows", "give float32 [rows, width]")
    if spec.shape[1] not in (-1, made.shape[1]):
        raise say.wrong(
            "outputs", f"gave {made.shape[1]} numbers a row", f"give {spec.shape[1]}, as output_spec() says"
        )
    outputs: np.ndarray = made.numpy()
    for method, found in (("right", task.right(outputs, truth)), ("agreement", task.agreement(outputs, outputs))):
        expected = "give one number from 0 to 1 for each row"
        say.array(method, found, (n,), "fiub", expected)
        if found.min() < 0 or found.max() > 1:
            raise say.wrong(method, f"gave numbers from {found.min():g} to {found.max():g}", expected)
    shift = task.calibrate(outputs, truth)
    if shift is not None and (not isinstance(shift, np.ndarray) or shift.shape != outputs.shape[1:]):
        raise say.wrong(
            "calibrate", "gave something else than a number for each column", "give float32 [width], or None"
        )
    figures = task.metrics(outputs, truth, encoding)
    if not isinstance(figures, dict) or not {"accuracy", "rows"} <= figures.keys():
        raise say.wrong("metrics", "gave no `accuracy` or no `rows`", "give a dict with both")
    say.json("metrics", figures)
    labels = task.labels(outputs, encoding)
    if labels is not None and not (len(labels) == n and all(isinstance(label, str) for label in labels)):
        raise say.wrong("labels", "gave something else than a text per row", "give a list of texts, or None")
    return outputs


def check_serving(task: Task, encoding: Encoding, rows: np.ndarray, outputs: np.ndarray, say: Say) -> None:
    _check_spec(task, encoding, say)
    types = task.media_types()
    if not isinstance(types, tuple) or not types or not all(isinstance(one, str) and "/" in one for one in types):
        raise say.wrong("media_types", f"gave {types!r}", 'give a tuple such as ("application/json",)')
    made = task.example(encoding, 3)
    expected = f"give rows [3, {', '.join(map(str, encoding.shape))}] of {encoding.dtype}"
    say.array("example", made, (3, *encoding.shape), np.dtype(encoding.dtype).kind, expected)
    task.open()
    ask = _check_sample(task, encoding, rows[0], types, say)
    try:
        answer = task.answer(outputs[0], encoding, ask)
    except Rejected as refusal:
        raise say.wrong("answer", f"refused a request without options ({refusal})", "answer it") from refusal
    if not isinstance(answer, dict):
        raise say.wrong("answer", f"gave a {type(answer).__name__}", "give a dict")
    say.json("answer", answer)


def _check_spec(task: Task, encoding: Encoding, say: Say) -> None:
    types = {"float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL"}
    datatype = types.get(encoding.dtype, encoding.dtype.upper())
    spec = task.input_spec(encoding)
    allowed = [(datatype, (-1, *encoding.shape)), ("BYTES", (-1, 1))]
    if not isinstance(spec, TensorSpec) or (spec.datatype, tuple(spec.shape)) not in allowed:
        expected = f"give TensorSpec(name, {datatype!r}, {(-1, *encoding.shape)}), or of BYTES (-1, 1)"
        raise say.wrong("input_spec", f"gave {spec!r}", expected)


def _check_sample(task: Task, encoding: Encoding, row: np.ndarray, types: tuple[str, ...], say: Say) -> Ask:
    """decode(sample(row)) is the row; bodies that are none are refused."""
    try:
        task.decode(b"\x00not a body", types[0], encoding)
    except Rejected:
        pass
    else:
        raise say.wrong("decode", "took a body that is none", "raise Rejected for what it cannot use")
    sample = task.sample(row, encoding)
    if sample is None:
        return Ask()
    name, body = sample
    suffix = "." + name.rpartition(".")[2]
    if MEDIA_TYPES.get(suffix) not in types:
        known = ", ".join(end for end, kind in MEDIA_TYPES.items() if kind in types)
        raise say.wrong("sample", f"gave a file {name!r}", f"give one that media_types() has: {known or 'none'}")
    try:
        found = task.decode(body, MEDIA_TYPES[suffix], encoding)
    except Rejected as refusal:
        raise say.wrong("decode", f"refused what sample() gave ({refusal})", "take it") from refusal
    decoded, detail = (found.row, found.detail) if isinstance(found, Asked) else (found, None)
    say.array("decode", decoded, encoding.shape, np.dtype(encoding.dtype).kind, f"give {encoding.dtype} rows")
    if decoded.dtype != row.dtype or not np.allclose(decoded, row):
        raise say.wrong("decode", "made another row of what sample() gave", "give back the row of the sample")
    return Ask(detail)
