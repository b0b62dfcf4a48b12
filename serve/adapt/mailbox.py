"""Where the record of an endpoint's adaptation lies, and how a person's word gets to the actor: as a file beside it.

A file waits while there is no actor, so a word is never lost with one. On an object store the person's end is a
`StoreMailbox`, and `serve.adapt.post` carries words and answers between it and the actor's own folder.
Knows nothing of what a command does.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from pathlib import Path
from typing import Any

from cluster.errors import DeadlineError, UserError
from cluster.files import write_whole
from cluster.state import home
from cluster.store import Store
from serve.adapt.proposals import Command

COMMANDS, JOURNAL = "commands", "journal"  # in the folder of an endpoint
POLL_S = 0.05
STORE_POLL_S = 1.0  # of a person who waits for an answer
KEPT_S = 3600.0  # an answer that nobody fetches


def place(store: Store, name: str) -> Path:
    """Where the actor of `name` works: in a store that is a folder, else in the home of its own machine."""
    return (store.local or home()) / folder(name)


def reach(store: Store, name: str) -> Mailbox | StoreMailbox:
    """The box in which a word is put for the actor of `name`, wherever that one lives."""
    return Mailbox(place(store, name)) if store.local is not None else StoreMailbox(store, name)


def folder(name: str) -> str:
    """Of all that concerns the adaptation of `name`, in a store."""
    return f"adapt/{name}"


def commands(name: str) -> str:
    """The folder of words in a store."""
    return f"{folder(name)}/{COMMANDS}"


def journal(folder: Path) -> Path:
    return folder / JOURNAL


class Mailbox:
    """Both ends of it; commands are taken in the order in which they were sent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / COMMANDS

    def send(self, command: Command, name: str = "") -> str:
        """Returns the command's id: `name`, which makes it the same word when it is sent again, or a new one.

        Raises UserError where the folder cannot be written.
        """
        name = name or _new_name()
        try:
            self.put(name, _written(command))
        except OSError as error:
            problem = f"cannot be written ({error.strerror})"
            raise UserError("store", str(self._folder), problem, "use the store that the endpoint uses") from error
        return name

    def wait(self, name: str, timeout_s: float) -> dict[str, Any]:
        """The actor's answer. Raises DeadlineError; the command stays and holds once an actor is there."""
        answer, deadline = self._folder / f"{name}.answer", time.monotonic() + timeout_s
        while not answer.exists():
            if time.monotonic() > deadline:
                raise _unanswered(timeout_s)
            time.sleep(POLL_S)
        found: dict[str, Any] = json.loads(answer.read_text())
        answer.unlink(missing_ok=True)
        return found

    def waiting(self) -> list[tuple[str, Command | None]]:
        """Ids and commands, oldest first; None for what is no command. Each stays until it is answered."""
        found: list[tuple[str, Command | None]] = []
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.glob("*.json")):
                found.append((path.stem, _read(path)))
        return found

    def answer(self, name: str, words: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            write_whole(self._folder / f"{name}.answer", json.dumps(words).encode())
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    # For who carries words here from elsewhere

    def put(self, name: str, data: bytes) -> None:
        """Raises OSError."""
        write_whole(self._folder / f"{name}.json", data)

    def answers(self) -> dict[str, bytes]:
        """Those that were not fetched, by the id of their word."""
        found: dict[str, bytes] = {}
        for path in self._folder.glob("*.answer"):
            with contextlib.suppress(OSError):
                found[path.stem] = path.read_bytes()
        return found

    def drop(self, name: str) -> None:
        """An answer that was fetched."""
        (self._folder / f"{name}.answer").unlink(missing_ok=True)

    def empty(self) -> None:
        for path in (*self._folder.glob("*.json"), *self._folder.glob("*.answer")):
            path.unlink(missing_ok=True)

    def tidy(self) -> None:
        with contextlib.suppress(OSError):
            for path in self._folder.glob("*.answer"):
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink(missing_ok=True)


class StoreMailbox:
    """A person's end of it on an object store; objects appear whole, an empty one has not been written yet."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._folder = store, commands(name)

    def send(self, command: Command, name: str = "") -> str:
        """As `Mailbox.send`."""
        name = name or _new_name()
        self._store.put(f"{self._folder}/{name}.json", _written(command))
        return name

    def wait(self, name: str, timeout_s: float) -> dict[str, Any]:
        """As `Mailbox.wait`."""
        path, deadline = f"{self._folder}/{name}", time.monotonic() + timeout_s
        while not (data := self._store.get(f"{path}.answer")):
            if time.monotonic() > deadline:
                raise _unanswered(timeout_s)
            time.sleep(STORE_POLL_S)
        for kind in ("json", "answer"):  # in this order: a word without an answer is one that waits
            self._store.remove(f"{path}.{kind}")
        found: dict[str, Any] = json.loads(data)
        return found


def _new_name() -> str:
    return f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"


def _written(command: Command) -> bytes:
    return json.dumps(command.to_json()).encode()


def _unanswered(timeout_s: float) -> DeadlineError:
    return DeadlineError(
        f"the adaptation actor has not answered within {timeout_s:.0f} s; the command waits for it. "
        "Does the endpoint run? See: trimtab status"
    )


def _read(path: Path) -> Command | None:
    try:
        return Command.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
