"""gRPC as real clients meet it: on a server of this process, and on a deployed endpoint behind HAProxy."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from cluster import orders
from cluster.config import Serve
from cluster.session import Session
from cluster.store import Store
from ladder.bundle import Bundle
from ladder.choose import Rung
from ladder.latency import Latency
from serve import deploy as deployment
from serve.auth import Tokens
from serve.core import Core
from serve.deploy import Endpoint
from serve.envelope import Candidate, LiveEnvelope
from serve.hook import Hook
from serve.ladder import Ladder
from serve.oip import oip_pb2 as pb
from serve.oip import service
from serve.rpc import Rpc

Code = grpc.StatusCode
TOKEN = (("authorization", "Bearer secret"),)
DARK = bytes(24)
ComputeWith = Callable[[Callable[[np.ndarray], np.ndarray]], None]


def request(
    raw: Any = (DARK,), outputs: Any = (), model: str = "shades", model_version: str = "", **changes: Any
) -> pb.ModelInferRequest:
    """One dark row, with parts of its tensor changed."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 6, 1], **changes}
    wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs]
    return pb.ModelInferRequest(
        model_name=model,
        model_version=model_version,
        inputs=[pb.ModelInferRequest.InferInputTensor(**tensor)],
        outputs=wanted,
        raw_input_contents=raw,
    )


def call(channel: grpc.aio.Channel, method: str, message: Any, metadata: Any = TOKEN, **more: Any) -> Any:
    """One RPC by its public name, with this project's messages."""
    (name,) = (name for name, methods in service.SERVICES.items() if method in methods)
    made = channel.unary_unary(
        f"/{name}/{method}",
        request_serializer=type(message).SerializeToString,
        response_deserializer=getattr(pb, f"{method}Response").FromString,
    )
    return made(message, metadata=metadata, **more)


