"""How each rung of a version answers on held-out rows: what answers in service are compared with later.

Kept in the bundle as numbers alone. Knows neither tests nor where rows come from.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MOST_ROWS = 4000
MOST_COLUMNS = 64


@dataclass(frozen=True)
class Answers:
    """Of one rung: `columns` float32 [m, at most MOST_COLUMNS], and the predicted classes int64 [m]."""

    columns: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.columns)


def answers(outputs: np.ndarray) -> Answers:
    """Of outputs float32 [n, width]; of wide ones each row's largest count, in their order."""
    columns = outputs.astype(np.float32)
    if columns.shape[1] > MOST_COLUMNS:
        columns = -np.sort(-columns, axis=1)[:, :MOST_COLUMNS]
    return Answers(columns, outputs.argmax(axis=1))


def pack(outputs: Mapping[str, np.ndarray], embeddings: np.ndarray | None = None) -> bytes:
    """A bundle's file from outputs float32 [m, width] by variant, and embeddings float32 [m, e]; MOST_ROWS of them."""
    arrays: dict[str, np.ndarray] = {} if embeddings is None else {"embeddings": embeddings[:MOST_ROWS]}
    for variant, rows in outputs.items():
        found = answers(rows[:MOST_ROWS])
        arrays |= {f"columns/{variant}": found.columns, f"classes/{variant}": found.classes}
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **arrays)
    return out.getvalue()


def unpack(data: bytes) -> dict[str, Answers]:
    """What `pack` made, by variant. Raises ValueError for anything else."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        variants = [name.partition("/")[2] for name in arrays.files if name.startswith("columns/")]
        return {name: Answers(arrays[f"columns/{name}"], arrays[f"classes/{name}"]) for name in variants}


def embeddings(data: bytes) -> np.ndarray | None:
    """Those in what `pack` made, float32 [m, e]; None where there are none. Raises ValueError for anything else."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return arrays["embeddings"] if "embeddings" in arrays.files else None
