"""Jobs on a real cluster: ordered, followed to the last byte, stopped, re-joined."""

import asyncio
import contextlib
import shlex
import socket
import ssl
import threading
import time
from dataclasses import replace
from urllib.parse import urlsplit

import psutil
import pytest

from cluster import progress, session, submit
from cluster.errors import ClusterError, GateError, NotFoundError, UnauthorisedError


def _python(code):
    return f"python -c {shlex.quote(code)}"


def _followed(cluster, job):
    """The outcome and the job's own lines, without what Ray says before they start."""
    lines = []
    outcome = submit.follow(cluster, job, lines.append)
    return outcome, lines[lines.index("begin") + 1 :]


def _begun(cluster, code, submission_id):
    """A job that has said "begin" and goes on; Ctrl-C ends the following alone."""

    def detach(line):
        if line == "begin":
            raise KeyboardInterrupt

    job = submit.submit(cluster, _python(f"print('begin', flush=True); {code}"), submission_id=submission_id)
    with pytest.raises(KeyboardInterrupt):
        submit.follow(cluster, job, detach)
    return job


def test_every_line_arrives_once_to_the_last_byte(cluster):
    code = (
        "import sys; w = sys.stdout.buffer.write; w(b'begin\\n');"
        "[w(b'line %d\\n' % i) for i in range(20_000)];"
        "w(b'\\n\\xff is no UTF-8\\r\\nlast without newline \\xc3\\xbc')"
    )
    job = submit.submit(cluster, _python(code), submission_id="lines")

    outcome, lines = _followed(cluster, job)

    assert outcome == submit.JobOutcome("SUCCEEDED", 0, outcome.message)
    assert lines == [f"line {i}" for i in range(20_000)] + ["", "\ufffd is no UTF-8", "last without newline ü"]
    assert submit.logs(cluster, job).endswith("last without newline ü")


def test_a_line_arrives_while_the_job_runs(cluster):
    job = _begun(cluster, "import time; time.sleep(60)", "early")

    assert submit.job(cluster, job).status == "RUNNING"
    assert submit.stop(cluster, job)
    outcome, _ = _followed(cluster, job)
    assert outcome.status == "STOPPED"
    assert not submit.stop(cluster, job)


def test_a_job_that_is_stopped_before_it_has_started_ends_and_leaves_no_process(cluster):
    mark = "stopped-before-it-started"
    job = submit.submit(cluster, _python(f"import time; time.sleep(600); {mark!r}"), submission_id="pending")
    status = submit.job(cluster, job).status

    assert submit.stop(cluster, job)

    assert (status, submit.job(cluster, job).status) == ("PENDING", "STOPPED")
    processes = psutil.Process(cluster.pid).children(recursive=True)
    assert not [one for one in processes if one.is_running() and mark in " ".join(_words(one))]


def _words(process):
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def test_a_job_gets_its_environment_and_is_listed_with_its_metadata(cluster):
    names = ["COLOUR", "TRIMTAB_CLUSTER", "TRIMTAB_HTTP_PORT"]
    code = f"import os; print('begin'); print(*(os.environ[name] for name in {names}))"
    before = time.time()

    job = submit.submit(
        cluster, _python(code), submission_id="Odd_id-1.2", env={"COLOUR": "red"}, metadata={"step": "train"}
    )

    _, lines = _followed(cluster, job)
    assert lines == [f"red {cluster.name} {cluster.http_port}"]
    (listed,) = (one for one in submit.jobs(cluster) if one.submission_id == job)
    assert (listed.status, listed.exit_code, listed.metadata) == ("SUCCEEDED", 0, {"step": "train"})
    assert before - 1 <= listed.started_at <= listed.ended_at <= time.time() + 1


def test_our_packages_are_there_and_an_error_comes_back_as_it_was_raised(cluster):
    code = (
        "import sys; from cluster import progress; from cluster.errors import GateError; print('begin');"
        "progress.Progress('train').update(1, 2); progress.error(GateError('too low')); sys.exit(3)"
    )

    outcome, lines = _followed(cluster, submit.submit(cluster, _python(code), submission_id="gate"))

    assert (outcome.status, outcome.exit_code) == ("FAILED", 3)
    said, error = (progress.parse(line) for line in lines)
    assert said == progress.Event("progress", "train", 1, 2)
    assert isinstance(error.exception(), GateError)


