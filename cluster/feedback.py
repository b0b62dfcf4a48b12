"""What people say about answers, and what of it can be believed: rows of the feedback's ledger, and their sum.

A row says of one answer, by its request id, which label was right, how good it was, or what came of it. Clients may
repeat themselves, come late, contradict each other or lie. `believed` is the one place that decides, `labelled` the one
that joins it to the sample of what was served, `within_share` the one that keeps a client from becoming the data; pure,
as is all here but `ledger`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import pyarrow as pa

from cluster.ledger import Ledger
from cluster.store import Store

Kind = Literal["label", "rating", "outcome"]
Row = TypeVar("Row", bound=Mapping[str, Any])
KINDS: tuple[Kind, ...] = ("label", "rating", "outcome")
TRUSTED = ("operate", "admin")  # roles of tokens whose word needs nobody else's
SCHEMA = pa.schema(
    {
        "id": pa.string(),  # of the word and its time: who says the same later, says it anew
        "request_id": pa.string(),
        "row": pa.int32(),  # of a request with several rows
        "kind": pa.string(),
        "value": pa.string(),
        "client": pa.string(),
        "received_ns": pa.int64(),
        "role": pa.string(),  # of the client's token; null where it is not known
    }
)


def ledger(store: Store, name: str) -> Ledger:
    """Of the endpoint `name`."""
    return Ledger(store, f"feedback/{name}", SCHEMA)


def word(
    request_id: str, row: int, kind: Kind, value: str, client: str, received_ns: int, role: str | None = None
) -> dict[str, Any]:
    """A row of the ledger."""
    said = "\0".join((request_id, str(row), kind, value, client, str(received_ns)))
    identifier = hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    values = (identifier, request_id, row, kind, value, client, received_ns, role)
    return dict(zip(SCHEMA.names, values, strict=True))


@dataclass(frozen=True)
class Believed:
    """Sums over some feedback. An answer is named by (request id, row)."""

    labels: dict[tuple[str, int], str] = field(default_factory=dict)
    alone: dict[tuple[str, int], str] = field(default_factory=dict)  # by answer, who is its label's only voice
    waiting: int = 0  # answers with too few clients that agree so far
    conflicting: int = 0  # answers about which as many say one thing as another
    unknown: int = 0  # answers that are not among those known


def believed(
    rows: Iterable[Mapping[str, Any]], known: Iterable[tuple[str, int]] | None = None, agreement: int = 1
) -> Believed:
    """The labels that can be believed; `known` are the answers there have been, None where that does not matter.

    1. Of one client about one answer the latest word counts.
    2. Where someone whose token is for operating has spoken (TRUSTED), the others' voices do not count.
    3. Most voices win; where two labels have as many, none does.
    4. With fewer than `agreement` voices a label waits, but not a trusted one.
    """
    answers = None if known is None else set(known)
    found, alone = dict[tuple[str, int], str](), dict[tuple[str, int], str]()
    waiting = conflicting = unknown = 0
    for answer, said in _latest(rows).items():
        if answers is not None and answer not in answers:
            unknown += 1
            continue
        trusted = {client: word for client, word in said.items() if word.trusted}
        (label, voices), *others = Counter(word.value for word in (trusted or said).values()).most_common(2)
        if others and others[0][1] == voices:
            conflicting += 1
        elif voices < agreement and not trusted:
            waiting += 1
        else:
            found[answer] = label
            if len(said) == 1 and not trusted:
                alone[answer] = next(iter(said))
    return Believed(found, alone, waiting, conflicting, unknown)


def labelled(answers: pa.Table, words: pa.Table, agreement: int) -> tuple[list[dict[str, Any]], Believed]:
    """The answers of a sample (`cluster.served`) whose labels can be believed, as rows in its order; and the sums.

    Each row has besides its `label`, as `heard_ns` when a client last said another label of it than it had before, and
    as `client` the only voice of its label, where that is not trusted.
    """
    said = words.sort_by("received_ns").to_pylist()
    heard_ns, last = dict[tuple[str, int], int](), dict[tuple[tuple[str, int], str], str]()
    for word in said:
        answer = word["request_id"], word["row"]
        if word["kind"] == "label" and last.get((answer, word["client"])) != word["value"]:
            last[answer, word["client"]] = word["value"]
            heard_ns[answer] = word["received_ns"]
    names = zip(answers["request_id"].to_pylist(), answers["row"].to_pylist(), strict=True)
    known = {answer: i for i, answer in enumerate(names) if answer in heard_ns}
    found = believed(said, known, agreement)
    chosen = [answer for answer in known if answer in found.labels]
    rows = answers.take(pa.array([known[answer] for answer in chosen], pa.int64())).to_pylist()
    more = (
        {"label": found.labels[answer], "heard_ns": heard_ns[answer], "client": found.alone.get(answer)}
        for answer in chosen
    )
    return [row | extra for row, extra in zip(rows, more, strict=True)], found


def within_share(rows: Sequence[Row], share: float) -> list[Row]:
    """The rows (`id`, and `client` as `labelled` has it) without those that go beyond one client's share.

    Of what is left at most `share` rests on any one client, so ask it of what is counted or learnt, and not of more.
    What goes is chosen by a hash of the row's id.
    """
    mine = defaultdict[str, list[str]](list)
    for row in rows:
        if row["client"] is not None:
            mine[row["client"]].append(row["id"])
    if share >= 1.0 or not mine:
        return list(rows)
    num_others, sizes = len(rows) - sum(map(len, mine.values())), [len(ids) for ids in mine.values()]

    def is_too_much(most: int) -> bool:
        return most > share * (num_others + sum(min(size, most) for size in sizes)) + 1e-9

    # The more may stay of each, the more is left, but by less and less: so there is one bound, found by bisection.
    most = bisect_left(range(1, max(sizes) + 1), True, key=is_too_much)
    kept = {name for ids in mine.values() for name in sorted(ids, key=_unsteered)[:most]}
    return [row for row in rows if row["client"] is None or row["id"] in kept]


class _Word(NamedTuple):
    at_ns: int
    value: str
    trusted: bool


def _latest(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], dict[str, _Word]]:
    """By answer and client the last label that was said."""
    latest: dict[tuple[str, int], dict[str, _Word]] = defaultdict(dict)
    for row in rows:
        if row["kind"] != "label":
            continue
        said, at_ns = latest[row["request_id"], row["row"]], row["received_ns"]
        before = said.get(row["client"])
        if before is None or at_ns >= before.at_ns:
            said[row["client"]] = _Word(at_ns, row["value"], row.get("role") in TRUSTED)
    return latest


def _unsteered(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8, person=b"feedback").digest()
