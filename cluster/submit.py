"""Steps as Ray Jobs: submit, follow, stop. How anyone, a replica's actor too, orders work.

Goes through the dashboard's REST alone, so it needs no Ray import and works on a cluster elsewhere.
Logs are followed by the state API's byte stream: unlike the Jobs API's own it has a line within 0.1 s
instead of 2 s, and a byte that is no UTF-8 does not end it. Knows nothing of what a step does.
"""

from __future__ import annotations

import codecs
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from cluster import dashboard, shipping
from cluster.errors import ClusterError, DeadlineError, NotFoundError, TrimtabError, UnauthorisedError
from cluster.session import Session, rest

Status = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"]
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_POLL_S = 0.3
_PATIENCE_S = 20.0  # how long a cluster may be unreachable before following it is given up
_END_S = 60.0  # one that has not started yet starts before it is stopped
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Job:
    """One submitted job; times are Unix seconds."""

    submission_id: str
    status: Status
    entrypoint: str = ""
    message: str = ""
    exit_code: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    started_at: float | None = None
    ended_at: float | None = None
    node_id: str | None = None  # where its driver ran, and its log lies


@dataclass(frozen=True)
class JobOutcome:
    status: Status
    exit_code: int | None  # the entrypoint's; None when it never started or was killed
    message: str


def submit(
    session: Session,
    entrypoint: str,
    *,
    submission_id: str,
    env: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    setup: str = "",
) -> str:
    """Order `entrypoint` (a shell command) and return its id without waiting for it to start.

    `submission_id` has letters, digits, `.`, `_` and `-`: Ray makes a file's name of it, and a job with a
    slash in its id would wait for ever.

    `setup` names a function without arguments (`module.function`) that each worker of the job calls when it starts.

    A job of this id that has not ended is re-joined: nothing is started. One that has ended keeps its id
    and its log, and the new job gets the next free of `<id>-2`, `<id>-3`, ...

    Raises:
        ValueError: another character in `submission_id`.
        ClusterError, UnauthorisedError: the cluster is not reachable or refuses the token.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", submission_id):
        raise ValueError(f"{submission_id!r} cannot be a job's id")
    runtime_env = {"env_vars": env or {}, **({"worker_process_setup_hook": setup} if setup else {})}
    order = {"entrypoint": entrypoint, "metadata": metadata or {}, "runtime_env": runtime_env}
    number, used = 1, submission_id
    while True:
        try:
            _post(session, order | {"submission_id": used})
            return used
        except (ClusterError, NotFoundError):
            raise
        except TrimtabError:
            earlier = _known(session, used)  # Ray's only word for a used id is an error's text
            if earlier is None:
                raise
        if earlier.status not in ENDED:
            return used
        number += 1
        used = f"{submission_id}-{number}"


def _post(session: Session, order: dict[str, Any]) -> None:
    """To a cluster that was set up elsewhere our code goes with the job; who is inside of it has that already."""
    is_inside = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if session.pid is None and not is_inside:
        shipping.submit(session, order)
    else:
        rest(session, "POST", "/api/jobs/", order)


def jobs(session: Session) -> list[Job]:
    """All submitted jobs this cluster remembers."""
    return [_job(one) for one in rest(session, "GET", "/api/jobs/") if one.get("submission_id")]


def job(session: Session, submission_id: str) -> Job:
    """Raises NotFoundError when the cluster knows no such job."""
    try:
        return _job(rest(session, "GET", _path(submission_id)))
    except NotFoundError as e:
        message = f"no job {submission_id} on this cluster; see: trimtab logs"
        raise NotFoundError(message) from e


def stop(session: Session, submission_id: str) -> bool:
    """Stop a job, also one that has not started yet, and wait until it has ended. False when it already had.

    It gets a SIGTERM, in answer to which a training keeps a checkpoint, and SIGKILL after ten seconds.

    Raises:
        NotFoundError: the cluster knows no such job.
        DeadlineError: it had not ended after a minute.
    """
    if job(session, submission_id).status in ENDED:
        return False
    stopped = bool(rest(session, "POST", _path(submission_id) + "/stop")["stopped"])
    until = time.monotonic() + _END_S
    while job(session, submission_id).status not in ENDED:
        if time.monotonic() > until:
            raise DeadlineError(f"job {submission_id} was told to stop and has not ended; see: trimtab logs")
        time.sleep(_POLL_S)
    return stopped


def logs(session: Session, submission_id: str) -> str:
    """All a job has written so far; empty when it has not started. Raises NotFoundError."""
    return b"".join(_log(session, job(session, submission_id), "file")).decode("utf-8", "replace")


def follow(session: Session, submission_id: str, on_line: Callable[[str], None]) -> JobOutcome:
    """Hand each line of a job's log to `on_line`, once and in order, until the job has ended.

    Lines come without their newline, from the job's start on, also when it was submitted long ago. A lost
    connection is taken up again. KeyboardInterrupt passes through; the job goes on.

    Raises:
        NotFoundError: the cluster knows no such job.
        ClusterError: the cluster stayed unreachable for 20 s.
    """
    reader = _Reader(session, job(session, submission_id))
    lines = _Lines(on_line)
    try:
        ended = _until_ended(session, submission_id, reader, lines)
    finally:
        reader.close()
    _read_rest(session, ended, lines)
    lines.close()
    return JobOutcome(ended.status, ended.exit_code, ended.message)


def _until_ended(session: Session, submission_id: str, reader: _Reader, lines: _Lines) -> Job:
    answered_at = asked_at = time.monotonic()
    while True:
        for chunk in reader.arrived(_POLL_S / 3):
            lines.feed(chunk)
        if time.monotonic() - asked_at < _POLL_S:
            continue
        asked_at = time.monotonic()
        try:
            seen = job(session, submission_id)
        except (NotFoundError, UnauthorisedError):
            raise
        except TrimtabError:  # unreachable, or too busy to answer
            if time.monotonic() - answered_at > _PATIENCE_S:
                raise
            continue
        answered_at = time.monotonic()
        if seen.status in ENDED:
            return seen
        reader.job = seen


def _read_rest(session: Session, ended: Job, lines: _Lines) -> None:
    """What the stream, which lags behind the job's end, had not brought yet."""
    for last in (False, False, True):
        try:
            for chunk in _skipped(_log(session, ended, "file"), lines.num_bytes):
                lines.feed(chunk)
            return
        except TrimtabError as e:
            if last:  # the outcome is known all the same
                lines.feed(f"(the rest of the log cannot be read: {e})".encode())
            else:
                time.sleep(1.0)


