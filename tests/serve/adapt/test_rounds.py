from __future__ import annotations

import logging
from threading import Event

import pytest

from serve.adapt.rounds import go_on


class Pauses(Event):
    """An end that comes after so many rounds, at once; it remembers what it was waited for."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self.seconds: list[float | None] = []
        self._num = num

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return len(self.seconds) > self._num


def test_errors_end_nothing_are_said_once_for_each_kind_and_make_the_pauses_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rounds = iter(
        [None, OSError("full"), OSError("full still"), ValueError("odd"), OSError("full"), None, OSError("again")]
    )
    ended = Pauses(7)

    def deed() -> None:
        if (error := next(rounds)) is not None:
            raise error

    with caplog.at_level(logging.WARNING):
        go_on("clerk", 2.0, deed, ended)

    said = "the clerk could not do its round and goes on trying: "
    assert caplog.messages == [f"{said}full", f"{said}odd", f"{said}again"]
    assert ended.seconds == [2.0, 2.0, 4.0, 8.0, 15.0, 15.0, 2.0, 4.0]


def test_rounds_that_are_far_apart_stay_as_they_are() -> None:
    ended = Pauses(3)

    go_on("sentinel", 60.0, lambda: 1 // 0, ended)

    assert ended.seconds == [60.0] * 4
