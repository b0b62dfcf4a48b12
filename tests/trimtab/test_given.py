from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from trimtab import given

DIGITS = "name: digits\ndata: {source: {kind: digits}}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(DIGITS + "name: other\n", "has the key `name` twice, at line 1 and at line 3", id="a key twice"),
        pytest.param(
            "name: digits\ndata: {source: {kind: digits, kind: idx}}\n", "`kind` twice, at line 2", id="inside"
        ),
        pytest.param(DIGITS + "seed: 2020-13-45\n", "has 2020-13-45 at line 3 .month must be", id="no date"),
        pytest.param(DIGITS + "seed: 0x_\n", "has 0x_ at line 3", id="no number"),
        pytest.param(DIGITS + "task: nosuch\n", "unknown task; use images, sentiment, answers", id="no task"),
        pytest.param(DIGITS + "seed: " + "[" * 600, "nested too deeply", id="deep"),
        pytest.param(DIGITS + "seed: \0", r"character U\+0000", id="a control character"),
        pytest.param(
            DIGITS.replace("kind: digits", "kind: idx, path: ~nobody-here/x"), "somebody unknown", id="no home"
        ),
        pytest.param("name: [", "is not YAML", id="no YAML"),
    ],
)
def test_what_a_file_does_not_say_clearly_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.yaml").write_text(text)

    with pytest.raises(ConfigError, match=words):
        given.experiment(str(tmp_path / "a.yaml"))


def test_a_file_that_is_no_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"name: digits\n# caf\xe9\n")

    with pytest.raises(ConfigError, match=r"a.yaml': is not UTF-8 at line 2 .byte 0xe9.; save it as UTF-8"):
        given.experiment(str(tmp_path / "a.yaml"))


def test_a_setting_that_only_looks_like_a_date_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(DIGITS)

    with pytest.raises(ConfigError, match=r"--set = 'name=2020-13-45'"):
        given.experiment(str(tmp_path / "a.yaml"), ["name=2020-13-45"])


def test_a_key_that_a_merge_brings_may_be_set_again(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(DIGITS + "settings: {a: {b: &b {x: 1, y: 1}}, c: {<<: *b, x: 2}}\n")

    assert given.experiment(str(tmp_path / "a.yaml")).settings["c"] == {"x": 2, "y": 1}
