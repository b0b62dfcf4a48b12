"""HTTP against the application itself: every answer, every refusal, every bound."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import feedback as words
from cluster import orders
from cluster.config import Serve
from cluster.store import Store
from ladder.bundle import Bundle
from serve import openapi
from serve.auth import Tokens
from serve.core import Core
from serve.envelope import Candidate, LiveEnvelope
from serve.feedback import Intake
from serve.hook import Hook
from serve.model import Model
from serve.web import Web

TOKEN = {"authorization": "Bearer secret"}
JSON = {"content-type": "application/json"}
PNG = {"content-type": "image/png"}
MODEL = "/v2/models/shades"
ROW = [[[7]] * 6] * 4
ComputeWith = Callable[[Callable[[np.ndarray], np.ndarray]], None]


def tensor(**changes: Any) -> bytes:
    """An inference request of one black row, with parts of its tensor changed; None leaves a part out."""
    parts = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 6, 1], "data": [0] * 24, **changes}
    return json.dumps({"inputs": [{key: value for key, value in parts.items() if value is not None}]}).encode()


@pytest.fixture(scope="module")
def later(bundle: Bundle) -> Model:
    return Core.load(bundle, 4, Serve())


def beside(core: Core, later: Model, **shares: float) -> None:
    """Has `core` hold a candidate."""
    wanted = Candidate(bundle=later.bundle.key, version=later.version)
    core.apply(LiveEnvelope(epoch=1, candidate=wanted, **shares))  # type: ignore[arg-type]
    core.rivals.hold(wanted, later)


@pytest.fixture
def web(core: Core) -> Web:
    return Web(core, Tokens(["secret"]), {"ingress": "none"})


@pytest.fixture
def ask(web: Web) -> Callable[..., httpx.Response]:
    """One request, with the token unless `headers` brings another one."""

    def asked(
        method: str, path: str, content: Any = None, headers: dict[str, str] | None = None, root: str = ""
    ) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(web, raise_app_exceptions=True, root_path=root)
            async with httpx.AsyncClient(transport=transport, base_url="http://endpoint") as client:
                return await client.request(method, path, content=content, headers={**TOKEN, **(headers or {})})

        return asyncio.run(once())

    return asked


# Answers


def test_infer_gives_probabilities_and_labels_in_the_protocols_form(ask: Callable[..., httpx.Response]) -> None:
    body = {"id": "mine", "inputs": [{"name": "image", "datatype": "UINT8", "shape": [2, 4, 6, 1]}]}
    body["inputs"][0]["data"] = [0] * 24 + [255] * 24  # type: ignore[index]

    answer = ask("POST", f"{MODEL}/infer", json.dumps(body), JSON)

    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["model_name"], said["model_version"], said["id"]) == ("shades", "3", "mine")
    assert said["parameters"]["variant"] == "onnx-fp32"
    probabilities, label = said["outputs"]
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [2, 2])
    assert np.reshape(probabilities["data"], (2, 2)).sum(axis=1) == pytest.approx([1.0, 1.0])
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["dark-1", "light-1"]}


def test_infer_takes_and_gives_bytes_behind_the_json(ask: Callable[..., httpx.Response]) -> None:
    head = tensor(data=None, shape=[2, 4, 6, 1], parameters={"binary_data_size": 48})
    head = head[:-1] + b', "parameters": {"binary_data_output": true}}'
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}

    answer = ask("POST", f"{MODEL}/infer", head + bytes(24) + b"\xff" * 24, headers)

    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    sizes = [output["parameters"]["binary_data_size"] for output in json.loads(answer.content[:length])["outputs"]]
    assert sizes == [16, 21]
    assert np.frombuffer(answer.content, "<f4", 4, length).reshape(2, 2).argmax(axis=1).tolist() == [0, 1]
    assert answer.content[length + 16 :] == b"\6\0\0\0dark-1\7\0\0\0light-1"


@pytest.mark.parametrize("where", ["query", "body"])
def test_the_likeliest_labels_alone_are_said_where_asked(
    ask: Callable[..., httpx.Response], paint: Callable[..., bytes], where: str
) -> None:
    image = base64.b64encode(paint(255)).decode()
    path, more = (f"{MODEL}/predict?top_k=1", {}) if where == "query" else (f"{MODEL}/predict", {"top_k": 1})

    said = ask("POST", path, json.dumps({"image": image, **more}), JSON).json()

    assert (said["label"], list(said["probabilities"])) == ("light-1", ["light-1"])


def test_instances_may_be_what_the_task_reads_each_with_its_own_options(
    ask: Callable[..., httpx.Response], paint: Callable[..., bytes]
) -> None:
    dark, light = (base64.b64encode(paint(level)).decode() for level in (0, 255))
    instances = [{"image": light, "top_k": 1}, {"image": dark}, {"pixels": [[9] * 6] * 4}]

    said = ask("POST", f"{MODEL}/predict", json.dumps({"instances": instances}), JSON).json()["predictions"]

    assert [answer["label"] for answer in said] == ["light-1", "dark-1", "dark-1"]
    assert [len(answer["probabilities"]) for answer in said] == [1, 2, 2]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        pytest.param("top_k=3", 400, "top_k", id="more labels than there are"),
        pytest.param("top_k=0", 400, "is no whole number from 1 to 2", id="none"),
        pytest.param("top=1", 400, "option top", id="unknown"),
        pytest.param("top_k", 400, "is not NAME=VALUE", id="no value"),
        pytest.param("&".join(f"a{i}=1" for i in range(17)), 400, "at most 16", id="17 options"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    ask: Callable[..., httpx.Response], paint: Callable[..., bytes], query: str, status: int, words: str
) -> None:
    answer = ask("POST", f"{MODEL}/predict?{query}", paint(0), PNG)

    assert answer.status_code == status
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("instances", "status", "words"),
    [
        pytest.param(["text"], 422, "cannot be used", id="a text for an image"),
        pytest.param([{"image": "!"}], 422, "`image` is not base64", id="no base64"),
        pytest.param([{"pixels": [[9] * 6] * 4}, {"pixels": []}], 422, "instances[1]", id="the second one"),
        pytest.param([{"pixels": [[9] * 6] * 4}, 7], 422, "instances[1]", id="a number among objects"),
        pytest.param([{}] * 513, 400, "are too many", id="too many"),
        pytest.param({}, 400, "is not a list", id="no list"),
    ],
)
def test_instances_that_cannot_be_read_are_refused_by_their_place(
    ask: Callable[..., httpx.Response], instances: Any, status: int, words: str
) -> None:
    answer = ask("POST", f"{MODEL}/predict", json.dumps({"instances": instances}), JSON)

    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_an_answer_that_json_cannot_say_is_our_failure_not_the_connections(
    ask: Callable[..., httpx.Response], core: Core, paint: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    core.model("shades").task.answer = lambda outputs, *_: {"label": outputs}  # type: ignore[method-assign, assignment]

    answer = ask("POST", f"{MODEL}/predict", paint(0), PNG)

    assert answer.status_code == 500
    assert answer.json()["request_id"] in caplog.text


def test_an_answer_without_a_content_type_is_given_to_json(ask: Callable[..., httpx.Response]) -> None:
    assert ask("POST", f"{MODEL}/infer", tensor()).status_code == 200  # Triton's client names none


@pytest.mark.parametrize("verb", ["infer", "predict"])
def test_every_answer_says_who_gave_it_in_what_time(ask: Callable[..., httpx.Response], verb: str) -> None:
    body = tensor() if verb == "infer" else json.dumps({"instances": [ROW]}).encode()

    said = ask("POST", f"{MODEL}/{verb}", body, {**JSON, "x-request-id": "abc-1"}).json()["parameters"]

    assert (said["version"], said["variant"], said["request_id"]) == (3, "onnx-fp32", "abc-1")
    assert said["queue_ms"] >= 0
    assert said["compute_ms"] > 0


def test_infer_takes_nested_data_a_version_and_a_choice_of_outputs(ask: Callable[..., httpx.Response]) -> None:
    body = {
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 4, 6, 1], "data": [ROW]}],
        "outputs": [{"name": "label"}],
    }

    answer = ask("POST", f"{MODEL}/versions/3/infer", json.dumps(body), JSON)

    assert [output["name"] for output in answer.json()["outputs"]] == ["label"]


@pytest.mark.parametrize(
    ("path", "headers", "answers"),
    [
        pytest.param("", {}, 3, id="no word"),
        pytest.param("", {"x-trimtab-version": "candidate"}, 4, id="the header's word"),
        pytest.param("", {"x-trimtab-version": "4"}, 4, id="the header's number"),
        pytest.param("/versions/4", {"x-trimtab-version": "stable"}, 4, id="the path's number"),
    ],
)
@pytest.mark.parametrize("verb", ["infer", "predict"])
def test_either_of_two_versions_can_be_asked_and_the_answer_says_which_it_was(
    ask: Callable[..., httpx.Response],
    core: Core,
    later: Model,
    verb: str,
    path: str,
    headers: dict[str, str],
    answers: int,
) -> None:
    body = tensor() if verb == "infer" else json.dumps({"instances": [ROW]}).encode()
    beside(core, later)

    said = ask("POST", f"{MODEL}{path}/{verb}", body, {**JSON, **headers}).json()

    assert said["parameters"]["version"] == answers
    assert int(said["model_version"] if verb == "infer" else said["version"]) == answers
    assert ask("GET", MODEL).json()["versions"] == ["3", "4"]


def test_a_candidate_that_fails_in_its_own_words_costs_nobody_an_answer(
    ask: Callable[..., httpx.Response], core: Core, later: Model, paint: Callable[..., bytes]
) -> None:
    beside(core, later, canary=1.0)
    assert core.rivals.candidate is not None
    core.rivals.candidate.task.answer = lambda *_: {"label": np.ones(2)}  # type: ignore[method-assign, assignment]

    answers = [ask("POST", f"{MODEL}/predict", paint(0), PNG) for _ in range(3)]

    assert [(answer.status_code, answer.json()["version"]) for answer in answers] == [(200, 3)] * 3
    assert core.statistics()["rivals"]["versions"]["4"]["rescued"] == 3


def test_a_wish_for_a_version_that_is_not_there_is_refused(ask: Callable[..., httpx.Response]) -> None:
    answer = ask("POST", f"{MODEL}/infer", tensor(), {**JSON, "x-trimtab-version": "candidate"})

    assert answer.status_code == 404
    assert "x-trimtab-version = 'candidate': a candidate is not tried just now; leave the header out" in answer.text


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_predict_takes_an_image_of_any_size(
    ask: Callable[..., httpx.Response], paint: Callable[..., bytes], kind: str
) -> None:
    headers = {"content-type": f"image/{kind.lower()}", "x-request-id": "abc-1"}

    answer = ask("POST", f"{MODEL}/predict", paint(240, kind, (60, 40)), headers)

    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["label"], said["model"], said["version"], said["variant"]) == ("light-1", "shades", 3, "onnx-fp32")
    assert set(said["probabilities"]) == {"dark-1", "light-1"}
    assert said["request_id"] == answer.headers["x-request-id"] == "abc-1"
    assert said["milliseconds"] > 0


def test_predict_takes_rows_as_json(ask: Callable[..., httpx.Response]) -> None:
    answer = ask("POST", f"{MODEL}/predict", json.dumps({"instances": [ROW, np.full((4, 6, 1), 250).tolist()]}), JSON)

    assert [one["label"] for one in answer.json()["predictions"]] == ["dark-1", "light-1"]


def test_predict_takes_an_image_in_base64(ask: Callable[..., httpx.Response], paint: Callable[..., bytes]) -> None:
    body = {"image": base64.b64encode(paint(10)).decode()}

    assert ask("POST", f"{MODEL}/predict", json.dumps(body), JSON).json()["label"] == "dark-1"


def test_more_rows_than_a_batch_are_answered_together(ask: Callable[..., httpx.Response]) -> None:
    answer = ask("POST", f"{MODEL}/predict", json.dumps({"instances": [ROW] * 100}), JSON)

    assert len(answer.json()["predictions"]) == 100


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/ready"])
def test_health_needs_no_token(ask: Callable[..., httpx.Response], path: str) -> None:
    assert ask("GET", path, headers={"authorization": ""}).status_code == 200
    assert ask("HEAD", path, headers={"authorization": ""}).content == b""


def test_an_endpoint_without_a_model_is_alive_but_not_ready() -> None:
    web = Web(Core("shades", Serve()), Tokens(["secret"]))

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://x", headers=TOKEN) as client:
            return [(await client.get(path)).status_code for path in ("/v2/health/live", "/ready", MODEL)]

    assert asyncio.run(statuses()) == [200, 503, 503]


def test_the_server_and_its_model_describe_themselves(ask: Callable[..., httpx.Response]) -> None:
    assert ask("GET", "/v2").json()["ingress"] == "none"
    assert ask("GET", f"{MODEL}/ready").json() == {"name": "shades", "ready": True}
    about = ask("GET", f"{MODEL}/versions/3").json()
    assert about == ask("GET", MODEL).json()
    assert about["versions"] == ["3"]
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 4, 6, 1]}]
    assert about["parameters"]["labels"] == ["dark-1", "light-1"]


def test_a_routes_prefix_is_taken_off(ask: Callable[..., httpx.Response]) -> None:
    assert ask("GET", f"/grey{MODEL}", root="/grey").json()["name"] == "shades"
    assert ask("GET", "/grey/openapi.json", root="/grey").json()["servers"] == [{"url": "/grey"}]


def test_the_docs_page_loads_nothing(ask: Callable[..., httpx.Response]) -> None:
    page = ask("GET", "/docs")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f"POST {MODEL}/predict" in page.text
    for loading in ("src=", "<link", "@import", "http://", "https://"):
        assert loading not in page.text


def test_every_documented_operation_exists(core: Core, ask: Callable[..., httpx.Response]) -> None:
    for path, operations in openapi.document(core.model("shades"))["paths"].items():
        for method in operations:
            answer = ask(method.upper(), path.replace("{version}", "3"))
            assert answer.status_code not in (404, 405), path


# Refusals


INFER, PREDICT = f"{MODEL}/infer", f"{MODEL}/predict"
NAN = tensor(data=None)[:-3] + b', "data": [NaN]}]}'


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        pytest.param("GET", MODEL, None, {"authorization": ""}, 401, "authorization|send `auth", id="no token"),
        pytest.param("GET", MODEL, None, {"authorization": "Bearer x"}, 401, "no token this", id="wrong token"),
        pytest.param("GET", "/nowhere", None, {"authorization": ""}, 401, "authorization", id="no token, no path"),
        pytest.param("GET", "/nowhere", None, {}, 404, "path = '/nowhere'|GET /docs", id="unknown path"),
        pytest.param("GET", f"{MODEL}/what", None, {}, 404, "path = '/v2/models/shades/what'|GET /docs", id="verb"),
        pytest.param("GET", f"{MODEL}/ready/more", None, {}, 404, "path = |GET /docs", id="path that goes on"),
        pytest.param("GET", "/v2/models/cats", None, {}, 404, "model = 'cats'|serves 'shades'", id="unknown model"),
        pytest.param("POST", "/v2/models/cats/infer", b"{}", JSON, 404, "model = 'cats'|'shades'", id="model, infer"),
        pytest.param(
            "POST", f"{MODEL}/versions/9/infer", b"{}", JSON, 404, "version = '9'|version 3", id="unknown version"
        ),
        pytest.param("GET", PREDICT, None, {}, 405, "method = 'GET'|use POST", id="GET on predict"),
        pytest.param("DELETE", MODEL, None, {}, 405, "method = 'DELETE'|use GET", id="DELETE"),
        pytest.param("POST", "/v2", b"{}", JSON, 405, "method = 'POST'|use GET", id="POST on metadata"),
        pytest.param("POST", PREDICT, b"x", {}, 415, "content-type = ''|image/png", id="no content type"),
        pytest.param("POST", PREDICT, b"x", {"content-type": "text/csv"}, 415, "'text/csv'|send one of", id="csv"),
        pytest.param("POST", INFER, b"x", PNG, 415, "content-type = 'image/png'|application/json", id="png to infer"),
        pytest.param("POST", PREDICT, b"", PNG, 400, "body = ''|send the bytes", id="empty image"),
        pytest.param("POST", PREDICT, b"hello", PNG, 422, "body = '5 bytes of image/png'|not_an_image|send", id="text"),
        pytest.param("POST", PREDICT, b"", JSON, 400, "body = ''|send a JSON object", id="empty JSON"),
        pytest.param("POST", PREDICT, b"{", JSON, 400, "body = |is not JSON|send a JSON", id="malformed JSON"),
        pytest.param("POST", PREDICT, b"\xff\xfe{", JSON, 400, "body = |is not JSON|send", id="JSON not in UTF-8"),
        pytest.param("POST", PREDICT, b"[1]", JSON, 400, "body = |not a JSON object|send", id="JSON list"),
        pytest.param("POST", PREDICT, b"[" * 100_000, JSON, 400, "body = |nested too deeply|nest", id="deep JSON"),
        pytest.param("POST", PREDICT, b'{"a":' * 9_000, JSON, 400, "body = |nested too|nest", id="deep objects"),
        pytest.param("POST", PREDICT, b'{"n": ' + b"9" * 5000 + b"}", JSON, 400, "body = |not JSON", id="huge number"),
        pytest.param("POST", PREDICT, b'{"a": 1}', JSON, 422, "body = |image|send", id="neither instances nor image"),
        pytest.param("POST", PREDICT, b'{"image": "*"}', JSON, 422, "body = |base64|send", id="not base64"),
        pytest.param("POST", PREDICT, b'{"instances": []}', JSON, 400, "instances = |in a list", id="no rows"),
        pytest.param("POST", PREDICT, b'{"instances": "x"}', JSON, 400, "instances = 'x'|list", id="text for rows"),
        pytest.param("POST", PREDICT, b'{"instances": [[1], [1, 2]]}', JSON, 400, "differ in|rectangle", id="ragged"),
        pytest.param("POST", PREDICT, b'{"instances": [[1, 2]]}', JSON, 400, r"\[1, 2\]|send \[rows, 4", id="shape"),
        pytest.param("POST", PREDICT, b'{"instances": [NaN]}', JSON, 400, "'NaN'|finite numbers", id="NaN in rows"),
        pytest.param("POST", INFER, NAN, JSON, 400, "'NaN'|finite numbers", id="NaN in tensor"),
        pytest.param("POST", INFER, NAN.replace(b"NaN", b"-Infinity"), JSON, 400, "'-Infinity'|finite", id="Infinity"),
        pytest.param("POST", INFER, b"{}", JSON, 400, "inputs = None|image", id="no inputs"),
        pytest.param("POST", INFER, b'{"inputs": [1]}', JSON, 400, "inputs = |one tensor", id="no tensor"),
        pytest.param("POST", INFER, tensor(name="x"), JSON, 400, r"inputs\[0\].name = 'x'|send 'image'", id="name"),
        pytest.param("POST", INFER, tensor(name=None), JSON, 400, r"name = None|send 'image'", id="no name"),
        pytest.param("POST", INFER, tensor(datatype="FP32"), JSON, 400, "datatype = 'FP32'|'UINT8'", id="datatype"),
        pytest.param("POST", INFER, tensor(shape=[1, 9]), JSON, 400, r"shape = \[1, 9\]|\[rows, 4, 6, 1", id="shape 2"),
        pytest.param("POST", INFER, tensor(shape=[0, 4, 6, 1]), JSON, 400, "has 0 rows|send 1 to 512", id="no row"),
        pytest.param("POST", INFER, tensor(shape=[10**9, 4, 6, 1]), JSON, 400, "send 1 to 512", id="too many rows"),
        pytest.param("POST", INFER, tensor(shape=[True, 4, 6, 1]), JSON, 400, "whole numbers", id="shape of bools"),
        pytest.param("POST", INFER, tensor(shape=None), JSON, 400, "shape = None|send", id="no shape"),
        pytest.param("POST", INFER, tensor(data=None), JSON, 400, "data = None|send the numbers", id="no data"),
        pytest.param("POST", INFER, tensor(data=[1] * 23), JSON, 400, "'23 numbers'|send 24", id="too little data"),
        pytest.param("POST", INFER, tensor(data=[0.5] * 24), JSON, 400, "data = 0.5|whole numbers", id="floats"),
        pytest.param("POST", INFER, tensor(data=[256] * 24), JSON, 400, "data = 256|0 to 255", id="over 255"),
        pytest.param("POST", INFER, tensor(data=[-1] * 24), JSON, 400, "data = -1|0 to 255", id="below 0"),
        pytest.param("POST", INFER, tensor(data=["a"] * 24), JSON, 400, "data = 'a'|whole numbers", id="text"),
        pytest.param("POST", INFER, tensor(data=[True] * 24), JSON, 400, "data = True|whole", id="booleans"),
        pytest.param("POST", INFER, tensor(data=[1e999] * 24), JSON, 400, "Infinity|finite", id="Python's Infinity"),
        pytest.param("POST", INFER, tensor(data=[2**70] * 24), JSON, 400, "data = |whole", id="over 64 bits"),
        pytest.param("POST", INFER, tensor(data=[{}] * 24), JSON, 400, r"data = \{\}|whole numbers", id="objects"),
        pytest.param(
            "POST", INFER, b'{"id": 5, "inputs": []}', JSON, 400, "id = 5|at most 128 characters", id="id no text"
        ),
        pytest.param(
            "POST",
            INFER,
            tensor()[:-1] + b', "outputs": [{"name": "x"}]}',
            JSON,
            400,
            r"outputs\[0\].name = 'x'|name one of probabilities, label",
            id="unknown output",
        ),
        pytest.param(
            "POST", INFER, b"x", {**JSON, "inference-header-content-length": "9"}, 400, "= '9'|JSON", id="header length"
        ),
        pytest.param(
            "POST", INFER, tensor(), {**JSON, "content-encoding": "gzip"}, 415, "'gzip'|as it is", id="packed body"
        ),
        pytest.param("GET", MODEL, None, {"x-deadline-ms": "x"}, 400, "x-deadline-ms = 'x'|for example", id="deadline"),
        pytest.param("GET", MODEL, None, {"x-deadline-ms": "0"}, 504, "deadline", id="deadline that has passed"),
        pytest.param(
            "GET",
            MODEL,
            None,
            {"x-request-timeout-seconds": "soon"},
            400,
            "= 'soon'|for example",
            id="timeout no number",
        ),
        pytest.param("GET", MODEL, None, {"x-request-timeout-seconds": "nan"}, 400, "= 'nan'|send", id="timeout nan"),
        pytest.param(
            "GET", MODEL, None, {"x-request-disconnect-disabled": "?1"}, 400, "= '.1'|leave", id="disconnect disabled"
        ),
    ],
)
def test_a_bad_request_hears_what_is_wrong_and_how_to_mend_it(
    ask: Callable[..., httpx.Response],
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    words: str,
) -> None:
    answer = ask(method, path, body, headers)

    assert answer.status_code == status, answer.text
    said = answer.json()
    assert said["request_id"] == answer.headers["x-request-id"]
    assert len(said["error"]) < 500
    assert "Traceback" not in said["error"]
    for word in words.split("|"):
        assert re.search(word, said["error"]), said["error"]


def test_a_refused_token_says_which_scheme(ask: Callable[..., httpx.Response]) -> None:
    assert ask("GET", MODEL, headers={"authorization": ""}).headers["www-authenticate"] == "Bearer"


def test_a_refused_method_says_which_are_allowed(ask: Callable[..., httpx.Response]) -> None:
    assert ask("PUT", INFER, b"{}", JSON).headers["allow"] == "POST"


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_image_is_422(ask: Callable[..., httpx.Response], paint: Callable[..., bytes], damage: str) -> None:
    whole = paint(100, "PNG", (64, 64))
    body = whole[: len(whole) // 2] if damage == "cut" else whole[:40] + b"\0\0\0\0" + whole[44:]

    answer = ask("POST", PREDICT, body, PNG)

    assert answer.status_code == 422
    assert "undecodable" in answer.json()["error"]


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(
    core: Core, ask: Callable[..., httpx.Response], paint: Callable[..., bytes]
) -> None:
    core.configure(Serve(max_pixels=1000))

    answer = ask("POST", PREDICT, paint(1, "PNG", (100, 100)), PNG)

    assert answer.status_code == 422
    assert "100x100 is over 1000 pixels" in answer.json()["error"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param("job-7:row_3.a", True, id="plain"),
        pytest.param("a" * 128, True, id="as long as may be"),
        pytest.param("a" * 129, False, id="too long"),
        pytest.param("a b", False, id="space"),
        pytest.param("<script>", False, id="markup"),
    ],
)
def test_a_request_id_is_kept_when_it_is_harmless(ask: Callable[..., httpx.Response], given: str, kept: bool) -> None:
    answer = ask("GET", MODEL, headers={"x-request-id": given})

    assert (answer.headers["x-request-id"] == given) is kept


# Bounds


class Caller:
    """A client at the ASGI level: counts what is read of its body, and can go away."""

    def __init__(self, chunks: list[bytes], headers: dict[str, str], path: str = PREDICT) -> None:
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(key.encode(), value.encode()) for key, value in {**TOKEN, **headers}.items()],
        }
        self.chunks, self.num_read, self.sent = chunks, 0, []  # type: ignore[var-annotated]

    async def receive(self) -> dict[str, Any]:
        if self.num_read == len(self.chunks):
            return {"type": "http.disconnect"}
        self.num_read += 1
        return {"type": "http.request", "body": self.chunks[self.num_read - 1], "more_body": True}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def ask(self, web: Web) -> tuple[int, str]:
        await web(self.scope, self.receive, self.send)
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])["error"]


def test_a_body_declared_too_large_is_refused_before_it_is_read(web: Web) -> None:
    caller = Caller([b"x"] * 10, {**PNG, "content-length": str(5 * 1024**2)})

    status, error = asyncio.run(caller.ask(web))

    assert (status, caller.num_read) == (413, 0)
    assert "body = '5242880 bytes'" in error
    assert "serve.max_body (4194304 bytes)" in error
    assert "send less" in error


def test_a_body_that_declares_nothing_is_refused_when_it_grows_too_large(web: Web) -> None:
    caller = Caller([b"x" * 1024**2] * 100, PNG)

    status, error = asyncio.run(caller.ask(web))

    assert (status, caller.num_read) == (413, 5)
    assert "serve.max_body" in error


def test_a_body_that_ends_early_is_400(web: Web) -> None:
    status, error = asyncio.run(Caller([b"abc"], PNG).ask(web))

    assert (status, error) == (400, "body = '3 bytes': ended early; send the whole body")


class Slow(Caller):
    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(10)
        return await super().receive()


@pytest.mark.parametrize(
    ("headers", "bound"),
    [
        pytest.param({}, 0.05, id="the endpoint's own bound"),
        pytest.param({"x-request-timeout-seconds": "0.05"}, 30.0, id="shortened by the client"),
        pytest.param({"x-request-timeout-seconds": "0"}, 0.05, id="0 does not switch it off"),
        pytest.param({"x-request-timeout-seconds": "-1"}, 0.05, id="-1 does not switch it off"),
        pytest.param({"x-request-timeout-seconds": "1000"}, 0.05, id="more does not lengthen it"),
        pytest.param({"x-deadline-ms": "50"}, 30.0, id="the client's deadline"),
        pytest.param({"x-deadline-ms": "50", "x-request-timeout-seconds": "20"}, 30.0, id="the shorter one of both"),
        pytest.param({"x-deadline-ms": "1e9"}, 0.05, id="a later deadline does not lengthen it"),
    ],
)
def test_a_slow_body_is_504_at_the_deadline(core: Core, web: Web, headers: dict[str, str], bound: float) -> None:
    core.configure(Serve(request_timeout=f"{bound}s"))  # type: ignore[arg-type]

    status, error = asyncio.run(Slow([b"x"], {**PNG, **headers}).ask(web))

    assert status == 504
    assert "deadline" in error
    assert "x-request-timeout-seconds" in error
    assert ("x-deadline-ms" in error) == ("x-deadline-ms" in headers)


class Gate(threading.Event):
    """While it is closed no forward pass goes on; `seen` is the first pixel of each row computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []


@pytest.fixture
def held(core: Core, compute_with: ComputeWith) -> Iterator[Gate]:
    gate, forward = Gate(), core.model("shades").ladder.forwards["onnx-fp32"]

    def predictor(rows: np.ndarray) -> np.ndarray:
        gate.wait(20)
        gate.seen += rows[:, 0, 0, 0].tolist()
        return forward(rows)

    compute_with(predictor)
    yield gate
    gate.set()


def client(web: Web) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(web)
    return httpx.AsyncClient(transport=transport, base_url="http://x", headers={**TOKEN, **JSON})


def test_a_slow_model_is_504_at_the_deadline(ask: Callable[..., httpx.Response], held: Gate) -> None:
    answer = ask("POST", INFER, tensor(), {**JSON, "x-request-timeout-seconds": "0.05"})

    assert answer.status_code == 504


def test_a_full_queue_is_429_with_a_time_to_come_again(core: Core, web: Web, held: Gate) -> None:
    core.configure(Serve(max_queue=2))

    async def crowd() -> list[httpx.Response]:
        async with client(web) as one:
            asked = [asyncio.create_task(one.post(INFER, content=tensor())) for _ in range(6)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            held.set()
            return list(await asyncio.gather(*asked))

    answers = asyncio.run(crowd())

    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 3
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert "serve.max_queue" in refused.json()["error"]


def test_a_client_that_goes_away_takes_its_request_out_of_the_queue(web: Web, held: Gate) -> None:
    async def gone() -> int:
        async with client(web) as one:
            running = asyncio.create_task(one.post(INFER, content=tensor()))
            await asyncio.sleep(0.02)
            leaving = asyncio.create_task(one.post(INFER, content=tensor(data=[1] * 24)))
            await asyncio.sleep(0.02)
            leaving.cancel()  # as Serve does with the handler of a client that has gone
            held.set()
            return (await running).status_code

    assert asyncio.run(gone()) == 200
    assert held.seen == [0]


def test_an_error_of_ours_is_500_with_a_request_id_and_logged_once(
    compute_with: ComputeWith, ask: Callable[..., httpx.Response], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(rows: np.ndarray) -> np.ndarray:
        raise ValueError("a secret of the inside")

    compute_with(broken)

    with caplog.at_level(logging.ERROR):
        answer = ask("POST", INFER, tensor(), JSON)

    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert [record.args[0] for record in caplog.records] == [answer.json()["request_id"]]  # type: ignore[index]


def test_many_requests_at_once_all_get_their_own_answer(web: Web) -> None:
    async def many() -> list[httpx.Response]:
        async with client(web) as one:
            bodies = [tensor(data=[255 * (i % 2)] * 24) for i in range(64)]
            return list(await asyncio.gather(*(one.post(INFER, content=body) for body in bodies)))

    answers = asyncio.run(many())

    labels = [answer.json()["outputs"][1]["data"][0] for answer in answers]
    assert labels == ["dark-1", "light-1"] * 32


def test_a_token_over_its_rate_is_429_and_others_go_on(core: Core) -> None:
    web = Web(core, Tokens(["slow predict 0.01", "secret"]))

    async def ask_in_turn() -> list[httpx.Response]:
        async with client(web) as one:
            tokens = ("slow", "slow", "secret")
            return [await one.get(MODEL, headers={"authorization": f"Bearer {token}"}) for token in tokens]

    answers = asyncio.run(ask_in_turn())

    assert [answer.status_code for answer in answers] == [200, 429, 200]
    assert int(answers[1].headers["retry-after"]) in (99, 100)


# Anything at all

ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([2**64, -1, 10**400]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
FLAGS = st.fixed_dictionaries(
    {}, optional={"binary_data": st.booleans() | ANY, "binary_data_size": st.integers() | ANY}
)
TENSOR = st.fixed_dictionaries(
    {
        "name": st.just("image") | ANY,
        "datatype": st.sampled_from(["UINT8", "FP32", "BYTES"]) | ANY,
        "shape": st.just([1, 4, 6, 1]) | st.lists(st.integers(-3, 6) | st.integers(), max_size=6) | ANY,
    },
    optional={"data": st.lists(st.integers(0, 255), min_size=23, max_size=25) | ANY, "parameters": FLAGS | ANY},
)
OUTPUT = st.fixed_dictionaries(
    {"name": st.sampled_from(["label", "probabilities"]) | ANY}, optional={"parameters": FLAGS}
)
BODY = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, min_size=1, max_size=1) | ANY},
    optional={
        "id": st.text(max_size=4) | ANY,
        "outputs": st.lists(OUTPUT | ANY, max_size=3) | ANY,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_output": st.booleans() | ANY}) | ANY,
    },
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=BODY.map(lambda tree: json.dumps(tree).encode()) | st.binary(max_size=40),
    tail=st.sampled_from([b"", bytes(24)]) | st.binary(max_size=30),
    length=st.sampled_from(["right", "right", "none"]) | st.text("0123456789-+. ", max_size=5),
)
def test_whatever_is_sent_is_answered_or_refused_and_never_fails(
    web: Web, body: bytes, tail: bytes, length: str
) -> None:
    headers = {} if length == "none" else {"inference-header-content-length": length.replace("right", str(len(body)))}

    async def both() -> tuple[httpx.Response, httpx.Response]:
        async with client(web) as one:
            answer = await one.post(INFER, content=body + tail, headers=headers)
            return answer, await one.post(INFER, content=tensor())

    answer, after = asyncio.run(both())

    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert len(answer.json()["error"]) < 600
    assert after.status_code == 200


