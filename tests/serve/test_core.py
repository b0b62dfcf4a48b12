"""Loading, refusing and swapping versions, without HTTP and without Ray."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from cluster.config import Objective, Serve
from cluster.errors import ConfigError, NotFoundError, RequestError, TrimtabError
from cluster.store import DamagedError, Store
from ladder.bundle import Bundle
from serve.core import Core
from serve.envelope import LiveEnvelope
from serve.sketch import Sketch

DARK, LIGHT = np.zeros((1, 4, 6, 1), np.uint8), np.full((1, 4, 6, 1), 255, np.uint8)

Rungs = Mapping[str, tuple[float, bytes]]


def soon() -> float:
    return time.monotonic() + 30.0


def test_rows_come_back_as_probabilities_with_their_model(core: Core) -> None:
    async def ask() -> None:
        answer = await core.predict(core.model("shades"), np.concatenate([DARK, LIGHT]), soon())

        assert answer.outputs.dtype == np.float32
        assert answer.outputs.argmax(axis=1).tolist() == [0, 1]
        assert (answer.model.version, answer.variant) == (3, "onnx-fp32")
        assert answer.compute_ms > 0
        assert answer.queue_ms >= 0

    asyncio.run(ask())


def test_a_bundle_whose_file_was_changed_is_refused(make_bundle: Callable[..., Bundle], store: Store) -> None:
    bundle = make_bundle(store)
    assert store.local is not None
    path = store.local / "bundles" / bundle.key / bundle.files["onnx-fp32"]["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"\0")

    with pytest.raises(DamagedError, match="sha256"):
        Core.load(bundle, 1, Serve())


def test_a_bundle_without_anything_to_run_is_refused(bundle: Bundle) -> None:
    with pytest.raises(NotFoundError, match=r"no variant that can be served.*torch-fp32"):
        Core.load(dataclasses.replace(bundle, variants=("torch-fp32",)), 1, Serve())


def test_a_file_that_is_no_model_is_refused_in_one_line(make_bundle: Callable[..., Bundle], store: Store) -> None:
    with pytest.raises(TrimtabError, match="onnx-fp32 cannot be run") as refused:
        Core.load(make_bundle(store, data=b"not a model"), 1, Serve())

    assert "\n" not in str(refused.value)


def test_a_model_that_does_not_fit_its_labels_is_refused(make_bundle: Callable[..., Bundle], store: Store) -> None:
    bundle = make_bundle(store)
    encoding = dataclasses.replace(bundle.encoding, labels=("one", "two", "three"))

    with pytest.raises(TrimtabError, match=r"gave \(1, 2\)"):
        Core.load(dataclasses.replace(bundle, encoding=encoding), 1, Serve())


def test_a_swap_changes_what_is_answered_and_keeps_what_is_queued(
    core: Core, make_bundle: Callable[..., Bundle], store: Store
) -> None:
    async def swap() -> tuple[int, int]:
        asked_before = core.model("shades")
        waiting = asyncio.ensure_future(core.predict(asked_before, DARK, soon()))
        await asyncio.sleep(0)
        core.use(core.load(make_bundle(store, 4), 4, Serve()))
        asked_after = core.model("shades")
        after = await core.predict(asked_after, DARK, soon())
        return (await waiting).model.version, after.model.version

    assert asyncio.run(swap()) == (3, 4)


def test_new_limits_hold_at_once_and_keep_the_loaded_model(core: Core) -> None:
    before = core.model("shades").ladder

    core.configure(Serve(max_batch=2, max_pixels=16))

    assert core.max_rows == 32
    assert core.model("shades").ladder is before
    assert core.model("shades").task.experiment.serve.max_pixels == 16


def test_the_rungs_that_may_answer_are_changed_without_loading(
    make_bundle: Callable[..., Bundle], two_rungs: Rungs, store: Store
) -> None:
    core = Core("shades", Serve())
    core.use(core.load(make_bundle(store, rungs=two_rungs), 1, Serve()))

    async def ask() -> str:
        return (await core.predict(core.model("shades"), DARK, soon())).variant

    async def change() -> list[str]:
        answered = [await ask()]
        core.configure(Serve(rungs=["student-fp32"]))
        answered.append(await ask())
        with pytest.raises(ConfigError, match=r"serve\.rungs = 'tiny': .* use one or more of onnx-fp32, student-fp32"):
            core.configure(Serve(rungs=["tiny"], max_batch=7))
        return [*answered, await ask()]

    assert asyncio.run(change()) == ["onnx-fp32", "student-fp32", "student-fp32"]
    assert core.serve == Serve(rungs=["student-fp32"])


def test_a_version_without_an_allowed_rung_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"serve\.rungs = 'student-fp32': no rung of this version"):
        Core.load(bundle, 1, Serve(rungs=["student-fp32"]))


@pytest.mark.parametrize(
    ("latency_ms", "bound_s", "due_s"),
    [
        pytest.param(None, 30.0, 30.0, id="no objective"),
        pytest.param(100.0, 30.0, 0.095, id="the objective, with time for the way back"),
        pytest.param(10.0, 30.0, 0.009, id="a short objective"),
        pytest.param(100.0, 0.05, 0.05, id="a client in a hurry"),
    ],
)
def test_an_answer_is_due_at_the_objective_or_sooner(latency_ms: float | None, bound_s: float, due_s: float) -> None:
    core = Core("shades", Serve(objective=Objective(latency_ms=latency_ms)))

    assert core.deadline(1000.0, bound_s) == pytest.approx(1000.0 + due_s)


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        pytest.param("cats", None, "model = 'cats': unknown model; this endpoint serves 'shades'", id="name"),
        pytest.param("shades", "4", "version = '4': not a loaded version of shades; version 3 is loaded", id="version"),
        pytest.param("shades", "", "version = ''", id="empty version"),
    ],
)
def test_an_unknown_model_or_version_is_404(core: Core, name: str, version: str | None, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        core.model(name, version)

    assert refused.value.status == 404
    assert words in refused.value.message


def test_before_a_version_is_loaded_it_is_503() -> None:
    with pytest.raises(RequestError, match="no model version is loaded yet") as refused:
        Core("shades", Serve()).model("shades")

    assert refused.value.status == 503


def test_a_replica_needs_no_torch(bundle: Bundle) -> None:
    program = f"""
