"""Messages until they are delivered: through failures, refusals, and the death of the process that had them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tenacity

from serve.watch import outbox as module
from serve.watch.address import Target
from serve.watch.outbox import Outbox
from serve.watch.webhook import Webhook

from .conftest import Receiver  # type: ignore[import-not-found]

AT_ONCE = tenacity.wait_fixed(0.01)
PATIENCE_S = 60.0


@pytest.fixture
def webhook(receiver: Receiver) -> Webhook:
    return Webhook(Target("http", "127.0.0.1", receiver.port, "/", True), b"a secret of some length", 5.0)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def post(outbox: Outbox, *keys: str) -> None:
    for key in keys:
        outbox.post(key, {"key": key, "words": "x"})


def test_messages_arrive_in_order_through_failures(tmp_path: Path, receiver: Receiver, webhook: Webhook) -> None:
    receiver.statuses = [500, 503, 429, 204]
    outbox, said = Outbox(tmp_path), list[str]()

    post(outbox, "a", "b", "a", "c")
    outbox.start(webhook, said.append, AT_ONCE)

    assert outbox.stop(PATIENCE_S) == 0
    assert receiver.keys == ["a", "a", "a", "a", "b", "c"]
    assert (outbox.undelivered(), said) == ([], [])


def test_what_is_refused_or_tried_too_often_is_kept_apart_with_the_reason(
    tmp_path: Path, receiver: Receiver, webhook: Webhook
) -> None:
    receiver.statuses = [302, *[500] * module.TRIES, 204]
    outbox, said = Outbox(tmp_path), list[str]()

    post(outbox, "redirected", "failed", "fine")
    outbox.start(webhook, said.append, AT_ONCE)

    assert outbox.stop(PATIENCE_S) == 0
    dead = {one["key"]: one["why"] for one in outbox.undelivered()}
    assert set(dead) == {"redirected", "failed"}
    assert "redirects are not followed" in dead["redirected"]
    assert "answered 500" in dead["failed"]
    assert receiver.keys == ["redirected", *["failed"] * module.TRIES, "fine"]
    assert len(said) == 2


def test_a_slow_receiver_holds_up_nobody_and_the_next_process_goes_on(
    tmp_path: Path, receiver: Receiver, webhook: Webhook
) -> None:
    receiver.delay_s = 3.0
    outbox = Outbox(tmp_path)
    outbox.start(webhook, lambda _: None, AT_ONCE)
    post(outbox, "first")
    until(lambda: len(receiver.got) == 1)

    post(outbox, *(f"{i}" for i in range(50)))  # while the first is on its way
    was_waiting = len(outbox.undelivered())
    left = outbox.stop(0.0)
    receiver.delay_s = 0.0
    after = Outbox(tmp_path)
    after.start(webhook, lambda _: None, AT_ONCE)

    assert was_waiting == 51
    assert left >= 50
    assert after.stop(PATIENCE_S) == 0
    assert set(receiver.keys) == {"first", *(f"{i}" for i in range(50))}


def test_a_stop_ends_the_waiting_between_two_tries(tmp_path: Path, receiver: Receiver, webhook: Webhook) -> None:
    receiver.statuses = [500]
    outbox = Outbox(tmp_path)
    post(outbox, "a")
    outbox.start(webhook, lambda _: None, tenacity.wait_fixed(3600.0))
    until(lambda: len(receiver.got) == 1)

    assert outbox.stop(0.0) == 1
    until(lambda: threading.active_count() == 1 or outbox._thread is None or not outbox._thread.is_alive())
    assert [one["why"] for one in outbox.undelivered()] == ["waiting"]


def test_both_ends_are_bounded_and_nothing_goes_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 5)
    monkeypatch.setattr(module, "MOST_DEAD", 3)
    outbox = Outbox(tmp_path)

    post(outbox, *(f"{i}" for i in range(20)))

    found = outbox.undelivered()
    assert [(one["key"], one["why"]) for one in found[:3]] == [(f"{i}", "5 others waited") for i in (12, 13, 14)]
    assert [(one["key"], one["why"]) for one in found[3:]] == [(f"{i}", "waiting") for i in range(15, 20)]


def test_a_damaged_file_is_shown_as_such(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    post(outbox, "a")
    next((tmp_path / "waiting").iterdir()).write_text("{")

    assert outbox.undelivered()[0]["words"] == "cannot be read"


def test_what_was_given_up_is_sent_again_when_somebody_says_so(
    tmp_path: Path, receiver: Receiver, webhook: Webhook
) -> None:
    receiver.statuses = [400, 204]
    outbox = Outbox(tmp_path)
    post(outbox, "refused", "fine")
    outbox.start(webhook, lambda _: None, AT_ONCE)
    outbox.stop(PATIENCE_S)

    again = Outbox(tmp_path)
    revived = again.revive()
    again.start(webhook, lambda _: None, AT_ONCE)

    assert (revived, again.stop(PATIENCE_S), again.undelivered()) == (1, 0, [])
    assert receiver.keys == ["refused", "fine", "refused"]
    assert receiver.got[2][1] == b'{"key": "refused", "words": "x"}'