# Feedback


def test_feedback_is_acknowledged_when_it_is_kept(core: Core, store: Store) -> None:
    ledger = words.ledger(store, "shades")
    web = Web(core, Tokens(["secret"]), intake=Intake(ledger))

    answer = asyncio.run(_post(web, {"request_id": "a", "label": "dark-1"}, "secret"))

    assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
    assert ledger.read()["request_id"].to_pylist() == ["a"]


def test_feedback_needs_a_role(core: Core, store: Store) -> None:
    web = Web(core, Tokens(["reader predict", "judge feedback"]), intake=Intake(words.ledger(store, "shades")))

    refused, taken = (
        asyncio.run(_post(web, {"request_id": "a", "rating": 1}, token)).status_code for token in ("reader", "judge")
    )

    assert (refused, taken) == (403, 202)


def test_feedback_is_refused_where_it_would_be_lost(web: Web) -> None:
    assert asyncio.run(_post(web, {"request_id": "a", "rating": 1}, "secret")).status_code == 404


# The webhook


@pytest.fixture
def hook(store: Store) -> Hook:
    made = Hook(store, "shades")
    made.closed = ""
    return made


def test_a_retraining_is_asked_for_by_a_token_that_may(core: Core, store: Store, hook: Hook) -> None:
    web = Web(core, Tokens(["judge feedback", "boss operate"]), hook=hook)

    answers = [asyncio.run(_wish(web, token, path)) for token in ("judge", "boss") for path in ("retrain", "retrain/")]

    assert [answer.status_code for answer in answers] == [403, 403, 202, 202]
    assert answers[0].json()["error"] == (
        "authorization: this token's role is feedback; send one whose role is at least operate"
    )
    accepted = {answer.json()["accepted"] for answer in answers[2:]}  # the same request id: the same wish
    assert {wish.id for wish in orders.asked(store, "shades")} == accepted
    assert len(accepted) == 1


