"""A real cluster is started, found, used and stopped; whatever is left of a dead one is mended."""

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from cluster import dashboard, head, session, state
from cluster.errors import ClusterError, DeadlineError, NotFoundError, UnauthorisedError

_OTHERS = (
    "TRIMTAB_ADDRESS",
    "TRIMTAB_CLUSTER",
    "TRIMTAB_STORE",
    "RAY_ADDRESS",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        # Longer than a Unix socket's path may be, as a home can be.
        path = tmp_path_factory.mktemp("home") / ("long" * 20)
        patch.setenv("TRIMTAB_HOME", str(path))
        for variable in _OTHERS:
            patch.delenv(variable, raising=False)
        yield path


@pytest.fixture(scope="module")
def running(home):
    made = session.up(num_cpus=2)
    yield made
    assert session.down()
    assert _left_of(made) == []


def _left_of(made):
    """What still shows that a cluster was there; by its command line, environment or folder."""
    found = [path for path in (Path(made.temp_dir), head.spilled(made.name)) if path.exists()]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if made.temp_dir in " ".join([*process.cmdline(), *process.environ().values()]):
                found.append(process)
    return found


def _mode(path):
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_status_shows_a_running_cluster(running):
    found = session.status()

    assert (found["name"], found["running"], found["applications"]) == ("default", True, {})
    assert [(node["state"], node["resources"]["CPU"]) for node in found["nodes"]] == [("ALIVE", 2.0)]
    json.dumps(found)


def test_a_second_up_returns_the_running_cluster_and_says_what_it_ignores(running):
    words = []

    again = session.up(http_port=running.http_port + 77, on_word=words.append)

    assert again == running == session.require()
    assert [str(running.http_port + 77) in word for word in words] == [True]


def test_tokens_and_sockets_are_closed_to_other_users(running):
    folder = state.folder("default")

    assert {_mode(folder / name) for name in ("state.json", "ray-token", "api-token", "head.log")} == {0o600}
    assert {_mode(path) for path in (state.home(), folder, running.temp_dir)} == {0o700}
    assert len(running.api_token) >= 32
    assert running.token not in (folder / "state.json").read_text()


def test_what_memory_has_no_room_for_lies_in_the_home_and_not_in_tmp(running, home):
    command = psutil.Process(running.pid).cmdline()

    folder = home / "clusters" / "default" / "spilled"
    assert f"--object-spilling-directory={folder}" in command
    assert _mode(folder) == 0o700


def test_jobs_inherit_where_they_are(running):
    environment = psutil.Process(running.pid).environ()

    expected = {
        "TRIMTAB_CLUSTER": "default",
        "TRIMTAB_HTTP_PORT": str(running.http_port),
        "TRIMTAB_STORE": running.store,
        "TRIMTAB_TOKEN_FILE": running.api_token_path,
        "RAY_AUTH_MODE": "token",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_worker_niceness": "0",
    }
    assert {name: environment.get(name) for name in expected} == expected


@pytest.mark.parametrize("token", [pytest.param("", id="none"), pytest.param("a" * 64, id="wrong")])
def test_a_wrong_token_is_refused_in_words(running, token):
    with pytest.raises(UnauthorisedError, match="RAY_AUTH_TOKEN"):
        dashboard.call(running.dashboard_url, token, "GET", "/api/version")


def test_a_path_that_does_not_exist_is_not_found(running):
    with pytest.raises(NotFoundError):
        session.rest(running, "GET", "/api/jobs/no-such-job")


def test_another_process_connects_as_a_driver_without_a_word(running):
    code = (
        "from cluster import session; session.connect(session.require()); session.connect(); import ray; "
        "print(ray.get(ray.remote(lambda: ray.get_runtime_context().namespace).remote()))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert (done.stdout.strip(), done.stderr) == ("trimtab", "")


def test_an_address_is_found_with_its_token(running, monkeypatch):
    monkeypatch.setenv("TRIMTAB_ADDRESS", running.dashboard_url + "/")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", running.token_path)

    found = session.require("no-such-name")

    assert (found.dashboard_url, found.pid) == (running.dashboard_url, None)
    assert session.status()["running"]
    with pytest.raises(ClusterError, match="inline"):
        session.connect(found)


def test_an_address_without_its_token_is_unauthorised(running):
    with pytest.raises(UnauthorisedError):
        session.find(address=running.dashboard_url)


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("http://127.0.0.1:1", id="nobody there"),
        pytest.param("127.0.0.1:8265", id="no scheme"),
        pytest.param("http://127.0.0.1:port", id="no port"),
        pytest.param("http://no-such-host.invalid:8265", id="no host"),
    ],
)
def test_an_address_that_is_not_reachable_is_named(address):
    with pytest.raises(ClusterError) as caught:
        session.find(address=address)

    assert (caught.value.field, address in str(caught.value), caught.value.exit_code) == ("--address", True, 2)


@contextlib.contextmanager
def _something_else(status=200):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield server.server_port
        server.shutdown()


