"""Answers are taken from the wire however they are cut, and requests are the bytes that a server expects."""

from __future__ import annotations

import base64

import pytest

from benchmarks.client import GrpcLoop, HttpLoop, _number_after, quantile

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def http() -> HttpLoop:
    return HttpLoop({"request": base64.b64encode(b"POST").decode()})


def grpc() -> GrpcLoop:
    job = {"request": base64.b64encode(b"message").decode(), "path": "/p", "host": "h", "port": 1}
    return GrpcLoop(job | {"headers": {"authorization": "Bearer " + "t" * 200}})


def frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize("cut", range(1, len(ANSWER)))
def test_an_http_answer_is_whole_only_at_its_end(cut: int) -> None:
    side = http()

    assert side.feed(ANSWER[:cut]) is None
    assert side.feed(ANSWER[cut:]) == (200, ANSWER)


def test_a_server_that_will_close_is_believed() -> None:
    side = http()

    whole = side.feed(b"HTTP/1.1 504 Late\r\nConnection: close\r\ncontent-length: 0\r\n\r\n")

    assert whole is not None
    assert (whole[0], side.is_ended) == (504, True)


def test_a_grpc_answer_ends_with_its_trailers() -> None:
    side, message = grpc(), b"\0\0\0\0\3abc"
    side.opening()

    assert side.feed(frame(4, 0, b"") + frame(1, 4, b"head")) is None
    assert side.feed(frame(0, 0, message)[:5]) is None
    assert side.feed(frame(0, 0, message)[5:] + frame(1, 5, b"trailers")) == (200, b"abc")
    assert frame(4, 1, b"", 0) in side.next()  # the server's settings are acknowledged


@pytest.mark.parametrize(
    "data", [pytest.param(b"", id="trailers alone"), pytest.param(b"\0\0\0\0\0", id="empty message")]
)
def test_a_grpc_answer_without_a_message_is_a_refusal(data: bytes) -> None:
    side = grpc()
    side.opening()

    whole = side.feed((frame(0, 0, data) if data else b"") + frame(1, 5, b"trailers"))

    assert whole is not None
    assert whole[0] == 500


def test_each_grpc_call_has_a_stream_of_its_own() -> None:
    side = grpc()

    first, second = side.next(), side.next()

    assert (int.from_bytes(first[5:9], "big"), int.from_bytes(second[5:9], "big")) == (1, 3)
    assert first[9:].replace(b"\0\0\0\1", b"") == second[9:].replace(b"\0\0\0\3", b"")  # but for that, the same bytes


def test_a_quantile_of_nothing_is_nothing() -> None:
    assert (quantile([], 0.5), quantile([1.0, 2.0, 3.0], 0.5), quantile([1.0, 2.0], 1.0)) == (0.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        pytest.param(b'{"envelope_epoch": 12, "x": 1}', 12, id="spaced"),
        pytest.param(b'{"envelope_epoch":7}', 7, id="dense"),
        pytest.param(b"{}", -1, id="absent"),
    ],
)
def test_the_number_of_the_settings_is_found(answer: bytes, number: int) -> None:
    assert _number_after(answer, b'"envelope_epoch":') == number
