from __future__ import annotations

import asyncio

import pytest

from cluster import orders
from cluster.errors import RequestError
from cluster.store import Store
from serve.hook import MOST_WAITING, Hook


@pytest.fixture
def hook(store: Store) -> Hook:
    made = Hook(store, "shades")
    made.closed = ""
    return made


def test_the_same_request_again_is_the_same_wish(hook: Hook, store: Store) -> None:
    first, again, other = (asyncio.run(hook.ask(*said)) for said in (("ann", "1"), ("ann", "1"), ("bob", "1")))

    assert first == again != other
    assert [wish.words for wish in orders.asked(store, "shades")] == ["by client ann", "by client bob"]


def test_a_flood_of_wishes_is_bounded(hook: Hook, store: Store) -> None:
    for number in range(MOST_WAITING):
        asyncio.run(hook.ask("ann", str(number)))

    with pytest.raises(RequestError, match="one retraining meets them all") as refused:
        asyncio.run(hook.ask("ann", "one more"))

    assert refused.value.status == 429
    assert asyncio.run(hook.ask("ann", "0"))  # it is there already
    assert len(orders.asked(store, "shades")) == MOST_WAITING


def test_it_is_closed_until_a_version_says_otherwise(store: Store) -> None:
    with pytest.raises(RequestError, match="no version is loaded yet"):
        asyncio.run(Hook(store, "shades").ask("ann", "1"))
