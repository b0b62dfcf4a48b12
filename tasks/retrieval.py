"""Finds the passage that answers a text: by words, and by the vectors of the rung that read it, where it has any.

By words: BM25 (S. Robertson, H. Zaragoza, *The Probabilistic Relevance Framework*, 2009) over word pieces, and the
share of a text's words, weighted by how rare they are, that a passage has. By vectors: cosine, in an index of faiss
for each rung, because two rungs' vectors are not to be compared. A cheap rung has no vectors worth it and does with
words. Knows tokens and vectors, neither the network nor what is answered.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.errors import NotFoundError, TrimtabError
from tasks.dialogue import Found
from tasks.passages import Passage

PASSAGES, TOKENS = "passages.jsonl", "passages.npz"
FIRST_WORD, FIRST_COMMON = 999, 1996  # ids of word pieces; from the second on the more frequent come first
PRIOR_PASSAGES, PRIOR_TOKENS = 1000, 100  # of English in general, so that few passages know what a common word is
K1, B = 1.2, 0.75  # of BM25
TELLING = 0.1  # words that more passages have say little
CANDIDATES = 50  # of each of the two ways
WORDS_WEIGHT, BM25_WEIGHT = 0.5, 0.02  # beside a cosine
# Confidence is 0.5 where 5 of 100 texts about anything else would still get a passage (300 of CLINC150's questions
# outside its intents, on this project's own documentation: benchmarks/cases/answers.py).
WITH_VECTORS, BY_WORDS = (20.0, 0.34), (15.0, 0.46)  # steepness, middle

Forward = Callable[[np.ndarray], np.ndarray]


class Words:
    """Word pieces of all passages. `tokens` are int32 ids, `ends` [n] where each passage's end in them."""

    def __init__(self, tokens: np.ndarray, ends: np.ndarray) -> None:
        self.num = len(ends)
        passage = np.repeat(np.arange(self.num), np.diff(ends, prepend=0))
        is_word = tokens >= FIRST_WORD
        pairs, counts = np.unique(np.stack([tokens[is_word], passage[is_word]]), axis=1, return_counts=True)
        ids, starts = np.unique(pairs[0], return_index=True)
        stops = np.append(starts[1:], pairs.shape[1])[: len(ids)]
        self._passages, self._counts = pairs[1], counts
        self._places = {int(i): slice(start, stop) for i, start, stop in zip(ids, starts, stops, strict=True)}
        lengths = np.bincount(passage[is_word], minlength=self.num)
        self._norm = K1 * (1 - B + B * lengths / max(lengths.mean(), 1.0)) if self.num else lengths

    def knows(self, tokens: np.ndarray) -> bool:
        """Whether any passage has each word of a text's ids, but for those that say little."""
        said = np.unique(tokens[tokens >= FIRST_WORD]).tolist()
        return all(token in self._places for token in said if _prior(token) < TELLING * PRIOR_PASSAGES)

    def scores(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """BM25 and the share of weighted words, each float64 [n], of a text's ids."""
        bm25, share, total = np.zeros(self.num), np.zeros(self.num), 0.0
        for token in np.unique(tokens[tokens >= FIRST_WORD]).tolist():
            place = self._places.get(token)
            num = _prior(token) + (0 if place is None else place.stop - place.start)
            weight = math.log(1 + (self.num + PRIOR_PASSAGES - num + 0.5) / (num + 0.5))
            total += weight
            if place is not None:
                passages, counts = self._passages[place], self._counts[place]
                bm25[passages] += weight * counts * (K1 + 1) / (counts + self._norm[passages])
                share[passages] += weight
        return bm25, share / total if total else share


def _prior(token: int) -> float:
    """In how many of PRIOR_PASSAGES a word piece occurs by Zipf's law."""
    frequency = 0.1 / (max(token - FIRST_COMMON, 0) + 2.7)
    return PRIOR_PASSAGES * -math.expm1(-PRIOR_TOKENS * frequency)


@dataclass(frozen=True)
class Library:
    passages: tuple[Passage, ...]
    words: Words
    indexes: Mapping[str, Any]  # variant -> faiss index of float32 [n, width]

    def best(self, tokens: np.ndarray, variant: str = "", vector: np.ndarray | None = None) -> Found | None:
        """The best passage for a text: its ids, and its vector float32 [width] by the rung `variant`."""
        if not self.passages:
            return None
        bm25, share = self.words.scores(tokens)
        index = self.indexes.get(variant)
        if index is None or vector is None or not np.isfinite(vector).all() or not vector.any():
            chosen = int((bm25 * share).argmax())
            return self._found(chosen, BY_WORDS, float(share[chosen])) if share[chosen] > 0 else None
        query = np.ascontiguousarray(vector[None], np.float32)
        _, nearest = index.search(query, min(CANDIDATES, len(self.passages)))
        some = np.union1d(nearest[0], np.argsort(-bm25)[:CANDIDATES])
        scores = index.reconstruct_batch(some) @ vector + WORDS_WEIGHT * share[some]
        best = int((scores + BM25_WEIGHT * bm25[some]).argmax())
        return self._found(int(some[best]), WITH_VECTORS, float(scores[best]))

    def _found(self, chosen: int, scale: tuple[float, float], score: float) -> Found:
        steepness, middle = scale
        return Found(self.passages[chosen], 1 / (1 + math.exp(-steepness * (score - middle))))


def build(
    passages: Sequence[Passage], rows: np.ndarray, forwards: Mapping[str, Forward], first: int
) -> dict[str, bytes]:
    """The files of a library, by name.

    `rows` int32 [n, length] are the passages' tokens, `forwards` the rungs, whose answers have the vector from column
    `first` on, zeros where a rung has none.

    Raises:
        TrimtabError: a rung's vector is not finite.
    """
    import faiss

    used = rows != 0
    tokens = io.BytesIO()
    lines = [json.dumps(passage.to_json(), ensure_ascii=False) for passage in passages]
    files = {PASSAGES: "\n".join(lines).encode("utf-8", "replace")}
    with_vectors = []
    for variant, forward in forwards.items():
        vectors = _vectors(rows, forward, first)
        if not np.isfinite(vectors).all():
            raise TrimtabError(f"{variant} gives a passage of the documents a vector that is not finite")
        if vectors.any():
            index = faiss.IndexFlatIP(vectors.shape[1])
            index.add(vectors)
            files[_index_name(variant)] = faiss.serialize_index(index).tobytes()
            with_vectors.append(variant)
    np.savez(tokens, tokens=rows[used], ends=used.sum(axis=1).cumsum(), variants=np.array(with_vectors, np.str_))
    return files | {TOKENS: tokens.getvalue()}


def load(files: Callable[[str], bytes]) -> Library:
    """What `build` made; without its files a library of no passage. Raises DamagedError."""
    try:
        lines = files(PASSAGES).decode().splitlines()
    except NotFoundError:
        return Library((), Words(np.zeros(0, np.int32), np.zeros(0, np.int64)), {})
    import faiss

    faiss.omp_set_num_threads(1)  # one text at a time: threads would wait for each other
    with np.load(io.BytesIO(files(TOKENS)), allow_pickle=False) as arrays:
        words = Words(arrays["tokens"], arrays["ends"])
        variants = arrays["variants"].tolist()
    data = {variant: np.frombuffer(files(_index_name(variant)), np.uint8) for variant in variants}
    indexes = {variant: faiss.deserialize_index(each) for variant, each in data.items()}
    return Library(tuple(Passage(**json.loads(line)) for line in lines), words, indexes)


def _vectors(rows: np.ndarray, forward: Forward, first: int) -> np.ndarray:
    """float32 [n, width], similar lengths together."""
    order = np.argsort((rows != 0).sum(axis=1), kind="stable")
    parts = [forward(rows[some])[:, first:] for some in np.array_split(order, -(-len(order) // 32))]
    vectors = np.empty((len(rows), parts[0].shape[1]), np.float32)
    vectors[order] = np.concatenate(parts)
    return vectors


def _index_name(variant: str) -> str:
    return f"passages-{variant}.faiss"
