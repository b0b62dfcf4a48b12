"""Recommendation: what a user may choose next, from what they chose before and what is written about each item.

A row is a history, int32 [length] of item number + 1, newest first, zeros at the end; a label is an item. Every item of
the catalogue is scored for every row, so retrieval is exact and nothing is measured on samples. Knows no HTTP.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.config import Experiment, InteractionsSource
from cluster.errors import ConfigError, DataError, first_line
from tasks import catalogue, pretrained, ranking
from tasks.catalogue import CATALOGUE, HISTORIES, VECTORS, Catalogue, Histories
from tasks.task import Ask, Asked, Encoding, Files, Rejected, Task, TensorSpec

if TYPE_CHECKING:
    import torch

JSON = "application/json"
TOP = 10  # items of an answer, and of what is called accuracy
MOST_TOP = 100
MOST_NAMED = 1000  # items in one list of a request
SEEN = -1000.0  # as tasks.towers has it, which needs torch
CANDIDATES = 20  # times as many as are asked for, from which a varied answer is chosen
FIELDS = ("user", "items", "top_k", "allow", "block", "seen", "diversity")


@dataclass(frozen=True)
class Wish:
    """What a request says beside its history."""

    history: np.ndarray  # int64, numbers of all items that were chosen
    top_k: int
    allow: tuple[int, ...] | None  # nothing but these
    block: tuple[int, ...]
    with_seen: bool
    diversity: float


@dataclass(frozen=True)
class Prepared:
    catalogue: Catalogue
    histories: Histories
    vectors: np.ndarray  # float16 [items, d] of unit length


class Recommend(Task):
    """Outputs are scores float32 [n, items], with SEEN added for items of the history."""

    ambiguous = True
    int8 = "dynamic"

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.own = experiment.recommend

    # Preprocessing

    def row_shape(self, values: Iterable[bytes | np.ndarray]) -> tuple[int, ...]:  # noqa: ARG002
        source = self.experiment.data.source
        if not isinstance(source, InteractionsSource):
            raise ConfigError("data.source.kind", source.kind, "has no histories", "use kind: interactions")
        return (source.history,)

    def clean(self, value: bytes | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A history as the source has it: little-endian int32, not padded. Raises Rejected `too_long`."""
        found = np.frombuffer(value, "<i4") if isinstance(value, bytes) else value
        if len(found) > shape[0]:
            raise Rejected("too_long", f"{len(found)} items are over {shape[0]}")
        row = np.zeros(shape, np.int32)
        row[: len(found)] = found
        return row

    def partial_statistics(self, rows: np.ndarray) -> dict[str, Any]:
        return {"rows": len(rows), "items": int((rows != 0).sum())}

    def statistics(self, partials: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Mean length of the training rows' histories."""
        num_rows = sum(part["rows"] for part in partials)
        return {"history": sum(part["items"] for part in partials) / max(num_rows, 1)}

    def gather(self) -> dict[str, bytes]:
        """The vector of each item's text, by the encoder as it comes: float16 [items, 384]."""
        import torch

        from tasks import forward
        from tasks.encoder import Encoder
        from tasks.text import Text

        texts = [item.text for item in Catalogue.from_bytes(self.files(CATALOGUE)).items]
        rows = torch.from_numpy(Text(self.experiment).rows(texts))
        vectors = forward.answers(Encoder(self.experiment.text.layers), rows, trims=True).numpy()
        if not np.isfinite(vectors).all():
            raise DataError("data.source.items", len(texts), "a text has a vector that is not finite", "shorten texts")
        out = io.BytesIO()
        np.save(out, vectors.astype(np.float16), allow_pickle=False)
        return {VECTORS: out.getvalue(), pretrained.TOKENIZER: pretrained.read(pretrained.TOKENIZER)}

    # Training

    def network(self, encoding: Encoding) -> torch.nn.Module:
        from tasks.towers import Ensemble, Towers

        own, dropout, texts = self.own, self.experiment.model.dropout, self.ready.vectors.astype(np.float32)
        num_events = self._num_events(encoding)
        return Ensemble([Towers(texts, num_events, own.width, own.recent, dropout) for _ in range(own.ensemble)])

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.cross_entropy(logits.float(), targets)

    def outputs(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float()

    def finished(self, network: torch.nn.Module, rows: np.ndarray, truth: np.ndarray) -> torch.nn.Module:
        """With the ranking stage, whose weights validation rows give; the towers alone where they hit as often."""
        from tasks import neighbours, ranker

        users, items = self.ready.histories.training()
        num_items = len(self.ready.catalogue.items)
        found = neighbours.similarities(users, items, num_items, self.own.neighbours, self.own.shrink)
        near = ranker.Neighbours(*neighbours.padded(found, self.own.neighbours), self.own.recent)
        num_events = np.bincount(items, minlength=num_items)
        ranked = ranker.fit(ranker.Ranked(network, near, num_events), rows, truth)  # type: ignore[arg-type]
        alone = ranker.fit(ranked.reduced(("towers",)), rows, truth)
        hits = [self.right(ranker.scores(each, rows), truth).mean() for each in (alone, ranked)]
        chosen = ranked if hits[1] > hits[0] else alone
        chosen.simple = ranker.fit(ranked.reduced(ranker.SIMPLE), rows, truth)
        return chosen.eval()

    def simpler(self, network: torch.nn.Module, encoding: Encoding) -> dict[str, torch.nn.Module]:  # noqa: ARG002
        return {"neighbours": network.simple}  # type: ignore[dict-item]

    # Figures

    def right(self, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """1 where the item is among the ten highest of the whole catalogue."""
        return np.asarray(ranking.ranks(outputs, truth) <= TOP, np.float64)

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """The share of the reference's ten that are among the ten."""
        pairs = zip(ranking.top(outputs, TOP), ranking.top(reference, TOP), strict=True)
        return np.array([len(np.intersect1d(ours, theirs)) / len(theirs) for ours, theirs in pairs], np.float64)

    def metrics(self, outputs: np.ndarray, truth: np.ndarray, encoding: Encoding) -> dict[str, Any]:
        """Full-catalogue figures: hr_10, ndcg_10, recall_10, hr_50, coverage, tail_hr_50; accuracy is hr_10."""
        found = ranking.figures(outputs, truth, self._num_events(encoding))
        return {"accuracy": found["hr_10"]} | {name: value for name, value in found.items() if value is not None}

    def example(self, encoding: Encoding, n: int) -> np.ndarray:
        """Histories of any length, the last of them empty."""
        generator, (length,), num_items = np.random.default_rng(0), encoding.shape, len(encoding.labels)
        rows = np.zeros((n, length), np.int32)
        for i, row in enumerate(rows):
            num = min(length, num_items - 1) * (n - 1 - i) // max(n - 1, 1)
            row[:num] = generator.permutation(num_items)[:num] + 1
        return rows

    # Serving

    def open(self) -> None:
        assert self.ready is not None

    def input_spec(self, encoding: Encoding) -> TensorSpec:  # noqa: ARG002
        return TensorSpec("request", "BYTES", (-1, 1))

    def output_spec(self, encoding: Encoding) -> TensorSpec:
        return TensorSpec("scores", "FP32", (-1, len(encoding.labels)))

    def media_types(self) -> tuple[str, ...]:
        return JSON, "text/plain"

    def sample(self, row: np.ndarray, encoding: Encoding) -> tuple[str, bytes]:
        ids = [encoding.labels[number - 1] for number in row[row > 0][::-1].tolist()]
        return "sample.json", json.dumps({"items": ids}).encode()

    def decode(self, body: bytes, content_type: str, encoding: Encoding) -> np.ndarray | Asked:  # noqa: ARG002
        """A JSON object with any of FIELDS; `items` are ids or titles, oldest first.

        Raises Rejected: `bad_request`, `unknown_user`, `unknown_item`, `ambiguous_title`.
        """
        tree = _object(body)
        history = np.concatenate([self._known(tree.get("user"), "items" in tree), self._items(tree, "items")])
        _, firsts = np.unique(history[::-1], return_index=True)
        newest_first = history[::-1][np.sort(firsts)]  # each item where it was chosen last
        row = np.zeros(encoding.shape, np.int32)
        row[: len(newest_first)] = newest_first[: len(row)] + 1
        wish = Wish(
            history=newest_first,
            top_k=_number(tree, "top_k", TOP, 1, MOST_TOP),
            allow=tuple(self._items(tree, "allow").tolist()) if tree.get("allow") is not None else None,
            block=tuple(self._items(tree, "block").tolist()),
            with_seen=_flag(tree, "seen"),
            diversity=_share(tree, "diversity", self.own.diversity),
        )
        return Asked(row, wish)

    def answer(self, outputs: np.ndarray, encoding: Encoding, ask: Ask) -> dict[str, Any]:
        """`items`, best first, each with id, title and score; fewer than asked for where filters leave fewer.

        Raises Rejected for an unknown option.
        """
        wish: Wish = ask.detail
        top_k = _option(ask.options, wish.top_k)
        scores = outputs.astype(np.float64)
        in_row = wish.history[: encoding.shape[0]]
        scores[in_row] -= SEEN
        if not wish.with_seen:
            scores[wish.history] = -np.inf
        if wish.allow is not None:
            others = np.ones(len(scores), bool)
            others[list(wish.allow)] = False
            scores[others] = -np.inf
        scores[list(wish.block)] = -np.inf
        best = np.argsort(-scores, kind="stable")[: top_k * CANDIDATES if wish.diversity else top_k]
        best = best[np.isfinite(scores[best])]
        if wish.diversity:
            vectors = self.ready.vectors[best].astype(np.float32)
            best = best[ranking.diversified(scores[best], vectors, top_k, wish.diversity)]
        items = self.ready.catalogue.items
        said = [{"id": items[i].id, "title": items[i].title, "score": round(float(scores[i]), 4)} for i in best]
        return {"items": said, "history": len(wish.history)}

    @property
    def ready(self) -> Prepared:
        """What came with the dataset; in memory for as long as the version is."""
        return _prepared(self.files)

    def _num_events(self, encoding: Encoding) -> np.ndarray:
        return np.bincount(self.ready.histories.training()[1], minlength=len(encoding.labels))

    def _known(self, user: object, names_items: bool) -> np.ndarray:
        """A user's items, oldest first; none for one who is not known and names some."""
        if user is None:
            return np.zeros(0, np.int64)
        if isinstance(user, bool) or not isinstance(user, str | int):
            raise Rejected("bad_request", "`user` is neither text nor whole number")
        found = self.ready.histories.of(str(user))
        if found is None and not names_items:
            raise Rejected("unknown_user", f"{str(user)[:60]!r} is not in the data; name some `items` instead")
        return np.zeros(0, np.int64) if found is None else found.astype(np.int64)

    def _items(self, tree: dict[str, Any], field: str) -> np.ndarray:
        """Numbers int64 of the items that a list names by id or title."""
        given = tree.get(field)
        if given is None:
            return np.zeros(0, np.int64)
        if not isinstance(given, list) or len(given) > MOST_NAMED:
            raise Rejected("bad_request", f"`{field}` is not a list of at most {MOST_NAMED} items")
        return np.array([self._item(name, field) for name in given], np.int64)

    def _item(self, name: object, field: str) -> int:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise Rejected("bad_request", f"`{field}` names something that is neither text nor whole number")
        known = self.ready.catalogue
        if (number := known.number.get(str(name))) is not None:
            return number
        titled = known.titled.get(str(name).strip().lower(), [])
        if not titled:
            raise Rejected(
                "unknown_item", f"`{field}` names {str(name)[:60]!r}, neither an id nor a title that is known"
            )
        if len(titled) > 1:
            ids = ", ".join(known.ids[i] for i in titled[:5])
            raise Rejected("ambiguous_title", f"{str(name)[:60]!r} is the title of several items; name one of {ids}")
        return titled[0]


@lru_cache(maxsize=2)  # the version that serves, and the one that is to come; their tasks are made anew with each limit
def _prepared(files: Files) -> Prepared:
    vectors = np.load(io.BytesIO(files(VECTORS)), allow_pickle=False)
    histories = catalogue.unpack_histories(files(HISTORIES))
    return Prepared(Catalogue.from_bytes(files(CATALOGUE)), histories, vectors)


def _object(body: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Rejected("bad_request", f"the body is not JSON ({first_line(error)})") from error
    if not isinstance(tree, dict):
        raise Rejected("bad_request", "the body is not a JSON object")
    if unknown := sorted(set(tree) - set(FIELDS)):
        raise Rejected("bad_request", f"{unknown[0][:40]!r} is unknown; known are {', '.join(FIELDS)}")
    return tree


def _number(tree: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = default if tree.get(name) is None else tree[name]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Rejected("bad_request", f"`{name}` is no whole number from {least} to {most}")
    return value


def _share(tree: dict[str, Any], name: str, default: float) -> float:
    value = default if tree.get(name) is None else tree[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise Rejected("bad_request", f"`{name}` is no number from 0 to 1")
    return float(value)


def _flag(tree: dict[str, Any], name: str) -> bool:
    value = tree.get(name)
    if value is not None and not isinstance(value, bool):
        raise Rejected("bad_request", f"`{name}` is neither true nor false")
    return bool(value)


def _option(options: Any, default: int) -> int:
    """`top_k` of the URL's query, before that of the body."""
    if unknown := [name for name in options if name != "top_k"]:
        raise Rejected(f"option {unknown[0][:40]}", "is unknown; known is: top_k")
    given = options.get("top_k")
    if given is None:
        return default
    if not (given.isascii() and given.isdecimal() and len(given) < 5 and 1 <= int(given) <= MOST_TOP):
        raise Rejected("top_k", f"{given[:40]!r} is no whole number from 1 to {MOST_TOP}")
    return int(given)
