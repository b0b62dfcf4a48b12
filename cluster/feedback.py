"""What people say about answers, and what of it can be believed: rows of the feedback's ledger, and their sum.

A row says of one answer, by its request id, which label was right, how good it was, or what came of it. Clients may
repeat themselves, come late, contradict each other or lie. `believed` is the one place that decides, `labelled` the one
that joins it to the sample of what was served; pure, as is all here but `ledger`.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from cluster.config import Labels
from cluster.ledger import Ledger
from cluster.store import Store

Kind = Literal["label", "rating", "outcome"]
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
class Rules:
    agreement: int = 1  # clients that must say the same before it is believed
    client_share: float = 1.0  # of all believed labels, that may rest on one client's word alone


@dataclass(frozen=True)
class Believed:
    """Sums over some feedback. An answer is named by (request id, row)."""

    labels: dict[tuple[str, int], str] = field(default_factory=dict)
    waiting: int = 0  # answers with too few clients that agree so far
    conflicting: int = 0  # answers about which as many say one thing as another
    over_share: int = 0  # answers with a label that a client gave beyond its share
    unknown: int = 0  # answers that are not among those known


def believed(rows: Iterable[Mapping[str, Any]], known: Iterable[tuple[str, int]] | None, rules: Rules) -> Believed:
    """The labels that can be believed; `known` are the answers there have been, None where that does not matter.

    1. Of one client about one answer the latest word counts.
    2. Where someone whose token is for operating has spoken (TRUSTED), the others' voices do not count.
    3. Most voices win; where two labels have as many, none does.
    4. With fewer than `agreement` voices a label waits, but not a trusted one.
    5. Labels that rest on a single client, who is not trusted, are at most `client_share` of all: those that go beyond
       it, in the order of a hash that nobody can steer, are left out, so that a flood of one client's labels does not
       become the data.
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
        elif voices < rules.agreement and not trusted:
            waiting += 1
        else:
            found[answer] = label
            if len(said) == 1 and not trusted:
                alone[answer] = next(iter(said))
    over = _over_share(alone, len(found), rules.client_share)
    kept = {answer: label for answer, label in found.items() if answer not in over}
    return Believed(kept, waiting, conflicting, len(over), unknown)


def labelled(answers: pa.Table, words: pa.Table, rules: Labels) -> tuple[list[dict[str, Any]], Believed]:
    """The answers of a sample (`cluster.served`) whose labels can be believed, as rows in its order; and the sums.

    Each row has its `label` besides, and as `heard_ns` when a client last said another label of it than it had before.
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
    found = believed(said, known, Rules(rules.agreement, rules.client_share))
    chosen = [answer for answer in known if answer in found.labels]
    rows = answers.take(pa.array([known[answer] for answer in chosen], pa.int64())).to_pylist()
    more = ({"label": found.labels[answer], "heard_ns": heard_ns[answer]} for answer in chosen)
    return [row | extra for row, extra in zip(rows, more, strict=True)], found


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


def _over_share(alone: Mapping[tuple[str, int], str], num_all: int, share: float) -> set[tuple[str, int]]:
    """Answers to leave out so that none of the clients, each the only voice of some, has more than its share."""
    if share >= 1.0:
        return set()
    by_client: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for answer, client in alone.items():
        by_client[client].append(answer)
    over: set[tuple[str, int]] = set()
    for answers in by_client.values():
        # n of the others' labels allow n * share / (1 - share) of this client's.
        most = int((num_all - len(answers)) * share / (1.0 - share) + 1e-9)
        over.update(sorted(answers, key=_unsteered)[most:])
    return over


def _unsteered(answer: tuple[str, int]) -> bytes:
    return hashlib.blake2b(f"{answer[0]}#{answer[1]}".encode(), digest_size=8, person=b"feedback").digest()
