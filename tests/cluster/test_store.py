from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from cluster.errors import NotFoundError, StoreError
from cluster.store import DamagedError, Store, sha256

Usage = namedtuple("Usage", "total used free")


def files_in(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_what_is_published_is_read_back_whole(store: Store) -> None:
    with store.stage("datasets", "k1") as staging:
        entry = staging.write("a.bin", b"hello")
        assert not store.has("datasets", "k1")
        staging.publish({"files": [entry]})

    assert store.has("datasets", "k1")
    assert store.read("datasets", "k1", entry) == b"hello"
    assert store.keys("datasets") == ["k1"]


def test_a_failure_before_publishing_leaves_nothing(store: Store) -> None:
    def fails() -> None:
        with store.stage("datasets", "k1") as staging:
            staging.write("a.bin", b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()

    assert not store.has("datasets", "k1")
    assert store.local is not None
    assert files_in(store.local) == []


def test_a_writer_killed_in_the_middle_leaves_nothing_visible(store: Store) -> None:
    code = (
        "import os, signal; from cluster.store import Store\n"
        f"with Store.open({store.uri!r}).stage('runs', 'k') as staging:\n"
        "    staging.write('weights', b'x' * 1000); os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    assert subprocess.run([sys.executable, "-c", code]).returncode == -9

    assert not store.has("runs", "k")
    assert store.keys("runs") == []


def test_the_first_of_two_writers_wins_and_the_second_reads_the_same(store: Store) -> None:
    with store.stage("runs", "k") as first, store.stage("runs", "k") as second:
        second.write("a", b"second")
        first.write("a", b"first")
        assert first.publish({"by": "first"}) == {"by": "first"}
        assert second.publish({"by": "second"}) == {"by": "first"}

    assert store.manifest("runs", "k") == {"by": "first"}


def test_a_damaged_file_is_noticed(store: Store) -> None:
    with store.stage("runs", "k") as staging:
        entry = staging.write("a", b"right")
        staging.publish({})
    assert store.local is not None
    (store.local / "runs" / "k" / "a").write_bytes(b"wrong")

    with pytest.raises(DamagedError, match="sha256"):
        store.read("runs", "k", entry)


def test_what_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no dataset nope"):
        store.manifest("datasets", "nope")


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="name a writable folder") as caught:
        Store.open(str(tmp_path / "file" / "store"))

    assert caught.value.exit_code == 2


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Store.open("nonsense://bucket/x")


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        pytest.param(lambda store: store.names("file"), "cannot be read", id="names"),
        pytest.param(lambda store: store.keys("runs"), "cannot be read", id="keys"),
        pytest.param(lambda store: store.put("file/x", b""), "cannot be written", id="put"),
        pytest.param(lambda store: store.remove("folder"), "cannot be written", id="remove"),
    ],
)
@pytest.mark.parametrize("is_remote", [False, True], ids=["folder", "object store"])
def test_whatever_its_libraries_raise_the_store_says_it_in_its_own_words(
    store: Store, use: Callable[[Store], object], problem: str, is_remote: bool
) -> None:
    assert store.local is not None
    (store.local / "folder").mkdir()
    for name in ("file", "runs"):
        (store.local / name).write_text("no folder")

    with pytest.raises(StoreError, match=problem):
        use(Store(f"file://{store.local}") if is_remote else store)


def test_it_does_so_where_there_is_a_folder_in_the_place_of_a_file_or_none_at_all(store: Store, tmp_path: Path) -> None:
    store.put("folder/file", b"")

    with pytest.raises(StoreError, match="cannot be read"):
        store.get("folder")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(str(tmp_path / "gone"), tmp_path / "gone").check_room(1)


def test_a_nearly_full_disk_stops_a_write_before_it_begins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 300 * 1024**2))

    with store.stage("datasets", "k") as staging:
        staging.write("small", b"x")
        with pytest.raises(StoreError, match="nearly full"):
            staging.write("large", bytes(64 * 1024**2))

    assert store.keys("datasets") == []


@pytest.fixture
def remote(tmp_path: Path) -> Store:
    """A file system that is reached by URI takes the same way as any object store: no rename, manifest last."""
    return Store(f"file://{tmp_path}/bucket?endpoint_override=localhost:9000")


def test_an_object_store_publishes_by_its_manifest(remote: Store, tmp_path: Path) -> None:
    with remote.stage("bundles", "k") as staging:
        entry = staging.write("a", b"data")
        assert not remote.has("bundles", "k")
        staging.publish({"files": [entry]})

    assert remote.read("bundles", "k", entry) == b"data"
    assert (tmp_path / "bucket" / remote.path_of("bundles", "k", entry)).read_bytes() == b"data"
    assert remote.keys("bundles") == ["k"]


def test_a_second_writer_overwrites_nothing_there_and_leaves_nothing_behind(remote: Store, tmp_path: Path) -> None:
    with remote.stage("runs", "k") as first:
        with remote.stage("runs", "k") as second:
            mine = second.write("a", b"second")
            entry = first.write("a", b"first")
            assert first.publish({"files": [entry]}) == {"files": [entry]}
            assert second.publish({"files": [mine]}) == {"files": [entry]}
        assert remote.read("runs", "k", entry) == b"first"

    assert files_in(tmp_path / "bucket") == [f"runs/k/{entry['folder']}/a", "runs/k/manifest.json"]


def test_what_was_not_published_there_is_removed(remote: Store, tmp_path: Path) -> None:
    with remote.stage("runs", "k") as staging:
        staging.write("a", b"half")

    assert files_in(tmp_path / "bucket") == []


def test_a_manifest_without_folders_is_read_as_before(remote: Store) -> None:
    remote.put("runs/k/a", b"data")

    assert remote.read("runs", "k", {"file": "a", "sha256": sha256(b"data")}) == b"data"


@pytest.mark.parametrize("kind", ["folder", "object store"])
def test_where_there_is_something_nothing_new_is_put(store: Store, remote: Store, kind: str) -> None:
    chosen = remote if kind == "object store" else store

    assert chosen.put_new("a/b", b"first")
    assert not chosen.put_new("a/b", b"second")
    assert chosen.get("a/b") == b"first"
    assert chosen.names("a") == ["b"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        pytest.param("/data/a?b", "/data/a?b/runs/k", id="a folder"),
        pytest.param("s3://bucket/pre/", "s3://bucket/pre/runs/k", id="a URI"),
        pytest.param("s3://b/pre?scheme=http&x=a/b", "s3://b/pre/runs/k?scheme=http&x=a/b", id="with parameters"),
    ],
)
def test_a_path_is_joined_before_the_parameters(uri: str, expected: str) -> None:
    assert Store(uri).place("runs/k") == expected


def test_pyarrow_finds_there_what_the_store_means() -> None:
    uri = Store("s3://key:secret@bucket/pre?endpoint_override=localhost:9000&scheme=http").place("runs/k")

    assert fs.FileSystem.from_uri(uri)[1] == "bucket/pre/runs/k"


def test_a_folder_may_be_named_as_a_uri_with_parameters(tmp_path: Path) -> None:
    assert Store.open(f"file://{tmp_path}/store?x=y").local == tmp_path / "store"
