from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.config import Experiment
from cluster.errors import ConfigError
from tasks.protocol import Example, check
from tasks.task import METHODS, Rejected, load_task

ROWS = [Example(f"{i} {i + 1} {i + 2}".encode(), "odd" if i % 2 else "even") for i in range(6)]


# What is read beside the rows is there in a real training alone.
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("accompany", "inspect")])
def test_a_method_that_raises_is_named_in_one_sentence(own_task: Callable[..., Experiment], method: str) -> None:
    task = load_task(own_task("sums:Raising", settings={"raises": method}))

    with pytest.raises(ConfigError, match="an accident") as failed:
        check(task, ROWS)

    assert f"its {method}() raised ZeroDivisionError: an accident at sums.py, line " in str(failed.value)
    assert "\n" not in str(failed.value)


def test_making_the_task_may_fail_too(own_task: Callable[..., Experiment]) -> None:
    with pytest.raises(ConfigError, match=r"its __init__\(\) raised KeyError: 'raises'"):
        load_task(own_task("sums:Raising"))


def test_what_a_task_means_to_say_passes(own_task: Callable[..., Experiment]) -> None:
    with pytest.raises(Rejected, match="wrong_length"):
        load_task(own_task()).clean(b"1 2", (3,))
