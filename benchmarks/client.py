"""A closed-loop client: so many connections, each with one request under way, over sockets and nothing above them.

Runs as a process of its own and must not be what is measured: one thread, one `epoll`, requests made beforehand,
answers only looked at as far as they must be. Its own CPU is part of what it says.

`python -m benchmarks.client` reads one JSON line of what to do, says `ready` when it is warm, starts at the next
line and answers with one JSON line when its seconds are over or, where it is to go on until told, at the line after.
"""

from __future__ import annotations

import base64
import json
import select
import socket
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

WARM_S = 0.5
TIMEOUT_S = 60.0
SAMPLED = 16  # of so many answers one is searched for who gave it


class HttpLoop:
    """HTTP/1.1 with keep-alive: one connection's side of it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._request = base64.b64decode(job["request"])
        self._buffer = b""
        self.is_ended = False  # the server has said that it will close

    def opening(self) -> bytes:
        return self._request

    def next(self) -> bytes:
        return self._request

    def feed(self, data: bytes) -> tuple[int, bytes] | None:
        """Status and all bytes of the answer when it is whole; None while it is not. Raises ConnectionError."""
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end >= 0:
            head = buffer[:end].lower()
            if len(buffer) >= end + 4 + _length(head):
                self._buffer = b""
                self.is_ended = b"\r\nconnection: close" in head
                return int(buffer[9:12]), buffer
        self._buffer = buffer
        return None


def _length(head: bytes) -> int:
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ConnectionError("an answer without a length")
    return int(head[at + 17 :].split(b"\r\n", 1)[0])


class GrpcLoop:
    """HTTP/2 as far as unary gRPC calls with small answers need it; one call at a time on a connection.

    The head is made once without HPACK's table, so that it is the same bytes for every call. A call has gone well
    when its answer has a message; a refusal has an empty one, or none.
    """

    _DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8

    def __init__(self, job: dict[str, Any]) -> None:
        message = base64.b64decode(job["request"])
        pairs = {
            ":method": "POST",
            ":scheme": "http",
            ":path": job["path"],
            ":authority": f"{job['host']}:{job['port']}",
            "te": "trailers",
            "content-type": "application/grpc",
            **job["headers"],
        }
        self._head = b"".join(_literal(name, value) for name, value in pairs.items())
        self._message = b"\0" + len(message).to_bytes(4, "big") + message
        self._stream = -1
        self.is_ended = False
        self._buffer = b""
        self._answer = b""
        self._reply = b""  # to what the server asked between two answers

    def opening(self) -> bytes:
        window = _frame(self._WINDOW, 0, 0, (2**30).to_bytes(4, "big"))
        return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(self._SETTINGS, 0, 0, b"") + window + self.next()

    def next(self) -> bytes:
        self._stream += 2
        head = _frame(self._HEADERS, 4, self._stream, self._head)
        reply, self._reply, self._answer = self._reply, b"", b""
        return reply + head + _frame(self._DATA, 1, self._stream, self._message)

    def feed(self, data: bytes) -> tuple[int, bytes] | None:
        buffer = self._buffer + data
        whole = None
        while len(buffer) >= 9 and len(buffer) >= 9 + (size := int.from_bytes(buffer[:3], "big")):
            kind, flags, payload = buffer[3], buffer[4], buffer[9 : 9 + size]
            buffer = buffer[9 + size :]
            if kind == self._DATA:
                self._answer += payload
            elif kind in (self._SETTINGS, self._PING) and not flags & 1:
                self._reply += _frame(kind, 1, 0, payload if kind == self._PING else b"")
            elif kind == self._RESET:
                raise ConnectionError("the server ended the call")
            elif kind == self._GOAWAY:
                self.is_ended = True
            if kind in (self._DATA, self._HEADERS) and flags & 1:
                whole = (200 if len(self._answer) > 5 else 500, self._answer[5:])
        self._buffer = buffer
        return whole


def _literal(name: str, value: str) -> bytes:
    """A header that no table remembers (RFC 7541, 6.2.2)."""
    return b"\0" + _counted(name.encode()) + _counted(value.encode())


def _counted(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, size = len(text) - 127, bytearray([127])
    while rest >= 128:
        size.append(rest % 128 + 128)
        rest //= 128
    return bytes(size) + bytes([rest]) + text


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class Loop:
    """All connections of one job, from the first to the last."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._make: Callable[[dict[str, Any]], HttpLoop | GrpcLoop] = GrpcLoop if job["kind"] == "grpc" else HttpLoop
        self._epoll = select.epoll()
        self._open: dict[int, tuple[socket.socket, HttpLoop | GrpcLoop, float]] = {}
        self._mark = job.get("mark", "").encode()  # what stands before a number that every answer has
        self.latencies_s = array("d")
        self.ended_s = array("d")  # time.perf_counter() of each answer, where there is a mark
        self.marked = array("q")
        self.statuses: Counter[str] = Counter()
        self.variants: Counter[str] = Counter()

    def connect(self) -> None:
        for _ in range(self._job["connections"]):
            self._connect_one()

    def _connect_one(self) -> None:
        started = time.perf_counter()
        one = socket.create_connection((self._job["host"], self._job["port"]), timeout=TIMEOUT_S)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        side = self._make(self._job)
        self._open[one.fileno()] = one, side, started
        one.sendall(side.opening())
        self._epoll.register(one.fileno(), select.EPOLLIN)

    def run(self, seconds: float, told: int | None = None) -> float:
        """Ask and be answered for so long, or until the file `told` can be read; returns how long it was.

        Counts start from nothing.
        """
        for counts in (self.latencies_s, self.ended_s, self.marked):
            del counts[:]
        self.statuses.clear()
        self.variants.clear()
        if told is not None:
            self._epoll.register(told, select.EPOLLIN)
        started = now = time.perf_counter()
        while now < started + seconds:
            for number, _ in self._epoll.poll(1.0):
                if number == told:
                    return now - started
                self._serve(number)
            now = time.perf_counter()
        return now - started

    def _serve(self, number: int) -> None:
        one, side, sent = self._open[number]
        try:
            whole = side.feed(_received(one))
            if whole is None:
                return
            now = time.perf_counter()
            self._count(*whole, sent, now)
            if side.is_ended:
                self._replace(number)
                return
            self._open[number] = one, side, now
            one.sendall(side.next())
        except OSError as error:
            self.statuses[type(error).__name__] += 1
            self._replace(number)

    def _replace(self, number: int) -> None:
        """A new connection for one that has come to its end."""
        one, _, _ = self._open.pop(number)
        self._epoll.unregister(number)
        one.close()
        self._connect_one()

    def _count(self, status: int, answer: bytes, sent: float, now: float) -> None:
        if status != 200:
            self.statuses[str(status)] += 1
            return
        self.latencies_s.append(now - sent)
        if self._mark:
            self.ended_s.append(now)
            self.marked.append(_number_after(answer, self._mark))
        elif len(self.latencies_s) % SAMPLED == 0:
            at = answer.find(b'"variant":')
            if at >= 0:
                self.variants[answer[at + 10 : at + 100].split(b'"', 2)[1].decode()] += 1


