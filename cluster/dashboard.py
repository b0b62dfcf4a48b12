"""HTTP to a cluster's dashboard: the REST side of Ray Jobs, Serve and the state API.

One place for the token, the time limits and the translation of failures into words. Knows a URL and a
token, not how a cluster is started or found; imports no HTTP library, so commands that only ask stay
quick, and no proxy from the environment comes between a command and a loopback address.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import ClusterError, NotFoundError, TrimtabError, UnauthorisedError


def call(
    url: str, token: str, method: str, path: str, body: object = None, *, timeout_s: float = 30.0, mend: str = ""
) -> Any:
    """One request; returns the decoded JSON, the text if it is none, or None for an empty answer.

    Raises:
        UnauthorisedError: the token is missing or wrong.
        NotFoundError: what `path` names does not exist.
        ClusterError: nothing answers at `url` within `timeout_s`; `mend` is its advice.
        TrimtabError: any other refusal.
    """
    with request(url, token, method, path, body, timeout_s=timeout_s, mend=mend) as answer:
        text = answer.read().decode("utf-8", "replace")
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextmanager
def request(
    url: str, token: str, method: str, path: str, body: object = None, *, timeout_s: float, mend: str = ""
) -> Iterator[http.client.HTTPResponse]:
    """An answered request whose body is still to be read; raises as `call` does, also while reading."""
    connection = _connection(url, timeout_s)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        payload = None if body is None else json.dumps(body)
        if payload is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, urlsplit(url).path.rstrip("/") + path, payload, headers)
        answer = connection.getresponse()
        _check(answer, url)
        yield answer
    except (OSError, http.client.HTTPException) as e:
        mend = mend or "check the address, and that the cluster runs: trimtab status"
        raise ClusterError("cluster", url, f"does not answer ({e or type(e).__name__})", mend) from e
    finally:
        connection.close()


def _connection(url: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if parts.scheme not in ("http", "https") or not host:
        raise ClusterError("cluster", url, "is not a dashboard's URL", "write it as http://host:8265")
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=timeout_s)


def _check(answer: http.client.HTTPResponse, url: str) -> None:
    if answer.status < 400:
        return
    text = answer.read().decode("utf-8", "replace").strip()
    last_line = text.splitlines()[-1] if text else answer.reason  # of a traceback, the part that says why
    if answer.status in (401, 403):
        word = "needs a token" if answer.status == 401 else "refused the token"
        raise UnauthorisedError(f"the cluster at {url} {word}; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to its own")
    if answer.status == 404:
        raise NotFoundError(last_line)
    raise TrimtabError(f"the cluster at {url} answered {answer.status}: {last_line}")
