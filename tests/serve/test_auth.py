from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from cluster.errors import ClusterError, RequestError
from serve.auth import ROLES, Tokens


@pytest.mark.parametrize("header", [b"Bearer secret", b"bearer secret", b"BEARER  other"])
def test_any_known_token_is_let_in(header: bytes) -> None:
    Tokens(["secret", "other predict"]).check(header)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        pytest.param(None, "is missing", id="no header"),
        pytest.param(b"", "carries no token", id="empty"),
        pytest.param(b"Bearer", "carries no token", id="no token"),
        pytest.param(b"Bearer wrong", "carries no token", id="wrong"),
        pytest.param(b"Bearer secret2", "carries no token", id="a token and more"),
        pytest.param(b"Bearer secret admin", "carries no token", id="a token and its role"),
        pytest.param(b"Basic secret", "carries no token", id="another scheme"),
        pytest.param(b"secret", "carries no token", id="no scheme"),
        pytest.param(b"Bearer \xff\xfe", "carries no token", id="not text"),
    ],
)
def test_anything_else_is_refused_without_repeating_it(header: bytes | None, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as refused:
        Tokens(["secret admin 5"]).check(header)

    assert refused.value.status == 401
    assert refused.value.headers == {"www-authenticate": "Bearer"}
    assert "secret" not in refused.value.message
    assert "wrong" not in refused.value.message


def test_tokens_are_read_one_per_line(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("first\n\n# the dashboard's\nsecond predict 10\n")

    tokens = Tokens.read(str(tmp_path / "tokens"))

    tokens.check(b"Bearer first", "admin")
    tokens.check(b"Bearer second")
    with pytest.raises(RequestError):
        tokens.check(b"Bearer #")


@pytest.mark.parametrize("has", ROLES)
@pytest.mark.parametrize("needs", ROLES)
def test_a_role_may_what_those_before_it_may(has: str, needs: str) -> None:
    tokens = Tokens([f"secret {has}"])

    if ROLES.index(has) >= ROLES.index(needs):
        tokens.check(b"Bearer secret", needs)
        return
    with pytest.raises(RequestError, match=f"role is {has}.*at least {needs}") as refused:
        tokens.check(b"Bearer secret", needs)

    assert refused.value.status == 403


def admitted(tokens: Tokens, header: bytes, times: list[float]) -> list[float]:
    """Those of `times` at which a request was let in."""
    let_in = []
    for now in times:
        with contextlib.suppress(RequestError):
            tokens.check(header, now=now)
            let_in.append(now)
    return let_in


def test_a_token_has_its_rate_and_a_second_of_it_at_once() -> None:
    tokens = Tokens(["slow predict 2", "fast predict"])

    assert admitted(tokens, b"Bearer slow", [10.0, 10.0, 10.0, 10.4, 10.5, 10.6, 99.0, 99.0, 99.0]) == [
        10.0, 10.0, 10.5, 99.0, 99.0,
    ]  # fmt: skip
    assert len(admitted(tokens, b"Bearer fast", [10.0] * 1000)) == 1000


def test_over_its_rate_it_hears_when_to_come_again() -> None:
    tokens = Tokens(["slow predict 0.1"])
    tokens.check(b"Bearer slow", now=0.0)

    with pytest.raises(RequestError, match=r"more than this token's 0.1 requests per second; try again in 9 s") as late:
        tokens.check(b"Bearer slow", now=1.5)

    assert (late.value.status, late.value.headers) == (429, {"retry-after": "9"})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "cannot be read", id="no file"),
        pytest.param(b"\n \n# none\n", "holds no token", id="empty file"),
        pytest.param(b"\xff\xff", "cannot be read", id="not text"),
        pytest.param(b"good\nsecret root\n", "line 2': is not a token, a role", id="unknown role"),
        pytest.param(b"secret predict fast", "line 1': is not a token, a role", id="rate no number"),
        pytest.param(b"secret predict 0", "line 1': is not", id="rate of nothing"),
        pytest.param(b"secret predict -1", "line 1': is not", id="negative rate"),
        pytest.param(b"secret predict nan", "line 1': is not", id="rate nan"),
        pytest.param(b"secret predict 1 2", "line 1': is not", id="a word too many"),
        pytest.param(b"secret\nsecret predict", "is there twice", id="the same twice"),
    ],
)
def test_without_sound_tokens_nothing_starts(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ClusterError, match=problem) as refused:
        Tokens.read(str(path))

    assert refused.value.field == "TRIMTAB_TOKEN_FILE"
    assert "trimtab up" in refused.value.mend
    assert "secret" not in str(refused.value)


def test_an_unset_variable_is_no_open_door() -> None:
    with pytest.raises(ClusterError, match="not set"):
        Tokens.read(None)


def test_a_clients_secret_is_its_own_and_outlives_the_other_tokens() -> None:
    tokens, fewer = Tokens(["secret", "other predict"]), Tokens(["other"])
    one, other = tokens.check(b"Bearer secret"), tokens.check(b"Bearer other")

    assert len(tokens.secret(one)) == 32
    assert tokens.secret(one) != tokens.secret(other)
    assert fewer.secret(other) == tokens.secret(other)
    assert fewer.secret(one) == b""


def test_a_clients_role_is_told_by_its_name() -> None:
    tokens = Tokens(["secret operate", "other feedback"])

    assert tokens.role(tokens.check(b"Bearer secret")) == "operate"
    assert tokens.role(tokens.check(b"Bearer other")) == "feedback"
    assert tokens.role("nobody") == ""