class _Lines:
    """Bytes in, whole lines out."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.num_bytes = 0
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, chunk: bytes, final: bool = False) -> None:
        self.num_bytes += len(chunk)
        *whole, self._rest = (self._rest + self._decoder.decode(chunk, final)).split("\n")
        for line in whole:
            self._on_line(line.removesuffix("\r"))

    def close(self) -> None:
        """The last line may lack its newline."""
        self.feed(b"", final=True)
        if self._rest:
            self._on_line(self._rest)


class _Reader:
    """A thread that keeps the log's stream open, and open again, as long as the job runs.

    A thread because a blocked read must not keep a Ctrl-C or the job's end from being noticed.
    """

    def __init__(self, session: Session, first_seen: Job) -> None:
        self.job = first_seen  # set anew by the follower: the node is known only once the job has started
        self._session = session
        self._chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-log", daemon=True)
        self._thread.start()

    def arrived(self, timeout_s: float) -> Iterator[bytes]:
        """What came within `timeout_s`, at least one chunk if there is one."""
        try:
            yield self._chunks.get(timeout=timeout_s)
            while True:
                yield self._chunks.get_nowait()
        except queue.Empty:
            return

    def close(self) -> None:
        self._closed.set()  # the thread ends at its next byte or time limit

    def _run(self) -> None:
        num_bytes = 0
        while not self._closed.wait(0.1):
            try:
                for chunk in _skipped(_log(self._session, self.job, "stream"), num_bytes):
                    self._chunks.put(chunk)
                    num_bytes += len(chunk)
                    if self._closed.is_set():
                        return
            except TrimtabError:  # not started yet, or the connection is lost: the follower decides for how long
                self._closed.wait(_POLL_S)


def _log(session: Session, of: Job, kind: Literal["file", "stream"]) -> Iterator[bytes]:
    """A job's log from its first byte; `stream` goes on until the connection ends."""
    if of.node_id is None:  # it has not started, or never did
        return
    interval = "&interval=0.1" if kind == "stream" else ""
    query = f"node_id={of.node_id}&submission_id={quote(of.submission_id, safe='')}&lines=-1{interval}"
    path = f"/api/v0/logs/{kind}?{query}"
    with dashboard.request(session.dashboard_url, session.token, "GET", path, timeout_s=30.0) as answer:
        while chunk := answer.read1(_CHUNK_BYTES):
            yield chunk


def _skipped(chunks: Iterator[bytes], num_bytes: int) -> Iterator[bytes]:
    """The stream without its first `num_bytes`, which were delivered before."""
    for chunk in chunks:
        if num_bytes < len(chunk):
            yield chunk[num_bytes:]
        num_bytes = max(0, num_bytes - len(chunk))


def _known(session: Session, submission_id: str) -> Job | None:
    try:
        return job(session, submission_id)
    except NotFoundError:
        return None


def _path(submission_id: str) -> str:
    return f"/api/jobs/{quote(submission_id, safe='')}"


def _job(details: dict[str, Any]) -> Job:
    return Job(
        submission_id=details["submission_id"],
        status=details["status"],
        entrypoint=details.get("entrypoint") or "",
        message=details.get("message") or "",
        exit_code=details.get("driver_exit_code"),
        metadata=details.get("metadata") or {},
        started_at=_seconds(details.get("start_time")),
        ended_at=_seconds(details.get("end_time")),
        node_id=details.get("driver_node_id"),
    )


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
