"""What a monitor keeps: its state, published whole, and the alerts it gave, appended to a journal.

An alert is first part of the state, then of the journal and the outbox; so a monitor killed at any moment goes on
without losing one and without giving one twice. One monitor a stream's folder. Knows no rules.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, TrimtabError
from cluster.files import write_whole
from cluster.state import home
from cluster.store import Store
from serve.adapt.journal import Journal, read
from serve.watch.alert import Alert
from serve.watch.outbox import Outbox

ALERT, STATE = "alert", "state"
MOST_BYTES = 16 * 1024**2  # of the journal

Words = Callable[[str], None]


def place(store: Store, name: str) -> Path:
    """The folder of the stream watched for `name`: in a store that is a folder, else in the home of the machine."""
    return (store.local or home()) / "alerts" / name


class Ledger:
    """Use as a context manager: it locks the folder. `outbox` is given where alerts go to a webhook."""

    def __init__(self, folder: Path, outbox: Outbox | None, on_word: Words) -> None:
        self._folder, self._outbox, self._say = folder, outbox, on_word
        self._journal = Journal(folder / "journal", MOST_BYTES)
        self._unsaid: list[Alert] = []  # in the state, and not yet everywhere else
        self._lock: Any = None

    def __enter__(self) -> Ledger:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            mend = "wait for it, or stop it"
            raise ClusterError("monitor", str(self._folder), "another monitor of it is running", mend) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        self._lock.close()

    def resume(self) -> dict[str, Any] | None:
        """The state that was published last; alerts that it had and nobody else are said now.

        Raises TrimtabError where it cannot be read.
        """
        try:
            tree = json.loads((self._folder / "state.json").read_bytes())
            self._unsaid = [Alert.from_json(one) for one in tree["unsaid"]]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            words = f"{self._folder / 'state.json'} cannot be read ({error}); begin anew: trimtab monitor --fresh"
            raise TrimtabError(words) from None
        if self._unsaid:
            known = {key_of(entry) for entry in entries(self._folder)}
            self._give([alert for alert in self._unsaid if alert.key in known], [])
            self._unsaid = self._give([], [alert for alert in self._unsaid if alert.key not in known])
        found: dict[str, Any] = tree
        return found

    def commit(self, state: Mapping[str, Any], alerts: Iterable[Alert], at: float) -> None:
        """Publish `state` with `alerts`, then give them. Raises OSError where there is no room: nothing was given."""
        self._unsaid += alerts
        self._publish(state)
        if self._journal.wants_state:
            self._journal.append({"kind": STATE, "at": at})
        if self._unsaid:
            self._unsaid = self._give([], self._unsaid)
            self._publish(state)  # or the next process would send them once more

    def _publish(self, state: Mapping[str, Any]) -> None:
        tree = {**state, "unsaid": [alert.to_json() for alert in self._unsaid]}
        write_whole(self._folder / "state.json", json.dumps(tree, allow_nan=False).encode())

    def _give(self, written: list[Alert], alerts: list[Alert]) -> list[Alert]:
        """To the journal, but for what is `written`, then to the outbox; returns those that could not be written."""
        left = [alert for alert in alerts if not self._journal.append({"kind": ALERT, **alert.to_json()})]
        if left:
            self._say(f"{len(left)} alerts are kept in the state until there is room ({self._journal.trouble})")
        if self._outbox is None:
            return left
        for alert in [*written, *(alert for alert in alerts if alert not in left)]:
            try:
                self._outbox.post(alert.key, {"key": alert.key, **alert.to_json()})
            except OSError as error:
                self._say(f"alert {alert.id} is in the journal, but not sent: {error}")
        return left


def entries(folder: Path) -> list[dict[str, Any]]:
    """The alerts in the journal, oldest first. Raises OSError."""
    return [entry for entry in read(folder / "journal").entries if entry["kind"] == ALERT]


def key_of(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('id')}-{entry.get('state')}"
