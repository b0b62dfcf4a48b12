"""What a training must remember to go on where it stopped, as one file; and the folder its checkpoints lie in.

A state is a dict of tensors and plain values, so that it is read back without running code from it; its sha256 lies
beside it. Ray Train makes a checkpoint exist by naming it in a snapshot file; this module knows that file only to take
the names of damaged checkpoints out of it, and to write it anew where it was cut off.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from cluster.config import EarlyStopping
from cluster.errors import TrimtabError
from cluster.store import Store, sha256

if TYPE_CHECKING:
    import torch

STATE, DIGEST, OWNER, INLINE = "state.pt", "state.sha256", "owner", "inline.pt"
DIGEST_CHARS = 64  # of a sha256 in hexadecimal
SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's
_VALIDATIONS = tuple(
    f"{outcome}_checkpoint_dir_names" for outcome in ("validated", "timed_out_validation", "failed_validation")
)


class CheckpointError(TrimtabError):
    """Checkpoints that a training cannot go on from."""


@dataclass
class Course:
    """How a training has gone so far: its history, its best epoch and whether it is over."""

    history: list[dict[str, Any]] = field(default_factory=list)  # one entry per finished epoch
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)  # on the CPU
    stale: int = 0  # epochs since the last improvement that counts
    over: str = ""  # why it ended, empty while it goes on
    attempt: int = 1  # which start of the worker group this is

    def record(
        self,
        entry: dict[str, Any],
        weights: dict[str, torch.Tensor],
        rule: EarlyStopping | None,
        keep_last: bool = False,
    ) -> None:
        """Add a finished epoch and decide: pure in `entry`, so that equal numbers give every rank the same answer.

        With `keep_last` the newest epoch is the best, whatever its figures say.
        """
        rank, needed = _rank(entry, rule), rule.min_delta if rule else 0.0
        best = max((_rank(before, rule) for before in self.history), default=None)
        self.stale = 0 if best is None or rank[0] > best[0] + needed else self.stale + 1
        self.history.append(entry)
        if best is None or keep_last or rank > best:
            self.best_epoch = len(self.history) - 1
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        if rule is not None:
            self.over = _reason_to_stop(entry, rule, self.stale)


def _rank(entry: dict[str, Any], rule: EarlyStopping | None) -> tuple[float, float]:
    """Greater is better; equal accuracies are told apart by their loss."""
    accuracy, loss = entry["validation_accuracy"], -entry["validation_loss"]
    return (loss, accuracy) if rule is not None and rule.metric == "loss" else (accuracy, loss)


def _reason_to_stop(entry: dict[str, Any], rule: EarlyStopping, stale: int) -> str:
    value = entry[f"validation_{rule.metric}"]
    if rule.target is not None and (value <= rule.target if rule.metric == "loss" else value >= rule.target):
        return f"validation {rule.metric} reached {rule.target}"
    return f"no better {rule.metric} for {stale} epochs" if stale >= rule.patience else ""


def save(folder: Path, parts: dict[str, Any], course: Course) -> int:
    """Write `state.pt`: the state dicts in `parts` (model, optimizer, scheduler) and the course; and its sha256.

    Returns its bytes. Raises OSError when there is no room for them.
    """
    data = _bytes(parts, course)
    (folder / STATE).write_bytes(data)
    (folder / DIGEST).write_text(sha256(data))
    return len(data)


def _bytes(parts: dict[str, Any], course: Course) -> bytes:
    """By way of memory: into a file on a full disk, PyTorch's writer fails without saying why."""
    import torch

    out = io.BytesIO()
    torch.save({**parts, "course": asdict(copy.copy(course))}, out)
    return out.getvalue()


def load(folder: Path) -> tuple[dict[str, Any], Course]:
    """The parts and the course, tensors on the CPU."""
    import torch

    parts = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    return parts, Course(**parts.pop("course"))


def keep(store: Store, key: str, parts: dict[str, Any], course: Course) -> None:
    """As `save`, its sha256 before it, whole and over the last, for a training that Ray Train does not drive.

    Raises StoreError when the store does not take it; the one before stays.
    """
    data = _bytes(parts, course)
    store.check_room(len(data))
    store.put(f"checkpoints/{key}/{INLINE}", sha256(data).encode() + data)


def kept(store: Store, key: str) -> tuple[dict[str, Any], Course] | None:
    """What `keep` wrote last, if anything."""
    data = store.get(f"checkpoints/{key}/{INLINE}")
    if data is None:
        return None
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / STATE).write_bytes(data[DIGEST_CHARS:])
        return load(Path(made))


def storage_path(store: Store, key: str = "") -> str:
    """Where Ray keeps the runs' folders, or one of them; in the store, so that another driver finds them."""
    return store.place(f"checkpoints/{key}" if key else "checkpoints")


def names(store: Store) -> list[str]:
    """Keys of the runs and searches that have checkpoints."""
    system, path = store.within("checkpoints")
    found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in found]


