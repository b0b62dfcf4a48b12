"""A person's word as a file: it waits, it is taken in order, it is answered once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import DeadlineError, UserError
from cluster.store import Store
from serve.adapt import mailbox, record
from serve.adapt.mailbox import Mailbox, place
from serve.adapt.proposals import Command


def test_commands_wait_in_order_until_they_are_answered(tmp_path: Path) -> None:
    box = Mailbox(tmp_path)
    first, second = box.send(Command("pause", "ada")), box.send(Command("set", "ada", {"max_batch": 4}))

    assert box.waiting() == [(first, Command("pause", "ada")), (second, Command("set", "ada", {"max_batch": 4}))]
    box.answer(first, {"done": True})

    assert box.wait(first, 1) == {"done": True}
    assert [name for name, _ in box.waiting()] == [second]


def test_without_an_actor_the_command_stays_and_the_person_is_told(tmp_path: Path) -> None:
    box = Mailbox(tmp_path)

    with pytest.raises(DeadlineError, match="the command waits for it"):
        box.wait(box.send(Command("pause", "ada")), 0)

    assert len(box.waiting()) == 1


def test_what_is_no_command_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "1.json").write_text("{")

    assert Mailbox(tmp_path).waiting() == [("1", None)]


def test_a_folder_that_cannot_be_made_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match="cannot be written"):
        Mailbox(tmp_path / "file").send(Command("pause", "ada"))


def test_the_record_lies_in_the_store_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))

    assert place(Store.open(str(tmp_path / "s")), "digits") == tmp_path / "s" / "adapt" / "digits"
    assert place(Store("s3://bucket/x"), "digits") == tmp_path / "home" / "adapt" / "digits"


def test_words_and_record_lie_in_the_same_folder_of_either_kind_of_store(store: Store) -> None:
    assert store.local is not None
    here = mailbox.place(store, "digits")

    assert store.local / record.folder("digits") == mailbox.journal(here)
    assert store.local / mailbox.commands("digits") == here / mailbox.COMMANDS