def _number_after(answer: bytes, mark: bytes) -> int:
    """-1 where the mark is not. JSON may have a space behind it."""
    at = answer.find(mark)
    if at < 0:
        return -1
    at += len(mark)
    at += answer[at : at + 1] == b" "
    end = at
    while answer[end : end + 1].isdigit():
        end += 1
    return int(answer[at:end])


def _received(one: socket.socket) -> bytes:
    data = one.recv(1 << 18)
    if not data:
        raise ConnectionResetError("the server closed the connection")
    return data


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of values in ascending order; 0 of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> None:
    job = json.loads(sys.stdin.readline())
    loop = Loop(job)
    loop.connect()
    loop.run(WARM_S)
    print("ready", flush=True)
    sys.stdin.readline()
    cpu = time.process_time()
    seconds = loop.run(job["seconds"], sys.stdin.fileno() if job.get("mark") else None)
    cpu = time.process_time() - cpu
    ordered = sorted(loop.latencies_s)
    said = {
        "requests": len(ordered),
        "seconds": seconds,
        "client_cpu_s": cpu,
        "p50_ms": quantile(ordered, 0.5) * 1000,
        "p99_ms": quantile(ordered, 0.99) * 1000,
        "max_ms": quantile(ordered, 1.0) * 1000,
        "failed": dict(loop.statuses),
        "variants": dict(loop.variants),
    }
    if job.get("mark"):
        columns = {"ended_s": loop.ended_s, "latencies_s": loop.latencies_s, "marked": loop.marked}
        said |= {name: base64.b64encode(column.tobytes()).decode() for name, column in columns.items()}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
