"""Events cross the border of a process as lines of text, and nothing else does."""

import json
import math

import numpy as np
import pytest

from cluster import progress
from cluster.errors import DataError, GateError, NotFoundError, TrimtabError
from cluster.progress import Event, Progress


def _events(capsys: pytest.CaptureFixture[str]) -> list[Event]:
    found = [progress.parse(line) for line in capsys.readouterr().out.splitlines()]
    return [event for event in found if event is not None]


def test_an_update_arrives_as_it_was_said(capsys):
    Progress("train").update(3, 10, loss=0.5, note="warm\nup")

    assert _events(capsys) == [Event("progress", "train", 3, 10, {"loss": 0.5, "note": "warm\nup"})]


def test_updates_are_said_five_times_a_second_and_the_last_one_always(capsys):
    now = iter([0.0, 0.1, 0.19, 0.2, 0.25, 0.26])
    said = Progress("preprocess", clock=lambda: next(now))

    for done in (1, 2, 3, 4, 5, 6):
        said.update(done, 6)

    assert [event.done for event in _events(capsys)] == [1, 4, 6]


def test_figures_become_plain_json_whatever_they_were(capsys):
    progress.result(
        accuracy=np.float32(0.5), rows=np.int64(3), loss=math.nan, best=math.inf, per_class=np.array([1, 2]), on=True
    )

    line = capsys.readouterr().out
    assert json.loads(line.removeprefix(progress.MARK), parse_constant=pytest.fail)
    event = progress.parse(line)
    assert event is not None
    expected = {"accuracy": 0.5, "rows": 3, "loss": None, "best": None, "per_class": [1, 2], "on": True}
    assert event.figures == expected


@pytest.mark.parametrize(
    "raised",
    [
        pytest.param(DataError("data.source.path", "x'y", "is empty", "name a folder with files"), id="user"),
        pytest.param(GateError("accuracy 0.91 is below 0.97"), id="gate"),
        pytest.param(NotFoundError("no model digits"), id="not found"),
        pytest.param(TrimtabError("two\nlines"), id="base"),
    ],
)
def test_an_error_is_raised_again_as_it_was(raised, capsys):
    progress.error(raised)

    (event,) = _events(capsys)
    again = event.exception()
    assert type(again) is type(raised)
    assert (str(again), again.exit_code) == (str(raised), raised.exit_code)
    assert getattr(again, "field", None) == getattr(raised, "field", None)


def test_an_error_of_a_class_unknown_here_keeps_its_text_and_exit_code(capsys):
    class OwnTaskError(TrimtabError):
        exit_code = 3

    progress.error(OwnTaskError("too dark"))

    (event,) = _events(capsys)
    again = event.exception()
    assert (type(again), str(again), again.exit_code) == (TrimtabError, "too dark", 3)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="empty"),
        pytest.param("epoch 3 done", id="text"),
        pytest.param("@trimtab ", id="mark alone"),
        pytest.param("@trimtab {not json", id="cut"),
        pytest.param("@trimtab [1]", id="no object"),
        pytest.param('@trimtab {"kind": "party"}', id="unknown kind"),
        pytest.param('@trimtab {"kind": "result", "extra": 1}', id="unknown field"),
        pytest.param('@trimtab {"kind": "progress", "done": "3"}', id="wrong type"),
    ],
)
def test_any_other_line_is_no_event(line):
    assert progress.parse(line) is None


def test_a_mark_behind_an_open_line_is_found():
    line = '50%|#####     | 3/6@trimtab {"kind": "progress", "step": "train", "done": 3}'

    assert progress.parse(line) == Event("progress", "train", 3)


def test_a_listener_gets_the_events_of_its_block_alone(capsys):
    heard: list[Event] = []

    with progress.listening(heard.append):
        progress.result(rows=1)
    progress.result(rows=2)

    assert heard == [Event("result", figures={"rows": 1})]
    assert _events(capsys) == [Event("result", figures={"rows": 2})]
