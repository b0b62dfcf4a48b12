"""`trimtab models`: the versions there are, and one version with its ladder or as its card."""

from __future__ import annotations

import time
from typing import Any

from ladder.bundle import read_bundle
from trimtab.workspace import Workspace


def versions(name: str | None, workspace: Workspace) -> list[dict[str, Any]]:
    """One row per version, newest first. Raises NotFoundError for a model nobody made."""
    registry = workspace.registry
    if name is not None:
        registry.version(name)  # says which models there are when this is none of them
    names = [name] if name is not None else registry.models()
    return [
        {
            "model": version.name,
            "version": version.version,
            "aliases": list(version.aliases),
            "accuracy": version.metrics.get("accuracy"),
            "made": time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created_at)),
            "bundle": version.bundle,
            **({"refused": version.refused} if version.refused else {}),
        }
        for each in names
        for version in registry.versions(each)
    ]


def version(name: str, reference: str, workspace: Workspace) -> dict[str, Any]:
    """One version with its figures and its ladder, JSON-able. Raises NotFoundError."""
    found = workspace.registry.version(name, reference)
    bundle = read_bundle(workspace.store, found.bundle)
    return {
        "model": found.name,
        "version": found.version,
        "aliases": list(found.aliases),
        "bundle": found.bundle,
        "refused": found.refused,
        "metrics": dict(found.metrics),
        "variants": list(bundle.variants),
        "ladder": bundle.ladder,
    }


def card(name: str, reference: str, workspace: Workspace) -> str:
    """The model card in Markdown, with why the version was refused, if so. Raises NotFoundError."""
    version = workspace.registry.version(name, reference)
    text = read_bundle(workspace.store, version.bundle).read("card").decode()
    return f"{text.rstrip()}\n\n## Refused\n\n{version.refused}\n" if version.refused else text
