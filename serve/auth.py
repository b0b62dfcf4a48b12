"""Bearer tokens of the endpoint: read from a file, kept as digests, compared in constant time, each with its rate.

Knows one header's value, not a protocol. There is no way to run without tokens: an endpoint is never open by
mistake.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError, RequestError

VARIABLE = "TRIMTAB_TOKEN_FILE"
ROLES = ("predict", "feedback", "operate", "admin")  # each may do what those before it may
_MEND = "name a file with a line `TOKEN [ROLE [REQUESTS_PER_S]]` for each token; `trimtab up` makes one"


@dataclass
class _Client:
    """One token. Its rate is held by a bucket that holds a second's worth: `left` requests at the time `at`."""

    digest: bytes
    role: str
    per_s: float
    left: float = math.inf
    at: float = 0.0

    @functools.cached_property
    def name(self) -> str:
        return self.digest[:8].hex()

    @functools.cached_property
    def secret(self) -> bytes:
        return hmac.digest(self.digest, b"secret of a client", hashlib.sha256)

    def wait_s(self, now: float) -> float:
        """0 when one more request is within the rate, which takes it; else the time until it would be."""
        if math.isinf(self.per_s):
            return 0.0
        self.left = min(max(1.0, self.per_s), self.left + (now - self.at) * self.per_s)
        self.at = now
        if self.left < 1.0:
            return (1.0 - self.left) / self.per_s
        self.left -= 1.0
        return 0.0


class Tokens:
    """Accepts any of the tokens in `lines`, `TOKEN [ROLE [REQUESTS_PER_S]]` each; only their sha256 is kept.

    A token alone is an admin's, without a bound. Empty lines and those that begin with # are skipped. A rate is
    that of one replica: clients of many replicas get as many times more.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        """Raises ClusterError for a line that says something else."""
        self._clients: list[_Client] = []
        for number, line in enumerate(lines, 1):
            words = line.split()
            if words and not words[0].startswith("#"):
                self._clients.append(_client(words, number))
        digests = {client.digest for client in self._clients}
        if len(digests) < len(self._clients):
            raise ClusterError(VARIABLE, f"{len(self._clients)} tokens", "one of them is there twice", _MEND)

    @staticmethod
    def read(path: str | None) -> Tokens:
        """The tokens of the file that `TRIMTAB_TOKEN_FILE` names.

        Raises:
            ClusterError: no path, no token in the file, or a line that is none.
        """
        if not path:
            raise ClusterError(VARIABLE, path, "is not set, and an endpoint without a token is not started", _MEND)
        try:
            tokens = Tokens(Path(path).read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ClusterError(VARIABLE, path, f"cannot be read ({error})", _MEND) from error
        if not tokens._clients:
            raise ClusterError(VARIABLE, path, "holds no token", _MEND)
        return tokens

    def check(self, header: bytes | None, role: str = "predict", now: float | None = None) -> str:
        """Who asks: a name that differs from token to token. `header` is `authorization`'s value, `now` monotonic.

        Raises:
            RequestError: 401 unless it carries a known token, 403 when that one's role is less than `role`, 429
                when it is over its rate.
        """
        client = self._known(header)
        if ROLES.index(client.role) < ROLES.index(role):
            message = f"authorization: this token's role is {client.role}; send one whose role is at least {role}"
            raise RequestError(403, message)
        wait_s = client.wait_s(time.monotonic() if now is None else now)
        if wait_s:
            after = str(math.ceil(wait_s))
            message = f"more than this token's {client.per_s:g} requests per second; try again in {after} s"
            raise RequestError(429, message, {"retry-after": after})
        return client.name

    def secret(self, name: str) -> bytes:
        """32 bytes of the client that `check` has named, the same wherever the same tokens are known; else none.

        From its token alone, so that it outlives a change of the other tokens.
        """
        found = self._named(name)
        return found.secret if found else b""

    def role(self, name: str) -> str:
        """Of the client that `check` has named; empty where none is."""
        found = self._named(name)
        return found.role if found else ""

    def _named(self, name: str) -> _Client | None:
        return next((client for client in self._clients if client.name == name), None)

    def _known(self, header: bytes | None) -> _Client:
        scheme, _, token = (header or b"").partition(b" ")
        digest = _digest(token.strip())
        # Every token is compared, so the time taken tells nothing.
        matches = [client for client in self._clients if hmac.compare_digest(digest, client.digest)]
        if scheme.lower() == b"bearer" and matches:
            return matches[0]
        # The value is a secret, right or wrong: it is not repeated.
        problem = "is missing" if header is None else "carries no token this endpoint knows"
        raise RequestError(
            401, f"authorization: {problem}; send `authorization: Bearer TOKEN`", {"www-authenticate": "Bearer"}
        )


def _client(words: list[str], number: int) -> _Client:
    token, role, rate, *more = (*words, *("admin", "inf")[len(words) - 1 :])
    try:
        per_s = float(rate)
    except ValueError:
        per_s = math.nan
    if role not in ROLES or not per_s > 0 or more:
        # Any of the words may be a secret.
        problem = f"is not a token, a role ({', '.join(ROLES)}) and a number of requests per second"
        raise ClusterError(VARIABLE, f"line {number}", problem, _MEND)
    return _Client(_digest(token.encode()), role, per_s)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
