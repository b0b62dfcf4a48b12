"""A peer names what it needs, and its environment is found again by that."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import servers, venvs


@pytest.mark.parametrize("peer", servers.PEERS.values(), ids=lambda peer: peer.name)
def test_every_peer_pins_what_it_needs(peer: servers.Peer) -> None:
    wanted = venvs.requirements(servers.SCRIPTS / f"{peer.script}.py")

    assert wanted
    assert all("==" in one for one in wanted)


def test_an_environment_is_another_when_anything_in_it_is(tmp_path: Path) -> None:
    assert venvs.folder(tmp_path, ["a==1"]) == venvs.folder(tmp_path, ["a==1"])
    assert venvs.folder(tmp_path, ["a==1"]) != venvs.folder(tmp_path, ["a==2"])


def test_a_script_without_requirements_is_said(tmp_path: Path) -> None:
    script = tmp_path / "bare.py"
    script.write_text("print()\n")

    with pytest.raises(ValueError, match="no `# /// script` block"):
        venvs.requirements(script)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("Traceback\nModuleNotFoundError: no x\nbye\n", "ModuleNotFoundError: no x", id="an error"),
        pytest.param("one\ntwo\n\n", "two", id="no error"),
        pytest.param("", "it says nothing", id="silence"),
    ],
)
def test_the_reason_is_the_last_line_that_says_why(text: str, reason: str) -> None:
    assert venvs.reason(text) == reason
