from __future__ import annotations

import json
import os
import sys

import pytest

from trimtab.screen import Screen, chatter_to_stderr


def test_figures_go_to_stdout_and_words_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        screen.word("train", "done in 3 s")
        screen.record({"rows in": 1797, "accuracy": 0.98333, "rejected": {"total": 0}, "endpoint": None})

    out, err = capsys.readouterr()
    assert err == "train       done in 3 s\n"
    assert out.splitlines() == ["rows in   1,797", "accuracy  0.9833", "rejected  total 0", "endpoint  -"]


def test_off_a_terminal_progress_is_a_line_now_and_then_and_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        for done in range(1, 101):
            screen.progress("train", done, 100, {"loss": 0.5})

    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "train       100/100  loss 0.5"
    assert len(lines) < 5
    assert "\x1b" not in "".join(lines)


def test_a_table_of_trials_is_drawn_on_a_terminal_and_left_out_of_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"best": 0.9, "table": [{"trial": "a1", "state": "running"}, {"trial": "b2", "width": 2.0}]}
    with Screen() as screen:
        screen.progress("tune", 3, 3, figures)
    plain = capsys.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Screen() as screen:
        screen.progress("tune", 1, 3, figures)

    drawn = capsys.readouterr().err
    assert plain == "tune        3/3  best 0.9\n"
    assert "b2" in drawn
    assert "width" in drawn


def test_json_is_whole_and_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(as_json=True) as screen:
        screen.word("x", "y")
        screen.rows([{"model": "digits", "version": 1}])

    assert json.loads(capsys.readouterr().out) == [{"model": "digits", "version": 1}]


def test_a_long_line_to_paste_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().text("curl " + "x" * 500)

    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_interrupt_says_how_to_go_on_with_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with Screen() as screen:
            screen.following("digits-train-1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    words = capsys.readouterr().err
    assert "trimtab logs -f digits-train-1" in words
    assert "trimtab stop digits-train-1" in words


def test_what_others_print_meanwhile_is_no_data(capfd: pytest.CaptureFixture[str]) -> None:
    with chatter_to_stderr():
        sys.stdout.write("from Python\n")
        os.write(1, b"from below\n")
    sys.stdout.write("data\n")

    out, err = capfd.readouterr()
    assert out == "data\n"
    assert "from Python" in err
    assert "from below" in err


def test_json_has_no_word_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)

    screen.record({"accuracy": float("nan"), "all": [float("inf"), 0.5]})
    screen.line({"loss": float("-inf")})

    assert "".join(capsys.readouterr().out.split()) == '{"accuracy":null,"all":[null,0.5]}{"loss":null}'
