"""What a conversation has come to, sealed into a text that the client keeps and sends back with its next turn.

So nothing is stored here: any replica can take the next turn, none has to be found again after a death, and no memory
grows with the number of conversations. The seal is made with a key of the client's token and the endpoint (Fernet:
AES and HMAC, with the time): another token cannot read it, nobody can change it, and it ends after a while. What it
holds is bounded, and with it its length. Knows no texts of answers.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import zlib
from dataclasses import dataclass, field, replace

from tasks.task import Rejected

MAX_TURN_CHARS = 200  # kept of what was said
MAX_BYTES = 64 * 1024  # of a conversation when it is opened
MAX_CHARS = 8 * 1024  # of a sealed one


@dataclass(frozen=True)
class Conversation:
    turns: tuple[str, ...] = ()  # what the person has said, the latest last
    slots: dict[str, str] = field(default_factory=dict)  # what is known by now
    intent: str = ""  # whose slot was asked for
    slot: str = ""  # which one
    asked: int = 0  # how often in a row

    def after(self, said: str, max_turns: int) -> Conversation:
        """With one more turn, the oldest forgotten."""
        return replace(self, turns=(*self.turns, said[:MAX_TURN_CHARS])[-max_turns:])


def sealed(conversation: Conversation, secret: bytes, endpoint: str, now: float | None = None) -> str:
    """At most MAX_CHARS; older turns, then slots, are left out where it would be longer. `now` is the time of day."""
    while True:
        parts = [conversation.turns, conversation.slots, conversation.intent, conversation.slot, conversation.asked]
        data = json.dumps(parts, ensure_ascii=False).encode("utf-8", "replace")
        at = int(time.time() if now is None else now)
        text: str = _seal(secret, endpoint).encrypt_at_time(zlib.compress(data), at).decode()
        if len(text) <= MAX_CHARS and len(data) <= MAX_BYTES:
            return text
        if conversation.turns:
            conversation = replace(conversation, turns=conversation.turns[1:])
        elif conversation.slots:
            conversation = replace(conversation, slots=dict([*conversation.slots.items()][1:]))
        else:
            conversation = Conversation()


def opened(text: str, secret: bytes, endpoint: str, ttl_s: float, now: float | None = None) -> Conversation:
    """Raises Rejected `unknown_conversation` for one of another token or endpoint, one that is over, or none at all."""
    from cryptography.fernet import InvalidToken

    try:
        if len(text) > MAX_CHARS:
            raise ValueError
        at = int(time.time() if now is None else now)
        data = _seal(secret, endpoint).decrypt_at_time(text.encode(), max(1, int(ttl_s)), at)
        opener = zlib.decompressobj()
        turns, slots, intent, slot, asked = json.loads(opener.decompress(data, MAX_BYTES))
        return Conversation(tuple(turns), dict(slots), intent, slot, asked)
    except (InvalidToken, ValueError, TypeError, zlib.error):
        detail = "it is over, or of another token or endpoint; leave `conversation` out to begin one"
        raise Rejected("unknown_conversation", detail) from None


def _seal(secret: bytes, endpoint: str):  # type: ignore[no-untyped-def]  # its class is imported late
    from cryptography.fernet import Fernet

    key = hmac.digest(secret, f"conversation of {endpoint}".encode(), hashlib.sha256)
    return Fernet(base64.urlsafe_b64encode(key))
