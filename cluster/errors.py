"""The exception tree: every way Trimtab says no, and the exit code or HTTP status it ends in.

Pure. The words shown to a person are made here and nowhere else, so every refusal names the same
three things: which field, which value, and how to mend it.

    TrimtabError               1  something failed that the user could not have typed better
    |- GateError               3  a measured figure misses what the experiment promises
    |- NotFoundError           4  no such model, version, dataset or job
    |- UnauthorisedError       5  the cluster or the endpoint refused the token
    |- DeadlineError         124  it took longer than it may
    |- StoppedError          143  somebody asked it to stop, and it did
    `- UserError               2  a mistake in what was typed or in the data it points to
       |- ConfigError             the experiment file
       |- DataError               the rows, files or folders it names
       |- StoreError              the store cannot be used as it is
       `- ClusterError            no cluster, or no room for one
    RequestError                  an HTTP request that is refused, with its status
"""

from __future__ import annotations


class TrimtabError(Exception):
    """Base of everything raised on purpose; its text is fit to be shown as it is."""

    exit_code = 1


class GateError(TrimtabError):
    exit_code = 3


class NotFoundError(TrimtabError):
    exit_code = 4


class UnauthorisedError(TrimtabError):
    exit_code = 5


class DeadlineError(TrimtabError):
    exit_code = 124


class StoppedError(TrimtabError):
    exit_code = 143


class UserError(TrimtabError):
    """A user's mistake: one sentence with the field, the value received and the mend.

    `field` is a dotted path into the experiment file (`data.source.path`), a flag (`--set`) or an
    environment variable; `value` is shown by `repr` and cut at 120 characters.
    """

    exit_code = 2

    def __init__(self, field: str, value: object, problem: str, mend: str) -> None:
        self.field, self.value, self.problem, self.mend = field, value, problem, mend
        super().__init__(f"{field} = {_short(value)}: {problem}; {mend}")

    def __reduce__(self) -> tuple[type, tuple[str, object, str, str]]:
        # Ray pickles what a task raises; Exception's own way would call __init__ with one argument.
        return type(self), (self.field, _short(self.value), self.problem, self.mend)


class ConfigError(UserError):
    pass


class DataError(UserError):
    pass


class StoreError(UserError):
    pass


class ClusterError(UserError):
    pass


def first_line(error: BaseException) -> str:
    """What a foreign error says, fit for one of our sentences: its first line, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class RequestError(Exception):
    """A request to an endpoint that is refused; `status` is its HTTP status, the text its body."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self.status, self.message, self.headers = status, message, headers or {}
        super().__init__(message)


class _Shown(str):
    """A value already cut for showing: pickling must not quote it a second time."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _short(value: object, limit: int = 120) -> _Shown:
    text = repr(value)
    return _Shown(text if len(text) <= limit else text[: limit - 3] + "...")
