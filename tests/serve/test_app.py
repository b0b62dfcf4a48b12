"""What its import path builds and refuses, and that a replica that hangs is found; how it answers, in test_deploy."""

from __future__ import annotations

import dataclasses
import importlib
import json
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import onnx as onnx_format
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from cluster.config import Adapt
from cluster.session import Session
from cluster.store import Store
from ladder.bundle import Bundle
from serve import deploy
from serve.deploy import Endpoint

# Ray Serve's own modules warn when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field` is deprecated")
REPLACED_S = 180.0  # 40 s are promised on a machine that has time for it


def test_the_import_path_builds_an_application() -> None:
    module, _, function = deploy.IMPORT_PATH.partition(":")
    build = getattr(importlib.import_module(module), function)

    built = build({"name": "digits", "store": "store", "code": "0"})

    assert type(built).__name__ == "Application"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"name": "digits"}, id="one is missing"),
        pytest.param({"name": "digits", "store": "store", "bundle": "b"}, id="one too many"),
        pytest.param({"name": 1, "store": "store"}, id="wrong type"),
    ],
)
def test_other_arguments_are_refused(arguments: dict[str, object]) -> None:
    from serve.app import build

    with pytest.raises(ValidationError):
        build(arguments)


@pytest.fixture(scope="module")
def endpoint(cluster: Session, make_bundle: Callable[..., Bundle]) -> Iterator[Endpoint]:
    made = make_bundle(Store.open(cluster.store), 1, _hangs_at_white(), "stuck", route="/stuck")
    experiment = made.experiment.model_copy(update={"adapt": Adapt(enabled=False)})
    yield deploy.deploy(cluster, dataclasses.replace(made, experiment=experiment), 1)
    deploy.undeploy(cluster, "stuck")


def test_a_replica_that_hangs_is_replaced_without_anybodys_help(endpoint: Endpoint, cluster: Session) -> None:
    with httpx.Client(headers={"authorization": f"Bearer {cluster.api_token}"}, trust_env=False) as client:
        assert _status(client, endpoint, 0) == 200
        assert _status(client, endpoint, 255) == 0  # hangs, and the replica with it
        assert _status(client, endpoint, 0) == 0

        end = time.monotonic() + REPLACED_S
        while (status := _status(client, endpoint, 0)) != 200 and time.monotonic() < end:
            time.sleep(0.5)

    assert status == 200


def _status(client: httpx.Client, endpoint: Endpoint, level: int) -> int:
    """Of a request with one image of that grey, 0 where nothing answers within a second."""
    body = json.dumps({"instances": [[[[level]] * 6] * 4]})
    try:
        answer = client.post(
            f"{endpoint.url}/predict", content=body, headers={"content-type": "application/json"}, timeout=1.0
        )
    except httpx.HTTPError:
        return 0
    return answer.status_code if answer.status_code < 500 else 0


def _hangs_at_white() -> bytes:
    """Rows uint8 [n, 4, 6, 1] -> float32 [n, 2], in a loop that has no end where one pixel is white."""
    constants = {"white": np.int64(255), "ever": np.int64(2**62), "once": np.int64(1), "axes": np.array([1, 2, 3])}
    nothing_more = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["before"], ["after"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
        helper.make_node("Equal", ["brightest", "white"], ["is_white"]),
        helper.make_node("Where", ["is_white", "ever", "once"], ["turns"]),
        helper.make_node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels", "axes"], ["level"], keepdims=0),
        helper.make_node("Loop", ["turns", "", "level"], ["looped"], body=nothing_more),
        helper.make_node("Neg", ["looped"], ["dark"]),
        helper.make_node("Unsqueeze", ["dark", "last"], ["first_column"]),
        helper.make_node("Unsqueeze", ["looped", "last"], ["second_column"]),
        helper.make_node("Concat", ["first_column", "second_column"], ["outputs"], axis=1),
    ]
    constants["last"] = np.array([1])
    graph = helper.make_graph(
        nodes,
        "hangs",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 4, 6, 1])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx_format.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
