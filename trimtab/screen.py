"""What a person sees: words and progress on stderr, figures and tables on stdout.

On a terminal progress is a bar; elsewhere it is a plain line now and then, with no colour, so that a log
stays readable. Knows nothing of what is being done.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import yaml
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

LINE_EVERY_S = 5.0  # off a terminal: one progress line per step at most this often


@contextlib.contextmanager
def chatter_to_stderr() -> Iterator[None]:
    """Around what others do in this process, such as Ray: what they print is no data, so it goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


class Screen:
    """Use as a context manager around work that shows progress."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._out = Console(file=sys.stdout, highlight=False)
        self._err = Console(file=sys.stderr, highlight=False)
        self._bars: _Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, tuple[str, float]] = {}
        self._job: str | None = None

    def __enter__(self) -> Self:
        if self._err.is_terminal:
            columns = (
                TextColumn("{task.description:<11}"),
                BarColumn(bar_width=12),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TextColumn("{task.fields[figures]}"),
            )
            self._bars = _Bars(*columns, console=self._err, transient=True)
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        if self._job is not None and kind is KeyboardInterrupt:
            go_on = f"follow it: trimtab logs -f {self._job}; stop it: trimtab stop {self._job}"
            self.word("detached", f"job {self._job} goes on; {go_on}")

    def word(self, step: str, text: str) -> None:
        """One line about a step, on stderr."""
        self._err.print(f"{step:<11} {text}", markup=False, soft_wrap=True)

    def progress(self, step: str, done: float, total: float, figures: Mapping[str, Any]) -> None:
        """`figures` are shown beside the bar: loss, accuracy, rows/s; `table`, rows of one kind, below it."""
        rows = figures.get("table", [])
        figures = {name: value for name, value in figures.items() if name != "table"}
        text = "  ".join(f"{name.replace('_per_', '/')} {_figure(value)}" for name, value in figures.items())
        if self._bars is not None:
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(step, total=total, figures=text)
            self._bars.below = _table(rows) if rows else None
            self._bars.update(self._tasks[step], completed=done, total=total, figures=text)
            return
        line, now = f"{_figure(done)}/{_figure(total)}  {text}".rstrip(), time.monotonic()
        said, said_at = self._last_line.get(step, ("", 0.0))
        if line != said and (done >= total or now - said_at >= LINE_EVERY_S):
            self._last_line[step] = line, now
            self.word(step, line)

    def following(self, job: str) -> None:
        """A job is being followed: an interrupt leaves it running, and says how to go on with it."""
        self._job = job

    def finished(self, step: str) -> None:
        self._job = None
        if self._bars is not None and step in self._tasks:
            self._bars.below = None
            self._bars.remove_task(self._tasks.pop(step))

    def record(self, figures: Mapping[str, Any]) -> None:
        """One thing's figures: a two-column table, or JSON."""
        if self.as_json:
            self.json(dict(figures))
            return
        width = max(map(len, figures), default=0)
        for name, value in figures.items():
            self.text(f"{name:<{width}}  {_figure(value)}")

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Many things of one kind: a table with a header, or a JSON list."""
        if self.as_json:
            self.json([dict(row) for row in rows])
            return
        if not rows:
            return
        self._out.print(_table(rows))

    @property
    def is_terminal(self) -> bool:
        """Whether a person sees stdout."""
        return self._out.is_terminal

    @contextlib.contextmanager
    def live(self) -> Iterator[Callable[[RenderableType], None]]:
        """A view on stdout that is drawn anew in its place with each call."""
        if not self.is_terminal or self.as_json:
            yield self._out.print
            return
        with Live(console=self._out, auto_refresh=False) as view:
            yield lambda shown: view.update(shown, refresh=True)

    def line(self, tree: Mapping[str, Any]) -> None:
        """One JSON object on one line, at once: for what goes on and on."""
        print(json.dumps(_finite(tree), default=str), flush=True)  # noqa: T201 - rich would wrap and colour it

    def text(self, text: str) -> None:
        """Raw text on stdout, for pipes and for pasting: never wrapped."""
        self._out.print(text, markup=False, soft_wrap=True)

    def tree(self, tree: Mapping[str, Any]) -> None:
        """Something nested, as YAML for a person or as JSON."""
        if self.as_json:
            self.json(dict(tree))
        else:
            self.text(yaml.safe_dump(json.loads(json.dumps(tree, default=str)), sort_keys=False).rstrip())

    def json(self, tree: Any) -> None:
        print(json.dumps(_finite(tree), indent=2, default=str))  # noqa: T201 - rich would wrap and colour it


class _Bars(Progress):
    """Progress bars with a table below them, drawn together."""

    below: Table | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below is not None:
            yield self.below


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A column for each name that any row has, in the order of their coming."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_figure(row.get(name)) for name in names))
    return table


def _finite(tree: Any) -> Any:
    """JSON has no word for NaN and infinity, and readers refuse Python's."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if isinstance(tree, Mapping):
        return {name: _finite(item) for name, item in tree.items()}
    return [_finite(item) for item in tree] if isinstance(tree, list | tuple) else tree


def _figure(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_figure(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)
