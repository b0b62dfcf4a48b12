"""The doctor finds what would fail late, says how to mend it, and needs nothing that may be broken."""

import os
import socket
import subprocess
import sys

import pytest

from trimtab import doctor


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRIMTAB_STORE", raising=False)


def test_every_check_has_a_verdict_and_a_bad_one_has_a_mend():
    found = doctor.checks()

    assert len({check.name for check in found}) == len(found)
    assert all(check.words and (check.mend or check.state == "ok") for check in found)


def test_a_machine_that_runs_these_tests_has_python_packages_and_haproxy():
    states = {check.name: check.state for check in doctor.checks()}

    assert (states["python"], states["packages"], states["haproxy"], states["home"]) == ("ok", "ok", "ok", "ok")


def test_it_imports_neither_ray_nor_torch():
    code = (
        "import sys; from trimtab import doctor; doctor.checks(); "
        "print([name for name in ('ray', 'torch', 'mlflow') if name in sys.modules])"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert said.strip() == "[]"


def test_a_package_that_is_not_installed_is_a_failure():
    found = doctor._packages("no-such-distribution")

    assert (found.state, "no-such-distribution" in found.words) == ("fail", True)


@pytest.mark.parametrize(
    ("gib", "state"),
    [pytest.param(1.5, "fail", id="too little"), pytest.param(3, "warn", id="tight"), pytest.param(8, "ok", id="fine")],
)
def test_memory_is_judged_by_what_is_free(gib, state):
    assert doctor._memory(int(gib * 1024**3)).state == state


def test_a_taken_port_is_a_warning_that_says_what_happens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = doctor._port(taken.getsockname()[1], "endpoint's port")

    assert (found.state, found.mend) == ("warn", "trimtab up takes the next free one")


def test_a_home_that_is_a_file_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "file"))

    failed = {check.name for check in doctor.checks() if check.state == "fail"}

    assert failed >= {"home", "disk"}


def test_a_store_elsewhere_is_not_measured():
    assert doctor._disk("s3://bucket/trimtab").state == "ok"


def test_a_store_that_does_not_exist_yet_is_measured_where_it_will_be(tmp_path):
    found = doctor._disk(f"file://{tmp_path}/a/b")

    assert (found.state in ("ok", "warn"), f"{tmp_path}/a/b" in found.words) == (True, True)


def test_a_gpu_program_that_fails_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert doctor._gpu().state == "warn"
