"""Beside an actor's loop: something that is done again and again, in a thread of its own, whatever goes wrong.

Knows nothing of what is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread

MOST_PAUSE_S = 15.0  # after failures, where the rounds are not further apart anyway
_log = logging.getLogger(__name__)


def start(name: str, every_s: float, deed: Callable[[], None], ended: Event) -> None:
    """Do it every so many seconds until `ended`, from the first pause on."""
    Thread(target=go_on, args=(name, every_s, deed, ended), name=name, daemon=True).start()


def go_on(name: str, every_s: float, deed: Callable[[], None], ended: Event) -> None:
    """Errors end nothing: the next round does what this one did not, after a pause that doubles while there are any.

    Each kind of error is said once until a round succeeds.
    """
    said, pause_s = set[type[Exception]](), every_s
    while not ended.wait(pause_s):
        try:
            deed()
        except Exception as error:
            if type(error) not in said:
                _log.warning("the %s could not do its round and goes on trying: %s", name, error)
            said.add(type(error))
            pause_s = min(2 * pause_s, max(every_s, MOST_PAUSE_S))
        else:
            said, pause_s = set(), every_s
