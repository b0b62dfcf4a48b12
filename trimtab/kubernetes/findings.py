"""What a check finds, and how rules look into nested objects without minding what is missing.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that KubeRay, Kubernetes or Ray would refuse, or do otherwise than was meant."""

    object: str  # Kind/name
    rule: str
    path: str
    problem: str
    mend: str


Said = Iterator[tuple[str, str, str, str]]  # rule, path, problem, mend


def at(tree: Any, path: str, default: Any = None) -> Any:
    """`at(tree, "spec.replicas")`: the value there, or `default` where the way ends."""
    for part in path.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return default
        tree = tree[part]
    return tree


def walk(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its path, from the outside in."""
    yield path, tree
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from walk(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from walk(value, f"{path}[{index}]")
