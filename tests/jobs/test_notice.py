from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from jobs import notice


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Nobody was told yet, and a SIGTERM is noted instead of ending the tests."""
    noted: list[int] = []
    monkeypatch.setattr(notice, "_told", threading.Event())
    before = signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))
    yield noted
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_first_sigterm_to_a_worker_is_a_notice_and_the_second_is_what_it_was(calm: list[int]) -> None:
    notice.listen()
    assert not notice.is_given()

    terminate()
    assert notice.is_given()
    assert calm == []

    terminate()
    assert calm == [signal.SIGTERM]


def test_a_driver_acts_on_the_first_sigterm_alone_and_only_inside(calm: list[int]) -> None:
    acted: list[str] = []

    with notice.calls(lambda: acted.append("told")):
        terminate()
        terminate()
    terminate()

    assert acted == ["told"]
    assert calm == [signal.SIGTERM] * 2


def test_in_another_thread_nothing_changes(calm: list[int]) -> None:
    def inside() -> None:
        with notice.calls(lambda: None):
            terminate()

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()

    assert calm == [signal.SIGTERM]
