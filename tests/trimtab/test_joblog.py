from __future__ import annotations

import json

import pytest

from cluster import submit
from cluster.session import Session
from trimtab import joblog
from trimtab.screen import Screen

LOG = """hello
@trimtab {"kind": "progress", "step": "train", "done": 2, "total": 4, "figures": {"loss": 0.5}}
@trimtab {"kind": "error", "error": "TrimtabError", "text": "the disk is full", "exit_code": 1}
"""


def test_a_log_in_json_is_an_object_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "logs", lambda *_: LOG)
    nowhere = Session("x", "", "http://127.0.0.1:9", 8000, 9000, "", "", "")

    joblog.show(nowhere, "a-job", False, Screen(as_json=True))

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"kind": "text", "text": "hello"},
        {"kind": "progress", "step": "train", "done": 2, "total": 4, "figures": {"loss": 0.5}},
        {"kind": "error", "text": "the disk is full", "exit_code": 1},
    ]
