"""Two versions in one core: who answers, what is counted, and that a bad candidate costs nobody an answer."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cluster.config import Serve
from cluster.errors import RequestError, TrimtabError
from cluster.store import Store
from ladder.bundle import Bundle
from ladder.choose import Rung
from ladder.latency import Latency
from serve.core import Core
from serve.envelope import Candidate, LiveEnvelope
from serve.ladder import Ladder
from serve.model import Answer, Model, Read
from serve.queues import NotFiniteError

DARK = np.zeros((1, 4, 6, 1), np.uint8)
Forward = Callable[[np.ndarray], np.ndarray]
Try = Callable[..., Model]


def light(rows: np.ndarray) -> np.ndarray:
    return np.tile(np.float32([0.0, 1.0]), (len(rows), 1))


def dark(rows: np.ndarray) -> np.ndarray:
    return 1 - light(rows)


def raises(_: np.ndarray) -> np.ndarray:
    raise RuntimeError("a kernel failed")


def nan(rows: np.ndarray) -> np.ndarray:
    return np.full((len(rows), 2), np.nan, np.float32)


def wide(rows: np.ndarray) -> np.ndarray:
    return np.ones((len(rows), 3), np.float32)


class Gate:
    """A forward pass that hangs until it is let go."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.entered.set()
        self.opened.wait(60)
        return dark(rows)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


