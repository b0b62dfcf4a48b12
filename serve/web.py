"""HTTP for one endpoint, as a bare ASGI application: paths, tokens, bounds, and errors as one clear sentence.

A framework here would cost more than the model does. What is bounded is bounded before work is done:
the token before the body is read, the size before it is decoded, the time from the first byte.
Knows no Ray: what Serve adds to a request (a path prefix, two headers) is dealt with as plain ASGI.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from cluster.errors import RequestError
from serve import bounds, feedback, openapi
from serve.asks import decoded
from serve.auth import Tokens
from serve.core import VERSION, Core, refusal
from serve.hook import Hook
from serve.model import Answer, Meant, Model
from serve.oip import bodies, tensors
from tasks.task import Ask, Rejected

if TYPE_CHECKING:
    import numpy as np

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN_PATHS = ("/ready", "/v2/health/live", "/v2/health/ready")
ROLES = {"feedback": "feedback", "retrain": "operate"}  # that a path's last part asks for; others ask for `predict`
MAX_OPTIONS = 16  # of a URL's query
VERSION_BYTES = VERSION.encode()


@dataclass
class Reply:
    body: Any  # JSON-able, text that is sent as HTML, or bytes that bring their content type
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    method: str
    path: str  # without `prefix`, which is the route's
    prefix: str
    headers: dict[bytes, bytes]
    receive: Receive
    id: str
    arrived: float
    query: bytes = b""
    deadline: float = 0.0
    client: str = ""  # whose token it is

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1").strip()

    @property
    def media_type(self) -> str:
        return (self.header("content-type") or "").partition(";")[0].strip().lower()


class Web:
    """The ASGI application; `facts` are further fields of the server's metadata.

    `sends_request_id` is False where a server around it adds the header `x-request-id`, as Serve does.
    """

    def __init__(
        self,
        core: Core,
        tokens: Tokens,
        facts: dict[str, Any] | None = None,
        *,
        sends_request_id: bool = True,
        intake: feedback.Intake | None = None,
        hook: Hook | None = None,
    ) -> None:
        self._hook = hook
        self._core, self._tokens, self._facts, self._intake = core, tokens, facts or {}, intake
        self._sends_request_id = sends_request_id
        self._version = metadata.version("trimtab")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            request = _request(scope, receive)
            reply = await self._reply(request)
            if self._sends_request_id:
                reply.headers["x-request-id"] = request.id
            await _send(send, request, reply)

    async def _reply(self, request: Request) -> Reply:
        """Never raises, but for the cancelling of a request whose client has gone."""
        try:
            _allow_only_bounded(request)
            if request.path not in OPEN_PATHS:
                role = ROLES.get(request.path.rstrip("/").rpartition("/")[2], "predict")
                request.client = self._tokens.check(request.headers.get(b"authorization"), role)
            bound_s = bounds.time_s(request.header, self._core.serve.request_timeout)
            request.deadline = self._core.deadline(request.arrived, bound_s)
            async with asyncio.timeout(bound_s):
                return await self._route(request)
        except Exception as error:
            what = f"{request.method} {request.path}"
            refused = bounds.refused(error, request.id, what, request.arrived, request.header)
            body = {"error": refused.message, "request_id": request.id}
            return Reply(body, refused.status, dict(refused.headers))

    async def _route(self, request: Request) -> Reply:
        parts = request.path.strip("/").split("/")
        match parts:
            case ["v2", "models", name, "versions", version, *rest] if len(rest) <= 1:
                return await self._model_route(request, name, version, rest)
            case ["v2", "models", name, *rest] if len(rest) <= 1:
                return await self._model_route(request, name, None, rest)
        fixed: dict[str, Callable[[Request], Reply]] = {
            "v2": self._server,
            "v2/health/live": lambda _: Reply({"live": True}),
            "v2/health/ready": self._ready,
            "ready": self._ready,
            "docs": lambda request: Reply(openapi.page(self._document(request))),
            "openapi.json": lambda request: Reply(self._document(request)),
        }
        found = fixed.get("/".join(parts))
        if found is None:
            raise refusal(404, "path", request.path, "unknown path", "GET /docs lists the paths there are")
        _allow(request, "GET", "HEAD")
        return found(request)

    async def _model_route(self, request: Request, name: str, version: str | None, rest: list[str]) -> Reply:
        verb = rest[0] if rest else ""
        if verb in ("infer", "predict"):
            _allow(request, "POST")
            meant = self._core.meant(name, version, _wish(request), request.id)
            return await (self._infer(request, meant) if verb == "infer" else self._predict(request, meant))
        if verb == "feedback":
            _allow(request, "POST")
            return await self._feedback(request, self._core.model(name, version))
        if verb == "retrain":
            _allow(request, "POST")
            return await self._retrain(request, self._core.model(name, version))
        if verb not in ("", "ready"):
            raise refusal(404, "path", request.path, "unknown path", "GET /docs lists the paths there are")
        _allow(request, "GET", "HEAD")
        model = self._core.model(name, version)
        if verb == "ready":
            return Reply({"name": name, "ready": True})
        return Reply(bodies.metadata(model, self._core.versions, self._core.refused))

    # What there is

    def _server(self, _: Request) -> Reply:
        return Reply({"name": "trimtab", "version": self._version, "extensions": tensors.EXTENSIONS, **self._facts})

    def _ready(self, _: Request) -> Reply:
        ready = self._core.is_ready
        return Reply({"ready": ready}, 200 if ready else 503)

    def _document(self, request: Request) -> dict[str, Any]:
        return openapi.document(self._core.model(self._core.name), request.prefix)

    # Answers

    async def _infer(self, request: Request, meant: Meant) -> Reply:
        # Triton's clients name no content type; with bytes behind the JSON it is none that has a name.
        _media_type(request, ("application/json", "application/octet-stream", ""))
        sent, header_length = await self._body(request), request.header(bodies.HEADER_LENGTH)

        async def read(model: Model) -> tuple[np.ndarray, bodies.InferRequest]:
            spec, known = model.task.input_spec(model.bundle.encoding), tensors.outputs(model)
            asked = bodies.read(sent, header_length, spec, self._core.max_rows, known)
            rows = asked.rows
            if isinstance(rows, list):
                rows, _ = await decoded(model, rows, "text/plain", "inputs[0].data")
            return rows, asked

        def say(answer: Answer, asked: bodies.InferRequest) -> tuple[bytes, int | None]:
            return bodies.respond(asked, answer, request.id)

        deadline, arrived = request.deadline, request.arrived
        body, json_length = await self._core.answer(meant, read, say, deadline, request.id, arrived)
        if json_length is None:
            return Reply(body, headers={"content-type": "application/json"})
        headers = {"content-type": "application/octet-stream", bodies.HEADER_LENGTH: str(json_length)}
        return Reply(body, headers=headers)

    async def _predict(self, request: Request, meant: Meant) -> Reply:
        known = dict.fromkeys((*meant.model.task.media_types(), "application/json"))
        _media_type(request, tuple(known))
        options = _options(request)
        body = await self._body(request)
        tree = bodies.parse_json(body) if request.media_type == "application/json" else {}
        single = "instances" not in tree

        async def read(model: Model) -> tuple[np.ndarray, list[Any]]:
            if not single:
                return await self._instances(tree["instances"], model)
            if not body:
                raise refusal(400, "body", "", "is empty", f"send the bytes of the {request.media_type}")
            if request.media_type not in model.task.media_types():
                raise refusal(400, "body", sorted(tree), "has no instances", 'send {"instances": [row, ...]}')
            return await decoded(model, [body], request.media_type, "body")

        def say(answer: Answer, details: list[Any]) -> bytes:
            secret = self._tokens.secret(request.client)
            asks = [Ask(detail, options, request.client, secret, answer.variant) for detail in details]
            # Here, so that what a task of one's own says in no JSON is an error like others.
            return bodies.to_json(_said(answer, asks, single, request))

        said = await self._core.answer(meant, read, say, request.deadline, request.id, request.arrived)
        return Reply(said, headers={"content-type": "application/json"})

    async def _instances(self, instances: Any, model: Model) -> tuple[np.ndarray, list[Any]]:
        """Rows [n, *shape] of numbers, or of what the task makes of each instance, and the detail of each."""
        spec = model.task.input_spec(model.bundle.encoding)
        if isinstance(instances, list) and instances and isinstance(instances[0], dict | str):
            if len(instances) > self._core.max_rows:
                mend = f"send 1 to {self._core.max_rows} per request"
                raise refusal(400, "instances", f"{len(instances)} instances", "are too many", mend)
            try:
                parts = [bodies.to_json(instance) for instance in instances]
            except ValueError:
                raise refusal(
                    400, "instances", instances, "has half a character", "send whole ones, in UTF-8"
                ) from None
            return await decoded(model, parts, "application/json", "instances")
        if spec.datatype == "BYTES":
            mend = "send texts, or objects as /docs has them"
            raise refusal(400, "instances", instances, "is not a list of texts", mend)
        values, shape = tensors.flattened("instances", instances, spec)
        tensors.check_rows("instances", shape, spec, self._core.max_rows)
        return tensors.converted("instances", values, spec).reshape(shape), [None] * shape[0]

    async def _feedback(self, request: Request, model: Model) -> Reply:
        _media_type(request, ("application/json",))
        if self._intake is None:
            raise refusal(404, "path", request.path, "feedback is not kept here", "ask a deployed endpoint")
        by = feedback.Said(request.client, self._tokens.role(request.client), time.time_ns())
        words = feedback.read(await self._body(request), model, by)
        await self._intake.keep(words)
        return Reply({"accepted": len(words), "request_id": request.id}, 202)

    async def _retrain(self, request: Request, model: Model) -> Reply:
        if self._hook is None:
            raise refusal(409, "path", request.path, "no retraining is ordered here", "ask a deployed endpoint")
        await self._body(request)  # whatever a sender of webhooks puts there means nothing here
        wish = await self._hook.ask(request.client, request.id)
        return Reply({"model": model.bundle.name, "accepted": wish, "request_id": request.id}, 202)

    async def _body(self, request: Request) -> bytes:
        """The whole body. Raises RequestError 413 before reading what is declared too large, 400 when cut off."""
        limit, declared = self._core.serve.max_body, request.header("content-length") or ""
        if declared.isdecimal() and len(declared) < 20 and int(declared) > limit:
            raise bounds.too_large(int(declared), limit)
        chunks, size = [], 0
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise refusal(400, "body", f"{size} bytes", "ended early", "send the whole body")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise bounds.too_large(size, limit)
            if not message.get("more_body"):
                return b"".join(chunks)


def _said(answer: Answer, asks: Sequence[Ask], single: bool, request: Request) -> dict[str, Any]:
    model = answer.model
    try:
        predictions = [
            model.task.answer(row, model.bundle.encoding, ask) for row, ask in zip(answer.outputs, asks, strict=True)
        ]
    except Rejected as error:
        raise refusal(400, "request", error.reason, error.detail or "cannot be answered", "see /docs") from None
    return {
        **(predictions[0] if single else {"predictions": predictions}),
        "model": model.bundle.name,
        "version": model.version,
        "variant": answer.variant,
        "request_id": request.id,
        "milliseconds": round((time.monotonic() - request.arrived) * 1000, 3),
        "parameters": answer.parameters(request.id),
    }


# Bounds and headers


def _options(request: Request) -> dict[str, str]:
    if not request.query:
        return {}
    try:
        return dict(parse_qsl(request.query.decode("latin-1"), strict_parsing=True, max_num_fields=MAX_OPTIONS))
    except ValueError:
        query = request.query.decode("latin-1")
        raise refusal(400, "query", query, "is not NAME=VALUE", f"write at most {MAX_OPTIONS} as ?a=1&b=2") from None


def _request(scope: Scope, receive: Receive) -> Request:
    headers = dict(scope["headers"])
    path, prefix = scope["path"], scope.get("root_path", "").rstrip("/")
    if prefix and path.startswith(prefix):
        path = path[len(prefix) :]
    request = Request(scope["method"], path, prefix, headers, receive, "", time.monotonic())
    request.query = scope.get("query_string", b"")
    request.id = bounds.request_id(request.header)
    return request


def _wish(request: Request) -> str | None:
    return request.header(VERSION) if VERSION_BYTES in request.headers else None  # for nearly all there is none


def _allow_only_bounded(request: Request) -> None:
    # Serve would go on with the request of a client that has gone.
    name = "x-request-disconnect-disabled"
    if request.header(name) not in (None, "", "?0"):
        raise refusal(400, name, request.header(name), "is not allowed here", "leave the header away")


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        message = str(refusal(405, "method", request.method, f"not for {request.path}", f"use {methods[0]}"))
        raise RequestError(405, message, {"allow": ", ".join(methods)})


def _media_type(request: Request, known: tuple[str, ...]) -> None:
    if request.media_type not in known:
        value, mend = request.header("content-type") or "", f"send one of {', '.join(filter(None, known))}"
        raise refusal(415, "content-type", value, "is not taken here", mend)
    encoding = request.header("content-encoding")
    if encoding not in (None, "", "identity"):
        # What is packed has no bound until it is unpacked.
        raise refusal(415, "content-encoding", encoding, "is not taken here", "send the body as it is")


# Out


async def _send(send: Send, request: Request, reply: Reply) -> None:
    headers = {"content-type": "application/json", **reply.headers}
    if isinstance(reply.body, bytes):
        body = reply.body
    elif isinstance(reply.body, str):
        body, headers["content-type"] = reply.body.encode(), "text/html; charset=utf-8"
    else:
        body = bodies.to_json(reply.body) if reply.status == 200 else json.dumps(reply.body).encode()
    headers["content-length"] = str(len(body))
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
