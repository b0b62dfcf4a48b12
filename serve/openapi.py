"""What the endpoint says about itself: an OpenAPI 3.1 document, and a page that shows it without any network.

Knows paths and shapes of bodies, not how they are answered.
"""

from __future__ import annotations

import html
import json
from typing import Any

from serve.core import VERSION
from serve.model import Model
from tasks.task import TensorSpec

_ERRORS = {
    "400": "a malformed or ill-fitting body or header",
    "401": "no token or a wrong one",
    "403": "a token whose role is not enough",
    "404": "unknown path, model or version",
    "409": "retrain.triggers.webhook or adapt.enabled is off",
    "413": "a body over serve.max_body",
    "415": "a content type this path does not take",
    "422": "a body that is not what its content type says, or cannot be used",
    "429": "the queue is full, or the token is over its rate; the header retry-after says when to come again",
    "503": "it cannot be kept now; the header retry-after says when to come again",
    "504": "no answer within the deadline",
}
_ASKED = tuple(status for status in _ERRORS if status not in ("409", "503"))  # for an answer of the model

_TIME = {
    "x-deadline-ms": "milliseconds from the request's arrival after which the answer is of no use; may only shorten "
    "serve.request_timeout",
    "x-request-timeout-seconds": "the same in seconds; 0 is as long as the endpoint allows; the shorter one counts",
}
_VERSION = "which version answers, where a new one is tried beside the stable one: `stable`, `candidate` or its number"
MOST_NAMED = 200  # labels
_BINARY = "length of the JSON in a body that has tensors as bytes behind it"
_INPUT = 'one input as the task reads it; for images {"image": "<base64 of a PNG or JPEG>"}'


def document(model: Model, prefix: str = "") -> dict[str, Any]:
    """An OpenAPI 3.1 document of the endpoint that serves `model` under the path `prefix`."""
    spec = model.task.input_spec(model.bundle.encoding)
    base = f"/v2/models/{model.bundle.name}"
    labels = model.bundle.encoding.labels
    more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
    answers = f"labels {', '.join(labels[:MOST_NAMED])}{more}" if labels else "whose answers are values"
    about = f"Version {model.version}, {answers}."
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model.bundle.name}, served by Trimtab",
            "version": str(model.version),
            "description": about,
        },
        "servers": [{"url": prefix or "/"}],
        "security": [{"bearer": []}],
        "paths": {
            f"{base}/predict": {"post": _predict(model)},
            f"{base}/infer": {"post": _infer(spec)},
            f"{base}/feedback": {"post": _feedback()},
            f"{base}/retrain": {"post": _retrain()},
            f"{base}/versions/{{version}}/infer": {"post": _infer(spec, _version())},
            base: {"get": _get("The model: versions, inputs, outputs, labels", "Metadata")},
            f"{base}/versions/{{version}}": {
                "get": _get("One version of the model", "Metadata") | {"parameters": [_version()]}
            },
            f"{base}/ready": {"get": _get("Whether the model answers", None)},
            "/v2": {"get": _get("The server", None)},
            "/ready": {"get": _get("Whether the endpoint answers; needs no token", None, is_open=True)},
            "/v2/health/live": {"get": _get("Whether the server runs; needs no token", None, is_open=True)},
            "/v2/health/ready": {"get": _get("Whether the endpoint answers; needs no token", None, is_open=True)},
            "/openapi.json": {"get": _get("This document", None)},
        },
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(spec, model.task.targets == "value"),
        },
    }


def page(document: dict[str, Any]) -> str:
    """The document as one HTML page that loads nothing."""
    info, prefix = document["info"], document["servers"][0]["url"].rstrip("/")
    sections = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            sections.append(_section(f"{method.upper()} {prefix}{path}", operation))
    schemas = html.escape(json.dumps(document["components"]["schemas"], indent=2))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(info["title"])}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}}
