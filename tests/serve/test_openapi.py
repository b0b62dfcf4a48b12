from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from serve import openapi
from serve.auth import Tokens
from serve.core import Core
from serve.web import Web


def references(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        yield from ([tree["$ref"]] if "$ref" in tree else [])
        for value in tree.values():
            yield from references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from references(value)


@pytest.fixture
def document(core: Core) -> dict[str, Any]:
    return openapi.document(core.model("shades"))


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    assert {ref.removeprefix("#/components/schemas/") for ref in references(document)} <= set(schemas)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_statuses_are_those_that_a_path_answers(document: dict[str, Any]) -> None:
    statuses = {path.rsplit("/", 1)[1]: set(verbs["post"]["responses"]) for path, verbs in document["paths"].items()
                if "post" in verbs}  # fmt: skip

    assert statuses["predict"] == statuses["infer"]
    assert "422" in statuses["infer"]
    assert "409" not in statuses["predict"]
    assert {"202", "403", "404", "429", "503"} <= statuses["feedback"]


@pytest.mark.parametrize(
    ("verb", "body", "request_schema", "schema"),
    [
        pytest.param("predict", {"instances": [[[[1]] * 6] * 4]}, "Instances", "Prediction", id="predict"),
        pytest.param("predict", {"instances": []}, None, "Error", id="error"),
        pytest.param(
            "infer",
            {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 4, 6, 1], "data": [0] * 24}]},
            "InferRequest",
            "InferResponse",
            id="infer",
        ),
        pytest.param("", None, None, "Metadata", id="metadata"),
    ],
)
def test_bodies_are_as_documented(
    core: Core, document: dict[str, Any], verb: str, body: Any, request_schema: str | None, schema: str
) -> None:
    async def ask() -> Any:
        transport = httpx.ASGITransport(Web(core, Tokens(["secret"])))
        async with httpx.AsyncClient(transport=transport, base_url="http://x/v2/models/") as client:
            headers = {"authorization": "Bearer secret"}
            if body is None:
                return (await client.get("shades", headers=headers)).json()
            return (await client.post(f"shades/{verb}", json=body, headers=headers)).json()

    schemas = document["components"]["schemas"]

    jsonschema.validate(asyncio.run(ask()), schemas[schema])
    if request_schema is not None:
        jsonschema.validate(body, schemas[request_schema])


def test_the_page_shows_labels_as_text(core: Core) -> None:
    model = core.model("shades")
    encoding = dataclasses.replace(model.bundle.encoding, labels=("<script>", "b"))
    bundle = dataclasses.replace(model.bundle, encoding=encoding)

    page = openapi.page(openapi.document(dataclasses.replace(model, bundle=bundle), "/grey"))

    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "POST /grey/v2/models/shades/infer" in page


def test_the_document_is_json(document: dict[str, Any]) -> None:
    assert json.loads(json.dumps(document))["openapi"] == "3.1.0"
