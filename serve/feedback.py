"""Feedback as it comes in: read, checked, and kept before it is acknowledged.

Many small words become few files: what arrives while a file is being written goes into the next one, and each sender
is told when its own is on the disk. What is made of it is in `cluster.feedback`. Knows neither HTTP nor gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from dataclasses import dataclass, replace
from typing import Any

from cluster import feedback
from cluster.errors import RequestError, StoreError
from cluster.feedback import KINDS, Kind
from cluster.ledger import Ledger
from serve.core import refusal
from serve.model import Model
from serve.oip.bodies import parse_json

MAX_WORDS = 1000  # of one request
MAX_TEXT = 256  # characters of an id or a value
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Said:
    """Who speaks: the client's name, the role of its token, and when, in unix nanoseconds."""

    client: str
    role: str
    at_ns: int


def read(body: bytes, model: Model, by: Said) -> list[dict[str, Any]]:
    """Rows for the ledger from `{"request_id": ..., "label": ...}` or `{"feedback": [such, ...]}`.

    A word has a `label` of the model (or a number where it predicts numbers), a `rating` from 0 to 1, or an `outcome`
    of any text; and `row`, from 0, where the request had several. All are refused when one is wrong.

    Raises RequestError 400 for another form, 422 for a label or rating that cannot be.
    """
    tree = parse_json(body)
    if "feedback" not in tree:
        return [_word(tree, "", model, by)]
    if len(tree) > 1:
        raise refusal(400, "body", sorted(tree), "has more than feedback", 'send {"feedback": [...]} alone')
    return checked(tree["feedback"], model, by)


def checked(words: Any, model: Model, by: Said) -> list[dict[str, Any]]:
    """Rows for the ledger from a list of words. Raises as `read` does."""
    if not isinstance(words, list) or not 1 <= len(words) <= MAX_WORDS:
        problem = f"is {len(words)} words" if isinstance(words, list) else "is no list of words"
        raise refusal(400, "feedback", words, problem, f"send a list of 1 to {MAX_WORDS} words")
    # A nanosecond apart, so that of two words about one answer in one list the later is the latest.
    return [_word(word, f"feedback[{i}].", model, replace(by, at_ns=by.at_ns + i)) for i, word in enumerate(words)]


def _word(tree: Any, field: str, model: Model, by: Said) -> dict[str, Any]:
    form = 'send {"request_id": "...", "label": "..."}, or rating or outcome in the place of label'
    if not isinstance(tree, dict) or (odd := sorted(set(tree) - {"request_id", "row", *KINDS})):
        raise refusal(
            400, f"{field}{odd[0] if isinstance(tree, dict) else ''}", tree, "is not a word of feedback", form
        )
    said: list[Kind] = [kind for kind in KINDS if kind in tree]
    if len(said) != 1:
        raise refusal(400, f"{field or 'body'}", sorted(tree), f"has {len(said)} of {', '.join(KINDS)}", form)
    request_id, row = _text(tree.get("request_id"), f"{field}request_id"), tree.get("row", 0)
    if type(row) is not int or not 0 <= row < 2**31:
        raise refusal(400, f"{field}row", row, "is not the number of a row", "count from 0, or leave it out")
    value = _value(said[0], tree[said[0]], f"{field}{said[0]}", model)
    return feedback.word(request_id, row, said[0], value, by.client, by.at_ns, by.role)


def _value(kind: Kind, value: Any, field: str, model: Model) -> str:
    if kind == "outcome":
        return _text(value, field)
    if kind == "label" and model.task.targets == "label":
        labels, text = model.bundle.encoding.labels, _text(value, field)
        if text not in labels:
            shown = ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
            raise refusal(422, field, text, "is no label of this model", f"it knows {shown}")
        return text
    if kind == "label" and isinstance(value, str):  # as a CSV file has it
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise refusal(422, field, value, "is not a number", "send a finite number")
    if kind == "rating" and not 0.0 <= value <= 1.0:
        raise refusal(422, field, value, "is not a rating", "send 0 (of no use) to 1 (just right)")
    return repr(float(value))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _text(value: Any, field: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**18 else ""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT or not value.isprintable():
        mend = f"send 1 to {MAX_TEXT} printable characters"
        raise refusal(400, field, value, "is not a short text", mend)
    return value


class Intake:
    """Writes words down for all who bring some at once; call it from one event loop."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[list[dict[str, Any]], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def keep(self, words: list[dict[str, Any]]) -> None:
        """Returns when they are kept whatever dies from now on. Raises RequestError 503 when they cannot be."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.append((words, done))
        if self._writing is None or self._writing.done():
            self._writing = loop.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            error: RequestError | None = None
            try:
                await asyncio.to_thread(self._ledger.append, [word for words, _ in batch for word in words])
            except StoreError as problem:
                _log.error("feedback is refused: %s", problem)
                message = "feedback cannot be kept just now, and this was not; send it again in a minute"
                error = RequestError(503, message, {"retry-after": "60"})
            for _, done in batch:
                if done.done():
                    continue  # its sender has gone
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
