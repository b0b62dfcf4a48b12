from __future__ import annotations

import base64

import pytest

from tasks.conversations import MAX_CHARS, Conversation, opened, sealed
from tasks.task import Rejected

SECRET, OTHER = b"a" * 32, b"b" * 32
HAD = Conversation(("where is my order",), {"order": "482913"}, "refund", "name", 1)


def test_what_is_sealed_opens_with_the_same_key_until_it_is_over() -> None:
    text = sealed(HAD, SECRET, "shop", now=1000.0)

    assert opened(text, SECRET, "shop", 60.0, now=1059.0) == HAD
    with pytest.raises(Rejected, match="unknown_conversation"):
        opened(text, SECRET, "shop", 60.0, now=1061.0)


def test_nothing_of_it_can_be_read_without_the_key() -> None:
    text = sealed(HAD, SECRET, "shop")

    assert b"482913" not in base64.urlsafe_b64decode(text)


@pytest.mark.parametrize(
    ("text", "secret", "endpoint"),
    [
        pytest.param(None, OTHER, "shop", id="another token"),
        pytest.param(None, SECRET, "bank", id="another endpoint"),
        pytest.param("", SECRET, "shop", id="empty"),
        pytest.param("hello", SECRET, "shop", id="made up"),
        pytest.param("é", SECRET, "shop", id="not base64"),
        pytest.param("A" * 1_000_000, SECRET, "shop", id="1 MB"),
    ],
)
def test_what_is_not_this_clients_is_no_conversation(text: str | None, secret: bytes, endpoint: str) -> None:
    with pytest.raises(Rejected, match="unknown_conversation"):
        opened(sealed(HAD, SECRET, "shop") if text is None else text, secret, endpoint, 60.0)


def test_a_changed_byte_is_noticed() -> None:
    text = sealed(HAD, SECRET, "shop")
    changed = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]

    with pytest.raises(Rejected, match="unknown_conversation"):
        opened(changed, SECRET, "shop", 60.0)


def test_a_conversation_is_bounded_however_long_it_goes_on() -> None:
    talk = Conversation(slots={f"slot{i}": chr(0x4E00 + i * 7) * 200 for i in range(200)})
    for i in range(100):
        talk = talk.after(f"{i} " + "".join(chr(0x4E00 + (i * 193 + j * 31) % 9000) for j in range(5000)), 8)

    text = sealed(talk, SECRET, "shop")

    assert len(talk.turns) == 8
    assert len(text) <= MAX_CHARS
    assert opened(text, SECRET, "shop", 60.0).slots
