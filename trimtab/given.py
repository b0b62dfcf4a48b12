"""An experiment file as a person has typed it, held to more than what a job is given as JSON.

A key that stands twice, of which YAML takes the last without a word, a value that only looks like a date or a number,
a task that there is none of: each is one sentence here. What a right experiment is stands in `cluster.config`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from cluster import experiment as experiments
from cluster.config import Experiment
from cluster.errors import ConfigError, first_line

MOST_NAME = 60  # characters of a key or a value in a sentence
MOST_DEPTH = 64  # of settings within settings: what reads them calls itself for each


def experiment(file: str, overrides: Iterable[str] = ()) -> Experiment:
    """As `cluster.experiment.load`. Raises ConfigError also for what that would pass over."""
    overrides = tuple(overrides)
    with contextlib.suppress(OSError):  # `load` words it
        if Path(file).is_file():  # a pipe can be read once only, which is for `load`
            check("experiment", file, Path(file).read_bytes())
    for override in overrides:
        check("--set", override, override.partition("=")[2].encode("utf-8", "replace"))
    try:
        found = experiments.load(file, overrides)
    except RuntimeError as error:  # what Path.expanduser raises
        problem = f"has a path that begins with the home of somebody unknown ({first_line(error)})"
        raise ConfigError("experiment", file, problem, "write the path out") from None
    from tasks.task import location

    location(found.task)
    return found


def check(field: str, value: str, data: bytes) -> None:
    """Raises ConfigError for YAML that means something else than it says; what is no YAML at all is for its reader."""
    try:
        yaml.load(data.decode("utf-8-sig"), Strict)  # noqa: S506 it is a SafeLoader
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problem = f"is not UTF-8 at line {line} (byte 0x{data[error.start]:02x})"
        raise ConfigError(field, value, problem, "save it as UTF-8") from None
    except yaml.reader.ReaderError as error:
        problem = f"has the character U+{error.character:04X}, which YAML does not allow"
        raise ConfigError(field, value, problem, "remove it") from None
    except Refused as error:
        raise ConfigError(field, value, error.problem, error.mend) from None
    except yaml.YAMLError:
        return


class Refused(Exception):
    """What YAML would take and a person has not meant; its text is fit to be shown."""

    def __init__(self, problem: str, mend: str) -> None:
        self.problem, self.mend = problem, mend
        super().__init__(problem)


class Strict(yaml.SafeLoader):
    """Raises Refused for a key that stands twice, a value that only looks like a date or a number, and depth."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self._depth == MOST_DEPTH:
            raise Refused("is nested too deeply", "close a bracket earlier")
        self._depth += 1
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
        finally:
            self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Here each mapping still has its own keys alone: one that `<<` brings may be set again."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                problem = f"has the key `{key.value[:MOST_NAME]}` twice, at line {lines[name]} and at line {line}"
                raise Refused(problem, "remove one of the two")
            lines[name] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # a date with a thirteenth month, a number without digits
            problem = f"has {str(node.value)[:MOST_NAME]} at line {node.start_mark.line + 1} ({first_line(error)})"
            raise Refused(problem, "put it in quotes") from None
