"""Overlays: the part of kustomize that ours use, so that `render` needs no other program.

A `kustomization.yaml` may have `resources` (files or folders), `patches` (JSON 6902, or a strategic `$patch: delete`)
with a target, and nothing else; anything else is refused rather than skipped, as the two must give the same.
In an overlay's own files the names of the example stand for the experiment's: `digits`, its image, its namespace.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import UserError
from trimtab.kubernetes.manifests import load, read
from trimtab.kubernetes.pods import Manifest

FILE = "kustomization.yaml"
ROOT = Path(__file__).resolve().parents[2] / "k8s"


@dataclass(frozen=True)
class Names:
    """What differs between one experiment's overlay and another's."""

    experiment: str = "digits"
    image: str = "trimtab:0.1.0"
    namespace: str = "trimtab"

    def put(self, text: str) -> str:
        return re.sub(rf"\b{EXAMPLE.experiment}\b", self.experiment, text).replace(EXAMPLE.image, self.image)


EXAMPLE = Names()


def find(overlay: str) -> Path:
    """The folder of one of our overlays by its name, or of anybody's by its path. Raises UserError."""
    folder, ours = Path(overlay), ROOT / "overlays" / overlay
    if re.fullmatch(r"[a-z-]+", overlay) and (ours.is_dir() or not folder.is_dir()):
        folder = ours
    kustomization(folder)
    return folder


def build(folder: Path, names: Names = EXAMPLE, base: list[Manifest] | None = None) -> list[Manifest]:
    """The objects of an overlay; `base`, when given, takes the place of the folders it builds on.

    Raises:
        UserError: no such overlay, or one that needs more of kustomize than this knows.
    """
    objects: list[Manifest] = []
    tree = kustomization(folder)
    for resource in tree.get("resources", []):
        path = folder / resource
        if path.is_dir():
            objects += build(path, names) if base is None else copy.deepcopy(base)
        else:
            objects += [_placed(one, names) for one in load(names.put(read(path)), str(path))]
    for patch in tree.get("patches", []):
        objects = _patched(objects, patch, folder, names)
    return objects


def kustomization(folder: Path) -> Manifest:
    if not (folder / FILE).is_file():
        known = ", ".join(sorted(path.parent.name for path in ROOT.glob(f"overlays/*/{FILE}"))) or "none"
        raise UserError("--overlay", str(folder), f"has no {FILE}", f"name a folder with one, or one of {known}")
    tree: Manifest = load(read(folder / FILE), str(folder / FILE))[0]
    if unknown := set(tree) - {"apiVersion", "kind", "resources", "patches"}:
        problem = f"uses {', '.join(sorted(unknown))} of kustomize, which `render` does not know"
        raise UserError("--overlay", str(folder / FILE), problem, "build it with `kubectl kustomize` over the base")
    return tree


def _patched(objects: list[Manifest], patch: Manifest, folder: Path, names: Names) -> list[Manifest]:
    text = names.put(patch["patch"] if "patch" in patch else read(folder / patch["path"]))
    change, made = yaml.safe_load(text), []
    for one in objects:
        if not _is_meant(one, patch["target"], names):
            made.append(one)
        elif isinstance(change, list):
            made.append(_apply(one, change, str(folder)))
        elif change.get("$patch") != "delete":
            problem = "has a strategic patch, which replaces a Ray pod's containers whole"
            raise UserError("--overlay", str(folder / FILE), problem, "write it as a JSON 6902 patch")
    return made


def _is_meant(one: Manifest, target: dict[str, str], names: Names) -> bool:
    wanted_name = names.put(target.get("name", ""))
    return one["kind"] == target.get("kind", one["kind"]) and bool(
        re.fullmatch(wanted_name or ".*", one["metadata"]["name"])
    )


def _apply(one: Manifest, operations: list[Manifest], where: str) -> Manifest:
    made = copy.deepcopy(one)
    for operation in operations:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        at: Any = made
        try:
            for part in way:
                at = at[int(part)] if isinstance(at, list) else at[part]
            _operate(at, last, operation)
        except (KeyError, IndexError, ValueError) as error:
            problem = f"has a patch of {operation['path']}, which {one['kind']} {one['metadata']['name']} has not"
            raise UserError("--overlay", where, problem, "mend the patch's path") from error
    return made


def _operate(at: Any, last: str, operation: Manifest) -> None:
    kind = operation["op"]
    if isinstance(at, list):
        if kind == "add":
            at.insert(len(at) if last == "-" else int(last), operation["value"])
        elif kind == "replace":
            at[int(last)] = operation["value"]
        else:
            del at[int(last)]
    elif kind == "remove":
        del at[last]
    elif kind == "replace" and last not in at:
        raise KeyError(last)
    else:
        at[last] = operation["value"]


def _placed(one: Manifest, names: Names) -> Manifest:
    if one["metadata"].get("namespace") == EXAMPLE.namespace:
        one["metadata"]["namespace"] = names.namespace
    return one
