"""A replica as Serve drives it, without Serve."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.config import Serve
from cluster.errors import ClusterError, NotFoundError, TrimtabError
from cluster.store import Store
from ladder.bundle import Bundle
from serve import standing
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
        asyncio.run(replica.check_health())

    asyncio.run(replica.reconfigure(config(make_bundle(store).key, 1)))

    asyncio.run(replica.check_health())
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

    asyncio.run(replica.check_health())
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


def test_a_configuration_that_is_applied_again_is_what_has_replaced_it(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    applied = {**config(make_bundle(store, 1).key, 1), "follows": True}
    promoted = standing.replacing(applied, {**applied, "bundle": make_bundle(store, 2).key, "version": 2})

    async def again() -> list[int]:
        await replica.reconfigure(applied)
        found = [replica._core.model("shades").version]
        await replica.reconfigure(promoted)
        standing.keep(store, "shades", promoted)
        await replica.reconfigure(applied)
        await settled(replica)
        return [*found, replica._core.model("shades").version]

    assert asyncio.run(again()) == [1, 2]


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


# What the adaptation actor says and hears


def test_an_envelope_is_applied_and_what_is_wrong_with_one_is_said(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    bundle = make_bundle(store)

    async def change() -> list[dict[str, Any]]:
        await replica.reconfigure(config(bundle.key, 1))
        said = [await replica.apply({"epoch": 2, "max_batch": 4, "concurrency": 2})]
        said += [await replica.apply(wrong) for wrong in ({"epoch": 1}, {"epoch": 3, "admit": 7}, {"surprise": 1})]
        await replica.reconfigure(config(bundle.key, 1, max_batch=9))
        await settled(replica)
        return said

    first, *wrong = asyncio.run(change())

    assert {"epoch": 2, "refused": None, "pending": False}.items() <= first.items()
    assert [answer["epoch"] for answer in wrong] == [2, 2, 2]
    assert ["envelope.epoch" in wrong[0]["refused"], "envelope.admit" in wrong[1]["refused"]] == [True, True]
    assert replica._core._batcher._limits.max_batch == 4
    assert replica._core._batcher._limits.workers == 2


def test_threads_change_by_envelope_and_by_reconfigure(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    bundle = make_bundle(store)

    async def threads() -> int:
        while replica._threading is not None and not replica._threading.done():
            await asyncio.sleep(0.01)
        return replica._core.model("shades").ladder.threads

    async def change() -> list[int]:
        await replica.reconfigure(config(bundle.key, 1, threads=2))
        found = [await threads()]
        assert (await replica.apply({"epoch": 1, "threads": 3}))["pending"]
        found.append(await threads())
        await replica.reconfigure(config(bundle.key, 2, threads=2))  # the envelope is above
        await settled(replica)
        found.append(await threads())
        await replica.apply({"epoch": 2})
        return [*found, await threads()]

    assert asyncio.run(change()) == [2, 3, 3, 2]


# A candidate


def envelope(epoch: int, bundle: str, version: int, **shares: float) -> dict[str, Any]:
    return {"epoch": epoch, "candidate": {"bundle": bundle, "version": version}, **shares}


async def tried(replica: Replica) -> dict[str, Any]:
    """What statistics say of the candidate when it is no longer being loaded."""
    async with asyncio.timeout(60):
        while (found := (await replica.stats())["rivals"]["candidate"])["state"] == "loading":
            await asyncio.sleep(0.01)
    return dict(found)


def test_a_candidate_is_loaded_beside_the_stable_version_and_becomes_it_without_loading(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    first, second = make_bundle(store, 1), make_bundle(store, 2)
    core = replica._core

    async def promote() -> list[Any]:
        await replica.reconfigure(config(first.key, 1))
        said = await replica.apply(envelope(1, second.key, 2, canary=0.5))
        found: list[Any] = [(said["refused"], said["pending"]), await tried(replica)]
        found.append((await replica.apply(envelope(2, second.key, 2, canary=1.0)))["pending"])
        candidate = core.rivals.candidate
        assert candidate is not None
        await replica.reconfigure(config(second.key, 2, max_batch=7))
        await settled(replica)
        found.append(core.model("shades").ladder is candidate.ladder)
        await replica.apply({"epoch": 3})
        return [*found, (await replica.stats())["rivals"]["candidate"]]

    said, found, pending, is_same, after = asyncio.run(promote())

    assert said == (None, True)
    assert found == {"bundle": second.key, "version": 2, "state": "ready", "reason": None}
    assert (pending, is_same, after) == (False, True, None)
    assert (core.model("shades").version, core.serve.max_batch, core.refused) == (2, 7, None)


def test_a_candidate_that_is_still_being_loaded_is_waited_for_when_it_becomes_stable(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_bundle(store, 1), make_bundle(store, 2)
    loaded: list[int] = []
    load = replica._core.load

    def counted(bundle: Bundle, version: int, *rest: Any) -> Any:
        loaded.append(version)
        return load(bundle, version, *rest)

    monkeypatch.setattr(replica._core, "load", counted)

    async def promote() -> None:
        await replica.reconfigure(config(first.key, 1))
        await replica.apply(envelope(1, second.key, 2))
        await replica.reconfigure(config(second.key, 2))
        await settled(replica)

    asyncio.run(promote())

    assert (replica._core.model("shades").version, loaded) == (2, [1, 2])


def test_a_candidate_that_cannot_be_loaded_is_said_and_harms_nothing(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    first, broken = make_bundle(store, 1), make_bundle(store, 2, data=b"not a model")
    rows = np.zeros((1, 4, 6, 1), np.uint8)

    async def begin() -> list[Any]:
        await replica.reconfigure(config(first.key, 1))
        found: list[Any] = []
        for epoch, key in ((1, "nothing"), (2, broken.key)):
            said = await replica.apply(envelope(epoch, key, 2, canary=1.0, shadow=1.0))
            found.append(
                (said["epoch"], said["refused"], (await tried(replica))["state"], (await tried(replica))["reason"])
            )
        again = await replica.apply(envelope(3, broken.key, 2, canary=0.5))  # what is refused is not loaded again
        answer = await replica._core.predict(replica._core.model("shades"), rows, time.monotonic() + 30)
        return [*found, again["pending"], answer.model.version]

    missing, damaged, pending, version = asyncio.run(begin())

    assert missing == (1, None, "refused", f"no bundle nothing in the store {store.uri}")
    assert damaged[:3] == (2, None, "refused")
    assert "onnx-fp32 cannot be run" in damaged[3]
    assert (pending, version) == (False, 1)


def test_a_candidate_has_the_threads_of_the_stable_version(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    first, second = make_bundle(store, 1), make_bundle(store, 2)

    async def change() -> list[int]:
        await replica.reconfigure(config(first.key, 1))
        await replica.apply(envelope(1, second.key, 2))
        await tried(replica)
        pending = (await replica.apply({**envelope(2, second.key, 2), "threads": 2}))["pending"]
        while not replica._core.has_threads:
            await asyncio.sleep(0.01)
        return [pending, *(model.ladder.threads for model in replica._core._models)]

    assert asyncio.run(change()) == [True, 2, 2]


def test_statistics_are_plain_and_have_all_that_was_agreed(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    async def ask() -> list[dict[str, Any]]:
        empty = await replica.stats()
        await replica.reconfigure(config(make_bundle(store).key, 1))
        return [empty, await replica.stats()]

    empty, loaded = asyncio.run(ask())

    assert set(json.loads(json.dumps(loaded))) == {
        "replica", "pid", "started", "at", "epoch", "version", "loading", "arrived", "answered", "in_time", "refused",
        "refused_rows", "cancelled", "failed", "rungs", "queue_delay", "latency", "busy_s", "cpu_s", "loop_lag",
        "waiting", "actor_age_s", "forward_s", "rivals",
    }  # fmt: skip
    assert (empty["version"], empty["rungs"]) == (None, {})
    assert list(loaded["rungs"]) == ["onnx-fp32"]
    assert 0 <= loaded["actor_age_s"] <= loaded["at"] - empty["at"]


def test_a_forward_pass_that_hangs_is_seen_and_makes_the_replica_unhealthy(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr("serve.replica.HANGS_S", 0.05)

    async def hang() -> tuple[float, float]:
        await replica.reconfigure(config(make_bundle(store).key, 1))
        model = replica._core.model("shades")
        model.ladder.use({"onnx-fp32": lambda rows: (never.wait(60), rows)[1]}, 1)
        rows = np.zeros((1, 4, 6, 1), np.uint8)
        asking = asyncio.ensure_future(replica._core.predict(model, rows, time.monotonic() + 60))
        await asyncio.sleep(0.01)
        early = (await replica.stats())["forward_s"]
        while (later := (await replica.stats())["forward_s"]) < 0.06:
            await asyncio.sleep(0.01)
        with pytest.raises(TrimtabError, match="a forward pass has not come back"):
            await replica.check_health()
        never.set()
        await asking
        await replica.check_health()
        return early, later

    early, later = asyncio.run(hang())

    assert 0 < early < later


@pytest.mark.parametrize(
    ("sections", "closed"),
    [
        pytest.param({}, "retrain.triggers.webhook is off", id="not asked for"),
        pytest.param({"retrain": {"triggers": {"webhook": True}}}, "", id="open"),
        pytest.param(
            {"retrain": {"triggers": {"webhook": True}}, "adapt": {"enabled": False}}, "adapt.enabled is off",
            id="no actor",
        ),
    ],
)  # fmt: skip
def test_the_webhook_follows_the_settings_that_came_last(
    replica: Replica, make_bundle: Callable[..., Bundle], store: Store, sections: dict[str, Any], closed: str
) -> None:
    asyncio.run(replica.reconfigure(config(make_bundle(store).key, 1) | sections))

    assert replica._hook.closed == closed
