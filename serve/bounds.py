"""What both protocols read from a request beside its body: its id, its time, and what it hears when it is refused.

Knows names and values of headers (gRPC calls them metadata), not where they come from.
"""

from __future__ import annotations

import logging
import math
import re
import time
import uuid
from collections.abc import Callable

from cluster.errors import RequestError
from serve.core import refusal
from serve.queues import TooLate, late

REQUEST_ID, TIMEOUT, DEADLINE = "x-request-id", "x-request-timeout-seconds", "x-deadline-ms"
TIMEOUT_SHARE = 0.95  # of the client's timeout: what is left is for the way back, before Serve's own 408
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_log = logging.getLogger(__name__)

Headers = Callable[[str], str | None]


def request_id(headers: Headers) -> str:
    """The client's where it is harmless, else a new one."""
    given = headers(REQUEST_ID) or ""
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def time_s(headers: Headers, bound_s: float) -> float:
    """How long a request may take from its arrival: the client may shorten the endpoint's bound, not lift it.

    `x-request-timeout-seconds` is Serve's own, which ends a request with 408 then: 0 and less mean as long as
    the endpoint allows, as they would mean "for ever" to Serve. `x-deadline-ms` is when the answer loses its
    worth: 0 and less mean that it has. The shorter one counts.

    Raises:
        RequestError: 400 when one is no number, 504 when no time is left.
    """
    timeout_s, deadline_ms = _number(headers, TIMEOUT, "0.5"), _number(headers, DEADLINE, "100")
    if timeout_s is not None and timeout_s > 0:
        bound_s = min(bound_s, timeout_s * TIMEOUT_SHARE)
    if deadline_ms is not None:
        bound_s = min(bound_s, deadline_ms / 1000)
    if bound_s <= 0:
        raise late(0.0)
    return bound_s


def _number(headers: Headers, name: str, example: str) -> float | None:
    text = headers(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        unit = "seconds" if name == TIMEOUT else "milliseconds"
        raise refusal(400, name, text, f"is not a number of {unit}", f"send for example {example}")
    return number


def too_large(size: int, limit: int) -> RequestError:
    return refusal(413, "body", f"{size} bytes", f"is over serve.max_body ({limit} bytes)", "send less at once")


def refused(error: Exception, identifier: str, what: str, arrived: float, headers: Headers) -> RequestError:
    """What the client hears of `error`; one of ours is logged with its traceback, and its text stays here."""
    if isinstance(error, TimeoutError):
        error = late(time.monotonic() - arrived)
    if isinstance(error, TooLate) and headers(DEADLINE) is not None:
        return TooLate(error.why, DEADLINE)
    if isinstance(error, RequestError):
        return error
    _log.error("request %s failed: %s", identifier, what, exc_info=error)
    message = f"the endpoint failed on this request; its log has the reason under request id {identifier}"
    return RequestError(500, message)
