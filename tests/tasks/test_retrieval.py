from __future__ import annotations

import re
import zlib

import numpy as np
import pytest

from cluster.errors import NotFoundError, TrimtabError
from tasks import retrieval
from tasks.passages import Passage

TEXTS = ["wash wool by hand", "rain jackets are waterproof", "shoes run small", "wool jackets shed rain"]
PASSAGES = [Passage("a.md", "", text) for text in TEXTS]
FIRST = 3  # columns before the vector


def tokens(text: str) -> np.ndarray:
    """A token for each word, all of them rare, padded with zeros."""
    ids = [20_000 + zlib.crc32(word.encode()) % 10_000 for word in re.findall(r"\w+", text)]
    return np.array([101, *ids, 102] + [0] * (14 - len(ids)), np.int32)


ROWS = np.stack([tokens(text) for text in TEXTS])


def forward(rows: np.ndarray) -> np.ndarray:
    """What a rung might say: three scores, and as vector the mean of a random one for each token."""
    table = np.random.default_rng(0).standard_normal((40_000, 16)).astype(np.float32)
    vectors = np.stack([table[row[row >= 999]].mean(axis=0) for row in rows])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.concatenate([np.zeros((len(rows), FIRST), np.float32), vectors], axis=1)


def made(**forwards: retrieval.Forward) -> retrieval.Library:
    files = retrieval.build(PASSAGES, ROWS, forwards, FIRST)

    def file(name: str) -> bytes:
        if name not in files:
            raise NotFoundError(name)
        return files[name]

    return retrieval.load(file)


@pytest.mark.parametrize("variant", ["big", "small"])
@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param("how to wash wool", 0, id="two words of the first"),
        pytest.param("waterproof", 1, id="one word"),
        pytest.param("do shoes run small", 2, id="nearly all words"),
        pytest.param("jackets in rain of wool", 3, id="words of three passages, all of one"),
    ],
)
def test_a_text_finds_its_passage_by_vectors_and_by_words_alone(variant: str, text: str, place: int) -> None:
    library = made(big=forward, small=lambda rows: np.zeros((len(rows), FIRST + 16), np.float32))
    row = tokens(text)

    found = library.best(row, variant, forward(row[None])[0, FIRST:])

    assert set(library.indexes) == {"big"}
    assert found is not None
    assert found.passage == PASSAGES[place]


def test_what_no_passage_has_a_word_of_finds_none_or_has_no_confidence() -> None:
    library = made(big=forward)
    row = tokens("capital of Peru")

    assert library.best(row) is None
    by_vector = library.best(row, "big", forward(row[None])[0, FIRST:])
    assert by_vector is not None
    assert by_vector.confidence < 0.5


def test_common_words_say_little_even_where_passages_are_few() -> None:
    the, rare = 1996, 25_000
    words = retrieval.Words(np.array([the, 20_001, 20_002, rare], np.int32), np.array([2, 4]))

    _, share = words.scores(np.array([the, rare], np.int32))

    assert share[0] < 0.05
    assert share[1] > 0.95
    assert words.knows(np.array([1997, rare], np.int32))
    assert not words.knows(np.array([rare, 29_999], np.int32))


def test_bm25_is_that_of_its_formula() -> None:
    tokens_of = np.array([20_001, 20_001, 20_002, 20_003, 20_001], np.int32)
    words = retrieval.Words(tokens_of, np.array([3, 4, 5]))

    bm25, _ = words.scores(np.array([20_001], np.int32))

    prior = retrieval.PRIOR_PASSAGES * (1 - np.exp(-100 * 0.1 / (20_001 - 1996 + 2.7)))
    idf = np.log(1 + (1003 - (2 + prior) + 0.5) / (2 + prior + 0.5))
    lengths, mean = np.array([3, 1, 1]), 5 / 3
    counts = np.array([2, 0, 1])
    expected = idf * counts * 2.2 / (counts + 1.2 * (0.25 + 0.75 * lengths / mean))
    assert bm25 == pytest.approx(expected, rel=1e-9)


def test_a_vector_that_is_no_number_is_not_searched_with_and_not_kept() -> None:
    row = tokens("wash wool")
    bad = np.full(16, np.nan, np.float32)

    found = made(big=forward).best(row, "big", bad)
    assert found is not None
    assert found.passage == PASSAGES[0]
    with pytest.raises(TrimtabError, match="big gives a passage"):
        made(big=lambda rows: np.full((len(rows), FIRST + 16), np.nan, np.float32))


def test_without_documents_nothing_is_found() -> None:
    def none(name: str) -> bytes:
        raise NotFoundError(name)

    assert retrieval.load(none).best(tokens("wash wool")) is None