def discard(store: Store, key: str) -> None:
    """Remove a run's checkpoints; nothing happens when there are none."""
    system, path = store.within(f"checkpoints/{key}")
    with contextlib.suppress(FileNotFoundError):
        system.delete_dir(path)


def claim(store: Store, key: str, fingerprint: str) -> None:
    """Note that the checkpoints of `key` are to be those of the model and settings with this fingerprint.

    Raises CheckpointError when there are some of another.
    """
    system, path = store.within(f"checkpoints/{key}")
    found = store.get(f"checkpoints/{key}/{OWNER}")
    if is_there(store, key) and found is not None and found.decode() != fingerprint:
        raise CheckpointError(
            f"the checkpoints in {storage_path(store, key)} are of another model or other settings and cannot be gone "
            "on from; remove that folder to begin anew, or train with the settings they were made with"
        )
    system.create_dir(path)
    store.put(f"checkpoints/{key}/{OWNER}", fingerprint.encode())


def is_there(store: Store, key: str) -> bool:
    """Whether a training has kept a checkpoint under the key."""
    return not {SNAPSHOT, INLINE}.isdisjoint(store.names(f"checkpoints/{key}"))


def pass_over_damaged(store: Store, key: str) -> str:
    """Take away what is damaged among the run's checkpoints, so that it goes on from the newest whole one.

    Says what was found, in a sentence; empty when nothing was wrong.
    """
    return "; ".join(said for said in (_without_damaged_inline(store, key), _without_damaged(store, key)) if said)


def _without_damaged_inline(store: Store, key: str) -> str:
    data = store.get(path := f"checkpoints/{key}/{INLINE}")
    if data is None or sha256(data[DIGEST_CHARS:]).encode() == data[:DIGEST_CHARS]:
        return ""
    store.remove(path)
    return "the checkpoint is damaged and passed over; there is none before it, training begins anew"


def _without_damaged(store: Store, key: str) -> str:
    """Of those that Ray Train's snapshot names."""
    system, path = store.within(f"checkpoints/{key}")
    data = store.get(f"checkpoints/{key}/{SNAPSHOT}")
    if data is None:
        return ""
    try:
        snapshot = json.loads(data)
    except ValueError:
        return _list_anew(store, key)
    results, indices = snapshot["checkpoint_results"], snapshot["checkpoint_report_indices"]
    whole = [_is_whole(system, f"{path}/{result['checkpoint_dir_name']}") for result in results]
    if all(whole):
        return ""
    damaged = [result["checkpoint_dir_name"] for result, good in zip(results, whole, strict=True) if not good]
    kept = [result for result, good in zip(results, whole, strict=True) if good]
    said = f"damaged and passed over: {', '.join(damaged)}"
    if not kept:
        system.delete_file(f"{path}/{SNAPSHOT}")
        return f"{said}; there is none before it, training begins anew"
    newest = max(kept, key=lambda result: indices[results.index(result)])
    snapshot["checkpoint_report_indices"] = [index for index, good in zip(indices, whole, strict=True) if good]
    snapshot |= {"checkpoint_results": kept, "latest_checkpoint_result": newest}
    store.put(f"checkpoints/{key}/{SNAPSHOT}", json.dumps(snapshot).encode())
    return f"{said}; going on from {newest['checkpoint_dir_name']}"


def _is_whole(system: Any, folder: str) -> bool:
    try:
        with system.open_input_stream(f"{folder}/{DIGEST}") as stream:
            digest = stream.read().decode()
        with system.open_input_stream(f"{folder}/{STATE}") as stream:
            return bool(sha256(stream.read()) == digest)
    except (OSError, UnicodeDecodeError):
        return False


def _list_anew(store: Store, key: str) -> str:
    """Write the snapshot that was cut off (a full disk, a death) anew, from the whole checkpoints in the folder."""
    system, path = store.within(f"checkpoints/{key}")
    folders = [info for info in system.get_file_info(fs.FileSelector(path)) if info.type == fs.FileType.Directory]
    whole = [info for info in folders if _is_whole(system, info.path)]
    said = "the list of checkpoints was cut off in the middle of being written"
    if not whole:
        discard(store, key)
        return f"{said}; none is whole, training begins anew"
    whole.sort(key=lambda info: system.get_file_info(f"{info.path}/{STATE}").mtime_ns)
    results = [{"version": 0, "checkpoint_dir_name": info.base_name, "metrics": {}} for info in whole]
    lists = ("pending_training_results", "pending_validation_specs", *_VALIDATIONS)
    snapshot: dict[str, Any] = {name: [] for name in lists}
    snapshot |= {"checkpoint_results": results, "checkpoint_report_indices": list(range(len(results)))}
    snapshot |= {"latest_checkpoint_result": results[-1], "current_report_index": len(results)}
    store.put(f"checkpoints/{key}/{SNAPSHOT}", json.dumps(snapshot).encode())
    return f"{said}; going on from {whole[-1].base_name}"