@asynccontextmanager
async def served(core: Core, tokens: Tokens, hook: Hook | None = None) -> AsyncIterator[grpc.aio.Channel]:
    server, rpc = grpc.aio.server(), Rpc(core, tokens, hook=hook)
    service.add_to_server(rpc, server)
    health_pb2_grpc.add_HealthServicer_to_server(rpc, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


Ask = Callable[[Callable[[grpc.aio.Channel], Awaitable[Any]]], Any]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all: grpc.aio goes on calling the first one it has seen."""
    with asyncio.Runner() as made:
        yield made


@pytest.fixture
def ask(core: Core, runner: asyncio.Runner) -> Ask:
    """Runs one coroutine with a channel to a server of its own."""

    def run(work: Callable[[grpc.aio.Channel], Awaitable[Any]]) -> Any:
        async def inside() -> Any:
            async with served(core, Tokens(["secret", "slow predict 0.01"])) as channel:
                return await work(channel)

        return runner.run(inside())

    return run


def refusal(ask: Ask, method: str, message: Any, metadata: Any = TOKEN) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        ask(lambda channel: call(channel, method, message, metadata))
    return refused.value


# A wish for a retraining


def wished(
    core: Core, runner: asyncio.Runner, hook: Hook | None, *asked: tuple[str, pb.RetrainRequest]
) -> list[tuple[Any, str]]:
    """Of each request, by token, the status and the id of the wish or why there is none."""

    async def inside() -> list[tuple[Any, str]]:
        found: list[tuple[Any, str]] = []
        async with served(core, Tokens(["judge feedback", "boss operate", "chief admin"]), hook) as channel:
            for token, message in asked:
                metadata = (("authorization", f"Bearer {token}"), ("x-request-id", "mine"))
                try:
                    found.append((Code.OK, (await call(channel, "Retrain", message, metadata)).accepted))
                except grpc.aio.AioRpcError as refused:
                    found.append((refused.code(), refused.details() or ""))
        return found

    return runner.run(inside())


WISH = pb.RetrainRequest(model_name="shades")


def test_a_retraining_is_asked_for_by_a_token_that_may(core: Core, store: Store, runner: asyncio.Runner) -> None:
    hook = Hook(store, "shades")
    hook.closed = ""

    said = wished(core, runner, hook, *((token, WISH) for token in ("judge", "unknown", "boss", "boss", "chief")))

    assert [code for code, _ in said] == [Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, *[Code.OK] * 3]
    assert said[0][1] == "authorization: this token's role is feedback; send one whose role is at least operate"
    first, again, other = (accepted for _, accepted in said[2:])  # the same request id of a client: the same wish
    assert first == again != other
    assert {wish.id for wish in orders.asked(store, "shades")} == {first, other}


def test_a_wish_that_nobody_would_take_up_is_refused(core: Core, store: Store, runner: asyncio.Runner) -> None:
    hook = Hook(store, "shades")
    hook.closed = "retrain.triggers.webhook is off"
    core.configure(core.serve.model_copy(update={"max_body": 1000}))
    large = pb.RetrainRequest(model_name="x" * 1000)

    closed, unknown, too_large = wished(
        core, runner, hook, ("boss", WISH), ("boss", pb.RetrainRequest(model_name="hues")), ("boss", large)
    )
    (nowhere,) = wished(core, runner, None, ("boss", WISH))

    assert (closed[0], "retrain.triggers.webhook is off" in closed[1]) == (Code.FAILED_PRECONDITION, True)
    assert nowhere == (Code.FAILED_PRECONDITION, "no retraining is ordered here; ask a deployed endpoint")
    assert unknown[0] == Code.NOT_FOUND
    assert (too_large[0], "1003 bytes" in too_large[1]) == (Code.RESOURCE_EXHAUSTED, True)
    assert orders.asked(store, "shades") == []


# Answers


def test_an_answer_says_who_gave_it(ask: Ask) -> None:
    async def infer(channel: grpc.aio.Channel) -> Any:
        answering = call(channel, "ModelInfer", request(), (*TOKEN, ("x-request-id", "abc-1")))
        return await answering, dict(await answering.trailing_metadata())

    answer, trailer = ask(infer)

    assert (answer.model_name, answer.model_version, answer.id) == ("shades", "3", "abc-1")
    assert answer.raw_output_contents[1] == b"\6\0\0\0dark-1"
    assert answer.parameters["variant"].string_param == "onnx-fp32"
    assert answer.parameters["request_id"].string_param == trailer["x-request-id"] == "abc-1"
    assert answer.parameters["compute_ms"].double_param > 0


def test_the_model_and_the_server_describe_themselves(ask: Ask) -> None:
    async def both(channel: grpc.aio.Channel) -> Any:
        model = await call(channel, "ModelMetadata", pb.ModelMetadataRequest(name="shades", version="3"))
        return model, await call(channel, "ServerMetadata", pb.ServerMetadataRequest())

    model, server = ask(both)

    assert (model.name, list(model.versions), list(model.inputs[0].shape)) == ("shades", ["3"], [-1, 4, 6, 1])
    assert [(output.name, output.datatype) for output in model.outputs] == [
        ("probabilities", "FP32"),
        ("label", "BYTES"),
    ]
    assert (server.name, list(server.extensions)) == ("trimtab", ["binary_tensor_data"])


def test_either_of_two_versions_can_be_asked_and_a_failure_of_the_new_one_costs_nobody_an_answer(
    ask: Ask, core: Core, bundle: Bundle
) -> None:
    later, wanted = Core.load(bundle, 4, Serve()), Candidate(bundle=bundle.key, version=4)
    wish = "x-trimtab-version"

    async def both(channel: grpc.aio.Channel) -> list[str]:
        core.apply(LiveEnvelope(epoch=1, candidate=wanted, canary=1.0))
        core.rivals.hold(wanted, later)
        found = []
        for version, header in (("", None), ("", "stable"), ("4", None), ("3", None)):
            headers = (*TOKEN, (wish, header)) if header else TOKEN
            found.append(await call(channel, "ModelInfer", request(model_version=version), headers))
        later.ladder.use({"onnx-fp32": lambda rows: np.full((len(rows), 2), np.nan, np.float32)}, 1)
        found.append(await call(channel, "ModelInfer", request()))
        about = await call(channel, "ModelMetadata", pb.ModelMetadataRequest(name="shades"))
        return [*(answer.model_version for answer in found), *about.versions]

    assert ask(both) == ["4", "3", "4", "3", "3", "3", "4"]
    core.apply(LiveEnvelope(epoch=2))
    refused = refusal(ask, "ModelInfer", request(), (*TOKEN, (wish, "candidate")))
    assert (refused.code(), "a candidate is not tried just now" in str(refused.details())) == (Code.NOT_FOUND, True)


def test_health_needs_no_token(ask: Ask) -> None:
    async def health(channel: grpc.aio.Channel) -> list[Any]:
        stub = health_pb2_grpc.HealthStub(channel)
        checks = [
            (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in ("", service.SERVICE)
        ]
        live = (await call(channel, "ServerLive", pb.ServerLiveRequest(), None)).live
        ready = (await call(channel, "ServerReady", pb.ServerReadyRequest(), None)).ready
        return [*checks, live, ready]

    assert ask(health) == [health_pb2.HealthCheckResponse.SERVING] * 2 + [True, True]


def test_an_unknown_service_is_not_found(ask: Ask) -> None:
    async def check(channel: grpc.aio.Channel) -> Any:
        return await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="cats"))

    with pytest.raises(grpc.aio.AioRpcError, match="unknown service") as refused:
        ask(check)

    assert refused.value.code() == Code.NOT_FOUND


def test_a_watch_says_when_the_model_is_there(core: Core, runner: asyncio.Runner) -> None:
    empty, model = Core("shades", Serve()), core.model("shades")

    async def watched() -> list[Any]:
        async with served(empty, Tokens(["secret"])) as channel:
            states, watching = [], health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            with pytest.raises(grpc.aio.AioRpcError, match="no model version is loaded yet") as unready:
                await call(channel, "ModelReady", pb.ModelReadyRequest(name="shades"))
            assert unready.value.code() == Code.UNAVAILABLE
            async for said in watching:
                states.append(said.status)
                if len(states) == 2:
                    watching.cancel()
                    return states
                empty.use(model)
            return states

    kinds = health_pb2.HealthCheckResponse
    assert runner.run(watched()) == [kinds.NOT_SERVING, kinds.SERVING]


# Refusals


@pytest.mark.parametrize(
    ("method", "message"),
    [
        pytest.param("ModelReady", pb.ModelReadyRequest(name="shades"), id="ModelReady"),
        pytest.param("ServerMetadata", pb.ServerMetadataRequest(), id="ServerMetadata"),
        pytest.param("ModelMetadata", pb.ModelMetadataRequest(name="shades"), id="ModelMetadata"),
        pytest.param("ModelInfer", request(), id="ModelInfer"),
    ],
)
@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param((), id="none"),
        pytest.param((("authorization", "Bearer wrong"),), id="wrong"),
        pytest.param((("authorization", "secret"),), id="no scheme"),
        pytest.param((("authorization-bin", b"Bearer secret"),), id="elsewhere"),
    ],
)
def test_without_a_token_nothing_is_told(ask: Ask, method: str, message: Any, metadata: Any) -> None:
    refused = refusal(ask, method, message, metadata)

    assert refused.code() == Code.UNAUTHENTICATED
    assert "send `authorization: Bearer TOKEN`" in (refused.details() or "")


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        pytest.param(request(model="cats"), Code.NOT_FOUND, "model = 'cats'", id="model"),
        pytest.param(request(model=""), Code.NOT_FOUND, "model = ''", id="no model"),
        pytest.param(request(name="x"), Code.INVALID_ARGUMENT, "inputs[0].name = 'x'", id="tensor's name"),
        pytest.param(request(datatype="FP32"), Code.INVALID_ARGUMENT, "datatype = 'FP32'", id="datatype"),
        pytest.param(request(datatype=""), Code.INVALID_ARGUMENT, "datatype = ''", id="no datatype"),
        pytest.param(request(shape=[]), Code.INVALID_ARGUMENT, "shape = []", id="no shape"),
        pytest.param(request(shape=[1, 6, 4, 1]), Code.INVALID_ARGUMENT, "shape = [1, 6, 4, 1]", id="shape"),
        pytest.param(request(shape=[-1, 4, 6, 1]), Code.INVALID_ARGUMENT, "has -1 rows", id="negative rows"),
        pytest.param(request(shape=[1, 4, -6, 1]), Code.INVALID_ARGUMENT, "shape = [1, 4, -6, 1]", id="negative side"),
        pytest.param(request(shape=[513, 4, 6, 1]), Code.INVALID_ARGUMENT, "send 1 to 512 rows", id="too many rows"),
        pytest.param(request(shape=[1] * 10_000), Code.INVALID_ARGUMENT, "shape = [1, 1", id="10,000 sides"),
        pytest.param(request(raw=[DARK[1:]]), Code.INVALID_ARGUMENT, "'23 bytes'", id="a byte short"),
        pytest.param(request(raw=[b""]), Code.INVALID_ARGUMENT, "'0 bytes'", id="no bytes"),
        pytest.param(request(raw=[DARK, DARK]), Code.INVALID_ARGUMENT, "'2 elements'", id="bytes twice"),
        pytest.param(request(raw=[]), Code.INVALID_ARGUMENT, "send uint_contents or raw", id="no numbers"),
        pytest.param(request(outputs=["x"]), Code.INVALID_ARGUMENT, "outputs[0].name = 'x'", id="output"),
        pytest.param(pb.ModelInferRequest(model_name="shades"), Code.INVALID_ARGUMENT, "'0 tensors'", id="no tensor"),
    ],
)
def test_a_bad_request_hears_what_is_wrong(ask: Ask, message: Any, code: Code, words: str) -> None:
    refused = refusal(ask, "ModelInfer", message)

    assert refused.code() == code
    assert words in (refused.details() or "")
    assert len(refused.details() or "") < 500


def test_a_message_over_the_experiments_bound_is_refused(core: Core, ask: Ask) -> None:
    core.configure(Serve(max_body="40B"))  # type: ignore[arg-type]

    refused = refusal(ask, "ModelInfer", request())

    assert refused.code() == Code.RESOURCE_EXHAUSTED
    assert "is over serve.max_body (40 bytes)" in (refused.details() or "")


def test_a_token_over_its_rate_hears_when_to_come_again(ask: Ask) -> None:
    async def twice(channel: grpc.aio.Channel) -> Any:
        slow = (("authorization", "Bearer slow"),)
        await call(channel, "ServerMetadata", pb.ServerMetadataRequest(), slow)
        with pytest.raises(grpc.aio.AioRpcError, match="requests per second") as refused:
            await call(channel, "ServerMetadata", pb.ServerMetadataRequest(), slow)
        return refused.value

    refused = ask(twice)

    assert refused.code() == Code.RESOURCE_EXHAUSTED
    assert int(dict(refused.trailing_metadata())["retry-after"]) in (99, 100)


# Time and queue


@pytest.fixture
def held(core: Core, compute_with: ComputeWith) -> Iterator[threading.Event]:
    """No forward pass goes on until it is set."""
    gate, forward = threading.Event(), core.model("shades").ladder.forwards["onnx-fp32"]

    def predictor(rows: np.ndarray) -> np.ndarray:
        gate.wait(20)
        return forward(rows)

    compute_with(predictor)
    yield gate
    gate.set()


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param(("x-deadline-ms", "30"), id="deadline"),
        pytest.param(("x-deadline-ms", "-1"), id="deadline that has passed"),
        pytest.param(("x-request-timeout-seconds", "0.03"), id="timeout"),
    ],
)
def test_a_slow_model_is_late(ask: Ask, held: threading.Event, metadata: tuple[str, str]) -> None:
    refused = refusal(ask, "ModelInfer", request(), (*TOKEN, metadata))

    assert refused.code() == Code.DEADLINE_EXCEEDED
    assert "no answer within the request's deadline" in (refused.details() or "")


def test_grpcs_own_deadline_reaches_the_choice_of_the_batch(ask: Ask, core: Core) -> None:
    model = core.model("shades")
    slow = Ladder([Rung("onnx-fp32", 1.0, Latency(20.0, 0.0))], model.ladder.forwards)
    core.use(dataclasses.replace(model, ladder=slow))

    async def infer(channel: grpc.aio.Channel) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(channel, "ModelInfer", request(), timeout=10.0)
        return refused.value

    refused = ask(infer)

    assert refused.code() is Code.DEADLINE_EXCEEDED
    assert "it takes" in refused.details()
    assert core.counters.refused["hopeless"] == 1


def test_a_full_queue_is_exhausted_and_a_client_that_goes_leaves_it(
    core: Core, ask: Ask, held: threading.Event
) -> None:
    core.configure(Serve(max_queue=2))

    async def crowd(channel: grpc.aio.Channel) -> Any:
        running = call(channel, "ModelInfer", request())
        await asyncio.sleep(0.1)
        waiting = [call(channel, "ModelInfer", request()) for _ in range(2)]
        await asyncio.sleep(0.1)
        with pytest.raises(grpc.aio.AioRpcError, match=r"serve\.max_queue") as refused:
            await call(channel, "ModelInfer", request())
        waiting[0].cancel()
        await asyncio.sleep(0.1)
        later = call(channel, "ModelInfer", request())
        await asyncio.sleep(0.1)
        held.set()
        for answering in (running, waiting[1], later):
            await answering
        return refused.value

    refused = ask(crowd)

    assert refused.code() == Code.RESOURCE_EXHAUSTED
    assert dict(refused.trailing_metadata())["retry-after"] == "1"


def test_an_error_of_ours_stays_inside_and_is_logged_once(
    compute_with: ComputeWith, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(rows: np.ndarray) -> np.ndarray:
        raise ValueError("a secret of the inside")

    compute_with(broken)

    with caplog.at_level(logging.ERROR):
        refused = refusal(ask, "ModelInfer", request())

    assert refused.code() == Code.INTERNAL
    assert "secret" not in (refused.details() or "")
    assert len(caplog.records) == 1


# Deployed


@pytest.fixture(scope="module")
def endpoint(cluster: Session, make_bundle: Callable[..., Bundle]) -> Iterator[Endpoint]:
    bundle = make_bundle(Store.open(cluster.store), max_body="64KiB")
    yield deployment.deploy(cluster, bundle, 1)
    deployment.undeploy(cluster, "shades")


@pytest.fixture
def headers(cluster: Session) -> dict[str, str]:
    return {"authorization": f"Bearer {cluster.api_token}"}


@pytest.fixture
def triton(cluster: Session, endpoint: Endpoint) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{cluster.grpc_port}") as client:
        yield client


ROWS = np.concatenate([np.zeros((1, 4, 6, 1), np.uint8), np.full((1, 4, 6, 1), 255, np.uint8)])


def test_a_foreign_client_over_grpc_is_served(
    triton: triton_grpc.InferenceServerClient, headers: dict[str, str]
) -> None:
    image = triton_grpc.InferInput("image", ROWS.shape, "UINT8")
    image.set_data_from_numpy(ROWS)

    answer = triton.infer("shades", [image], request_id="x", headers=headers)

    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("shades", headers=headers)
    assert triton.get_server_metadata(headers=headers).name == "trimtab"
    assert triton.get_model_metadata("shades", headers=headers).inputs[0].name == "image"
    assert answer.as_numpy("label").tolist() == [b"dark-1", b"light-1"]
    assert answer.as_numpy("probabilities").argmax(axis=1).tolist() == [0, 1]
    assert answer.get_response().id == "x"
    assert answer.get_response().parameters["version"].int64_param == 1


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_a_foreign_client_over_http_is_served(
    cluster: Session, endpoint: Endpoint, headers: dict[str, str], binary: bool
) -> None:
    image = triton_http.InferInput("image", list(ROWS.shape), "UINT8")
    image.set_data_from_numpy(ROWS, binary_data=binary)
    outputs = [triton_http.InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")]
    with triton_http.InferenceServerClient(f"127.0.0.1:{cluster.http_port}") as client:
        assert client.is_server_live()
        assert client.is_model_ready("shades", headers=headers)
        assert client.get_server_metadata(headers=headers)["extensions"] == ["binary_tensor_data"]

        answers = [client.infer("shades", [image], headers=headers, outputs=wanted) for wanted in (outputs, None)]

    for answer in answers:
        assert [str(label).strip("b'") for label in answer.as_numpy("label")] == ["dark-1", "light-1"]
        assert answer.as_numpy("probabilities").dtype == np.float32
        assert answer.as_numpy("probabilities").argmax(axis=1).tolist() == [0, 1]


def test_a_foreign_client_hears_why_it_is_refused(
    triton: triton_grpc.InferenceServerClient, headers: dict[str, str]
) -> None:
    image = triton_grpc.InferInput("image", [1, 24], "UINT8")
    image.set_data_from_numpy(np.zeros((1, 24), np.uint8))

    with pytest.raises(InferenceServerException, match=r"shape = \[1, 24\].*send \[rows, 4, 6, 1\]") as refused:
        triton.infer("shades", [image], headers=headers)
    with pytest.raises(InferenceServerException, match="Bearer TOKEN") as unknown:
        triton.infer("shades", [image], headers={"authorization": "Bearer wrong"})

    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert unknown.value.status() == "StatusCode.UNAUTHENTICATED"


def test_a_deployed_endpoint_answers_a_probe_and_holds_its_bounds(
    cluster: Session, endpoint: Endpoint, headers: dict[str, str], runner: asyncio.Runner
) -> None:
    token = tuple(headers.items())

    async def codes() -> list[Any]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{cluster.grpc_port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            found: list[Any] = [(await stub.Check(health_pb2.HealthCheckRequest())).status]
            found.append((await stub.Watch(health_pb2.HealthCheckRequest()).read()).status)
            for message, more in (
                (request(), ()),
                (request(raw=[bytes(128 * 1024)]), token),
                (request(raw=[bytes(80 * 1024**2)]), token),
                (request(), (*token, ("x-deadline-ms", "0"))),
                (pb.RetrainRequest(model_name="shades"), token),  # its webhook is off
            ):
                method = type(message).__name__.removesuffix("Request")
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(channel, method, message, more)
                found.append(refused.value.code())
            answer = await call(channel, "ModelInfer", request(), token)
            return [*found, answer.raw_output_contents[1]]

    serving = health_pb2.HealthCheckResponse.SERVING
    assert runner.run(codes()) == [
        serving,
        serving,
        Code.UNAUTHENTICATED,
        Code.RESOURCE_EXHAUSTED,
        Code.RESOURCE_EXHAUSTED,
        Code.DEADLINE_EXCEEDED,
        Code.FAILED_PRECONDITION,
        b"\6\0\0\0dark-1",
    ]


def test_many_calls_at_once_all_get_their_own_answer(
    cluster: Session, endpoint: Endpoint, headers: dict[str, str], runner: asyncio.Runner
) -> None:
    async def many() -> list[Any]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{cluster.grpc_port}") as channel:
            sent = [request(raw=[bytes([255 * (i % 2)] * 24)], outputs=["label"]) for i in range(200)]
            return await asyncio.gather(*(call(channel, "ModelInfer", one, tuple(headers.items())) for one in sent))

    answers = [answer.raw_output_contents[0][4:] for answer in runner.run(many())]

    assert answers == [b"dark-1", b"light-1"] * 100
