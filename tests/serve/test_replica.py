"""A replica as Serve drives it, without Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Serve
from cluster.errors import ClusterError, NotFoundError, TrimtabError
from cluster.store import Store
from ladder.bundle import Bundle
from serve.replica import Replica


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch, token_file: Path, store: Store) -> Replica:
    monkeypatch.setenv("TRIMTAB_TOKEN_FILE", str(token_file))
    return Replica("shades", store.uri)


def config(bundle: str, version: int, **serve: Any) -> dict[str, Any]:
    return {"bundle": bundle, "version": version, "serve": Serve.model_validate(serve).model_dump(mode="json")}


async def settled(replica: Replica) -> None:
    assert replica._change is not None
    await replica._change


def test_without_a_token_file_it_refuses_to_start(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.delenv("TRIMTAB_TOKEN_FILE", raising=False)

    with pytest.raises(ClusterError, match="an endpoint without a token is not started"):
        Replica("shades", store.uri)


def test_it_is_healthy_once_its_first_version_is_loaded(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    with pytest.raises(TrimtabError, match="no model version"):
        replica.check_health()

    asyncio.run(replica.reconfigure(config(make_bundle(store).key, 1)))

    replica.check_health()
    assert replica._core.model("shades").version == 1


def test_a_first_version_that_cannot_be_loaded_is_an_error(replica: Replica) -> None:
    with pytest.raises(NotFoundError, match="no bundle nothing in the store"):
        asyncio.run(replica.reconfigure(config("nothing", 1)))


def test_a_later_version_that_cannot_be_loaded_leaves_the_one_before(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    bundle = make_bundle(store)

    async def two() -> None:
        await replica.reconfigure(config(bundle.key, 1))
        await replica.reconfigure(config("nothing", 2))
        await settled(replica)

    asyncio.run(two())

    replica.check_health()
    assert replica._core.model("shades").version == 1
    assert replica._core.refused == {"version": 2, "reason": f"no bundle nothing in the store {store.uri}"}

    async def mended() -> None:
        await replica.reconfigure(config(bundle.key, 2))
        await settled(replica)

    asyncio.run(mended())

    assert replica._core.model("shades").version == 2
    assert replica._core.refused is None


def test_of_versions_in_a_row_the_last_one_stays(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    async def row() -> list[int]:
        for version in (1, 2, 3, 4):
            await replica.reconfigure(config(make_bundle(store, version).key, version))
        await settled(replica)
        return [replica._core.model("shades").version]

    assert asyncio.run(row()) == [4]


def test_limits_alone_load_nothing(replica: Replica, make_bundle: Callable[..., Bundle], store: Store) -> None:
    bundle = make_bundle(store)

    async def change() -> bool:
        await replica.reconfigure(config(bundle.key, 1))
        before = replica._core.model("shades").ladder
        await replica.reconfigure(config(bundle.key, 1, max_batch=5))
        await settled(replica)
        return replica._core.model("shades").ladder is before

    assert asyncio.run(change())
    assert replica._core.serve.max_batch == 5


def test_limits_that_allow_no_rung_are_refused_and_those_before_stay(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    bundle = make_bundle(store)

    async def change() -> list[dict[str, Any] | None]:
        await replica.reconfigure(config(bundle.key, 1, max_batch=5))
        await replica.reconfigure(config(bundle.key, 1, max_batch=7, rungs=["student-fp32"]))
        await settled(replica)
        refused = replica._core.refused
        assert replica._core.serve.max_batch == 5
        await replica.reconfigure(config(bundle.key, 1, max_batch=9))
        await settled(replica)
        return [refused, replica._core.refused]

    refused, after = asyncio.run(change())

    assert refused is not None
    assert refused["reason"].startswith(
        "serve.rungs = 'student-fp32': no rung of this version; use one or more of onnx"
    )
    assert after is None
    assert replica._core.serve.max_batch == 9


def test_rungs_that_only_a_later_version_has_are_allowed_with_it(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store, onnx: bytes
) -> None:
    later = make_bundle(store, 2, rungs={"onnx-fp32": (0.9, onnx), "student-fp32": (0.8, onnx)})

    async def change() -> None:
        await replica.reconfigure(config(make_bundle(store).key, 1))
        await replica.reconfigure(config(later.key, 2, rungs=["student-fp32"]))
        await settled(replica)

    asyncio.run(change())

    assert replica._core.model("shades").version == 2
    assert replica._core.serve.rungs == ["student-fp32"]
    assert replica._core.refused is None
