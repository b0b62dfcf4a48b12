from __future__ import annotations

import dataclasses
import json

import pytest

from cluster import orders
from cluster.orders import Ask, Order, Result
from cluster.store import Store

FIRST = Order("schedule-1700000000", "digits", "schedule", "it is time", 1.0, "{}", {"TRIMTAB_CODE": "ab s"})
SECOND = dataclasses.replace(FIRST, id="person-2", cause="person", at=2.0)


def test_orders_come_back_in_their_order_and_each_is_kept_once(store: Store) -> None:
    assert orders.place(store, SECOND)
    assert orders.place(store, FIRST)
    assert not orders.place(store, dataclasses.replace(FIRST, words="said again"))

    assert orders.orders(store, "digits") == [FIRST, SECOND]
    assert orders.orders(store, "digit") == []
    assert FIRST.job_id == "digits-retrain-schedule-1700000000"


def test_the_first_word_about_an_order_counts(store: Store) -> None:
    orders.place(store, FIRST)
    waiting = orders.result_of(store, FIRST)

    orders.finish(store, FIRST, Result("passed", 5.0, "better", "b" * 16, 2, [{"name": "accuracy", "value": 0.9}]))
    orders.finish(store, FIRST, Result("failed", 6.0, "too late"))

    found = orders.result_of(store, FIRST)
    assert waiting is None
    assert found is not None
    assert (found.fate, found.version, found.figures) == ("passed", 2, [{"name": "accuracy", "value": 0.9}])
    assert orders.orders(store, "digits") == [FIRST]


def test_what_means_nothing_is_no_order(store: Store) -> None:
    orders.place(store, FIRST)
    store.put("orders/digits/broken.json", b'{"id": ')
    store.put("orders/digits/other.json", json.dumps({"id": "other"}).encode())
    store.put("orders/digits/list.json", b"[1]")

    assert orders.orders(store, "digits") == [FIRST]


def test_a_wish_waits_until_it_is_taken_up_and_counts_once(store: Store) -> None:
    wish = Ask("abc", 3.0, "by client 1")
    orders.ask(store, "digits", wish)
    orders.ask(store, "digits", wish)
    orders.ask(store, "digits", Ask("abd", 2.0, "by client 2"))
    before = orders.asked(store, "digits")

    orders.taken_up(store, "digits", "abc")
    orders.taken_up(store, "digits", "abc")

    assert [found.id for found in before] == ["abd", "abc"]
    assert [found.id for found in orders.asked(store, "digits")] == ["abd"]
    assert orders.orders(store, "digits") == []


@pytest.mark.parametrize("identifier", ["", "../other", "A", "a" * 65, "a.result"])
def test_an_id_that_is_no_files_name_is_refused(identifier: str) -> None:
    with pytest.raises(ValueError, match="cannot be an order's id"):
        dataclasses.replace(FIRST, id=identifier)
