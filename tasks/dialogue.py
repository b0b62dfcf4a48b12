"""What is said to a person, from what they said, what the model makes of it, and what came before.

In this order: a value that was asked for; a question back where an intent's text wants a value that nobody gave; the
intent's text; a passage of the user's documents; and where there is none, a person. Pure: knows neither the model nor
how passages are found, and what a person says is only ever text to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tasks.conversations import Conversation
from tasks.passages import Passage
from tasks.replies import MAX_VALUE_CHARS, Replies

MAX_ASKED = 2  # times in a row for one slot


@dataclass(frozen=True)
class Heard:
    text: str
    intent: str  # the likeliest
    confidence: float  # its probability
    is_covered: bool  # whether any intent covers the text at all
    slots: Mapping[str, str]  # what the request brings with it


@dataclass(frozen=True)
class Found:
    passage: Passage
    confidence: float


Find = Callable[[str, str], Found | None]  # the best passage for a text, and what was said before it, or ""


@dataclass(frozen=True)
class Said:
    """`kind` is answer, question, passage or hand_over; `reason` says why a person takes over, else it is empty."""

    kind: str
    text: str
    intent: str | None
    confidence: float
    source: Passage | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        source = None if self.source is None else {"file": self.source.file, "heading": self.source.heading}
        confidence = round(self.confidence, 4)
        parts = {"kind": self.kind, "text": self.text, "intent": self.intent, "confidence": confidence}
        return parts | {"source": source, "reason": self.reason or None}


def respond(
    replies: Replies, heard: Heard, before: Conversation, find: Find, least_confidence: float
) -> tuple[Said, Conversation]:
    """What is said, and the conversation with what is known now, but without this turn."""
    known = replace(before, slots={**before.slots, **heard.slots}, intent="", slot="", asked=0)
    if before.slot in replies.slots and before.intent in replies.intents:
        value = heard.slots.get(before.slot) or _value(replies, heard, before)
        if value:
            known = replace(known, slots={**known.slots, before.slot: value})
            return _intent(replies, replace(heard, intent=before.intent, confidence=1.0), known)
        if not heard.is_covered or heard.intent == before.intent:
            return _once_more(replies, before, known)
    if heard.is_covered and heard.intent in replies.intents:
        return _intent(replies, heard, known)
    return _passage(replies, heard, before, find, least_confidence), known


def _value(replies: Replies, heard: Heard, before: Conversation) -> str | None:
    """What was asked for: what its pattern finds, or without one all that was said, unless that is a new question."""
    slot = replies.slots[before.slot]
    if slot.pattern is not None:
        return slot.found(heard.text)
    return None if heard.is_covered and heard.intent != before.intent else heard.text[:MAX_VALUE_CHARS]


def _intent(replies: Replies, heard: Heard, known: Conversation) -> tuple[Said, Conversation]:
    slots = dict(known.slots)
    for name in replies.wanted(heard.intent):
        # What is said now outranks what was said before; only what a program sends with it does not change.
        value = None if name in heard.slots else replies.slots[name].found(heard.text)
        if value is not None:
            slots[name] = value
    known = replace(known, slots=slots)
    missing = next((name for name in replies.wanted(heard.intent) if name not in slots), None)
    if missing is not None:
        said = Said("question", replies.slots[missing].ask, heard.intent, heard.confidence)
        return said, replace(known, intent=heard.intent, slot=missing, asked=1)
    return Said("answer", replies.filled(heard.intent, slots), heard.intent, heard.confidence), known


def _once_more(replies: Replies, before: Conversation, known: Conversation) -> tuple[Said, Conversation]:
    if before.asked < MAX_ASKED:
        said = Said("question", replies.slots[before.slot].ask, before.intent, 1.0)
        return said, replace(known, intent=before.intent, slot=before.slot, asked=before.asked + 1)
    reason = f"no {before.slot} was understood in {MAX_ASKED} replies"
    return Said("hand_over", replies.hand_over, before.intent, 0.0, reason=reason), known


def _passage(replies: Replies, heard: Heard, before: Conversation, find: Find, least_confidence: float) -> Said:
    found = find(heard.text, "")
    if before.turns and (found is None or found.confidence < least_confidence):
        # "And how long does that take?" means nothing without what was said before.
        found = find(heard.text, before.turns[-1]) or found
    intent = heard.intent if heard.is_covered else None
    if found is not None and found.confidence >= least_confidence:
        return Said("passage", found.passage.text, intent, found.confidence, found.passage)
    why = f"there is no answer for the intent {intent}" if intent else "no intent covers the question"
    best = f"the best passage has confidence {found.confidence:.2f}, below {least_confidence:g}" if found else ""
    reason = f"{why}, and {best or 'no document has a word of it'}"
    return Said("hand_over", replies.hand_over, intent, found.confidence if found else 0.0, reason=reason)
