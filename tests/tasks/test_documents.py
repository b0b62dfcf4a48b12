from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import DataError
from tasks import documents
from tasks.documents import Place

SUFFIXES = (".md", ".jsonl")


def test_a_folder_is_read_at_any_depth_and_a_file_by_itself(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.md").write_text("# B")
    (tmp_path / "deep" / "a.jsonl").write_text("é", encoding="utf-8-sig")
    (tmp_path / "picture.png").write_bytes(b"\x89")
    (tmp_path / ".hidden.md").write_text("no")

    assert list(Place("s", str(tmp_path), SUFFIXES).texts()) == [("b.md", "# B"), ("deep/a.jsonl", "é")]
    assert list(Place("s", str(tmp_path / "b.md"), SUFFIXES).texts()) == [("b.md", "# B")]
    assert next(iter(Place("s", f"file://{tmp_path}", SUFFIXES).texts())) == ("b.md", "# B")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("nowhere", "no such file or folder", id="missing"),
        pytest.param("empty", r"holds no \.md or \.jsonl file", id="an empty folder"),
        pytest.param("picture.png", r"holds no \.md or \.jsonl file", id="another kind of file"),
        pytest.param("latin.md", "is not UTF-8", id="another encoding"),
        pytest.param("big.md", "bytes are over", id="too large"),
        pytest.param("nothing://x", "cannot be opened", id="an unknown scheme"),
    ],
)
def test_a_mistake_names_the_setting_and_the_file(
    tmp_path: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 100)
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.png").write_bytes(b"\x89")
    (tmp_path / "latin.md").write_bytes("café".encode("latin-1"))
    (tmp_path / "big.md").write_bytes(b"x" * 101)
    given = name if "://" in name else str(tmp_path / name)

    with pytest.raises(DataError, match=said) as caught:
        list(Place("answers.documents", given, SUFFIXES).texts())

    assert str(caught.value).startswith("answers.documents = ")
