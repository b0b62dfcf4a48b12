"""gRPC for one endpoint: the Open Inference Protocol and the standard health service, over the same core as HTTP.

A status is set on the context and never raised: Serve would log a traceback for each refused request.
Knows no Ray: any gRPC server that gives a request and a context can carry it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
from grpc_health.v1 import health_pb2

from cluster.errors import RequestError
from serve import bounds, feedback
from serve.asks import decoded
from serve.auth import Tokens
from serve.core import VERSION, Core
from serve.feedback import Intake
from serve.hook import Hook
from serve.model import Answer, Model
from serve.oip import messages, tensors
from serve.oip import oip_pb2 as pb
from serve.oip.service import SERVICE

if TYPE_CHECKING:
    import numpy as np

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,  # as gRPC itself says of a message over its own bound
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
WATCH_S, WATCH_STEP_S = 60.0, 0.5  # an open stream holds up the end of its replica

Response = TypeVar("Response")


class Call:
    """One request: its metadata, its id and its time."""

    def __init__(self, context: Any) -> None:
        self._metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        self.arrived = time.monotonic()
        self.deadline = 0.0  # time.monotonic()
        self.client = ""  # whose token it is
        # Serve hides gRPC's own deadline, so there a client repeats it as metadata; other servers tell.
        time_remaining = getattr(context, "time_remaining", None)
        self.left_s: float | None = time_remaining() if time_remaining is not None else None
        self.id = bounds.request_id(self.header)

    def header(self, name: str) -> str | None:
        return self._metadata.get(name)


class Rpc:
    """The services' methods, called by their names."""

    def __init__(self, core: Core, tokens: Tokens, intake: Intake | None = None, hook: Hook | None = None) -> None:
        """Without an `intake` there is nowhere to keep feedback, without a `hook` a wish: they are refused."""
        self._core, self._tokens, self._intake, self._hook = core, tokens, intake, hook

    # Health, which needs no token

    async def Check(self, request: Any, grpc_context: Any) -> Any:
        status = self._health(request.service)
        if status is None:
            known = f"this endpoint has '' and {SERVICE!r}"
            _refuse(grpc_context, RequestError(404, f"service = {request.service[:80]!r}: unknown service; {known}"))
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, grpc_context: Any) -> AsyncIterator[Any]:  # noqa: ARG002
        """Says each change for a minute; a client that wants to know more asks again."""
        said, end = None, time.monotonic() + WATCH_S
        while time.monotonic() < end:
            status = self._health(request.service)
            status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN if status is None else status
            if status != said:
                said = status
                yield health_pb2.HealthCheckResponse(status=status)
            await asyncio.sleep(WATCH_STEP_S)

    def _health(self, service: str) -> Any:
        if service not in ("", SERVICE):
            return None
        kinds = health_pb2.HealthCheckResponse
        return kinds.SERVING if self._core.is_ready else kinds.NOT_SERVING

    async def ServerLive(self, request: Any, grpc_context: Any) -> pb.ServerLiveResponse:  # noqa: ARG002
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, grpc_context: Any) -> pb.ServerReadyResponse:  # noqa: ARG002
        return pb.ServerReadyResponse(ready=self._core.is_ready)

    # What there is

    async def ModelReady(self, request: Any, grpc_context: Any) -> pb.ModelReadyResponse:
        async def ready(_: Call) -> pb.ModelReadyResponse:
            self._model(request.name, request.version)
            return pb.ModelReadyResponse(ready=True)

        return await self._answer(grpc_context, "ModelReady", ready, pb.ModelReadyResponse)

    async def ServerMetadata(self, request: Any, grpc_context: Any) -> pb.ServerMetadataResponse:  # noqa: ARG002
        async def server(_: Call) -> pb.ServerMetadataResponse:
            version = metadata.version("trimtab")
            return pb.ServerMetadataResponse(name="trimtab", version=version, extensions=tensors.EXTENSIONS)

        return await self._answer(grpc_context, "ServerMetadata", server, pb.ServerMetadataResponse)

    async def ModelMetadata(self, request: Any, grpc_context: Any) -> pb.ModelMetadataResponse:
        async def described(_: Call) -> pb.ModelMetadataResponse:
            model = self._model(request.name, request.version)
            return messages.metadata(model, self._core.versions)

        return await self._answer(grpc_context, "ModelMetadata", described, pb.ModelMetadataResponse)

    # Answers

    async def ModelInfer(self, request: Any, grpc_context: Any) -> pb.ModelInferResponse:
        async def infer(call: Call) -> pb.ModelInferResponse:
            self._check_size(request)
            wish = call.header(VERSION)
            meant = self._core.meant(request.model_name, request.model_version or None, wish, call.id)

            async def read(model: Model) -> tuple[np.ndarray, tuple[str, ...]]:
                spec = model.task.input_spec(model.bundle.encoding)
                rows, outputs = messages.read(request, spec, self._core.max_rows, tensors.outputs(model))
                if isinstance(rows, list):
                    rows, _ = await decoded(model, rows, "text/plain", "inputs[0]")
                return rows, outputs

            def say(answer: Answer, outputs: tuple[str, ...]) -> pb.ModelInferResponse:
                return messages.respond(request, outputs, answer, call.id)

            response = await self._core.answer(meant, read, say, call.deadline, call.id, call.arrived)
            return cast(pb.ModelInferResponse, response)

        return await self._answer(grpc_context, "ModelInfer", infer, pb.ModelInferResponse)

    # What was said of them

    async def Feedback(self, request: Any, grpc_context: Any) -> pb.FeedbackResponse:
        async def keep(call: Call) -> pb.FeedbackResponse:
            if self._intake is None:
                raise RequestError(404, "feedback is not kept here; ask a deployed endpoint")
            self._check_size(request)
            words = [_said(word) for word in request.words]
            model = self._model(request.model_name, "")
            by = feedback.Said(call.client, self._tokens.role(call.client), time.time_ns())
            rows = feedback.checked(words, model, by)
            await self._intake.keep(rows)
            return pb.FeedbackResponse(accepted=len(rows))

        return await self._answer(grpc_context, "Feedback", keep, pb.FeedbackResponse, "feedback")

    # What is wished

    async def Retrain(self, request: Any, grpc_context: Any) -> pb.RetrainResponse:
        async def wish(call: Call) -> pb.RetrainResponse:
            if self._hook is None:
                raise RequestError(409, "no retraining is ordered here; ask a deployed endpoint")
            self._check_size(request)
            self._model(request.model_name, "")
            return pb.RetrainResponse(accepted=await self._hook.ask(call.client, call.id))

        return await self._answer(grpc_context, "Retrain", wish, pb.RetrainResponse, "operate")

    def _check_size(self, request: Any) -> None:
        size, limit = request.ByteSize(), self._core.serve.max_body
        if size > limit:
            raise bounds.too_large(size, limit)

    def _model(self, name: str, version: str) -> Model:
        return self._core.model(name, version or None)

    async def _answer(
        self,
        context: Any,
        method: str,
        work: Callable[[Call], Awaitable[Response]],
        empty: Callable[[], Response],
        role: str = "predict",
    ) -> Response:
        """Never raises, but for the cancelling of a request whose client has gone."""
        call = Call(context)
        try:
            token = call.header("authorization")
            call.client = self._tokens.check(None if token is None else token.encode(), role)
            bound_s = bounds.time_s(call.header, self._core.serve.request_timeout)
            if call.left_s is not None:
                bound_s = min(bound_s, call.left_s * bounds.TIMEOUT_SHARE)
            call.deadline = self._core.deadline(call.arrived, bound_s)
            async with asyncio.timeout(bound_s):
                answer = await work(call)
            _trail(context, {bounds.REQUEST_ID: call.id})
            return answer
        except Exception as error:
            refused = bounds.refused(error, call.id, method, call.arrived, call.header)
            _refuse(context, refused, call.id)
            return empty()


def _said(word: Any) -> dict[str, Any]:
    """A word of feedback as JSON has it."""
    kind = word.WhichOneof("said")
    said = {} if kind is None else {"label" if kind == "value" else kind: getattr(word, kind)}
    return {"request_id": word.request_id, "row": word.row, **said}


def _refuse(context: Any, error: RequestError, request_id: str | None = None) -> None:
    context.set_code(CODES[error.status])
    context.set_details(error.message)
    _trail(context, error.headers | ({bounds.REQUEST_ID: request_id} if request_id else {}))


def _trail(context: Any, more: dict[str, str]) -> None:
    context.set_trailing_metadata(list(more.items()))  # Serve adds one to a list, and to nothing else
