"""A line of a stream as an event, and an endpoint's answer to it: what is read, bounded, and refused with a reason.

Pure: times are the stream's own, and when a line came is told by the caller. Knows no topics' rules and no windows.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

AHEAD_S = 3600.0  # a clock may be wrong by that much; what lies further ahead is no time
MOST_NAME, MOST_SHOWN = 100, 280  # characters of a topic or a source, and of a text in an alert
OTHER_LABELS = "(other)"


class BadLine(Exception):
    """A line that is no event; `reason` is one word to count it by, the text says more."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


@dataclass(frozen=True)
class Event:
    """`asks` is what the endpoint gets: the text, or what the line has as `input`."""

    time: float  # seconds since 1970
    text: str
    topic: str | None
    source: str | None
    asks: Any


@dataclass(frozen=True)
class Seen:
    """An endpoint's answer to one event: its label, and the probability of all negative labels together."""

    label: str
    is_negative: bool
    score: float


def parse(line: bytes, received: float) -> Event:
    """One line of JSON: `text` or `input`, and where it has them `time`, `topic` and `source`.

    `received` is when the line came, the time of an event that has none. Raises BadLine.
    """
    try:
        tree = json.loads(line, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise BadLine("encoding", "is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BadLine("json", f"is not JSON ({str(error)[:80]})") from None
    if not isinstance(tree, dict):
        raise BadLine("json", f"is no JSON object but {type(tree).__name__}")
    text = tree.get("text")
    if text is None and "input" not in tree:
        raise BadLine("text", "has no text")
    if text is not None and not isinstance(text, str):
        raise BadLine("text", f"has a text that is {type(text).__name__}")
    asks = tree.get("input", text)
    _check_characters(line if "input" in tree else b"", text or "", asks)
    time = _time(tree.get("time"), received)
    return Event(time, text or "", _name(tree, "topic"), _name(tree, "source"), asks)


def seen(answer: Mapping[str, Any], negative: Collection[str]) -> Seen:
    """What `/predict` says about one instance. Raises BadLine where it has no label."""
    label, probabilities = answer.get("label"), answer.get("probabilities")
    if not isinstance(label, str):
        raise BadLine("answer", "the endpoint's answer has no label")
    is_negative = label in negative
    if not isinstance(probabilities, Mapping):
        return Seen(label, is_negative, float(is_negative))
    score = sum(float(probabilities.get(name, 0.0)) for name in negative)
    return Seen(label, is_negative, min(1.0, max(0.0, score)))


def shown(text: str, most: int = MOST_SHOWN) -> str:
    """Fit for a line of a log or a terminal: no control or direction characters, and bounded."""
    plain = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text[: 2 * most])
    plain = " ".join(plain.split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def identity(*parts: object) -> str:
    """16 hex digits that are the same for the same parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()[:16]


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _check_characters(line: bytes, text: str, asks: Any) -> None:
    """Half a character (a lone surrogate) can be written in JSON, but not be sent on."""
    try:
        text.encode()
        if line:
            json.dumps(asks, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise BadLine("encoding", "has half a character") from None


def _name(tree: Mapping[str, Any], field: str) -> str | None:
    value = tree.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadLine(field, f"has a {field} that is {type(value).__name__}")
    if len(value) > MOST_NAME:
        raise BadLine(field, f"has a {field} of {len(value)} characters, {MOST_NAME} are allowed")
    return shown(value, MOST_NAME) or None


def _time(value: Any, received: float) -> float:
    """Seconds since 1970, or ISO 8601, which is UTC where it names no zone."""
    if value is None:
        return received
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            found = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise BadLine("time", f"has a time that is not ISO 8601: {value[:40]!r}") from None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
    else:
        raise BadLine("time", f"has a time that is {type(value).__name__}")
    if not 0.0 <= found < math.inf:
        raise BadLine("time", "has a time before 1970, or none")
    if found > received + AHEAD_S:
        raise BadLine("future", "has a time more than an hour ahead; numbers are seconds since 1970, not milliseconds")
    return found
