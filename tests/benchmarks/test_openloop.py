"""The load generator against a small server of the test's own, on loopback."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks import openloop
from benchmarks.openloop import FAILED, Plan, Target

SHAPE = (2, 2, 1)
IMAGES = np.arange(40, dtype=np.uint8).reshape(10, *SHAPE)
LABELS = np.arange(10) % 4


class Handler(BaseHTTPRequestHandler):
    """Answers with each row's first value / 4 modulo 4 as its class: right; some paths do worse."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        length = int(self.headers.get("inference-header-content-length", 0))
        rows = np.frombuffer(body[length:], np.uint8).reshape(-1, *SHAPE)
        if self.path == "/stalls":
            time.sleep(1.0)
        if self.path == "/refuses":
            self._send(429, b"{}", 0)
            return
        probabilities = np.eye(4, dtype="<f4")[(rows[:, 0, 0, 0] // 4) % 4].tobytes()
        head = json.dumps({"parameters": {"variant": "onnx-int8"}}).encode() if length else b""
        self._send(200, head + probabilities, len(head))

    def _send(self, status: int, body: bytes, json_length: int) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if json_length:
            self.send_header("inference-header-content-length", str(json_length))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(("wire", "variants"), [("oip", ("onnx-int8",)), ("raw", ())])
def test_every_request_is_sent_and_judged(port: int, wire: str, variants: tuple[str, ...]):
    arrivals = np.linspace(0, 0.3, 60)

    found = openloop.replay(Plan(Target(port, "/", wire), rows=3), arrivals, IMAGES, LABELS)

    assert found.status.tolist() == [200] * 60
    assert found.correct.tolist() == [3] * 60
    assert found.variants == variants
    assert np.array_equal(found.intended, arrivals)
    assert np.all(found.sent >= found.intended)
    assert np.all(found.done > found.sent)
    assert found.rows == 3


def test_a_slow_server_does_not_hold_back_what_is_due_and_is_given_up_on(port: int):
    plan = Plan(Target(port, "/stalls"), give_up_s=0.3)

    found = openloop.replay(plan, np.linspace(0, 0.2, 40), IMAGES, LABELS)

    assert found.status.tolist() == [FAILED] * 40
    assert np.all(np.isinf(found.latency_s))
    assert len(found.sent) == 40


def test_refusals_are_told_from_answers(port: int):
    found = openloop.replay(Plan(Target(port, "/refuses")), np.zeros(5), IMAGES, LABELS)

    assert found.status.tolist() == [429] * 5
    assert found.correct.sum() == 0


def test_a_closed_loop_sends_when_an_answer_has_come(port: int):
    found = openloop.replay(Plan(Target(port, "/"), clients=2, seconds=0.3), np.empty(0), IMAGES, LABELS)

    assert len(found.intended) > 2
    assert np.all(found.status == 200)


def test_a_server_that_is_not_there_fails_every_request(port: int):
    found = openloop.replay(Plan(Target(1, "/")), np.zeros(3), IMAGES, LABELS)

    assert found.status.tolist() == [FAILED] * 3


def test_load_goes_to_this_machine_alone():
    with pytest.raises(ValueError, match="this machine alone"):
        openloop.replay(Plan(Target(80, "/", host="example.com")), np.zeros(1), IMAGES, LABELS)


def test_the_same_seed_gives_the_same_arrivals():
    one, other = (openloop.poisson([(2.0, 100.0), (1.0, 0.0), (1.0, 500.0)], seed=1) for _ in range(2))

    assert np.array_equal(one, other)
    assert np.all(np.diff(one) >= 0)
    assert not np.any((one >= 2.0) & (one < 3.0))
    assert np.sum(one >= 3.0) > np.sum(one < 2.0)
