from __future__ import annotations

import json

import pytest

from cluster.errors import DataError
from tasks import replies

TREE = {
    "slots": {
        "order": {"ask": "Which order?", "pattern": "[0-9]{6}"},
        "size": {"ask": "Which size?", "values": ["large", "extra large"]},
        "name": {"ask": "Your name?"},
    },
    "intents": {"status": "Order {order} for {name}: {order}. {{as it is}}", "hours": "From 9 to 19."},
}


def test_a_text_is_filled_once_so_that_values_stay_what_they_are() -> None:
    book = replies.parse("t.yaml", TREE)

    assert book.wanted("status") == ("order", "name")
    assert book.filled("status", {"order": "{name}", "name": "{0.__class__}"}) == (
        "Order {name} for {0.__class__}: {name}. {as it is}"
    )


@pytest.mark.parametrize(
    ("slot", "text", "value"),
    [
        pytest.param("order", "it is 482913, I think", "482913", id="pattern"),
        pytest.param("order", "I do not know", None, id="not there"),
        pytest.param("size", "EXTRA LARGE please", "EXTRA LARGE", id="the longest value, in any case"),
        pytest.param("size", "enlarged", None, id="part of a word"),
        pytest.param("name", "Alice", None, id="any text is only taken when it was asked for"),
        pytest.param("order", "x" * 100_000 + "482913", None, id="far away"),
    ],
)
def test_a_slot_is_found_in_what_a_person_says(slot: str, text: str, value: str | None) -> None:
    assert replies.parse("t.yaml", TREE).slots[slot].found(text) == value


def test_what_is_kept_with_a_version_reads_back_as_it_was() -> None:
    book = replies.parse("t.yaml", TREE)

    again = replies.parse("t.json", json.loads(json.dumps(book.to_json())))

    assert again == book
    assert replies.read("t.yaml", b"intents: {hours: From 9 to 19.}").intents == {"hours": "From 9 to 19."}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        pytest.param([1], "the file is no mapping", id="a list"),
        pytest.param({"intent": {}}, "unknown key 'intent'", id="unknown key"),
        pytest.param({"intents": {"a": None}}, "intent a has no text", id="no text"),
        pytest.param({"intents": {"a": "{order}"}}, "wants the slot 'order'", id="unknown slot"),
        pytest.param({"intents": {"a": "{ order }"}}, "has a single {", id="a bracket"),
        pytest.param({"slots": {"a b": {"ask": "?"}}}, "is no name", id="slot's name"),
        pytest.param({"slots": {"a": {"pattern": "x"}}}, "has no `ask`", id="no question"),
        pytest.param({"slots": {"a": {"ask": "?", "pattern": "("}}}, "has the pattern '('", id="bad pattern"),
        pytest.param({"slots": {"a": {"ask": "?", "values": []}}}, "no list of texts", id="no values"),
        pytest.param({"slots": {"a": {"ask": "?", "values": ["x"], "pattern": "y"}}}, "both", id="both"),
        pytest.param({"slots": {"a": {"ask": "?", "type": "int"}}}, "unknown key 'type'", id="slot's key"),
        pytest.param({"hand_over": ""}, "hand_over is no text", id="hand over"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(tree: object, said: str) -> None:
    with pytest.raises(DataError, match=r"answers\.templates") as caught:
        replies.parse("t.yaml", tree)

    assert said in str(caught.value)


def test_a_file_that_is_no_yaml_is_named() -> None:
    with pytest.raises(DataError, match=r"t\.yaml.*cannot be read"):
        replies.read("t.yaml", b"intents: {")