@pytest.fixture(scope="module")
def later(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Version 4, which reads requests as version 3 does."""
    return Core.load(make_bundle(Store.open(str(tmp_path_factory.mktemp("later")))), 4, Serve())


@pytest.fixture
def tried(core: Core, later: Model) -> Try:
    """Puts version 4 beside version 3, with another forward pass, and with the shares of an envelope."""

    def begin(forward: Forward = dark, seconds: float = 0.001, labels: tuple[str, ...] = (), **shares: float) -> Model:
        ladder = Ladder([Rung("onnx-fp32", 1.0, Latency(seconds, seconds / 100))], {"onnx-fp32": forward})
        bundle = later.bundle
        if labels:
            bundle = dataclasses.replace(bundle, encoding=dataclasses.replace(bundle.encoding, labels=labels))
        wanted = Candidate(bundle=bundle.key, version=4)
        core.apply(LiveEnvelope(epoch=core.envelope.epoch + 1, candidate=wanted, **shares))  # type: ignore[arg-type]
        core.rivals.hold(wanted, dataclasses.replace(later, ladder=ladder, bundle=bundle))
        assert core.rivals.candidate is not None
        return core.rivals.candidate

    return begin


async def read_dark(_: Model) -> tuple[np.ndarray, None]:
    return DARK, None


async def asked(
    core: Core,
    request_id: str = "",
    wish: str | None = None,
    version: str | None = None,
    within_s: float = 30.0,
    read: Read = read_dark,
    say: Callable[[Answer, Any], Any] = lambda answer, _: answer,
) -> Any:
    """As a protocol asks; the answer as it is, unless it is to be said otherwise."""
    now = time.monotonic()
    meant = core.meant("shades", version, wish, request_id)
    return await core.answer(meant, read, say, now + within_s, request_id, now)


def counted(core: Core, version: int) -> dict[str, Any]:
    """What is not zero; without what it took to compute."""
    counts = core.statistics()["rivals"]["versions"][str(version)]
    return {name: count for name, count in counts.items() if count and not name.startswith(("compute", "passes"))}


def shadowed(core: Core) -> dict[str, Any]:
    found: dict[str, Any] = core.statistics()["rivals"]["shadow"]
    return found


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


# Who answers


def test_a_share_of_the_ids_is_answered_by_the_candidate_and_counted_for_it(core: Core, tried: Try) -> None:
    async def ask() -> list[int]:
        before = (await asked(core, "r0")).model.version
        tried(canary=0.4)
        return [before, *[(await asked(core, f"r{i}")).model.version for i in range(200)]]

    before, *versions = asyncio.run(ask())

    num_tried = versions.count(4)
    assert before == 3
    assert 50 < num_tried < 110
    assert counted(core, 4) == {"requests": num_tried, "rows": num_tried, "in_time": num_tried}
    assert counted(core, 3) == {"requests": 200 - num_tried, "rows": 200 - num_tried, "in_time": 200 - num_tried}
    said = core.statistics()
    assert said["rivals"]["versions"]["4"]["compute_rows"] == num_tried
    assert said["rivals"]["versions"]["4"]["compute_s"] > 0
    assert said["answered"] == said["in_time"] == {"requests": 201, "rows": 201}
    assert said["rungs"]["onnx-fp32"]["rows"] == 201 - num_tried  # the stable version's, by which replicas are adapted


@pytest.mark.parametrize(
    ("wish", "version", "answers"),
    [
        pytest.param("candidate", None, 4, id="the candidate, by the word"),
        pytest.param("stable", None, 3, id="the stable version, by the word"),
        pytest.param("4", None, 4, id="the candidate, by its number"),
        pytest.param("3", None, 3, id="the stable version, by its number"),
        pytest.param("stable", "4", 4, id="the path before the header"),
    ],
)
def test_a_client_can_choose_the_version(
    core: Core, tried: Try, wish: str | None, version: str | None, answers: int
) -> None:
    tried()

    assert asyncio.run(asked(core, wish=wish, version=version)).model.version == answers


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        pytest.param("candidate", "x-trimtab-version = 'candidate': a candidate is not tried just now", id="candidate"),
        pytest.param("7", "x-trimtab-version = '7': not a loaded version of shades; version 3 is loaded", id="number"),
        pytest.param("newest", "x-trimtab-version = 'newest': not a loaded version", id="another word"),
    ],
)
def test_a_version_that_is_not_there_is_refused(core: Core, wish: str, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        asyncio.run(asked(core, wish=wish))

    assert refused.value.status == 404
    assert words in refused.value.message


def test_a_candidate_that_is_taken_back_gets_no_more_requests_and_loses_none(
    core: Core, tried: Try, gate: Gate
) -> None:
    candidate = tried(gate, canary=1.0)

    async def ask() -> list[int]:
        meant = core.meant("shades", None, None, "on its way")
        waiting = asyncio.ensure_future(asked(core, "waits"))
        await until(gate.entered.is_set)
        core.apply(LiveEnvelope(epoch=9))
        now = time.monotonic()
        first = await core.answer(meant, read_dark, lambda answer, _: answer, now + 30, "on its way", now)
        answers = [first, await asked(core, "new")]
        gate.opened.set()
        return [meant.model.version, *[answer.model.version for answer in (*answers, await waiting)]]

    assert asyncio.run(ask()) == [4, 3, 3, 4]
    assert core.statistics()["rivals"]["candidate"] is None
    assert core.versions == ["3"]
    assert candidate.version == 4


def test_a_candidate_that_becomes_stable_is_used_as_it_is(core: Core, tried: Try) -> None:
    candidate = tried(canary=0.5)

    async def ask() -> list[int]:
        core.use(candidate)
        return [(await asked(core, f"r{i}")).model.version for i in range(20)]

    assert asyncio.run(ask()) == [4] * 20
    assert core.model("shades").ladder is candidate.ladder
    assert core.statistics()["rivals"]["candidate"]["state"] == "ready"
    assert core.versions == ["4"]


# Rescue


@pytest.mark.parametrize(
    ("forward", "fate"),
    [
        pytest.param(raises, "failed", id="it raises"),
        pytest.param(nan, "nonfinite", id="it answers NaN"),
        pytest.param(wide, "failed", id="it answers with another width"),
        pytest.param(lambda rows: rows[:0], "failed", id="it answers nothing"),
    ],
)
def test_a_request_that_the_candidate_fails_is_answered_by_the_stable_version(
    core: Core, tried: Try, forward: Forward, fate: str
) -> None:
    tried(forward, canary=1.0)

    async def ask() -> list[int]:
        return [(await asked(core, f"r{i}")).model.version for i in range(5)]

    assert asyncio.run(ask()) == [3] * 5
    said = core.statistics()
    assert counted(core, 4) == {"requests": 5, "rows": 5, fate: 5, "rescued": 5}
    assert counted(core, 3) == {}  # they were not meant for it
    assert said["arrived"] == said["answered"] == said["in_time"] == {"requests": 5, "rows": 5}
    assert (said["failed"], said["cancelled"], sum(said["refused"].values())) == (0, 0, 0)


def test_a_candidate_that_is_too_slow_for_the_deadline_is_not_waited_for(core: Core, tried: Try) -> None:
    tried(dark, seconds=40.0, canary=1.0)

    assert asyncio.run(asked(core)).model.version == 3
    assert counted(core, 4) == {"requests": 1, "rows": 1, "late": 1, "rescued": 1}
    assert core.statistics()["in_time"]["requests"] == 1


def test_a_candidate_that_hangs_holds_up_nobody(core: Core, tried: Try, gate: Gate) -> None:
    tried(gate, canary=1.0)

    async def ask() -> list[int]:
        answers = await asyncio.gather(*(asked(core, f"r{i}", within_s=0.4) for i in range(3)))
        beside = await asked(core, wish="stable")
        await until(lambda: counted(core, 4).get("late") == 3)
        return [answer.model.version for answer in (*answers, beside)]

    assert asyncio.run(ask()) == [3] * 4
    assert counted(core, 4) == {"requests": 3, "rows": 3, "late": 3, "rescued": 3}
    assert core.statistics()["answered"]["requests"] == 4
    assert core.forward_s == 0.0  # the replica is well


def test_an_answer_in_time_counts_for_the_candidate_though_it_was_not_waited_for(
    core: Core, tried: Try, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.canary.HANGS_S", 0.0)
    tried(gate, canary=1.0)

    async def ask() -> int:
        answered = (await asked(core)).model.version
        gate.opened.set()
        await until(lambda: bool(counted(core, 4)))
        return int(answered)

    assert asyncio.run(ask()) == 3
    assert counted(core, 4) == {"requests": 1, "rows": 1, "in_time": 1}


def test_what_is_asked_by_number_is_answered_by_that_version_or_not_at_all(core: Core, tried: Try) -> None:
    tried(raises)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        asyncio.run(asked(core, version="4"))
    tried(nan)
    with pytest.raises(TrimtabError, match="answers NaN"):
        asyncio.run(asked(core, version="4"))

    assert (counted(core, 4), counted(core, 3)) == ({}, {})  # a test, which is no evidence
    said = core.statistics()
    assert (said["arrived"]["requests"], said["answered"]["requests"], said["failed"]) == (2, 0, 2)


def test_a_version_that_reads_otherwise_reads_for_itself(core: Core, tried: Try) -> None:
    tried(raises, labels=("light-1", "dark-1"), canary=1.0)
    readers: list[int] = []

    async def read(model: Model) -> tuple[np.ndarray, int]:
        readers.append(model.version)
        return DARK, model.version

    answer, about = asyncio.run(asked(core, read=read, say=lambda answer, about: (answer, about)))

    assert readers == [4, 3]
    assert (answer.model.version, about) == (3, 3)


@pytest.mark.parametrize("part", ["read", "say"])
@pytest.mark.parametrize("whose", ["the candidate's", "the client's"])
def test_only_what_the_stable_version_refuses_too_is_the_clients_fault(
    core: Core, tried: Try, part: str, whose: str
) -> None:
    tried(canary=1.0, labels=("a", "b"))

    def check(where: str, model: Model) -> None:
        if where == part and (model.version == 4 or whose == "the client's"):
            raise RequestError(422, "not an image")

    async def read(model: Model) -> tuple[np.ndarray, None]:
        check("read", model)
        return DARK, None

    def say(answer: Answer, _: object) -> int:
        check("say", answer.model)
        return answer.model.version

    if whose == "the client's":
        with pytest.raises(RequestError, match="not an image"):
            asyncio.run(asked(core, read=read, say=say))
        assert counted(core, 4) == {}
    else:
        assert asyncio.run(asked(core, read=read, say=say)) == 3
        assert counted(core, 4) == {"requests": 1, "rows": 1, "failed": 1, "rescued": 1}


@pytest.mark.parametrize(
    ("within_s", "is_late"), [pytest.param(30.0, False, id="in time"), pytest.param(0.3, True, id="after its deadline")]
)
def test_a_client_that_leaves_is_no_fault_of_the_candidate_before_the_deadline(
    core: Core, tried: Try, gate: Gate, within_s: float, is_late: bool
) -> None:
    tried(gate, canary=1.0)
    core.model("shades").ladder.use({"onnx-fp32": gate}, 1)

    async def leave() -> None:
        asking = asyncio.ensure_future(asked(core, within_s=within_s))
        await until(gate.entered.is_set)
        if is_late:
            await asyncio.sleep(within_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(leave())

    assert counted(core, 4) == ({"requests": 1, "rows": 1, "late": 1} if is_late else {})
    said = core.statistics()
    assert (said["cancelled"], said["refused"]["late"]) == (int(not is_late), int(is_late))


def test_refused_by_admission_is_no_versions_fault(core: Core, tried: Try) -> None:
    tried(canary=0.5, admit=0.0)

    async def ask() -> list[object]:
        return await asyncio.gather(*(asked(core, f"r{i}") for i in range(20)), return_exceptions=True)

    assert {error.status for error in asyncio.run(ask()) if isinstance(error, RequestError)} == {429}
    assert (counted(core, 3), counted(core, 4)) == ({}, {})
    assert core.statistics()["refused"]["admission"] == 20


def test_the_stable_versions_own_faults_are_counted_and_stay_what_they_are(core: Core, tried: Try) -> None:
    tried()
    ladder = core.model("shades").ladder

    async def ask() -> list[object]:
        said: list[object] = []
        for forward, within_s in ((nan, 30.0), (raises, 30.0), (dark, 1e-9)):
            ladder.use({"onnx-fp32": forward}, 1)
            said += await asyncio.gather(asked(core, within_s=within_s), return_exceptions=True)
        return said

    first, second, third = asyncio.run(ask())

    assert isinstance(first, NotFiniteError)
    assert isinstance(second, RuntimeError)
    assert isinstance(third, RequestError)
    assert counted(core, 3) == {"requests": 3, "rows": 3, "nonfinite": 1, "failed": 1, "late": 1}


# Shadow


@pytest.mark.parametrize(
    ("forward", "labels", "agreed", "failed", "difference"),
    [
        pytest.param(dark, (), 1.0, 0, 0.0, id="the same answer"),
        pytest.param(light, (), 0.0, 0, 1.0, id="the opposite"),
        pytest.param(light, ("light-1", "dark-1"), 1.0, 0, 0.0, id="the same label at another place"),
        pytest.param(light, ("never", "heard"), 0.0, 0, 0.0, id="other labels"),
        pytest.param(nan, (), 0.0, 1, 0.0, id="NaN"),
        pytest.param(raises, (), 0.0, 1, 0.0, id="an error"),
        pytest.param(wide, (), 0.0, 1, 0.0, id="another width"),
    ],
)
def test_what_the_candidate_says_unseen_is_compared(
    core: Core, tried: Try, forward: Forward, labels: tuple[str, ...], agreed: float, failed: int, difference: float
) -> None:
    tried(forward, labels=labels, shadow=1.0)
    core.model("shades").ladder.use({"onnx-fp32": dark}, 1)

    async def ask() -> int:
        answered = (await asked(core)).model.version
        await until(lambda: shadowed(core)["rows"] == 1)
        return int(answered)

    assert asyncio.run(ask()) == 3
    assert shadowed(core) == {"rows": 1, "agreed": agreed, "failed": failed, "shed": 0, "difference": difference}
    assert counted(core, 4) == {}  # no request was meant for it
    said = core.statistics()
    assert said["arrived"] == said["answered"] == {"requests": 1, "rows": 1}
    assert said["rungs"]["onnx-fp32"]["rows"] == 1


def test_nobody_waits_for_a_shadow_and_there_is_one_at_a_time(core: Core, tried: Try, gate: Gate) -> None:
    tried(gate, shadow=1.0)

    async def ask() -> dict[str, Any]:
        await asked(core)
        await until(gate.entered.is_set)
        for _ in range(5):
            await asked(core)
        shed = shadowed(core)
        gate.opened.set()
        await until(lambda: shadowed(core)["rows"] == 1)
        return shed

    assert asyncio.run(ask()) == {"rows": 0, "agreed": 0.0, "failed": 0, "shed": 5, "difference": 0.0}
    assert counted(core, 3) == {"requests": 6, "rows": 6, "in_time": 6}


def test_a_shadow_that_takes_too_long_has_failed_and_rests(
    core: Core, tried: Try, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.shadow.LEAST_S", 0.05)
    monkeypatch.setattr("serve.shadow.PATIENCE", 0.0)
    tried(gate, shadow=1.0)

    async def ask() -> dict[str, Any]:
        await asked(core)
        await until(lambda: shadowed(core)["failed"] == 1)
        await asked(core)
        return shadowed(core)

    assert asyncio.run(ask()) == {"rows": 1, "agreed": 0.0, "failed": 1, "shed": 1, "difference": 0.0}


def test_a_shadow_is_shed_where_the_queue_is_full_or_somebody_waits(core: Core, tried: Try, gate: Gate) -> None:
    tried(dark, shadow=1.0)
    first = Gate()
    core.model("shades").ladder.use({"onnx-fp32": first}, 1)
    core.configure(Serve(max_batch=1))

    async def ask() -> dict[str, Any]:
        asking = [asyncio.ensure_future(asked(core, f"r{i}")) for i in range(4)]
        await until(first.entered.is_set)
        first.opened.set()
        await asyncio.gather(*asking)
        await until(lambda: shadowed(core)["rows"] + shadowed(core)["shed"] == 4)
        return shadowed(core)

    assert asyncio.run(ask())["shed"] >= 2  # all but perhaps the last, behind which nobody waits


def test_a_shadow_behind_a_canarys_request_is_shed_and_one_that_would_always_be_late_has_failed(
    core: Core, tried: Try, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.shadow.LEAST_S", 20.0)

    async def ask() -> list[tuple[int, int]]:
        tried(gate, seconds=15.0, shadow=1.0)
        asking = asyncio.ensure_future(asked(core, wish="candidate"))
        await until(gate.entered.is_set)
        await asked(core, wish="stable")
        await until(lambda: shadowed(core)["shed"] == 1)
        seen = [(shadowed(core)["rows"], shadowed(core)["failed"])]
        gate.opened.set()
        await asking
        tried(dark, seconds=40.0, shadow=1.0)
        await asked(core)
        await until(lambda: shadowed(core)["rows"] == 1)
        return [*seen, (shadowed(core)["shed"], shadowed(core)["failed"])]

    assert asyncio.run(ask()) == [(0, 0), (1, 1)]
