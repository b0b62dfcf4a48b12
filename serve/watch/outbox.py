"""What is on its way to a webhook: a file for each message until it is delivered, at least once, and then none.

A thread of its own delivers, so that a slow or dead receiver holds nothing up. What is refused, or was tried too often,
is kept apart with the reason. Survives the process: the next one goes on with what is left.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tenacity

from cluster.files import write_whole
from serve.watch.webhook import NotNow, Refused, Webhook

MOST_WAITING, MOST_DEAD = 1000, 1000
TRIES, FIRST_S, LONGEST_S = 8, 1.0, 60.0  # about two minutes together
POLL_S = 0.2

Words = Callable[[str], None]


class Outbox:
    """The writing end is the monitor's, the delivering thread's is the other; there is one of each."""

    def __init__(self, folder: Path) -> None:
        self._waiting, self._dead = folder / "waiting", folder / "dead"
        self._stopped, self._posted = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def post(self, key: str, message: dict[str, Any]) -> None:
        """Keep a message until it is delivered; to post it again changes nothing. Raises OSError."""
        waiting = _files(self._waiting)
        if len(waiting) >= MOST_WAITING:
            self._bury(waiting[0], f"{MOST_WAITING} others waited")
        if not any(path.stem.endswith(key) for path in waiting):
            number = int(waiting[-1].stem.partition("-")[0]) + 1 if waiting else 1
            write_whole(self._waiting / f"{number:010d}-{key}.json", json.dumps(message).encode())
        self._posted.set()

    def undelivered(self) -> list[dict[str, Any]]:
        """Messages that wait, oldest first, and those given up, each with `why` it is not delivered."""
        found = [_read(path) | {"why": "waiting"} for path in _files(self._waiting)]
        return [*(_read(path) for path in _files(self._dead)), *found]

    def revive(self) -> int:
        """Let all that was given up wait once more, after what waits already; returns how many. Raises OSError."""
        dead = _files(self._dead)
        for path in dead:
            message = {name: value for name, value in _read(path).items() if name not in ("why", "given_up")}
            self.post(path.stem.partition("-")[2], message)
            path.unlink(missing_ok=True)
        return len(dead)

    # Delivering

    def start(self, webhook: Webhook, on_word: Words, wait: tenacity.wait.wait_base | None = None) -> None:
        """`wait` is the time between tries; by default it doubles, with some chance in it."""
        between = wait or tenacity.wait_exponential_jitter(multiplier=FIRST_S, max=LONGEST_S)
        self._thread = threading.Thread(target=self._deliver, args=(webhook, on_word, between), daemon=True)
        self._thread.start()

    def stop(self, patience_s: float) -> int:
        """Give what waits so long to be delivered; returns how many are left for the next process."""
        deadline = time.monotonic() + patience_s
        while self._thread is not None and _files(self._waiting) and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)
        self._stopped.set()
        self._posted.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)  # it is a daemon: what it holds stays a file
        return len(_files(self._waiting))

    def _deliver(self, webhook: Webhook, on_word: Words, between: tenacity.wait.wait_base) -> None:
        while not self._stopped.is_set():
            self._posted.wait(POLL_S)
            self._posted.clear()
            try:
                self._all(webhook, on_word, between)
            except OSError as error:  # a full disk, as a rule; the thread must live on
                on_word(f"the outbox cannot be used ({error.strerror}); trying again")

    def _all(self, webhook: Webhook, on_word: Words, between: tenacity.wait.wait_base) -> None:
        for path in _files(self._waiting):
            if self._stopped.is_set():
                return
            try:
                self._one(path, webhook, between)
            except FileNotFoundError:
                continue  # it was too many, and is among the dead
            except (NotNow, Refused) as error:
                if self._stopped.is_set() and isinstance(error, NotNow):
                    return  # the next process tries again
                on_word(f"{path.stem.partition('-')[2]} is not delivered: {error}")
                self._bury(path, str(error))

    def _one(self, path: Path, webhook: Webhook, between: tenacity.wait.wait_base) -> None:
        body, key = path.read_bytes(), path.stem.partition("-")[2]
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(NotNow),
            stop=tenacity.stop_any(tenacity.stop_after_attempt(TRIES), tenacity.stop_when_event_set(self._stopped)),
            wait=lambda state: max(between(state), _asked_s(state)),
            sleep=tenacity.sleep_using_event(self._stopped),
            reraise=True,
        )
        retrying(webhook.send, key, body)
        path.unlink(missing_ok=True)

    def _bury(self, path: Path, why: str) -> None:
        dead = _files(self._dead)
        for old in dead[: max(0, len(dead) - MOST_DEAD + 1)]:
            old.unlink(missing_ok=True)
        self._dead.mkdir(parents=True, exist_ok=True)
        try:
            grave = path.rename(self._dead / path.name)  # the other end may have been faster
        except FileNotFoundError:
            return
        write_whole(grave, json.dumps(_read(grave) | {"why": why, "given_up": time.time()}).encode())


def _asked_s(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.after_s if isinstance(error, NotNow) else 0.0


def _files(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob("[0-9]*.json")) if folder.is_dir() else []


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) else {"key": path.stem, "words": "cannot be read"}
