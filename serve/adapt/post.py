"""Between an actor and a store that is no folder: brings the words that wait there, takes record and answers back.

The loop works on a folder of its own machine, as fast as anywhere; this looks at the store every two seconds, because
each look is a request that is paid for. An answer goes out after the record that has its word in it, so whoever goes on
on another machine knows what was obeyed. The actor that came last is the one at work: it names itself in the store, and
the one before it steps down at its next look. Knows neither Ray nor what words mean.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cluster.files import write_whole
from cluster.store import Store
from serve.adapt import record
from serve.adapt.journal import files
from serve.adapt.mailbox import KEPT_S, Mailbox, commands, journal

WORDS_S = 2.0  # between two looks for words
RECORD_ROUNDS = 5  # looks between two copies of the record; an answer does not wait for them
SILENCE_S = 60.0  # after which an actor that has stepped down takes over again
LOOK_S = 10.0
ACTOR = ".actor"  # ends the names of actors, in the folder of words
NEXT_STATE = b'\n{"kind":"state"'


@dataclass(frozen=True)
class Sent:
    """How far the record has been copied: by which actor, after which one; where in which file a segment begins."""

    actor: str
    file: int
    offset: int
    segment: int
    before: str = ""


class Post:
    """Of the one actor that holds the lock of `folder`; call it from one thread."""

    def __init__(self, store: Store, name: str, folder: Path, pause: Callable[[float], None] = time.sleep) -> None:
        self._store, self._box, self._journal = store, Mailbox(folder), journal(folder)
        self._words, self._segments = commands(name), record.folder(name)
        self._saved, self._pause = folder / "sent.json", pause
        self._brought: set[str] = set()  # words
        self._size = 0  # of the segment as it was sent last
        self._rounds = 0
        self._sent = Sent("", 0, 0, 1)

    def take_over(self) -> None:
        """Become the actor at work; the record goes on from the newest there is. Raises StoreError, OSError."""
        found = [name for name in self._store.names(self._words) if name.endswith(ACTOR)]
        before = found[-1] if found else ""
        mine = f"{int(before[:8]) + 1 if before else 1:08d}-{uuid.uuid4().hex[:8]}{ACTOR}"
        here = self._read_saved()
        is_ours = here is not None and before in (here.actor, here.before)
        if here is not None and is_ours:
            self._sent = replace(here, actor=mine, before=before)
            self._save()
        self._store.put(f"{self._words}/{mine}", b"at work")
        for name in found:
            self._store.remove(f"{self._words}/{name}")
        if not is_ours:  # it was on another machine, and may still be
            self._pause(2 * WORDS_S if before else 0.0)
            self._sent = self._restored(mine)
            self._save()

    def wait_for_silence(self) -> None:
        """Until nobody has added to the record for a while."""
        seen, since = None, time.monotonic()
        while time.monotonic() - since < SILENCE_S:
            newest = list(self._store.sizes(self._segments).items())[-1:]
            if newest != seen:
                seen, since = newest, time.monotonic()
            self._pause(LOOK_S)

    def round(self, most_bytes: int) -> bool:
        """One look; False where another actor has taken over. Raises StoreError, OSError."""
        names = self._store.names(self._words)
        if any(name > self._sent.actor for name in names if name.endswith(ACTOR)):
            self._send_record(most_bytes)
            return False
        self._bring(names)
        answers = {name: data for name, data in self._box.answers().items() if name in self._brought}
        if answers or not self._size or self._rounds % RECORD_ROUNDS == 0:
            self._send_record(most_bytes)
        for name, data in answers.items():
            self._store.put(f"{self._words}/{name}.answer", data)
            self._store.remove(f"{self._words}/{name}.json")
            self._box.drop(name)
        self._rounds += 1
        return True

    # Words

    def _bring(self, names: list[str]) -> None:
        waiting, answered = _stems(names, ".json"), _stems(names, ".answer")
        ready = self._box.answers()
        for name in sorted(waiting):
            if name in answered:  # who answered it died before it could take the word away
                self._store.remove(f"{self._words}/{name}.json")
            elif name in ready:
                self._brought.add(name)
            elif name not in self._brought and (data := self._store.get(f"{self._words}/{name}.json")):
                self._box.put(name, data)
                self._brought.add(name)
        self._brought &= waiting
        for name in answered:
            if _sent_at(name) < time.time() - KEPT_S:
                self._store.remove(f"{self._words}/{name}.answer")

    # The record

    def _send_record(self, most_bytes: int) -> None:
        while numbers := [number for path in files(self._journal) if (number := int(path.stem)) >= self._sent.file]:
            if numbers[0] > self._sent.file:
                self._begin(numbers[0], 0)
            data = self._lines()
            end = data.find(NEXT_STATE) + 1 or len(data)
            self._send(data[:end], most_bytes)
            if end < len(data):
                self._begin(self._sent.file, self._sent.offset + end)
            elif len(numbers) > 1:
                self._begin(numbers[1], 0)
            else:
                return

    def _lines(self) -> bytes:
        """Whole lines of the present file from where the segment begins."""
        with (self._journal / f"{self._sent.file:08d}.jsonl").open("rb") as stream:
            stream.seek(self._sent.offset)
            data = stream.read()
        return data[: data.rfind(b"\n") + 1]

    def _send(self, data: bytes, most_bytes: int) -> None:
        if len(data) == self._size:
            return
        name = record.file_of(self._sent.segment)
        self._store.put(f"{self._segments}/{name}", gzip.compress(data, mtime=0))
        if not self._size:
            self._tidy(most_bytes)
        self._size = len(data)

    def _begin(self, file: int, offset: int) -> None:
        """Another segment, where this one holds something."""
        number = self._sent.segment + (1 if self._size else 0)
        self._sent, self._size = replace(self._sent, file=file, offset=offset, segment=number), 0
        self._save()

    def _tidy(self, most_bytes: int) -> None:
        sizes = self._store.sizes(self._segments)
        total = sum(sizes.values())
        for name, size in list(sizes.items())[:-1]:
            if total <= most_bytes:
                return
            self._store.remove(f"{self._segments}/{name}")
            total -= size

    def _restored(self, mine: str) -> Sent:
        """What is here is of an older life: the record in the store takes its place, where there is one."""
        names = record.segments(self._store, self._segments)
        if not names:
            return Sent(mine, max((int(path.stem) for path in files(self._journal)), default=1), 0, 1)
        self._box.empty()
        lines = record.last_lines(self._store, self._segments)
        for path in files(self._journal):
            path.unlink(missing_ok=True)
        write_whole(self._journal / f"{1:08d}.jsonl", lines)
        return Sent(mine, 2, 0, record.number_of(names[-1]) + 1)

    def _save(self) -> None:
        write_whole(self._saved, json.dumps(asdict(self._sent)).encode())

    def _read_saved(self) -> Sent | None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Sent(**json.loads(self._saved.read_text()))
        return None


def _stems(names: list[str], suffix: str) -> set[str]:
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}


def _sent_at(name: str) -> float:
    """Unix seconds: a word's name begins with them."""
    text = name.partition("-")[0]
    return int(text) / 1e9 if text.isdigit() else time.time()
