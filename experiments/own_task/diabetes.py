"""A whole task of one's own: how far a patient's diabetes goes on within a year, from ten numbers of the patient.

An input is a JSON object of the columns that `data.source.input` names, in a table as in a request.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.config import Experiment
from tasks.task import Encoding, Rejected, Task, TensorSpec

if TYPE_CHECKING:
    import torch


class Diabetes(Task):
    targets = "value"

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.columns = experiment.data.source.input

    def row_shape(self, values: Iterable[bytes]) -> tuple[int, ...]:
        return (len(self.columns),)

    def clean(self, value: bytes, shape: tuple[int, ...]) -> np.ndarray:
        try:
            given = json.loads(value)
            row = np.array([given[name] for name in self.columns], np.float32)
        except KeyError as error:
            raise Rejected("missing_number", str(error)) from error
        except (ValueError, TypeError, OverflowError) as error:
            raise Rejected("not_numbers", str(error)) from error
        if row.shape != shape or not np.isfinite(row).all():
            raise Rejected("not_numbers", f"wanted are {', '.join(self.columns)}")
        return row

    def partial_statistics(self, rows: np.ndarray) -> dict[str, Any]:
        whole = np.round(rows.astype(np.float64) * 1000).astype(np.int64)  # of integers a sum is the same in any order
        return {"rows": len(rows), "sum": whole.sum(axis=0).tolist(), "squares": (whole**2).sum(axis=0).tolist()}

    def statistics(self, partials: Sequence[dict[str, Any]]) -> dict[str, Any]:
        num, total, squares = (np.sum([part[n] for part in partials], axis=0) for n in ("rows", "sum", "squares"))
        mean = total / num
        return {"mean": (mean / 1000).tolist(), "std": (np.sqrt(squares / num - mean**2) / 1000 + 1e-6).tolist()}

    def network(self, encoding: Encoding, width: int = 64) -> torch.nn.Module:
        from diabetes_network import Regression  # torch is loaded by what trains alone, never by a replica

        return Regression(encoding.statistics, width)

    def students(self, encoding: Encoding) -> dict[str, torch.nn.Module]:
        return {"student": self.network(encoding, width=4)}

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return ((logits[:, 0] - targets) ** 2).mean()

    def right(self, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return (np.abs(outputs[:, 0] - truth) <= self.experiment.settings["close_enough"]).astype(np.float64)

    def input_spec(self, encoding: Encoding) -> TensorSpec:
        return TensorSpec("patient", "FP32", (-1, *encoding.shape))

    def media_types(self) -> tuple[str, ...]:
        return ("application/json",)

    def decode(self, body: bytes, content_type: str, encoding: Encoding) -> np.ndarray:
        return self.clean(body, encoding.shape)

    def sample(self, row: np.ndarray, encoding: Encoding) -> tuple[str, bytes]:
        return "sample.json", json.dumps(dict(zip(self.columns, row.tolist(), strict=True))).encode()
