"""A configuration that is applied again from outside does not take back what has replaced its version."""

from __future__ import annotations

from typing import Any

from cluster.store import Store
from serve.standing import keep, meant, replacing

SIX: dict[str, Any] = {"bundle": "six", "version": 6, "follows": True, "serve": {}}


def told(bundle: str, version: int, **more: Any) -> dict[str, Any]:
    return {"bundle": bundle, "version": version, "serve": {}, **more}


def replaced(store: Store, before: dict[str, Any], bundle: str, version: int) -> dict[str, Any]:
    """As a promotion or a person does it."""
    after = replacing(before, {**before, "bundle": bundle, "version": version})
    keep(store, "digits", after)
    return after


def test_what_was_never_replaced_is_what_its_configuration_says(store: Store) -> None:
    assert meant(store, "digits", SIX) == ("six", 6)
    assert meant(store, "digits", told("six", 6)) == ("six", 6)


def test_applied_again_it_comes_to_what_has_replaced_it(store: Store) -> None:
    eight = replaced(store, SIX, "eight", 8)

    assert eight == told("eight", 8, instead=["six"])
    assert meant(store, "digits", SIX) == ("eight", 8)
    assert meant(store, "digits", eight) == ("eight", 8)
    assert meant(store, "cats", SIX) == ("six", 6)


def test_a_pinned_one_and_a_newly_trained_one_are_what_they_say(store: Store) -> None:
    replaced(store, SIX, "eight", 8)

    assert meant(store, "digits", told("six", 6)) == ("six", 6)
    assert meant(store, "digits", told("nine", 9, follows=True)) == ("nine", 9)


def test_the_last_word_counts_also_when_it_goes_back(store: Store) -> None:
    eight = replaced(store, SIX, "eight", 8)
    nine = replaced(store, eight, "nine", 9)
    assert meant(store, "digits", SIX) == ("nine", 9)

    replaced(store, nine, "six", 6)

    assert meant(store, "digits", SIX) == ("six", 6)
    assert [meant(store, "digits", told(name, 0, follows=True)) for name in ("eight", "nine")] == [("six", 6)] * 2


def test_a_promotion_after_it_was_applied_again_knows_the_one_before(store: Store) -> None:
    replaced(store, SIX, "eight", 8)

    replaced(store, SIX, "ten", 10)

    assert meant(store, "digits", told("eight", 8, follows=True)) == ("ten", 10)


def test_a_promotion_that_died_before_it_was_written_down_is_when_it_is_done_again(store: Store) -> None:
    eight = replacing(SIX, {**SIX, "bundle": "eight", "version": 8})

    replaced(store, eight, "eight", 8)

    assert meant(store, "digits", SIX) == ("eight", 8)


def test_where_nothing_is_applied_from_outside_nothing_is_written_down(store: Store) -> None:
    assert replaced(store, told("six", 6), "eight", 8) == told("eight", 8)
    assert store.names("standing") == []
