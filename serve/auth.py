"""Bearer tokens of the endpoint: read from a file, kept as digests, compared in constant time.

Knows one header's value, not HTTP. There is no way to run without tokens: an endpoint is never open by mistake.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from cluster.errors import ClusterError, RequestError

VARIABLE = "TRIMTAB_TOKEN_FILE"


class Tokens:
    """Accepts any of the given tokens; only their sha256 is kept."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = [_digest(token.encode()) for token in tokens]

    @staticmethod
    def read(path: str | None) -> Tokens:
        """One token per line, as in `TRIMTAB_TOKEN_FILE`.

        Raises:
            ClusterError: no path, or no token in the file.
        """
        mend = "name a file with one token per line; `trimtab up` makes one"
        if not path:
            raise ClusterError(VARIABLE, path, "is not set, and an endpoint without a token is not started", mend)
        try:
            tokens = Path(path).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ClusterError(VARIABLE, path, f"cannot be read ({error})", mend) from error
        if not tokens:
            raise ClusterError(VARIABLE, path, "holds no token", mend)
        return Tokens(tokens)

    def check(self, header: bytes | None) -> None:
        """`header` is the value of `authorization`. Raises RequestError 401 unless it carries a token."""
        scheme, _, token = (header or b"").partition(b" ")
        digest = _digest(token.strip())
        # Every token is compared, so the time taken tells nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() == b"bearer" and any(matches):
            return
        # The value is a secret, right or wrong: it is not repeated.
        problem = "is missing" if header is None else "carries no token this endpoint knows"
        raise RequestError(
            401, f"authorization: {problem}; send `authorization: Bearer TOKEN`", {"www-authenticate": "Bearer"}
        )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
