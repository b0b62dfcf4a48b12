"""An actor whose store is no folder: words come from afar, are obeyed once, and its record outlives its machine."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from pathlib import Path
from typing import Any

import pytest

from cluster import experiment as experiments
from cluster.errors import DeadlineError
from cluster.store import Store
from serve.adapt import record
from serve.adapt.actuator import Actual
from serve.adapt.journal import read
from serve.adapt.loop import Loop
from serve.adapt.mailbox import Mailbox, StoreMailbox, commands, journal, reach
from serve.adapt.post import Post
from serve.adapt.proposals import Command
from serve.adapt.replay import replay

NOW, MOST = 1_000_000.0, 2**20
MADE = experiments.parse({"name": "shades", "data": {"source": {"kind": "digits"}}, "serve": {"replicas": {"max": 2}}})


class NoMeter:
    def saw(self, *_: Any) -> None: ...
    def ticked(self, _: float) -> None: ...


class Hands:
    """One replica; outlives the actors."""

    def __init__(self) -> None:
        self.epoch, self.target, self.told = 0, 1, list[dict[str, Any]]()
        self.actual: Actual | None = Actual(1, frozenset({"a"}), MADE)

    def broadcast(self, method: str, *arguments: Any, timeout_s: float) -> list[dict[str, Any]]:
        if method == "apply":
            self.told.append(arguments[0])
            self.epoch = max(self.epoch, arguments[0]["epoch"])
            return [{"replica": "a", "epoch": self.epoch, "refused": None, "pending": False}]
        rung = {"batches": 0, "rows": 0, "in_time_rows": 0, "seconds": 0.0, "fixed_s": 0.001, "per_row_s": 0.001,
                "spread": 0.1, "accuracy": 0.9}  # fmt: skip
        return [{"replica": "a", "pid": 1, "started": NOW - 100, "at": 100.0, "epoch": self.epoch, "version": 1,
                 "rungs": {"onnx-fp32": rung}}]  # fmt: skip

    def scale(self, num_replicas: int) -> Any:
        raise AssertionError


class Dies(Exception):
    """Of the machine."""


@dataclasses.dataclass(frozen=True)
class Mortal(Store):
    """A store whose user dies instead of the request with this number to change something; the counter is a list."""

    left: list[int] = dataclasses.field(default_factory=list, compare=False)

    def _live(self) -> None:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise Dies

    def put(self, path: str, data: bytes) -> None:
        self._live()
        super().put(path, data)

    def remove(self, path: str) -> None:
        self._live()
        super().remove(path)


class Machine:
    """A folder, and the actor that lives there."""

    def __init__(self, store: Store, folder: Path, hands: Hands) -> None:
        self.store, self.folder, self.hands, self.now = store, folder, hands, NOW
        self.pauses: list[float] = []

    def start(self, store: Store | None = None) -> Machine:
        self.post = Post(store or self.store, "shades", self.folder, pause=self.pauses.append)
        self.post.take_over()
        self.loop = Loop(self.folder, self.hands, NoMeter())  # type: ignore[arg-type]
        return self

    def live(self, rounds: int = 1, ticks: int = 2, most_bytes: int = MOST) -> bool:
        """Whether it is at work to the end."""
        for _ in range(rounds):
            at_work = self.post.round(most_bytes)
            for _ in range(ticks):
                self.now += 0.2
                self.loop.tick(self.now)
        return at_work


@pytest.fixture
def store() -> Store:
    return Store.open(f"fsspec+memory://{uuid.uuid4().hex}/at")  # objects in memory, reached as any object store is


@pytest.fixture
def here(store: Store, tmp_path: Path) -> Machine:
    return Machine(store, tmp_path / "here", Hands())


@pytest.fixture
def there(here: Machine, tmp_path: Path) -> Machine:
    """Another machine beside the same replicas; its clock is late."""
    return Machine(here.store, tmp_path / "there", here.hands)


def words(store: Store) -> list[str]:
    return [name for name in store.names(commands("shades")) if not name.endswith(".actor")]


def obeyed(store: Store) -> list[str]:
    entries = record.whole(store, record.folder("shades")).entries
    return [entry["id"] for entry in entries if entry["kind"] == "command"]


def test_a_word_from_afar_waits_is_obeyed_recorded_and_answered_once(store: Store, here: Machine) -> None:
    box = reach(store, "shades")
    assert isinstance(box, StoreMailbox)
    name, other = box.send(Command("set", "ada", {"max_batch": 4})), box.send(Command("pause", "ada"))
    with pytest.raises(DeadlineError, match="the command waits for it"):
        box.wait(name, 0)

    here.start().live(rounds=3)

    assert box.wait(name, 1)["envelope"] == {"max_batch": 4, "epoch": 1}
    assert box.wait(other, 1)["paused"] == "ada"
    assert (words(store), obeyed(store), len(here.hands.told)) == ([], [name, other], 1)


def test_what_is_no_command_is_refused_and_does_not_stay(store: Store, here: Machine) -> None:
    store.put(f"{commands('shades')}/word.json", b"{")

    here.start().live(rounds=3)

    assert StoreMailbox(store, "shades").wait("word", 1)["refused"] == ["no command"]
    assert words(store) == []


def test_another_machine_goes_on_from_the_record(store: Store, here: Machine, there: Machine) -> None:
    box = StoreMailbox(store, "shades")
    box.send(Command("pin", "ada", {"max_batch": 4}))
    here.start().live(rounds=3)

    there.start()
    there.live()
    box.send(Command("pause", "ada"))
    there.live(rounds=3)

    assert there.pauses == [4.0]  # for the one before to step down
    assert there.loop.envelope == {"max_batch": 4, "epoch": 1}
    assert len(here.hands.told) == 1
    assert len(obeyed(store)) == 2
    assert not here.live()  # it steps down and takes no word
    assert replay(record.whole(store, record.folder("shades")).entries).differences == []


def test_a_machine_that_was_left_does_not_go_on_from_its_old_record(here: Machine, there: Machine) -> None:
    box = StoreMailbox(here.store, "shades")
    here.start().live(rounds=2)
    there.start()
    box.send(Command("set", "ada", {"max_batch": 4}))
    there.live(rounds=3)

    (here.folder / "commands").mkdir(exist_ok=True)
    (here.folder / "commands" / "old.json").write_text('{"verb": "pause", "who": "bob"}')
    here.start().live()

    assert here.loop.envelope == {"max_batch": 4, "epoch": 1}
    assert len(obeyed(here.store)) == 1


def test_an_actor_that_dies_and_comes_back_leaves_one_record(here: Machine) -> None:
    for _ in range(3):
        here.start().live(rounds=7, ticks=70)
    here.post.round(MOST)
    here.start().live(rounds=1, ticks=0)

    found, written = record.whole(here.store, record.folder("shades")), read(journal(here.folder))
    assert found.entries == written.entries
    assert here.pauses == [0.0]
    assert len(record.segments(here.store, record.folder("shades"))) > 3
    assert record.last(here.store, "shades").entries == found.entries[_last_state(found.entries) :]


def _last_state(entries: list[dict[str, Any]]) -> int:
    return max(i for i, entry in enumerate(entries) if entry["kind"] == "state")


@pytest.mark.parametrize("back", ["here", "there"])
@pytest.mark.parametrize("number", range(6))
def test_whenever_an_actor_dies_a_word_is_obeyed_once(here: Machine, there: Machine, number: int, back: str) -> None:
    box, mortal = StoreMailbox(here.store, "shades"), Mortal(here.store.uri, left=[number])
    name = box.send(Command("pin", "ada", {"max_batch": 4}))
    with contextlib.suppress(Dies):
        here.start(mortal).live(rounds=3, ticks=310)  # with a new state between any two looks
    assert (mortal.left[0] < 0) == (number < 5)

    after = (here if back == "here" else there).start()
    after.live(rounds=3)

    assert box.wait(name, 0)["done"]
    assert obeyed(here.store) == [name]
    assert after.loop.envelope is not None
    assert after.loop.envelope["max_batch"] == 4
    assert words(here.store) == []


def test_the_record_is_bounded_and_its_newest_part_stays(here: Machine) -> None:
    here.start().live(rounds=8, ticks=310, most_bytes=6_000)
    sizes = here.store.sizes(record.folder("shades"))

    assert sum(sizes.values()) < 9_000
    assert "00000001.jsonl.gz" not in sizes
    assert record.last(here.store, "shades").entries


def test_a_segment_that_is_damaged_is_named(here: Machine) -> None:
    here.start().live(rounds=3)
    here.store.put(f"{record.folder('shades')}/00000009.jsonl.gz", b"no segment")

    assert "no segment" in record.whole(here.store, record.folder("shades")).problems[0]
    assert record.last(here.store, "shades").entries


def test_an_answer_that_nobody_fetched_goes(store: Store, here: Machine) -> None:
    store.put(f"{commands('shades')}/{1:020d}-old.answer", b"{}")

    here.start().live()

    assert words(store) == []


def test_a_folder_needs_none_of_this(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))

    assert isinstance(reach(store, "shades"), Mailbox)
    assert not record.is_there(store, "shades")
