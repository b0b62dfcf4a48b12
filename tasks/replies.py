"""What an endpoint may say: a text for each intent, with slots, and what it asks where one is missing.

    hand_over: A colleague will answer you by e-mail.     # what is said where nothing else can be
    slots:
      order: {ask: "What is the number of the order?", pattern: "[0-9]{6}"}
      size: {ask: "Which size?", values: [small, large]}
    intents:
      order_status: "Order {order} can be followed under My orders."

Pure: from a tree to texts. A slot's value is only ever put into a text, never read as one with slots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import DataError, first_line

HAND_OVER = "I cannot answer that myself. A person will take over."
MAX_VALUE_CHARS = 200  # of a slot
MAX_SEARCHED_CHARS = 500  # of a text in which slots are looked for: a pattern's time has no other bound
SETTING = "answers.templates"
_SLOT = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|[{}]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True)
class Slot:
    ask: str
    pattern: re.Pattern[str] | None = None  # None takes any text

    def found(self, text: str) -> str | None:
        """The value in what a person has said, where the slot says how one looks."""
        match = self.pattern.search(text[:MAX_SEARCHED_CHARS]) if self.pattern else None
        return match[0][:MAX_VALUE_CHARS] if match and match[0] else None

    def takes(self, value: str) -> bool:
        """Whether all of a value that a program sends is one."""
        return self.pattern is None or self.pattern.fullmatch(value) is not None


@dataclass(frozen=True)
class Replies:
    intents: Mapping[str, str] = field(default_factory=dict)
    slots: Mapping[str, Slot] = field(default_factory=dict)
    hand_over: str = HAND_OVER

    def wanted(self, intent: str) -> tuple[str, ...]:
        """Names of the slots in an intent's text, in their order."""
        names = (match[1] for match in _SLOT.finditer(self.intents[intent]) if match[1])
        return tuple(dict.fromkeys(names))

    def filled(self, intent: str, values: Mapping[str, str]) -> str:
        """An intent's text. Raises KeyError without a value for each of its slots."""
        return _SLOT.sub(lambda match: values[match[1]] if match[1] else match[0][0], self.intents[intent])

    def to_json(self) -> dict[str, Any]:
        """As `parse` takes it."""
        slots = {
            name: {"ask": slot.ask} | ({"pattern": slot.pattern.pattern} if slot.pattern else {})
            for name, slot in self.slots.items()
        }
        return {"hand_over": self.hand_over, "slots": slots, "intents": dict(self.intents)}


def read(name: str, data: bytes) -> Replies:
    """A YAML or JSON file. Raises DataError."""
    import yaml

    try:
        tree = json.loads(data) if name.endswith(".json") else yaml.safe_load(data)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(SETTING, name, f"cannot be read ({first_line(error)})", "write YAML or JSON") from error
    return parse(name, tree)


def parse(name: str, tree: object) -> Replies:
    """Raises DataError, which names what is wrong and where."""
    tree = _mapping(name, "the file", tree)
    if unknown := sorted(set(tree) - {"hand_over", "slots", "intents"}, key=str):
        raise _wrong(name, f"unknown key {unknown[0]!r}", "use hand_over, slots and intents")
    slots = {
        _slot_name(name, key): _slot(name, key, value)
        for key, value in _mapping(name, "slots", tree.get("slots") or {}).items()
    }
    intents = {}
    for intent, text in _mapping(name, "intents", tree.get("intents") or {}).items():
        if not isinstance(text, str) or not text.strip():
            raise _wrong(name, f"intent {intent} has no text", "write what is answered")
        _check(name, str(intent), text, slots)
        intents[str(intent)] = text.strip()
    hand_over = tree.get("hand_over", HAND_OVER)
    if not isinstance(hand_over, str) or not hand_over.strip():
        raise _wrong(name, "hand_over is no text", "write what is said when a person takes over")
    return Replies(intents, slots, hand_over.strip())


def _slot(name: str, key: object, tree: object) -> Slot:
    tree = _mapping(name, f"slot {key}", tree)
    ask, pattern, values = (tree.get(part) for part in ("ask", "pattern", "values"))
    if unknown := sorted(set(tree) - {"ask", "pattern", "values"}, key=str):
        raise _wrong(name, f"slot {key} has an unknown key {unknown[0]!r}", "use ask, and pattern or values")
    if not isinstance(ask, str) or not ask.strip():
        raise _wrong(name, f"slot {key} has no `ask`", "write the question that asks for it")
    if pattern is not None and values is not None:
        raise _wrong(name, f"slot {key} has both a pattern and values", "keep one of them")
    if values is not None:
        if not isinstance(values, list) or not values or not all(isinstance(each, str | int) for each in values):
            raise _wrong(name, f"slot {key} has values that are no list of texts", "write [small, large]")
        longest_first = sorted(map(str, values), key=len, reverse=True)
        pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)"
    if pattern is None:
        return Slot(ask.strip())
    try:
        return Slot(ask.strip(), re.compile(str(pattern), re.IGNORECASE))
    except re.error as error:
        raise _wrong(name, f"slot {key} has the pattern {pattern!r} ({error})", "write a regular expression") from error


def _check(name: str, intent: str, text: str, slots: Mapping[str, Slot]) -> None:
    for match in _SLOT.finditer(text):
        if match[0] in ("{", "}"):
            problem, mend = f"intent {intent} has a single {match[0]}", "write {slot}, or {{ and }} for the signs"
            raise _wrong(name, problem, mend)
        if match[1] and match[1] not in slots:
            known = ", ".join(slots) or "none"
            raise _wrong(name, f"intent {intent} wants the slot {match[1]!r}", f"add it to slots (there: {known})")


def _slot_name(name: str, key: object) -> str:
    if not isinstance(key, str) or not _NAME.match(key):
        raise _wrong(name, f"slot {key!r} is no name", "use letters, digits and underscores")
    return key


def _mapping(name: str, what: str, tree: object) -> dict[Any, Any]:
    if not isinstance(tree, dict):
        raise _wrong(name, f"{what} is no mapping", "see docs/use-cases.md for the form")
    return tree


def _wrong(name: str, problem: str, mend: str) -> DataError:
    return DataError(SETTING, name, problem, mend)
