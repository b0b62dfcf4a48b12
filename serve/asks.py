"""Bodies into encoded rows, by the task that knows them, and what is left of them for the answer.

Every protocol brings its bodies here: an image, an instance of a JSON request, a text of a tensor. Knows tasks, not
protocols.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from serve.core import refusal
from serve.model import Model
from tasks.task import Asked, Rejected

SMALL_BYTES = 8 * 1024  # less is decoded on the loop: a thread would cost more than it saves


async def decoded(model: Model, parts: Sequence[bytes], media_type: str, field: str) -> tuple[np.ndarray, list[Any]]:
    """Encoded rows [n, *shape] of bodies of one media type, and the detail of each.

    Raises RequestError 422 for a body that the task cannot use; `field` is where they stand in the request.
    """
    if sum(map(len, parts)) <= SMALL_BYTES:
        return _decoded(model, parts, media_type, field)
    return await asyncio.to_thread(_decoded, model, parts, media_type, field)


def _decoded(model: Model, parts: Sequence[bytes], media_type: str, field: str) -> tuple[np.ndarray, list[Any]]:
    rows, details = [], []
    for index, part in enumerate(parts):
        try:
            found = model.task.decode(part, media_type, model.bundle.encoding)
        except Rejected as error:
            place = f"{field}[{index}]" if len(parts) > 1 else field
            problem, mend = f"cannot be used ({error})", f"send a whole, valid {media_type} that the model can take"
            raise refusal(422, place, f"{len(part)} bytes of {media_type}", problem, mend) from None
        row, detail = (found.row, found.detail) if isinstance(found, Asked) else (found, None)
        rows.append(row)
        details.append(detail)
    return np.stack(rows), details
