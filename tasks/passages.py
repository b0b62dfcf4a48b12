"""A user's documents as passages: pieces short enough to quote, each with the file and the heading it stands under.

Markdown is cut at its headings, then by size at the ends of paragraphs and sentences, with some overlap, so that what
stands across a cut is whole in one of the two. JSON lines are a passage each, or several. Pure: knows no files and
nothing of how passages are found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from cluster.errors import first_line

_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_END = re.compile(r"(?<=[.!?:;])\s+|\n+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_RULE = re.compile(r"\s*\|?[\s:|-]+\|?\s*$")  # between the head and the rows of a table, and across a page


@dataclass(frozen=True)
class Passage:
    file: str  # relative to the documents' folder
    heading: str  # those it stands under, outermost first; may be empty
    text: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


class BadLineError(ValueError):
    """A line of JSON that is no passage; the message says which and why."""


def of_markdown(file: str, text: str, max_chars: int, overlap_chars: int) -> list[Passage]:
    """Passages of at most `max_chars`; headings without text of their own give none."""
    return [
        Passage(file, heading, piece)
        for heading, section in _sections(_COMMENT.sub("", text))
        for piece in pieces(section, max_chars, overlap_chars)
    ]


def of_jsonl(file: str, text: str, max_chars: int, overlap_chars: int) -> list[Passage]:
    """A line is `{"text": ..., "title": ...}`, the title optional, other keys ignored.

    Raises BadLineError.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadLineError(f"line {number} is not JSON ({first_line(error)})") from error
        body, title = (record.get(name) for name in ("text", "title")) if isinstance(record, dict) else (None, None)
        if not isinstance(body, str) or not isinstance(title, str | None):
            raise BadLineError(f'line {number} is not {{"text": a text, "title": a text}}')
        found += [Passage(file, (title or "").strip(), piece) for piece in pieces(body, max_chars, overlap_chars)]
    return found


def pieces(text: str, max_chars: int, overlap_chars: int) -> list[str]:
    """Consecutive parts of a text, cut where a sentence or a line ends; each begins with the end of the one before."""
    units = [unit for found in _END.split(text) for unit in _short(found.strip(), max_chars) if unit]
    done: list[list[str]] = [[]]
    for unit in units:
        last = done[-1]
        if last and _length(last) + 1 + len(unit) > max_chars:
            done.append(_tail(last, min(overlap_chars, max_chars - len(unit) - 1)))
        done[-1].append(unit)
    return [" ".join(part) for part in done if part]


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """(headings, text) of each part of a Markdown document."""
    path: list[tuple[int, str]] = []
    lines: list[str] = []
    fence = ""
    for line in text.splitlines():
        opening = _FENCE.match(line)
        heading = None if fence or opening else _HEADING.match(line)
        if opening and not fence:
            fence = opening[1]
        elif opening and opening[1] == fence:
            fence = ""
        elif heading:
            yield _named(path), "\n".join(lines)
            level = len(heading[1])
            path = [*(part for part in path if part[0] < level), (level, _plain(heading[2]))]
            lines = []
        elif fence:
            lines.append(line)
        elif not _RULE.match(line):
            lines.append(_plain(line))
    yield _named(path), "\n".join(lines)


def _named(path: list[tuple[int, str]]) -> str:
    return " > ".join(title for _, title in path)


def _plain(line: str) -> str:
    line = _LINK.sub(r"\1", line).strip().removeprefix("> ")
    line = re.sub(r"^([-*+]|\d+[.)])\s+", "", line)
    return line.replace("**", "").replace("`", "").strip("| ").replace(" | ", ": ", 1).replace(" | ", ", ")


def _short(unit: str, max_chars: int) -> list[str]:
    """A unit without an end for too long, cut between words where there are any."""
    found = []
    while len(unit) > max_chars:
        at = unit.rfind(" ", 1, max_chars + 1)
        at = at if at > 0 else max_chars
        found.append(unit[:at])
        unit = unit[at:].strip()
    return [*found, unit]


def _tail(units: list[str], most_chars: int) -> list[str]:
    taken: list[str] = []
    for unit in reversed(units[1:]):
        if _length([unit, *taken]) > most_chars:
            break
        taken.insert(0, unit)
    return taken


def _length(units: list[str]) -> int:
    return sum(map(len, units)) + len(units) - 1
