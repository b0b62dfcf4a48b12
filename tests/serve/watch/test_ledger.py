"""State and alerts through every death: none is lost, none is given twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError, TrimtabError
from serve.watch import ledger
from serve.watch.alert import Alert, raised
from serve.watch.ledger import Ledger, entries
from serve.watch.outbox import Outbox


def alert(i: int) -> Alert:
    return raised("surge", "banks", 600.0 * i, 600.0 * i, f"alert {i}", {"counts": {"events": i}})


class Killed(BaseException):
    """What ends a process in the middle of a step."""


def quiet(_: str) -> None:
    pass


def test_state_and_alerts_are_there_for_the_next_one(tmp_path: Path) -> None:
    with Ledger(tmp_path, Outbox(tmp_path / "outbox"), quiet) as book:
        assert book.resume() is None
        book.commit({"at": 1}, [alert(1), alert(2)], 1200.0)
        book.commit({"at": 2}, [], 1300.0)

    with Ledger(tmp_path, None, quiet) as again:
        state = again.resume()

    assert state == {"at": 2, "unsaid": []}
    assert [Alert.from_json({k: v for k, v in one.items() if k != "kind"}) for one in entries(tmp_path)] == [
        alert(1),
        alert(2),
    ]
    assert [one["key"] for one in Outbox(tmp_path / "outbox").undelivered()] == [alert(1).key, alert(2).key]


@pytest.mark.parametrize("calls", range(6), ids=lambda calls: f"after {calls} writes")
def test_killed_between_any_two_writes_each_alert_is_given_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Writes of the second commit: the state, two lines of the journal, two messages, the state again."""
    num = 0

    def counted(real: Any) -> Any:
        def write(*arguments: Any) -> Any:
            nonlocal num
            if num == calls:
                raise Killed
            num += 1
            return real(*arguments)

        return write

    with Ledger(tmp_path, Outbox(tmp_path / "outbox"), quiet) as book:
        book.commit({"at": 1}, [], 0.0)
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "write_whole", counted(ledger.write_whole))
            patch.setattr(book._journal, "append", counted(book._journal.append))
            patch.setattr(book._outbox, "post", counted(book._outbox.post))  # type: ignore[union-attr]
            with pytest.raises(Killed):
                book.commit({"at": 2}, [alert(1), alert(2)], 1200.0)

    with Ledger(tmp_path, Outbox(tmp_path / "outbox"), quiet) as again:
        state = again.resume()
        assert state is not None
        if state["at"] == 1:  # nothing was given: the batch is worked on once more
            assert entries(tmp_path) == []
            again.commit({"at": 2}, [alert(1), alert(2)], 1200.0)

    given = [alert(1).key, alert(2).key]
    assert [ledger.key_of(one) for one in entries(tmp_path)] == given
    assert [one["key"] for one in Outbox(tmp_path / "outbox").undelivered()] == given


def test_a_full_disk_delays_alerts_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with Ledger(tmp_path, None, quiet) as book:
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "write_whole", full)
            with pytest.raises(OSError, match="No space"):
                book.commit({"at": 1}, [alert(1)], 600.0)
        assert entries(tmp_path) == []
        book.commit({"at": 2}, [alert(2)], 1200.0)

    assert [one["words"] for one in entries(tmp_path)] == ["alert 1", "alert 2"]


def test_the_journal_is_bounded_and_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST_BYTES", 64 * 1024)

    with Ledger(tmp_path, None, quiet) as book:
        for i in range(1000):
            book.commit({"at": i}, [alert(i)], 600.0 * i)

    kept = entries(tmp_path)
    assert sum(path.stat().st_size for path in (tmp_path / "journal").iterdir()) <= 64 * 1024
    assert 10 < len(kept) < 1000
    assert kept[-1]["words"] == "alert 999"


def test_two_monitors_of_one_stream_are_refused(tmp_path: Path) -> None:
    with (
        Ledger(tmp_path, None, quiet),
        pytest.raises(ClusterError, match="another monitor of it is running"),
        Ledger(tmp_path, None, quiet),
    ):
        pass


@pytest.mark.parametrize("text", ["{", "[]", '{"unsaid": 3}', '{"unsaid": [{"id": 1}]}', "\xff"])
def test_a_state_that_cannot_be_read_says_how_to_go_on(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text, encoding="latin-1")

    with Ledger(tmp_path, None, quiet) as book, pytest.raises(TrimtabError, match="trimtab monitor --fresh"):
        book.resume()


def test_the_state_is_json(tmp_path: Path) -> None:
    with Ledger(tmp_path, None, quiet) as book:
        book.commit({"at": 1}, [alert(1)], 0.0)

    assert json.loads((tmp_path / "state.json").read_text())["at"] == 1
