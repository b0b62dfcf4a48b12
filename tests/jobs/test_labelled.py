from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from cluster import feedback, served
from cluster.config import Labels
from cluster.store import Store
from jobs import labelled
from jobs.labelled import Labelled
from tasks.task import Encoding

ENCODING = Encoding(("dark", "light"), (2, 2), "uint8", {})
VALUES = Encoding((), (3,), "int64", {})
ONE = Labels(agreement=1, client_share=1.0)


def answer(store: Store, name: str, content: bytes | None, at_ns: int = 1, version: int = 1) -> None:
    columns = {"row": 0, "at_ns": at_ns, "version": version, "variant": "onnx-fp32", "outputs": [0.5, 0.5]}
    row = {"id": f"{name}#0", "request_id": name, "input": content, **columns}
    served.ledger(store, "shades").append([row])


def say(store: Store, name: str, label: str, client: str = "ann", at_ns: int = 2, role: str = "feedback") -> None:
    word = feedback.word(name, 0, "label", label, client, at_ns, role)
    feedback.ledger(store, "shades").append([word])


def gathered(store: Store, rules: Labels = ONE, encoding: Encoding = ENCODING, **more: Any) -> Labelled:
    given: dict[str, Any] = {"versions": {1: encoding}, "until_ns": 10, **more}
    return labelled.gather(store, "shades", encoding, rules=rules, **given)


def test_a_believed_label_and_the_input_that_was_answered_become_a_row(store: Store) -> None:
    answer(store, "a", bytes([1, 2, 3, 4]))
    say(store, "a", "light")

    x, y = labelled.arrays(gathered(store).table, ENCODING)

    assert (x.shape, x.dtype, x.ravel().tolist()) == ((1, 2, 2), np.uint8, [1, 2, 3, 4])
    assert (y.dtype, y.tolist()) == (np.int64, [1])


def test_values_are_rows_too(store: Store) -> None:
    answer(store, "a", np.array([1, 2, 3]).tobytes())
    say(store, "a", "2.5")

    x, y = labelled.arrays(gathered(store, encoding=VALUES).table, VALUES)

    assert x.tolist() == [[1, 2, 3]]
    assert (y.dtype, y.tolist()) == (np.float32, [2.5])


@pytest.mark.parametrize(
    ("content", "version", "said", "reason"),
    [
        pytest.param(b"1234", 1, [("light", "ann", "feedback")], "waiting for others to agree", id="one voice"),
        pytest.param(b"1234", 1, [("light", "ann", ""), ("dark", "bob", "")], "contradictory", id="one against one"),
        pytest.param(None, 1, [("light", "ann", "admin")], "without their input", id="inputs are not kept"),
        pytest.param(b"1234", 2, [("light", "ann", "admin")], "of inputs of another form", id="another shape"),
        pytest.param(b"1234", 3, [("light", "ann", "admin")], "of inputs of another form", id="an unknown version"),
        pytest.param(b"1234", 1, [("grey", "ann", "admin")], "that no row of the dataset has", id="an unknown label"),
    ],
)
def test_what_cannot_be_learnt_from_is_counted(
    store: Store, content: bytes | None, version: int, said: list[tuple[str, str, str]], reason: str
) -> None:
    answer(store, "a", content, version=version)
    for label, client, role in said:
        say(store, "a", label, client, role=role)

    found = gathered(store, Labels(), versions={1: ENCODING, 2: VALUES})

    assert found.table.num_rows == 0
    assert found.left_out == {reason: 1}


def test_words_about_answers_that_are_not_in_the_sample_and_words_that_come_later_are_not_used(store: Store) -> None:
    answer(store, "a", b"1234")
    say(store, "a", "light", at_ns=11)
    say(store, "b", "light")

    found = gathered(store)

    assert found.table.num_rows == 0
    assert found.left_out == {"of answers that are not in the sample": 1}


def test_a_flood_of_one_client_is_bounded_though_nobody_else_need_agree(store: Store) -> None:
    for i in range(100):
        answer(store, f"honest-{i}", b"%04d" % i)
        say(store, f"honest-{i}", "light", f"client-{i % 50}")
        answer(store, f"flood-{i}", b"f%03d" % i)
        say(store, f"flood-{i}", "dark", "mallory")

    found = gathered(store, Labels(agreement=1, client_share=0.2))

    targets = Counter(found.table["target"].to_pylist())
    assert targets[0.0] <= 0.2 * found.table.num_rows
    assert targets[1.0] == 100


