"""One alert to one webhook: signed, to an address that was checked, within a time, and no redirect is followed.

Headers and signature are those of the Standard Webhooks specification (version 1): HMAC-SHA256 over id, time and body.
Tries once; when to try again is `serve.watch.outbox`'s business. The secret and the address's path are never shown.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.errors import ConfigError, first_line
from serve.watch.address import Target, Unreachable, resolved

SECRET_VARIABLE = "TRIMTAB_WEBHOOK_SECRET"  # noqa: S105 - its name
LEAST_SECRET = 16  # bytes
TIMEOUT_S = 5.0  # to connect, and for each part of the answer
MOST_WAIT_S = 300.0  # that a receiver may ask for


class Refused(Exception):
    """The receiver does not want it, or it must not go there: trying again changes nothing."""


class NotNow(Exception):
    """It may work later; `after_s` is what the receiver asks for."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        self.after_s = after_s
        super().__init__(why)


@dataclass(frozen=True)
class Webhook:
    target: Target
    secret: bytes = field(repr=False)
    timeout_s: float = TIMEOUT_S
    now: Callable[[], float] = time.time

    def send(self, key: str, body: bytes) -> None:
        """Raises Refused or NotNow. `key` is the same for each try: the receiver knows by it what it has already."""
        import httpx

        target, stamp = self.target, str(int(self.now()))
        try:
            address = resolved(target)
        except ConfigError as error:
            raise Refused(str(error)) from None
        except Unreachable as error:
            raise NotNow(str(error)) from None
        host = f"[{address}]" if ":" in address else address
        headers = {
            "host": target.authority,
            "content-type": "application/json",
            "user-agent": "trimtab",
            "idempotency-key": key,
            "webhook-id": key,
            "webhook-timestamp": stamp,
            "webhook-signature": signature(self.secret, key, stamp, body),
        }
        more = {"sni_hostname": target.host} if target.scheme == "https" else {}
        url = f"{target.scheme}://{host}:{target.port}{target.path}"
        try:
            # No proxy from the environment: it would go where this may not. The answer's body is not read.
            # Authorities are the machine's own, and those that SSL_CERT_FILE names.
            trusted = ssl.create_default_context()
            with (
                httpx.Client(timeout=self.timeout_s, trust_env=False, follow_redirects=False, verify=trusted) as client,
                client.stream("POST", url, content=body, headers=headers, extensions=more) as answer,
            ):
                status, after = answer.status_code, answer.headers.get("retry-after", "")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            words = first_line(error).replace(target.path, "/...") if len(target.path) > 1 else first_line(error)
            raise NotNow(f"{target} does not answer ({words})") from None
        _judge(status, after, target)


def signature(secret: bytes, key: str, stamp: str, body: bytes) -> str:
    signed = key.encode() + b"." + stamp.encode() + b"." + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def secret_from_environment() -> bytes:
    """As it stands, or base64 after `whsec_`. Raises ConfigError when it is missing, damaged or short."""
    text, prefix = os.environ.get(SECRET_VARIABLE, ""), "whsec_"
    mend = f"export {SECRET_VARIABLE}=whsec_$(openssl rand -base64 32)"
    try:
        secret = (
            base64.b64decode(text.removeprefix(prefix), validate=True) if text.startswith(prefix) else text.encode()
        )
    except ValueError:
        raise ConfigError(SECRET_VARIABLE, "(not shown)", "is not base64 after whsec_", mend) from None
    if len(secret) < LEAST_SECRET:
        problem = f"has {len(secret)} bytes, a signature needs {LEAST_SECRET}" if secret else "is missing"
        raise ConfigError(SECRET_VARIABLE, "(not shown)", problem, mend)
    return secret


def _judge(status: int, after: str, target: Target) -> None:
    if 200 <= status < 300:
        return
    if status in (408, 425, 429) or status >= 500:
        wait_s = min(float(after), MOST_WAIT_S) if after.isdecimal() and len(after) < 10 else 0.0
        raise NotNow(f"{target} answered {status}", wait_s)
    if 300 <= status < 400:
        raise Refused(f"{target} answered {status}: redirects are not followed")
    raise Refused(f"{target} answered {status}")
