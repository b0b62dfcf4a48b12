"""A checkpoint on its way from rank 0 into the store, by Ray Train's report, which is a barrier over the ranks.

A store that takes no more is no crash: it would be there on every new start of the workers. So rank 0 looks whether
there is room, takes away what it could not write whole, and says why in words. Knows nothing of what is trained.
"""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import Any

import ray.train

from cluster.errors import StoreError
from cluster.store import Store, not_writable
from jobs import checkpoint
from jobs.checkpoint import Course


def hand_over(store: Store, entry: dict[str, Any], name: str, parts: dict[str, Any], course: Course) -> str:
    """Report `entry` with a checkpoint, on rank 0; the others report the entry alone. Returns what went wrong."""
    # After a restart the same epoch comes again; writing over its old folder could leave a mixture.
    name = f"{name}-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        if problem := _problem(store, Path(folder), parts, course):
            ray.train.report(entry)  # the others wait there
            return problem
        made = ray.train.Checkpoint.from_directory(folder)
        try:
            ray.train.report(entry, checkpoint=made, checkpoint_dir_name=name)
        except OSError as error:
            run = ray.train.get_context().get_experiment_name()
            checkpoint.discard(store, f"{run}/{name}")
            return str(not_writable(store.uri, error))
    return ""


def _problem(store: Store, folder: Path, parts: dict[str, Any], course: Course) -> str:
    """Write the checkpoint into a folder of this machine, and say why it cannot go from there into the store."""
    try:
        store.check_room(checkpoint.save(folder, parts, course))
    except StoreError as error:
        return str(error)
    except OSError as error:
        return str(not_writable(str(folder), error))
    return ""
