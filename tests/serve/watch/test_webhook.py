"""One message to a real receiver: what it gets, and what each of its answers means."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from serve.watch.address import Target
from serve.watch.webhook import NotNow, Refused, Webhook, secret_from_environment

from .conftest import Receiver  # type: ignore[import-not-found]

SECRET = b"a secret of some length"


def to(receiver: Receiver, path: str = "/hooks/private-token", timeout_s: float = 5.0) -> Webhook:
    return Webhook(Target("http", "127.0.0.1", receiver.port, path, True), SECRET, timeout_s, now=lambda: 1.7e9)


def test_a_message_is_signed_over_id_time_and_body(receiver: Receiver) -> None:
    to(receiver).send("abc-raised", b'{"x": 1}')

    ((headers, body),) = receiver.got
    expected = hmac.new(SECRET, b'abc-raised.1700000000.{"x": 1}', hashlib.sha256).digest()
    assert body == b'{"x": 1}'
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
    assert (headers["webhook-timestamp"], headers["webhook-id"]) == ("1700000000", "abc-raised")
    assert headers["idempotency-key"] == "abc-raised"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"


def test_a_message_goes_over_tls_to_whom_the_certificate_names(
    tls_receiver: Receiver, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = Webhook(Target("https", "localhost", tls_receiver.port, "/hook", True), SECRET)
    stranger = Webhook(Target("https", "127.0.0.1", tls_receiver.port, "/hook", True), SECRET)

    with pytest.raises(NotNow, match="certificate"):
        webhook.send("untrusted", b"{}")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    webhook.send("trusted", b"{}")
    with pytest.raises(NotNow, match="certificate"):
        stranger.send("another name", b"{}")

    assert tls_receiver.keys == ["trusted"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        pytest.param(500, NotNow, id="it fails"),
        pytest.param(503, NotNow, id="it is away"),
        pytest.param(429, NotNow, id="too many"),
        pytest.param(408, NotNow, id="it was slow"),
        pytest.param(302, Refused, id="redirect"),
        pytest.param(307, Refused, id="redirect with the body"),
        pytest.param(400, Refused, id="it does not want it"),
        pytest.param(410, Refused, id="gone"),
    ],
)
def test_what_is_not_taken_is_tried_again_or_never(receiver: Receiver, status: int, kind: type[Exception]) -> None:
    receiver.statuses = [status]
    receiver.headers = {"location": f"http://127.0.0.1:{receiver.port}/elsewhere", "retry-after": "7"}

    with pytest.raises(kind) as error:
        to(receiver).send("k", b"{}")

    assert len(receiver.got) == 1  # no redirect was followed
    assert "private-token" not in str(error.value)
    if isinstance(error.value, NotNow):
        assert error.value.after_s == 7.0


def test_a_receiver_that_is_slow_or_down_is_tried_again(receiver: Receiver) -> None:
    receiver.delay_s = 2.0
    with pytest.raises(NotNow, match="does not answer") as slow:
        to(receiver, timeout_s=0.2).send("k", b"{}")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        receiver.port = closed.getsockname()[1]
        with pytest.raises(NotNow, match="does not answer") as down:
            to(receiver).send("k", b"{}")

    assert "private-token" not in str(slow.value) + str(down.value)


def test_a_name_that_cannot_be_resolved_is_tried_again_and_a_private_one_never() -> None:
    with pytest.raises(NotNow, match="cannot be resolved"):
        Webhook(Target("https", "no-such-host.invalid", 443, "/", False), SECRET).send("k", b"{}")
    with pytest.raises(Refused, match="private network"):
        Webhook(Target("https", "localhost", 443, "/", False), SECRET).send("k", b"{}")


def test_the_secret_is_in_no_representation() -> None:
    assert "secret" not in repr(Webhook(Target("https", "a", 443, "/", False), SECRET))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        pytest.param("sixteen bytes and", b"sixteen bytes and", id="as it stands"),
        pytest.param("whsec_" + base64.b64encode(SECRET).decode(), SECRET, id="base64"),
    ],
)
def test_the_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, secret: bytes) -> None:
    monkeypatch.setenv("TRIMTAB_WEBHOOK_SECRET", text)

    assert secret_from_environment() == secret


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "is missing"), ("hunter2", "has 7 bytes"), ("whsec_hunter2???", "not base64"), ("whsec_", "is missing")],
)
def test_a_secret_that_is_none_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.setenv("TRIMTAB_WEBHOOK_SECRET", text)

    with pytest.raises(ConfigError, match=problem) as error:
        secret_from_environment()

    assert "hunter2" not in str(error.value)