h2{{font:600 1rem monospace;border-top:1px solid #ccc;padding-top:1rem}}
pre{{background:#f4f4f4;padding:.8rem;overflow:auto}}</style></head>
<body><h1>{html.escape(info["title"])}</h1><p>{html.escape(info["description"])}</p>
<p>Send <code>authorization: Bearer TOKEN</code> where it is not said otherwise. The same as JSON: \
<a href="{html.escape(prefix)}/openapi.json">openapi.json</a>.</p>
{"".join(sections)}<h2>Schemas</h2><pre>{schemas}</pre></body></html>
"""


def _section(title: str, operation: dict[str, Any]) -> str:
    lines = [f"<h2>{html.escape(title)}</h2><p>{html.escape(operation['summary'])}</p>"]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        shown = json.dumps(content.get("example", content["schema"]))
        lines.append(f"<p><code>{html.escape(media_type)}</code></p><pre>{html.escape(shown)}</pre>")
    answers = (f"{status}: {answer['description']}" for status, answer in operation["responses"].items())
    lines.append(f"<p>{html.escape('; '.join(answers))}</p>")
    return "".join(lines)


def _predict(model: Model) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    content: dict[str, Any] = dict.fromkeys(model.task.media_types(), binary)
    content["application/json"] = {
        "schema": {"oneOf": [{"$ref": "#/components/schemas/Instances"}, {"$ref": "#/components/schemas/Input"}]}
    }
    sample = model.bundle.files.get("sample")
    if sample is not None and sample["file"].endswith(".json"):
        content["application/json"]["example"] = json.loads(model.bundle.read("sample"))
    return {
        "summary": "The answer to one body, or to each of `instances`",
        "parameters": _headers(),
        "requestBody": {"required": True, "content": content},
        "responses": _responses("Prediction", _ASKED),
    }


def _infer(spec: TensorSpec, *more: dict[str, Any]) -> dict[str, Any]:
    example = {"inputs": [{"name": spec.name, "datatype": spec.datatype, "shape": [1, *spec.shape[1:]], "data": []}]}
    schema = {"$ref": "#/components/schemas/InferRequest"}
    return {
        "summary": "Open Inference Protocol v2: a batch of rows to probabilities and labels, in JSON or, by the "
        "extension binary_tensor_data, as bytes behind the JSON",
        "parameters": [*more, *_headers(), _header("inference-header-content-length", "integer", _BINARY)],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": example},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": _responses("InferResponse", _ASKED),
    }


def _feedback() -> dict[str, Any]:
    word = {"request_id": "the answer's", "label": "the right one"}
    schema = {"type": "object"}
    responses = _responses(None, ("400", "401", "403", "404", "413", "415", "422", "429", "503"))
    return {
        "summary": "What was right, how good it was (rating, 0 to 1) or what came of it (outcome), of an answer by its "
        "request id and, of several, its row; kept when the answer is 202",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": {"feedback": [word]}}},
        },
        "responses": {"202" if status == "200" else status: answer for status, answer in responses.items()},
    }


def _retrain() -> dict[str, Any]:
    answer = {"202": {"description": "kept, and ordered when cooldown and budget allow it"}}
    errors = _responses(None, ("401", "403", "404", "409", "413", "429", "503"))
    errors.pop("200")
    summary = "Ask for a retraining; the token's role is operate or more, and the body means nothing"
    return {"summary": summary, "responses": answer | errors}


def _get(summary: str, schema: str | None, *, is_open: bool = False) -> dict[str, Any]:
    operation = {"summary": summary, "responses": _responses(schema, () if is_open else ("401", "404"))}
    return operation | ({"security": []} if is_open else {})


def _headers() -> list[dict[str, Any]]:
    return [*(_header(name, "number", about) for name, about in _TIME.items()), _header(VERSION, "string", _VERSION)]


def _header(name: str, kind: str, about: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": about, "schema": {"type": kind}}


def _version() -> dict[str, Any]:
    return {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}


def _responses(schema: str | None, errors: tuple[str, ...]) -> dict[str, Any]:
    body: dict[str, Any] = {"$ref": f"#/components/schemas/{schema}"} if schema else {"type": "object"}
    good = {"description": "the answer", "content": {"application/json": {"schema": body}}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"200": good, **{status: {"description": _ERRORS[status], "content": error} for status in errors}}


def _schemas(spec: TensorSpec, has_values: bool) -> dict[str, Any]:
    text, number, whole = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    row: dict[str, Any] = number if spec.datatype.startswith("FP") else whole
    for side in reversed(spec.shape[1:]) if spec.datatype != "BYTES" else ():
        row = {"type": "array", "items": row, "minItems": side, "maxItems": side}
    rich: list[dict[str, Any]] = [text, {"type": "object"}]  # what the task's decode() takes
    instance = {"anyOf": rich if spec.datatype == "BYTES" else [row, *rich]}
    answer = {"value": number} if has_values else {"label": text, "probabilities": {"type": "object"}}
    tensor = _object(
        {"name": text, "datatype": text, "shape": {"type": "array", "items": whole}, "data": {"type": "array"}},
        required=("name", "datatype", "shape"),  # `data` may follow as bytes
    )
    wanted = {**tensor["properties"], "name": {"const": spec.name}, "datatype": {"const": spec.datatype}}
    parameters = {"version": whole, "variant": text, "envelope_epoch": whole, "request_id": text}
    parameters |= {"queue_ms": number, "compute_ms": number}
    about = {
        "parameters": _object(parameters),
        "model": text,
        "version": whole,
        "variant": text,
        "request_id": text,
        "milliseconds": number,
    }
    return {
        "Error": _object({"error": text, "request_id": text}),
        "Instances": _object({"instances": {"type": "array", "items": instance, "minItems": 1}}),
        "Input": {"type": "object", "description": _INPUT, "not": {"required": ["instances"]}},
        "Prediction": _object(
            {**about, **answer, "predictions": {"type": "array"}},
            required=tuple(about),
        ),
        "InferRequest": _object(
            {
                "id": text,
                "inputs": {"type": "array", "items": _object(wanted, ("name", "datatype", "shape"))},
                "outputs": {"type": "array"},
            },
            required=("inputs",),
        ),
        "InferResponse": _object(
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "parameters": _object(parameters),
                "outputs": {"type": "array", "items": tensor},
            }
        ),
        "Metadata": _object(
            {
                "name": text,
                "versions": {"type": "array", "items": text},
                "platform": text,
                "inputs": {"type": "array"},
                "outputs": {"type": "array"},
                "parameters": {"type": "object"},
            }
        ),
    }


def _object(properties: dict[str, Any], required: tuple[str, ...] | None = None) -> dict[str, Any]:
    names = properties if required is None else required
    return {"type": "object", "properties": properties, "required": list(names)}