def test_an_address_where_something_else_answers_is_said_so(monkeypatch):
    with _something_else() as port:
        monkeypatch.setenv("TRIMTAB_ADDRESS", f"http://127.0.0.1:{port}")
        with pytest.raises(ClusterError, match=r"TRIMTAB_ADDRESS.*something else"):
            session.find()


def test_a_port_that_is_taken_is_refused_with_the_mend():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=f"--port = {port}: .* taken.*another port"):
            session.up("other", http_port=port)

    assert session.find("other") is None


def test_a_port_promised_to_another_cluster_is_taken_though_nobody_listens_yet(running):
    with pytest.raises(ClusterError, match="taken"):
        session.up("other", http_port=running.http_port)


@pytest.mark.parametrize("name", ["", "../x", "Über", "a" * 33])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(ClusterError, match="cluster name"):
        session.up(name)


def test_a_home_is_a_persons_own_also_where_no_shell_has_read_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TRIMTAB_HOME", "~/x")

    assert state.home() == tmp_path / "x"

    monkeypatch.setenv("TRIMTAB_HOME", "~nobody-here/x")
    with pytest.raises(ClusterError, match="TRIMTAB_HOME = '~nobody-here/x': cannot be made"):
        state.home()


def test_a_home_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "file"))

    with pytest.raises(ClusterError, match=r"TRIMTAB_HOME.*cannot be made"):
        session.find()


def _dead_pid():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def _stale(name, **changes):
    """A state file of a cluster that is not there, with its temporary folder."""
    temp_dir = head.make_temp_dir()
    made = session.Session(name, "127.0.0.2:1", "http://127.0.0.1:1", 8000, 9000, "", "", "", temp_dir=temp_dir)
    made = replace(made, **changes)
    state.save(made)
    return made


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(lambda: {"pid": _dead_pid()}, id="its process ended"),
        pytest.param(lambda: {"pid": os.getpid()}, id="its pid is another's, as after a reboot"),
        pytest.param(lambda: {"pid": None}, id="it has none"),
        pytest.param(lambda: {"pid": _dead_pid(), "ready": False}, id="its start was killed"),
    ],
)
def test_a_stale_state_is_noticed_and_cleared(changes):
    made, words = _stale("stale", **changes()), []

    assert session.find("stale", on_word=words.append) is None

    assert ["cluster stale is gone" in word for word in words] == [True]
    assert (state.load("stale"), _left_of(made)) == (None, [])
    with pytest.raises(ClusterError, match="trimtab up"):
        session.require("stale")


@pytest.mark.parametrize(
    ("status", "lives"),
    [
        pytest.param(200, False, id="another program"),
        pytest.param(404, False, id="another program without that path"),
        pytest.param(503, True, id="a busy dashboard"),
        pytest.param(403, True, id="a lost token"),
    ],
)
def test_a_head_is_ended_when_another_program_answers_at_its_port_but_not_when_it_is_busy(status, lives):
    with _something_else(status) as port:
        made = _stale("usurped", dashboard_url=f"http://127.0.0.1:{port}")
        command = [sys.executable, "-c", "import time; time.sleep(99)", made.temp_dir]
        with subprocess.Popen(command) as process:
            state.save(replace(made, pid=process.pid))
            found = session.find("usurped")
            assert session.down("usurped") == lives

    assert (found is not None, _left_of(made), state.load("usurped")) == (lives, [], None)


def test_a_state_file_that_is_not_one_is_no_cluster():
    (state.folder("garbled") / "state.json").write_text("{")

    assert session.find("garbled") is None
    assert session.status("garbled") == {"name": "garbled", "running": False}
    assert not session.down("garbled")


def test_a_head_that_ends_at_once_is_tried_twice_and_leaves_nothing(monkeypatch):
    monkeypatch.setenv("RAY_START_HOOK", "no_such_module.hook")
    words = []

    with pytest.raises(ClusterError, match=r"No module named 'no_such_module'.*overloaded"):
        session.up("failing", on_word=words.append)

    assert (len(words), state.load("failing")) == (1, None)


def test_a_head_that_takes_too_long_is_stopped(monkeypatch):
    made = []
    monkeypatch.setattr(state, "save", lambda one, save=state.save: (made.append(one), save(one)))

    with pytest.raises(DeadlineError, match="within 1 s"):
        session.up("slow", timeout_s=1.0)

    assert (_left_of(made[0]), state.load("slow")) == ([], None)


def test_a_second_cluster_started_twice_at_once_lives_and_dies_beside_the_first(running, request):
    words = []
    request.addfinalizer(lambda: session.down("second"))
    with ThreadPoolExecutor(2) as both:
        ups = [both.submit(session.up, "second", num_cpus=1, on_word=words.append) for _ in range(2)]
        first, second = [one.result() for one in ups]
    assert first == second
    assert any("waiting" in word for word in words)
    ports = [(one.http_port, one.grpc_port, one.dashboard_url, one.address) for one in (running, first)]
    assert not set(ports[0]) & set(ports[1])

    killed = psutil.Process(first.pid)
    killed.kill()  # the rudest end: its processes are left to themselves
    killed.wait()
    assert session.find("second", on_word=words.append) is None

    assert _left_of(first) == []
    assert session.rest(running, "GET", "/api/serve/applications/")["applications"] == {}