def test_a_weaker_token_does_not_pass_by_another_spelling_of_the_path(core: Core, store: Store) -> None:
    web = Web(core, Tokens(["reader predict"]), intake=Intake(words.ledger(store, "shades")))

    for path in ("feedback", "feedback/", "feedback//"):
        assert asyncio.run(_wish(web, "reader", path)).status_code == 403


@pytest.mark.parametrize("closed", ["retrain.triggers.webhook is off", "adapt.enabled is off"])
def test_a_wish_that_nobody_would_take_up_is_refused(core: Core, store: Store, hook: Hook, closed: str) -> None:
    hook.closed = closed
    web = Web(core, Tokens(["secret"]), hook=hook)

    answer = asyncio.run(_wish(web, "secret"))

    assert (answer.status_code, closed in answer.json()["error"]) == (409, True)
    assert orders.asked(store, "shades") == []


async def _wish(web: Web, token: str, path: str = "retrain") -> httpx.Response:
    headers = {"authorization": f"Bearer {token}", "x-request-id": "mine"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://endpoint") as client:
        return await client.post(f"{MODEL}/{path}", content=b"whatever a sender puts there", headers=headers)


async def _post(web: Web, tree: dict[str, Any], token: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://endpoint") as client:
        return await client.post(f"{MODEL}/feedback", json=tree, headers={"authorization": f"Bearer {token}"})
