"""Texts as people send them, made plain: one Unicode form, no HTML, no control characters, single spaces.

The one path from bytes to a text, for training data and for requests. Pure, and linear in the text's length, which is
bounded before anything else is done. Knows no tokens.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Sequence

from cluster.errors import first_line
from tasks.task import Rejected

# What never ends goes on to the end of the text, as in a browser; so each pattern passes over a text only once.
_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_SPACE = re.compile(r"\s+")


def decoded(value: bytes, max_chars: int) -> str:
    """UTF-8 as text. Raises Rejected: `too_long`, `bad_encoding`."""
    if len(value) > 4 * max_chars:  # bytes of a character at most
        raise Rejected("too_long", f"{len(value)} bytes are over {max_chars} characters")
    try:
        return value.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise Rejected("bad_encoding", f"not UTF-8 ({error.reason} at byte {error.start})") from error


def plain(text: str, max_chars: int) -> str:
    """The text without markup. Raises Rejected: `empty`, `too_long`, `bad_encoding`."""
    if len(text) > max_chars:
        raise Rejected("too_long", f"{len(text)} characters are over {max_chars}")
    if "<" in text:
        text = _TAG.sub(" ", _UNSEEN.sub(" ", text))
    if "&" in text:
        text = html.unescape(text)
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():  # Cc: control characters, Cs: halves of a character, as JSON may have them
        kinds = {char: unicodedata.category(char) for char in set(text)}
        if "Cs" in kinds.values():
            raise Rejected("bad_encoding", "half of a surrogate pair")
        text = "".join(" " if kinds[char] == "Cc" else char for char in text)
    text = _SPACE.sub(" ", text).strip()
    if not text:
        raise Rejected("empty")
    return text


def from_json(body: bytes, names: Sequence[str]) -> str:
    """A JSON text, or the texts of an object under `names`, those that are there, one after the other.

    Raises Rejected: `not_a_text`, `bad_encoding`.
    """
    try:
        tree = json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise Rejected("bad_encoding", f"not UTF-8 ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise Rejected("not_a_text", f"the body is not JSON ({first_line(error)})") from error
    if isinstance(tree, str):
        return tree
    wanted = " and ".join(f"`{name}`" for name in names)
    if not isinstance(tree, dict) or not any(name in tree for name in names):
        raise Rejected("not_a_text", f"expected a JSON object with {wanted}")
    parts = [tree[name] for name in names if tree.get(name) is not None]
    for name, part in zip([name for name in names if tree.get(name) is not None], parts, strict=True):
        if isinstance(part, dict | list | bool):
            raise Rejected("not_a_text", f"`{name}` is no text")
    return "\n".join(str(part) for part in parts)
