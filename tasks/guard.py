"""A task of one's own says in one sentence which of its methods failed, wherever it was called.

Knows Python's errors; not what the methods do.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from cluster.errors import ConfigError, first_line

MEND = "mend that method; `trimtab validate` tries them all"


def guard(task: Any, name: str, methods: Iterable[str], passes: type[Exception] | tuple[type[Exception], ...]) -> None:
    """From now on what `methods` of the object `task` raise is a ConfigError that names the method.

    `name` is the task's in the experiment; errors of the kinds `passes` are meant and stay what they are.
    """
    for method in methods:
        setattr(task, method, _guarded(getattr(task, method), method, name, passes))


def _guarded(method: Callable[..., Any], called: str, name: str, passes: Any) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except passes:
            raise
        except Exception as error:
            raise failure(name, f"its {called}()", error) from error

    return call


def failure(name: str, what: str, error: Exception) -> ConfigError:
    """`what` raised `error`, in one sentence with the place in the task's code."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {frame[0].filename.rpartition('/')[2]}, line {frame[0].lineno}" if frame else ""
    return ConfigError("task", name, f"{what} raised {type(error).__name__}: {first_line(error)}{place}", MEND)