@pytest.mark.parametrize("max_rows", [50_000, 150])
def test_it_is_bounded_in_each_part_and_drives_out_nobody_however_it_is_aimed(store: Store, max_rows: int) -> None:
    aimed = [content for i in range(2000) if labelled.part_of(content := b"f%04d" % i, 0.3) == "held_out"]
    for i in range(100):
        answer(store, f"honest-{i}", b"%04d" % i)
        say(store, f"honest-{i}", "light", f"client-{i % 10}")
    rows = [(f"flood-{i}", content) for i, content in enumerate(aimed[:300])]
    columns = {"row": 0, "at_ns": 5, "version": 1, "variant": "onnx-fp32", "outputs": [0.5, 0.5]}
    served.ledger(store, "shades").append(
        [{"id": f"{name}#0", "request_id": name, "input": content, **columns} for name, content in rows]
    )
    feedback.ledger(store, "shades").append([feedback.word(name, 0, "label", "dark", "mallory", 6) for name, _ in rows])

    found = gathered(store, Labels(agreement=1, client_share=0.3, max_rows=max_rows))

    assert Counter(found.table["target"].to_pylist())[1.0] == 100
    for part in ("train", "validation", "held_out"):
        clients = Counter(found.of(part)["client"].to_pylist())
        assert clients["mallory"] <= 0.3 * clients.total()
    assert found.left_out["beyond one client's share"] == 400 - found.table.num_rows


def test_where_a_row_goes_follows_from_its_content_for_ever(store: Store) -> None:
    for i in range(2000):
        content = b"%04d" % i
        assert labelled.part_of(content, 0.3) == labelled.part_of(content, 0.3)

    parts = Counter(labelled.part_of(b"%04d" % i, 0.3) for i in range(2000))

    assert 500 < parts["held_out"] < 700
    assert 220 < parts["validation"] < 340


def test_an_input_that_came_again_counts_once_with_its_newest_label(store: Store) -> None:
    for name, at_ns, label in (("a", 1, "dark"), ("b", 3, "light"), ("c", 2, "dark")):
        answer(store, name, b"1234", at_ns)
        say(store, name, label)

    found = gathered(store)

    assert found.table["id"].to_pylist() == ["b#0"]
    assert found.table["target"].to_pylist() == [1.0]
    assert found.left_out == {"of an input that came again": 2}


def test_a_known_input_is_not_learnt_whatever_is_said_of_it(store: Store) -> None:
    contents = [b"%04d" % i for i in range(40)]
    for i, content in enumerate(contents):
        answer(store, f"a-{i}", content)
        say(store, f"a-{i}", "dark")

    found = gathered(store, known={labelled.key_of(content) for content in contents[:20]})

    assert {bytes(content) for part in ("train", "validation") for content in found.of(part)["input"].to_pylist()} == {
        content for content in contents[20:] if labelled.part_of(content, ONE.held_out) != "held_out"
    }
    assert found.left_out["of inputs that the test split has"] + found.table.num_rows == 40


def test_the_newest_rows_are_taken(store: Store) -> None:
    for i in range(10):
        answer(store, f"a-{i}", b"%04d" % i, at_ns=100 - i)
        say(store, f"a-{i}", "dark")

    found = gathered(store, Labels(agreement=1, client_share=1.0, max_rows=3))

    assert found.table["id"].to_pylist() == ["a-2#0", "a-1#0", "a-0#0"]


def test_what_was_learnt_before_stays_when_the_sample_has_forgotten_it(store: Store) -> None:
    for i in range(40):
        answer(store, f"a-{i}", b"%04d" % i)
        say(store, f"a-{i}", "dark")
    earlier = gathered(store)
    for name in served.ledger(store, "shades").parts():
        store.remove(f"served/shades/{name}")
    answer(store, "a-0", b"0000")
    say(store, "a-0", "light", at_ns=5)

    found = gathered(store, earlier=earlier.table)

    learnt = {row["id"] for row in earlier.table.to_pylist() if row["part"] != "held_out"}
    assert {row["id"] for row in found.table.to_pylist()} == learnt | {"a-0#0"}
    by_id = {row["id"]: row["target"] for row in found.table.to_pylist()}
    assert by_id["a-0#0"] == 1.0
