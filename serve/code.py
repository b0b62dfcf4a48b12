"""Which modules run in a replica or its adaptation actor: those of ours that `serve.app` imports, also through others.

A deploy starts replicas anew when one of them has changed. Found by reading imports, also those inside of functions:
a list by hand would miss the next module. Imports nothing of what it looks at, so a command stays quick.
"""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath

from tasks.own import OURS, imported

ROOT = Path(__file__).resolve().parent.parent
APPLICATION = "serve.app"


@functools.cache
def modules(first: str = APPLICATION) -> tuple[str, ...]:
    """Names of our modules that `first` needs, it among them, sorted."""
    found, waiting = set[str](), [first]
    while waiting:
        name = waiting.pop()
        path = PurePosixPath(*name.split(".")).with_suffix(".py")
        if name in found or not name.startswith(OURS) or not (ROOT / path).is_file():
            continue
        found.add(name)
        waiting += imported((ROOT / path).read_bytes(), path, name)
    return tuple(sorted(found))