import sys
from cluster.config import Serve
from cluster.store import Store
from ladder.bundle import read_bundle
import serve.replica, serve.core
model = serve.core.Core.load(read_bundle(Store.open({bundle.store.uri!r}), {bundle.key!r}), 1, Serve())
assert model.task.media_types()
assert "torch" not in sys.modules and "ray" not in sys.modules, "too much is imported"
"""
    root = Path(__file__).resolve().parents[2]

    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


# Envelopes


async def asked(core: Core, *, request_id: str = "") -> str:
    return (await core.predict(core.model("shades"), DARK, soon(), request_id)).variant


@pytest.fixture
def two(make_bundle: Callable[..., Bundle], two_rungs: Rungs, store: Store) -> Core:
    made = Core("shades", Serve())
    made.use(made.load(make_bundle(store, rungs=two_rungs), 1, Serve()))
    return made


def test_an_envelope_holds_until_a_newer_one_and_through_new_limits(two: Core) -> None:
    async def change() -> list[str]:
        two.apply(LiveEnvelope(epoch=5, variants=["student-fp32"]))
        answered = [await asked(two)]
        two.configure(Serve(max_batch=8))
        answered.append(await asked(two))
        with pytest.raises(ConfigError, match=r"envelope\.epoch = 4: 5 holds already"):
            two.apply(LiveEnvelope(epoch=4))
        two.apply(LiveEnvelope(epoch=5, variants=["student-fp32"]))  # said twice
        answered.append(await asked(two))
        two.apply(LiveEnvelope(epoch=6))
        return [*answered, await asked(two)]

    assert asyncio.run(change()) == ["student-fp32"] * 3 + ["onnx-fp32"]


@pytest.mark.parametrize(
    ("serve", "envelope", "words"),
    [
        pytest.param({}, {"variants": ["tiny"]}, r"envelope\.variants = 'tiny': no rung", id="unknown rung"),
        pytest.param({}, {"variants": []}, r"envelope\.variants = \[\]: allows no rung", id="none"),
        pytest.param({}, {"least_accuracy": 0.99}, r"envelope\.least_accuracy = 0\.99: no allowed rung", id="floor"),
        pytest.param(
            {"objective": {"accuracy_at_least": 0.93}},
            {"variants": ["student-fp32"]},
            r"serve\.objective\.accuracy_at_least = 0\.93: no allowed rung",
            id="the objective's floor",
        ),
    ],
)
def test_an_envelope_without_a_rung_is_refused_and_nothing_changes(
    two: Core, serve: dict[str, object], envelope: dict[str, object], words: str
) -> None:
    two.configure(Serve.model_validate(serve))

    with pytest.raises(ConfigError, match=words):
        two.apply(LiveEnvelope(epoch=1, **envelope))  # type: ignore[arg-type]

    assert two.envelope == LiveEnvelope()
    assert asyncio.run(asked(two)) == "onnx-fp32"


def test_a_rung_below_the_objectives_accuracy_never_answers(two: Core) -> None:
    two.configure(Serve(objective=Objective(accuracy_at_least=0.93)))

    async def hurried() -> RequestError:
        with pytest.raises(RequestError) as refused:  # the cheaper rung would be in time
            await two.predict(two.model("shades"), DARK, time.monotonic() + 1e-3)
        return refused.value

    assert asyncio.run(hurried()).status == 504
    with pytest.raises(ConfigError, match=r"accuracy_at_least = 0\.99: no allowed rung reaches it on the validation"):
        two.configure(Serve(objective=Objective(accuracy_at_least=0.99)))


def test_a_version_that_has_none_of_the_envelopes_rungs_answers_with_its_own(
    two: Core, make_bundle: Callable[..., Bundle], store: Store, onnx: bytes
) -> None:
    two.apply(LiveEnvelope(epoch=1, variants=["student-fp32"]))

    two.use(two.load(make_bundle(store, rungs={"onnx-int8": (0.9, onnx)}), 2, Serve()))

    assert asyncio.run(asked(two)) == "onnx-int8"


def test_of_a_client_with_always_the_same_id_the_admitted_share_is_answered_and_the_rest_hears_429(core: Core) -> None:
    core.apply(LiveEnvelope(epoch=1, admit=0.5))

    async def ask() -> list[object]:
        asking = (asked(core, request_id="always-the-same") for _ in range(40))
        return await asyncio.gather(*asking, return_exceptions=True)

    answers = asyncio.run(ask())

    refused = [answer for answer in answers if isinstance(answer, RequestError)]
    assert {error.status for error in refused} == {429}
    assert "only 50% of the requests are let in" in refused[0].message
    assert 5 < len(refused) < 35
    assert core.counters.refused["admission"] == len(refused)


def test_other_threads_are_begun_beside_those_that_answer(core: Core) -> None:
    async def change() -> list[object]:
        ladder = core.model("shades").ladder
        before = dict(ladder.forwards)
        core.apply(LiveEnvelope(epoch=1, threads=2))
        pending = not core.has_threads
        answered = await asked(core)
        await core.thread()
        again = await asked(core)
        return [pending, answered, again, core.has_threads, ladder.threads, ladder.forwards == before]

    assert asyncio.run(change()) == [True, "onnx-fp32", "onnx-fp32", True, 2, False]


def test_all_that_becomes_of_a_request_is_counted(core: Core) -> None:
    async def ask() -> None:
        model = core.model("shades")
        await core.predict(model, np.concatenate([DARK, LIGHT]), soon(), received=time.monotonic() - 1.0)
        for within_s in (1e-9, 30.0):
            leaving = asyncio.ensure_future(core.predict(model, DARK, time.monotonic() + within_s))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    asyncio.run(ask())
    said = core.statistics()

    assert said["arrived"] == {"requests": 3, "rows": 4}
    assert said["answered"] == said["in_time"] == {"requests": 1, "rows": 2}
    assert (said["refused"]["hopeless"], said["cancelled"], said["refused_rows"]) == (1, 1, 1)
    assert Sketch.from_json(said["latency"]).quantile(0.5) >= 0.9
    assert said["rungs"]["onnx-fp32"]["rows"] >= 2
    assert said["busy_s"] > 0
    assert (said["version"], said["epoch"]) == (3, 0)
    assert said["waiting"] == {"requests": 0, "rows": 0, "oldest_s": 0.0}
