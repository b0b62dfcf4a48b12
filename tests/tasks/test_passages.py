from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import passages

DOCUMENT = """\
Before any heading.

# Guarantee

## How long

Two **years** on [everything](https://example.org "title"), five on `bags`.

| part | years |
|------|-------|
| zip  | 2     |

```sh
# this is a comment in code
make all
```

## What to do
<!-- hidden -->
Send a photograph.
"""


def test_a_passage_knows_the_headings_it_stands_under_and_has_no_markup() -> None:
    found = passages.of_markdown("care.md", DOCUMENT, 400, 50)

    assert [each.heading for each in found] == ["", "Guarantee > How long", "Guarantee > What to do"]
    assert found[1].text == (
        "Two years on everything, five on bags. part: years zip : 2 # this is a comment in code make all"
    )
    assert found[2].text == "Send a photograph."
    assert {each.file for each in found} == {"care.md"}


def test_long_sections_are_cut_between_sentences_and_overlap() -> None:
    sentences = [f"This is sentence number {i} of the text." for i in range(20)]

    found = passages.pieces(" ".join(sentences), 120, 45)

    assert all(len(piece) <= 120 for piece in found)
    assert [piece.split(". ")[-1] for piece in found[:-1]] == [piece.split(". ")[0] + "." for piece in found[1:]]
    assert found[0].startswith(sentences[0])
    assert found[-1].endswith(sentences[-1])


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=600), st.integers(20, 100), st.integers(0, 40))
def test_nothing_of_a_text_is_lost_whatever_it_is(text: str, max_chars: int, overlap: int) -> None:
    found = passages.pieces(text, max_chars, overlap)

    assert all(0 < len(piece) <= max_chars for piece in found)
    have = "".join("".join(found).split())
    assert set("".join(text.split())) <= set(have)


def test_json_lines_are_passages_with_their_title() -> None:
    text = '{"title": "Sizes", "text": "XS to XXL.", "more": 1}\n\n{"text": "No title."}\n'

    found = passages.of_jsonl("shop.jsonl", text, 400, 50)

    assert [(each.heading, each.text) for each in found] == [("Sizes", "XS to XXL."), ("", "No title.")]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("{", id="no JSON"),
        pytest.param("[1]", id="no object"),
        pytest.param('{"title": "a"}', id="no text"),
        pytest.param('{"text": 5}', id="text is a number"),
        pytest.param('{"text": "a", "title": 5}', id="title is a number"),
    ],
)
def test_a_line_that_is_no_passage_is_named(line: str) -> None:
    with pytest.raises(passages.BadLineError, match="line 2 "):
        passages.of_jsonl("shop.jsonl", f'{{"text": "good"}}\n{line}\n', 400, 50)