def test_an_id_is_rejoined_while_its_job_runs_and_counted_on_when_it_has_ended(cluster):
    first = _begun(cluster, "import time; time.sleep(60)", "again")

    assert submit.submit(cluster, "true", submission_id="again") == first == "again"

    submit.stop(cluster, first)
    submit.follow(cluster, first, lambda _: None)
    second = submit.submit(cluster, "true", submission_id="again")
    assert (second, submit.follow(cluster, second, lambda _: None).status) == ("again-2", "SUCCEEDED")


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda s: submit.stop(s, "nope"), id="stop"),
        pytest.param(lambda s: submit.logs(s, "nope"), id="logs"),
        pytest.param(lambda s: submit.follow(s, "nope", print), id="follow"),
    ],
)
def test_an_unknown_job_is_not_found(cluster, ask):
    with pytest.raises(NotFoundError, match="no job nope"):
        ask(cluster)


def test_an_id_that_cannot_name_a_file_is_refused(cluster):
    with pytest.raises(ValueError, match="a/b"):
        submit.submit(cluster, "true", submission_id="a/b")


def test_a_cluster_that_is_gone_is_said_so(cluster):
    gone = replace(cluster, dashboard_url="http://127.0.0.1:1")

    with pytest.raises(ClusterError, match="trimtab up"):
        submit.submit(gone, "true", submission_id="lost")


class _CuttingProxy:
    """Passes HTTP on to the dashboard, but cuts each log stream after some bytes and answers nothing in between."""

    def __init__(self, port, num_bytes):
        self.num_cuts = 0
        self._port, self._num_bytes = port, num_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client):
        with client, socket.create_connection(("127.0.0.1", self._port)) as server, contextlib.suppress(OSError):
            asked = client.recv(65536)
            server.sendall(asked)
            left = self._num_bytes if b"/logs/stream" in asked else None
            while answer := server.recv(min(65536, left or 65536)):
                client.sendall(answer)
                left = None if left is None else left - len(answer)
                if left == 0:
                    self.num_cuts += 1
                    return


def test_a_lost_connection_is_taken_up_where_it_was_cut(cluster):
    proxy = _CuttingProxy(int(cluster.dashboard_url.rpartition(":")[2]), num_bytes=4_000)
    code = "import time; print('begin'); [(print('line', i, flush=True), time.sleep(0.001)) for i in range(1_000)]"
    job = submit.submit(cluster, _python(code), submission_id="cut")

    outcome, lines = _followed(replace(cluster, dashboard_url=proxy.url), job)

    proxy.close()
    assert outcome.status == "SUCCEEDED"
    assert lines == [f"line {i}" for i in range(1_000)]
    assert proxy.num_cuts > 0


def test_a_job_on_a_cluster_elsewhere_through_tls_with_its_token(cluster, certificate, monkeypatch):
    with _behind_tls(cluster.dashboard_url, certificate) as address:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)  # that of a driver, if this process is one
        elsewhere = session.find(address=address)

        code = _python(
            "import cluster, trimtab; print('begin'); print(cluster.__path__[0]); print(trimtab.__path__[0])"
        )
        monkeypatch.setattr("ray.is_initialized", lambda: False)  # as one who is not on the cluster
        job = submit.submit(elsewhere, code, submission_id="elsewhere")
        outcome, lines = _followed(elsewhere, job)

        assert (elsewhere.pid, elsewhere.token_path) == (None, "")
        assert outcome.status == "SUCCEEDED"
        assert all("/runtime_resources/" in line for line in lines)  # our code came with the job
        assert len(lines) == 2

        monkeypatch.delenv("RAY_AUTH_TOKEN")
        with pytest.raises(UnauthorisedError, match="needs a token"):
            session.find(address=address)
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(ClusterError, match="certificate"):
            session.find(address=address)


@contextlib.contextmanager
def _behind_tls(url, certificate):
    """What an ingress does: TLS in front of a dashboard, with a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    target = urlsplit(url)

    async def pump(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    writers = []

    async def serve(reader, writer):
        writers.append(writer)
        back_reader, back_writer = await asyncio.open_connection(target.hostname, target.port)
        writers.append(back_writer)
        await asyncio.gather(pump(reader, back_writer), pump(back_reader, writer))

    async def end():
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:  # one left open would fail whichever test is under way when it is collected
            writer.transport.abort()
        await asyncio.sleep(0.2)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
