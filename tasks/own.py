"""The code of a task of one's own: where it lies, what of it travels, and how a worker gets it.

The code is looked for in the experiment file's folder, and what the task's module imports from there travels with
a job or an endpoint: as a snapshot in the store, named by its hash in the order that starts the process. A process
imports it from memory; nothing is unpacked. A bundle keeps a copy to be read by people, which nothing ever runs. A
task that is not in the folder is an installed package's, and travels as little as Trimtab itself. Knows modules and
the store; neither Ray nor what a task is.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from cluster.config import Experiment
from cluster.errors import ConfigError, first_line
from cluster.store import Store

VARIABLE = "TRIMTAB_CODE"  # in a worker: the code's sha256 and the store that has it
OURS = ("benchmarks", "cluster", "jobs", "ladder", "serve", "tasks", "trimtab", "tune")
MAX_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Code:
    """Python files by their path below the experiment's folder, with forward slashes."""

    files: Mapping[str, bytes]

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of all names and contents."""
        whole = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            whole.update(f"{name}\0{len(data)}\0".encode() + data)
        return whole.hexdigest()

    def has(self, module: str) -> bool:
        base = module.replace(".", "/")
        return f"{base}.py" in self.files or f"{base}/__init__.py" in self.files


def find(experiment: Experiment) -> Code | None:
    """The code that the task's module needs, of the experiment's folder or of this process's order; else None.

    Raises:
        ConfigError: it is no Python, is too much, or has the name of another module.
        NotFoundError, DamagedError: what was ordered is not in the store, or is something else.
    """
    module = experiment.task.partition(":")[0]
    if ":" not in experiment.task:
        return None
    if experiment.folder and next(_paths(Path(experiment.folder), module), None) is not None:
        return _collected(Path(experiment.folder), module, experiment.task)
    ordered = os.environ.get(VARIABLE)
    code = _fetched(ordered) if ordered else None
    return code if code is not None and code.has(module) else None


def prepare(experiment: Experiment) -> None:
    """Make the task's module one that this process can import. Raises as `find` does."""
    code = find(experiment)
    if code is None:
        return
    for finder in [each for each in sys.meta_path if isinstance(each, Finder)]:
        if finder.code == code:
            return
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if _loader(module) is finder]:
            del sys.modules[name]
    # First, as no other module has one of its names: a folder on a worker's path may hold an older state.
    sys.meta_path.insert(0, Finder(code))


def ship(experiment: Experiment, store: Store) -> dict[str, str]:
    """Put the task's code where workers find it; returns what their environment must say. Raises as `find` does."""
    code = find(experiment)
    if code is None:
        return {}
    key = code.digest[:16]
    if not store.has("code", key):
        with store.stage("code", key) as staging:
            files = [staging.write(name, data) for name, data in sorted(code.files.items())]
            staging.publish({"digest": code.digest, "files": files})
    return {VARIABLE: f"{code.digest} {store.uri}"}


@functools.lru_cache(maxsize=8)
def _fetched(order: str) -> Code:
    digest, _, uri = order.partition(" ")
    store = Store.open(uri)
    manifest = store.manifest("code", digest[:16])
    code = Code({entry["file"]: store.read("code", digest[:16], entry) for entry in manifest["files"]})
    if code.digest != digest:
        problem = f"the store {uri} has other code under that name"
        raise ConfigError(VARIABLE, digest, problem, "deploy or run it again, and see who writes to the store")
    return code


class Finder(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):  # type: ignore[misc]
    """Imports modules from `Code`."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self._prefix = f"<code {code.digest[:8]}>/"

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        if self.code.has(fullname):
            return importlib.util.spec_from_loader(fullname, self)
        if any(name.startswith(fullname.replace(".", "/") + "/") for name in self.code.files):
            return importlib.machinery.ModuleSpec(fullname, None, is_package=True)  # a folder without __init__.py
        return None

    def get_filename(self, fullname: str) -> str:
        base = fullname.replace(".", "/")
        name = f"{base}/__init__.py"
        return self._prefix + (name if name in self.code.files else f"{base}.py")

    def get_data(self, path: str) -> bytes:
        name = path.removeprefix(self._prefix)
        if name not in self.code.files:
            raise OSError(f"{name} does not travel with the task's code")
        return self.code.files[name]


def _loader(module: Any) -> Any:
    return getattr(getattr(module, "__spec__", None), "loader", None)


def _collected(folder: Path, module: str, task: str) -> Code:
    """The files of a module and of all it imports from the same folder, itself or through others."""
    files: dict[str, bytes] = {}
    waiting, seen = [module], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for path in _paths(folder, name):
            relative = path.relative_to(folder).as_posix()
            if relative not in files:
                _check_name(name.partition(".")[0], folder, task)
                files[relative] = path.read_bytes()
                waiting += imported(files[relative], PurePosixPath(relative), task)
    if (size := sum(map(len, files.values()))) > MAX_BYTES:
        problem = f"its {len(files)} files are {size >> 20} MiB of Python"
        raise ConfigError("task", task, problem, "install it as a package where the cluster runs")
    return Code(files)


def _paths(folder: Path, module: str) -> Iterator[Path]:
    """The module's file last, before it those of the packages it is in; nothing where it is not there."""
    parts = module.split(".")
    own = folder.joinpath(*parts)
    last = next((path for path in (own / "__init__.py", own.with_name(own.name + ".py")) if path.is_file()), None)
    if last is None:
        return
    for depth in range(1, len(parts)):
        if (path := folder.joinpath(*parts[:depth], "__init__.py")).is_file():
            yield path
    yield last


def imported(source: bytes, path: PurePosixPath, task: str) -> list[str]:
    """Names of what a file imports, and of what may be a module in it. Raises ConfigError where it is no Python."""
    try:
        tree = ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError) as error:
        where = f"{path}, line {getattr(error, 'lineno', None) or '?'}"
        raise ConfigError("task", task, f"is not Python ({where}: {first_line(error)})", "mend it") from error
    package = path.parent.parts
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base] if base else []
            names += [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
    return names


def _check_name(top: str, folder: Path, task: str) -> None:
    """No other module may have the name: which of the two is meant would depend on the process."""
    if top in OURS:
        problem = f"{folder.name}/{top} has the name of one of Trimtab's own packages"
        raise ConfigError("task", task, problem, "rename it")
    found = importlib.machinery.PathFinder.find_spec(top, [path for path in sys.path if path])
    at = found.origin if found is not None else None
    if top in sys.stdlib_module_names or (at is not None and not Path(at).resolve().is_relative_to(folder.resolve())):
        problem = f"{folder.name}/{top} has the name of a module that is installed ({at or 'part of Python'})"
        raise ConfigError("task", task, problem, "rename it")
