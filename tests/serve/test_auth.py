from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ClusterError, RequestError
from serve.auth import Tokens


@pytest.mark.parametrize("header", [b"Bearer secret", b"bearer secret", b"BEARER  other"])
def test_any_known_token_is_let_in(header: bytes) -> None:
    Tokens(["secret", "other"]).check(header)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        pytest.param(None, "is missing", id="no header"),
        pytest.param(b"", "carries no token", id="empty"),
        pytest.param(b"Bearer", "carries no token", id="no token"),
        pytest.param(b"Bearer wrong", "carries no token", id="wrong"),
        pytest.param(b"Bearer secret2", "carries no token", id="a token and more"),
        pytest.param(b"Basic secret", "carries no token", id="another scheme"),
        pytest.param(b"secret", "carries no token", id="no scheme"),
        pytest.param(b"Bearer \xff\xfe", "carries no token", id="not text"),
    ],
)
def test_anything_else_is_refused_without_repeating_it(header: bytes | None, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as refused:
        Tokens(["secret"]).check(header)

    assert refused.value.status == 401
    assert refused.value.headers == {"www-authenticate": "Bearer"}
    assert "secret" not in refused.value.message
    assert "wrong" not in refused.value.message


def test_tokens_are_read_one_per_line(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("first\n\nsecond\n")

    tokens = Tokens.read(str(tmp_path / "tokens"))

    tokens.check(b"Bearer first")
    tokens.check(b"Bearer second")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "cannot be read", id="no file"),
        pytest.param(b"\n \n", "holds no token", id="empty file"),
        pytest.param(b"\xff\xff", "cannot be read", id="not text"),
    ],
)
def test_without_a_token_nothing_starts(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ClusterError, match=problem) as refused:
        Tokens.read(str(path))

    assert refused.value.field == "TRIMTAB_TOKEN_FILE"
    assert "trimtab up" in refused.value.mend


def test_an_unset_variable_is_no_open_door() -> None:
    with pytest.raises(ClusterError, match="not set"):
        Tokens.read(None)
