"""Read an experiment file: YAML, `--set` overrides, and each mistake as one clear sentence.

Knows YAML and pydantic's error shapes; what a right experiment is stands in `cluster.config`.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from cluster.config import FORMS, Experiment
from cluster.errors import ConfigError

PATHS = (
    "data.source.path",
    "data.source.test_path",
    "data.source.items",
    "model.weights",
    "answers.templates",
    "answers.documents",
    "retrain.triggers.data.path",
)  # settings that name files or folders
MOST_NAME = 60  # characters of a key in a sentence
_Model = TypeVar("_Model", bound=BaseModel)
ENVIRONMENT = "TRIMTAB_EXPERIMENT"  # a job gets its experiment as JSON in this variable: no file to ship
ASKED_AT = "TRIMTAB_ASKED_AT"  # seconds since 1970 when somebody asked for the step that a job does


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """The experiment in `path`, with `a.b=c` overrides applied; `-` reads the environment.

    Folders and files in it are relative to where this process runs, and absolute in what is returned: the
    jobs that get it run elsewhere.

    Raises:
        ConfigError: unreadable file, bad YAML, unknown key, wrong type or unit, fields that disagree.
    """
    found = parse(_read(str(path)), overrides)
    for dotted in PATHS:
        found = _absolute(found, dotted.split("."))
    return found if str(path) == "-" else found.lying_in(str(Path(path).expanduser().absolute().parent))


def _absolute(model: _Model, names: Sequence[str]) -> _Model:
    """With the path under `names` made absolute, where there is one and it is no URI."""
    value = getattr(model, names[0], None)
    if isinstance(value, BaseModel):
        value = _absolute(value, names[1:])
    elif isinstance(value, str) and value and "://" not in value:
        value = str(Path(value).expanduser().absolute())
    else:
        return model
    return model.model_copy(update={names[0]: value})


def parse(tree: object, overrides: Iterable[str] = ()) -> Experiment:
    """The experiment in a nested mapping. Raises ConfigError as `load` does."""
    if not isinstance(tree, dict):
        raise ConfigError("experiment", tree, "is not a mapping of settings", "begin with `name:` and `data:`")
    for override in overrides:
        tree = _overridden(tree, override)
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise _sentence(error) from None


def fingerprint(*parts: object) -> str:
    """16 hex digits that change when any of `parts` (JSON-able values or models) does."""
    plain = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: str) -> object:
    if path == "-":
        if ENVIRONMENT not in os.environ:
            raise ConfigError("experiment", "-", f"{ENVIRONMENT} is not set", "name an experiment file")
        return json.loads(os.environ[ENVIRONMENT])
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "experiment", path, "no such file", "name an existing file or make one: trimtab init"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("experiment", path, f"cannot be read ({error})", "name a readable YAML file") from None
    except yaml.YAMLError as error:
        where = f" at line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        problem = getattr(error, "problem", None) or "syntax error"
        raise ConfigError("experiment", path, f"is not YAML{where} ({problem})", "mend that line") from None


def _overridden(tree: dict[str, Any], override: str) -> dict[str, Any]:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError("--set", override, "has no key or no `=`", "write --set train.epochs=3")
    *parents, leaf = dotted.split(".")
    changed = copy.deepcopy(tree)
    node: dict[str, Any] = changed
    for name in parents:
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
        if not isinstance(node, dict):
            raise ConfigError("--set", override, f"{name} holds a value, not settings", "name a deeper section")
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError("--set", override, "the value is not YAML", "quote it: --set 'a.b=\"text\"'") from None
    return changed


def _sentence(error: ValidationError) -> ConfigError:
    """The first mistake; unknown keys come first because they often cause the others."""
    mistakes = sorted(error.errors(include_url=False), key=lambda m: m["type"] != "extra_forbidden")
    first = mistakes[0]
    path = [str(part) for part in first["loc"]]
    names, models = _walk(path)
    names = [name if len(name) <= MOST_NAME else name[: MOST_NAME - 3] + "..." for name in names]
    field, value, kind = ".".join(names) or "experiment", first["input"], first["type"]
    if kind == "extra_forbidden":
        return ConfigError(field, value, "unknown key", _nearest(names[-1], models))
    if kind == "missing":
        return ConfigError(field, None, "is missing", f"add `{names[-1]}:`")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        known = str(first.get("ctx", {}).get("expected_tags", "")) or "a known kind"
        tag = value.get("kind") if isinstance(value, Mapping) else value
        return ConfigError(f"{field}.kind", tag, "unknown kind", f"use one of {known}")
    if kind == "value_error":
        problem, _, mend = str(first["ctx"]["error"]).partition("; ")
        return ConfigError(field, value, problem, mend)
    message = first["msg"][0].lower() + first["msg"][1:]
    return ConfigError(field, value, "is not allowed here", message.replace("input should", "it should"))


def _walk(path: list[str]) -> tuple[list[str], list[type[BaseModel]]]:
    """The path without pydantic's union tags, and the models whose keys may stand at its end."""
    names: list[str] = []
    models: list[type[BaseModel]] = [Experiment]
    for part in path:
        tagged = [m for m in models if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)]
        if tagged or part in FORMS:
            models = tagged or models
            continue
        names.append(part)
        inner = [
            m for model in models if part in model.model_fields for m in _models(model.model_fields[part].annotation)
        ]
        models = inner or models
    return names, models


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return _models(get_args(annotation)[1])
    if get_origin(annotation) in (Union, UnionType):
        return [m for arg in get_args(annotation) if arg is not NoneType for m in _models(arg)]
    return []


def _nearest(name: str, models: list[type[BaseModel]]) -> str:
    known = sorted({field for model in models for field in model.model_fields})
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known keys here: {', '.join(known)}"
