"""What there is to choose from, and who chose what: the two files that go with a dataset of histories.

Items have numbers, their place in the catalogue, which is also the order of a model's outputs. Knows no network, no
request and no source.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

CATALOGUE, HISTORIES, VECTORS = "catalogue.jsonl", "histories.npz", "item-texts.npy"
MAX_ITEMS = 50_000  # every one is scored for every request
HELD_OUT = 2  # newest events of a user, of which one is validated with and one tested with


@dataclass(frozen=True)
class Item:
    id: str
    title: str
    text: str  # title included


@dataclass(frozen=True)
class Catalogue:
    items: tuple[Item, ...]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(item.id for item in self.items)

    @cached_property
    def number(self) -> dict[str, int]:
        """Of an item, by its id."""
        return {item.id: i for i, item in enumerate(self.items)}

    @cached_property
    def titled(self) -> dict[str, list[int]]:
        """Numbers of the items with a title, in lower case."""
        found: dict[str, list[int]] = {}
        for i, item in enumerate(self.items):
            found.setdefault(item.title.lower(), []).append(i)
        return found

    def to_bytes(self) -> bytes:
        return "\n".join(json.dumps(asdict(item), ensure_ascii=False) for item in self.items).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Catalogue:
        return Catalogue(tuple(Item(**json.loads(line)) for line in data.decode().split("\n")))


@dataclass(frozen=True)
class Histories:
    """`items` int32, all users' one after the other, oldest first; `ends` int64 [users], where each one's end."""

    users: dict[str, int]
    items: np.ndarray
    ends: np.ndarray

    def of(self, user: str) -> np.ndarray | None:
        """A user's items, oldest first; None for one who is not known."""
        place = self.users.get(user)
        return None if place is None else self.items[self.ends[place - 1] if place else 0 : self.ends[place]]

    def training(self, held_out: int = HELD_OUT) -> tuple[np.ndarray, np.ndarray]:
        """Users and items int64 [events], without each user's newest that are held out."""
        lengths = np.diff(self.ends, prepend=0)
        user = np.repeat(np.arange(len(lengths)), lengths)
        is_training = np.arange(len(self.items)) < self.ends[user] - held_out
        return user[is_training], self.items[is_training].astype(np.int64)


def pack_histories(histories: Mapping[str, list[int]]) -> bytes:
    """Items of users, oldest first, as a file."""
    out = io.BytesIO()
    lengths = [len(items) for items in histories.values()]
    flat = np.array([item for items in histories.values() for item in items], np.int32)
    users = np.frombuffer(json.dumps(list(histories)).encode(), np.uint8)
    np.savez_compressed(out, users=users, items=flat, ends=np.cumsum(lengths, dtype=np.int64))
    return out.getvalue()


def unpack_histories(data: bytes) -> Histories:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        users = {user: i for i, user in enumerate(json.loads(arrays["users"].tobytes()))}
        return Histories(users, arrays["items"], arrays["ends"])
