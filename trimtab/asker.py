"""An endpoint asked batch after batch, for as long as it takes: refusals waited out, bad instances found and left out.

Knows `/predict` and HTTP; not where the instances come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import tenacity

from cluster.errors import ClusterError, DeadlineError, NotFoundError, TrimtabError, UnauthorisedError
from serve.watch.events import BadLine

REQUEST_S = 60.0
FIRST_S, LONGEST_S = 0.2, 10.0  # between two tries
MOST_ASKED_S = 60.0  # of a wait that the endpoint asks for
MOST_FAILED = 20  # instances in a row

Words = Callable[[str], None]
Answer = dict[str, Any] | BadLine


class _Wait(Exception):
    def __init__(self, why: str, after_s: float = 0.0) -> None:
        self.after_s = after_s
        super().__init__(why)


class _Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        self.status = status
        super().__init__(why)


class Asker:
    """Use as a context manager. `patience_s` is how long an endpoint that has answered once may be away."""

    def __init__(self, url: str, token: str, patience_s: float, on_word: Words) -> None:
        self._url, self._patience_s, self._say = url, patience_s, on_word
        # No proxy from the environment may come between a command and the cluster.
        headers = {"authorization": f"Bearer {token}", "x-request-timeout-seconds": str(REQUEST_S)}
        self._client = httpx.Client(headers=headers, timeout=REQUEST_S + 5.0, trust_env=False)
        self._has_answered = False
        self._num_failed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._client.close()

    def ask(self, instances: Sequence[Any]) -> list[Answer]:
        """An answer for each, or why it has none.

        Raises:
            UnauthorisedError, NotFoundError, ClusterError: the token is refused, or nothing has answered there yet.
            DeadlineError: it was away for longer than `patience_s`.
            TrimtabError: it fails on everything.
        """
        if not instances:
            return []
        try:
            answers: list[Answer] = list(self._patiently(instances))
        except _Refused as error:
            if len(instances) > 1:  # one of them spoils it for the others
                middle = len(instances) // 2
                return self.ask(instances[:middle]) + self.ask(instances[middle:])
            return [self._failed(error)]
        self._has_answered, self._num_failed = True, 0
        return answers

    def _failed(self, error: _Refused) -> BadLine:
        if error.status < 500:
            self._has_answered = True
            return BadLine("refused", f"the endpoint refuses it: {error}")
        self._num_failed += 1
        if self._num_failed >= MOST_FAILED:
            raise TrimtabError(f"{self._url} failed on {MOST_FAILED} instances in a row: {error}")
        return BadLine("failed", f"the endpoint fails on it: {error}")

    def _patiently(self, instances: Sequence[Any]) -> list[dict[str, Any]]:
        backoff = tenacity.wait_exponential_jitter(multiplier=FIRST_S, max=LONGEST_S, jitter=FIRST_S)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Wait),
            stop=tenacity.stop_after_delay(self._patience_s),
            wait=lambda state: max(backoff(state), _asked_s(state)),
            before_sleep=self._waits,
            reraise=True,
        )
        try:
            return retrying(self._once, instances)  # type: ignore[no-any-return]
        except _Wait as error:
            words = f"{self._url} did not answer for {self._patience_s:.0f} s: {error}; what was read is kept"
            raise DeadlineError(words) from None

    def _waits(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 or state.attempt_number % 10 == 0:
            why = state.outcome.exception() if state.outcome else ""
            self._say(f"waiting for the endpoint: {why}")

    def _once(self, instances: Sequence[Any]) -> list[dict[str, Any]]:
        try:
            response = self._client.post(f"{self._url}/predict", json={"instances": list(instances)})
        except httpx.HTTPError as error:
            if self._has_answered:
                raise _Wait(f"no answer ({str(error) or type(error).__name__})") from None
            mend = "deploy it: trimtab deploy, or see trimtab status"
            raise ClusterError("endpoint", self._url, f"does not answer ({error})", mend) from None
        if response.status_code == 200:
            return _predictions(response, len(instances))
        raise self._problem(response.status_code, _words(response), response.headers.get("retry-after", ""))

    def _problem(self, status: int, words: str, after: str) -> Exception:
        if status == 401:
            return UnauthorisedError(f"{self._url}: {words}")
        if status == 404 and not self._has_answered:
            return NotFoundError(f"{self._url}: {words}")
        if status in (404, 408, 429, 502, 503, 504):
            after_s = min(float(after), MOST_ASKED_S) if after.isdecimal() and len(after) < 10 else 0.0
            return _Wait(f"{status}, {words}", after_s)
        return _Refused(status, words)


def _asked_s(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.after_s if isinstance(error, _Wait) else 0.0


def _predictions(response: httpx.Response, num: int) -> list[dict[str, Any]]:
    try:
        found = response.json()["predictions"]
    except (ValueError, KeyError, TypeError):
        raise _Refused(500, "answers without predictions") from None
    if not isinstance(found, list) or len(found) != num or not all(isinstance(one, dict) for one in found):
        raise _Refused(500, f"answers to {num} instances with something else")
    return found


def _words(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return f"answered {response.status_code}"
