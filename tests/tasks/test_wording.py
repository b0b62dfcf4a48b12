from __future__ import annotations

import pytest

from tasks import wording
from tasks.task import Rejected

MOST = 1000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("Profit  rose\n\tagain ", "Profit rose again", id="space"),
        pytest.param("<p class='a'>Profit <b>rose</b></p>", "Profit rose", id="tags"),
        pytest.param("5 &lt; 6 &amp; caf&eacute;", "5 < 6 & café", id="entities, after the tags"),
        pytest.param("a < b and c > d", "a < b and c > d", id="comparison is no tag"),
        pytest.param("a<script>if (x < y) {}</script >b<!-- c -->", "a b", id="what a browser does not show"),
        pytest.param("shown <style>never closed", "shown", id="what is not closed, to the end"),
        pytest.param("cafe\u0301", "café", id="one form of an accent"),
        pytest.param("a\x00b\x07c\x7f", "a b c", id="control characters"),
        pytest.param("👩‍👧 great 👍", "👩‍👧 great 👍", id="emoji, joined ones too"),
        pytest.param("利润增长", "利润增长", id="another script"),
        pytest.param("\u00a0 x \u2003y", "x y", id="other spaces"),
    ],
)
def test_texts_are_made_plain(given: str, expected: str):
    assert wording.plain(given, MOST) == expected


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param("", "empty", id="nothing"),
        pytest.param(" \n ", "empty", id="space"),
        pytest.param("<br/>", "empty", id="markup alone"),
        pytest.param("\x00", "empty", id="control character alone"),
        pytest.param("x" * (MOST + 1), "too_long", id="too long"),
        pytest.param("bad \ud83d half", "bad_encoding", id="half a character"),
    ],
)
def test_texts_that_cannot_be_used(given: str, reason: str):
    with pytest.raises(Rejected) as refused:
        wording.plain(given, MOST)

    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param("Größe".encode("latin-1"), "bad_encoding", id="Latin-1"),
        pytest.param("text".encode("utf-16"), "bad_encoding", id="UTF-16"),
        pytest.param(b"x" * 1_000_000, "too_long", id="a megabyte"),
    ],
)
def test_bytes_that_are_no_text(given: bytes, reason: str):
    with pytest.raises(Rejected) as refused:
        wording.decoded(given, MOST)

    assert refused.value.reason == reason


def test_a_byte_order_mark_is_no_part_of_a_text():
    assert wording.decoded(b"\xef\xbb\xbfcaf\xc3\xa9", MOST) == "café"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"text": "Profit rose"}', "Profit rose", id="an object"),
        pytest.param(b'"Profit rose"', "Profit rose", id="a text"),
        pytest.param(b'{"text": "A", "title": null, "year": 1999}', "A\n1999", id="several, one of them null"),
    ],
)
def test_json_has_the_text_under_a_name(body: bytes, expected: str):
    assert wording.from_json(body, ("text", "title", "year")) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"{", "not_a_text", id="not JSON"),
        pytest.param(b"[" * 100_000, "not_a_text", id="nested too deep"),
        pytest.param(b'{"words": "x"}', "not_a_text", id="another name"),
        pytest.param(b'["x"]', "not_a_text", id="a list"),
        pytest.param(b'{"text": {"a": 1}}', "not_a_text", id="an object as the text"),
        pytest.param(b'{"text": "\xff"}', "bad_encoding", id="not UTF-8"),
    ],
)
def test_json_without_a_text(body: bytes, reason: str):
    with pytest.raises(Rejected) as refused:
        wording.from_json(body, ("text",))

    assert refused.value.reason == reason


@pytest.mark.parametrize("part", ["<", "<a", "<!--", "<script", "&", "<script>"])
def test_time_grows_with_the_length_alone(part: str):
    # Quadratic patterns would need minutes for this.
    text = "x" + part * (400_000 // len(part))

    assert wording.plain(text, 1_000_000)
