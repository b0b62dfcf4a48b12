"""Datasets, runs and bundles on a local folder or an object store (any `pyarrow.fs` URI).

Every thing stored is a folder `<kind>/<key>/` of files and a `manifest.json` that names each with its
sha256. It is written aside and published once: on a local disk by renaming the whole folder, on an
object store by writing the manifest last, which says in which folder of its writer the files lie. Without
a manifest there is nothing, so no reader ever sees a half. Knows nothing of what the files mean.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import fs

from cluster.errors import NotFoundError, StoreError, TrimtabError, first_line
from cluster.files import write_new, write_whole

Kind = Literal["datasets", "runs", "bundles", "steps", "searches", "code"]
SINGULAR: dict[Kind, str] = {
    "datasets": "dataset",
    "runs": "run",
    "bundles": "bundle",
    "steps": "step",
    "searches": "search",
    "code": "code",
}
MANIFEST = "manifest.json"
FULL = errno.ENOSPC, errno.EDQUOT
FOREIGN = OSError, pa.ArrowException  # what a disk and pyarrow's file systems raise
RESERVE_BYTES = 256 * 1024**2  # kept free for everything else that writes to the disk


class DamagedError(TrimtabError):
    """A stored file is not what its manifest says it is."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Staging:
    """A folder being written; picklable, so that many workers can each write their own files."""

    store: Store
    kind: Kind
    key: str
    folder: str  # relative to the store's root

    def write(self, name: str, data: bytes) -> dict[str, Any]:
        """Write one file; returns its manifest entry `{file, bytes, sha256}`, on an object store with its `folder`.

        Raises:
            StoreError: not enough room, or not writable.
        """
        self.store.check_room(len(data))
        self.store.put(f"{self.folder}/{name}", data)
        entry = {"file": name, "bytes": len(data), "sha256": sha256(data)}
        return entry if self.store.local is not None else {**entry, "folder": self.folder.rpartition("/")[2]}

    def publish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Make the folder visible, with `manifest`; the first to publish a key wins. Returns what is stored."""
        data = json.dumps(manifest, indent=1, sort_keys=True).encode()
        if self.store.local is None:
            self.store.put_new(f"{self.kind}/{self.key}/{MANIFEST}", data)
        else:
            self.store.put(f"{self.folder}/{MANIFEST}", data)
            _rename(self.store.local / self.folder, self.store.local / self.kind / self.key)
        return self.store.manifest(self.kind, self.key)


@dataclass(frozen=True)
class Store:
    """`uri` is a folder or a URI such as `s3://bucket/prefix?endpoint_override=host:9000`; picklable.

    Every method may raise StoreError, and nothing else for what the disk or the network does.
    """

    uri: str
    local: Path | None = field(default=None, compare=False)  # None on an object store

    @staticmethod
    def open(uri: str) -> Store:
        """Raises StoreError when the place cannot be written."""
        if "://" in uri and not uri.startswith("file://"):
            try:
                fs.FileSystem.from_uri(uri)
            except Exception as error:  # pyarrow raises ValueError, ArrowInvalid and OSError here
                raise StoreError("store", uri, f"cannot be opened ({error})", "name a folder or a URI") from error
            return Store(uri)
        folder = uri.removeprefix("file://").partition("?")[0] if "://" in uri else uri
        root = Path(folder).expanduser().absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise not_writable(str(root), error) from error
        return Store(str(root), root)

    def check_room(self, num_bytes: int) -> None:
        """Raises StoreError when `num_bytes` more would leave less than 256 MiB free on a local disk."""
        if self.local is None:
            return
        with self._writing():
            free = shutil.disk_usage(self.local).free
        if free < num_bytes + RESERVE_BYTES:
            problem = f"the disk is nearly full: {free >> 20} MiB free, {(num_bytes + RESERVE_BYTES) >> 20} MiB needed"
            raise StoreError("store", self.uri, problem, "free some space or name another store")

    @contextlib.contextmanager
    def stage(self, kind: Kind, key: str) -> Iterator[Staging]:
        """A folder to write into; what has not been published when the block ends is removed."""
        writer = uuid.uuid4().hex[:12]
        name = f"{kind}/{key}/{writer}" if self.local is None else f".staging/{kind}-{key}-{writer}"
        try:
            yield Staging(self, kind, key, name)
        finally:
            if self.local is not None:
                shutil.rmtree(self.local / name, ignore_errors=True)
            else:
                with contextlib.suppress(StoreError):  # then it stays, and nothing names it
                    if writer.encode() not in (self._get(f"{kind}/{key}/{MANIFEST}") or b""):
                        self._remove_folder(name)

    def has(self, kind: Kind, key: str) -> bool:
        return self._get(f"{kind}/{key}/{MANIFEST}") is not None

    def keys(self, kind: Kind) -> list[str]:
        """Keys of all published things of a kind, sorted."""
        return sorted(info.base_name for info in self._listed(kind) if self.has(kind, info.base_name))

    def manifest(self, kind: Kind, key: str) -> dict[str, Any]:
        """Raises NotFoundError when nothing was published under the key."""
        data = self._get(f"{kind}/{key}/{MANIFEST}")
        if data is None:
            raise NotFoundError(f"no {SINGULAR[kind]} {key} in the store {self.uri}")
        manifest: dict[str, Any] = json.loads(data)
        return manifest

    def read(self, kind: Kind, key: str, entry: dict[str, Any]) -> bytes:
        """One file's bytes, checked against its manifest entry. Raises DamagedError, NotFoundError."""
        data = self._get(self.path_of(kind, key, entry))
        if data is None:
            raise NotFoundError(f"{kind}/{key}/{entry['file']} is gone from the store {self.uri}")
        if sha256(data) != entry["sha256"]:
            raise DamagedError(f"{kind}/{key}/{entry['file']} in {self.uri} does not match its sha256")
        return data

    def path_of(self, kind: Kind, key: str, entry: dict[str, Any]) -> str:
        """Of a file of a manifest, in the store."""
        return "/".join((kind, key, *([entry["folder"]] if "folder" in entry else []), entry["file"]))

    def place(self, path: str) -> str:
        """The folder or URI of something in the store, for whoever opens it without the store."""
        return joined(self.uri, path)

    def within(self, path: str) -> tuple[Any, str]:
        """pyarrow's file system, and a path of the store as that has it."""
        system, root = (fs.LocalFileSystem(), self.uri) if self.local is not None else fs.FileSystem.from_uri(self.uri)
        return system, f"{root.rstrip('/')}/{path}"

    def put(self, path: str, data: bytes) -> None:
        """Write one file whole: readers see the old content or the new, never a part."""
        with self._writing():
            if self.local is not None:
                write_whole(self.local / path, data)
                return
            system, inside = self.within(path)
            try:
                stream = system.open_output_stream(inside)
            except FileNotFoundError:  # where folders are more than a part of a name
                system.create_dir(inside.rpartition("/")[0])
                stream = system.open_output_stream(inside)
            with stream:
                stream.write(data)

    def put_new(self, path: str, data: bytes) -> bool:
        """As `put`, but only where there is nothing yet; False where there is.

        Of several writers at once the first alone wins in a folder. pyarrow knows no such thing for object stores:
        there it is looked for beforehand, and of two within the time of a request the later wins.
        """
        if self.local is None:
            if self._get(path) is not None:
                return False
            self.put(path, data)
            return True
        with self._writing():
            return write_new(self.local / path, data)

    def get(self, path: str) -> bytes | None:
        """What `put` wrote there, or None."""
        return self._get(path)

    def names(self, folder: str) -> list[str]:
        """Names of the whole files in a folder, sorted; none where there is no folder."""
        return list(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file that `names` names, in the same order."""
        whole = (i for i in self._listed(folder) if i.type == fs.FileType.File and not i.base_name.startswith("."))
        return {i.base_name: int(i.size) for i in sorted(whole, key=lambda i: str(i.base_name))}

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens when there is none."""
        with self._writing(), contextlib.suppress(FileNotFoundError):
            system, inside = self.within(path)
            system.delete_file(inside)

    def _remove_folder(self, path: str) -> None:
        with self._writing(), contextlib.suppress(FileNotFoundError):
            system, inside = self.within(path)
            system.delete_dir(inside)

    def _listed(self, folder: str) -> list[Any]:
        # Even where it may be missing, pyarrow fails on a folder that is made while it looks.
        with self._reading(), contextlib.suppress(FileNotFoundError):
            system, inside = self.within(folder)
            return list(system.get_file_info(fs.FileSelector(inside, allow_not_found=True)))
        return []

    def _get(self, path: str) -> bytes | None:
        with self._reading(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if self.local is not None:
                return (self.local / path).read_bytes()
            system, inside = self.within(path)
            if system.get_file_info(inside).type == fs.FileType.File:
                with system.open_input_stream(inside) as stream:
                    data: bytes = stream.read()
                return data
        return None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FOREIGN as error:
            problem = f"cannot be read ({_said(error)})"
            raise StoreError("store", self.uri, problem, "see that it can be reached and may be read") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except FOREIGN as error:
            raise not_writable(self.uri, error) from error


def joined(uri: str, path: str) -> str:
    """`path` below a folder or a URI, whose parameters stay at its end."""
    base, mark, parameters = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{base.rstrip('/')}/{path}{mark}{parameters}"


def _rename(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as error:
        # Another writer published the same key first: same inputs, same content, so theirs is ours.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise not_writable(str(target), error) from error


def not_writable(uri: str, error: OSError | pa.ArrowException) -> StoreError:
    """What a failed write to the store is to its user."""
    full = isinstance(error, OSError) and error.errno in FULL
    problem = "the disk is full" if full else f"cannot be written ({_said(error)})"
    mend = "free some space or name another store" if full else "name a writable folder in TRIMTAB_STORE or --store"
    return StoreError("store", uri, problem, mend)


def _said(error: OSError | pa.ArrowException) -> str:
    return getattr(error, "strerror", None) or first_line(error)
