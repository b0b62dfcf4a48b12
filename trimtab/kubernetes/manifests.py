"""Manifests as files: strict reading (a key that is there twice is a mistake), writing, a folder's objects.

Knows YAML, not what the objects mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import DataError, first_line
from cluster.files import write_whole
from trimtab.given import Refused, Strict
from trimtab.kubernetes.pods import Manifest

HEADER = "# Written by `trimtab kubernetes render`: change the experiment file or the overlay, not this file.\n"


def load(text: str, where: str) -> list[Manifest]:
    """The documents of a YAML text. Raises DataError for bad YAML, a key there twice, or one that is no mapping."""
    try:
        documents = [one for one in yaml.load_all(text, Strict) if one is not None]
    except (yaml.YAMLError, Refused) as error:
        problem = f"is not strict YAML ({' '.join(str(error).split())[:200]})"
        raise DataError("manifest", where, problem, "mend the YAML") from error
    for one in documents:
        if not isinstance(one, dict):
            raise DataError("manifest", where, "holds something else than objects", "write a mapping per document")
    return documents


def read(path: Path) -> str:
    """Raises DataError when the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read ({first_line(error)})"
        raise DataError("manifest", str(path), problem, "name a file that you can read") from error


def folder(path: Path) -> dict[str, list[Manifest]]:
    """File name -> objects of every `*.yaml` in a folder, kustomize's own files left out. Raises DataError."""
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    found = {file.name: load(read(file), str(file)) for file in files if file.stem != "kustomization"}
    if not found:
        raise DataError("DIR", str(path), "holds no manifest (*.yaml)", "name a folder that `render -o` wrote")
    return found


def dump(objects: Iterable[Manifest]) -> str:
    return yaml.dump_all(list(objects), Dumper=_Plain, sort_keys=False, width=120)


def write(files: dict[str, list[Manifest]], path: Path) -> list[Path]:
    """Each file whole. Raises DataError when the folder cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, objects in files.items():
            write_whole(path / name, (HEADER + dump(objects)).encode())
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise DataError("-o", str(path), problem, "name a folder that you can write") from error
    return [path / name for name in files]


class _Plain(yaml.SafeDumper):
    """No anchors, which people and some tools misread; text of many lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Plain.add_representer(str, _text)
