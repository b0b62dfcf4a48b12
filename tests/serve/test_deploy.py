"""A deployed endpoint behind HAProxy on a real cluster, asked by real clients."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from cluster import session
from cluster.config import Adapt
from cluster.errors import (
    ClusterError,
    ConfigError,
    DeadlineError,
    NotFoundError,
    UnauthorisedError,
    UserError,
)
from cluster.session import Session, rest
from cluster.store import Store
from ladder.bundle import Bundle
from serve import deploy as deployment
from serve.deploy import DeployError, Endpoint
from tests.serve.conftest import make_experiment

ROUTE, MAX_BODY = "/grey/shades", 64 * 1024
BLACK = json.dumps({"instances": [[[[0]] * 6] * 4]}).encode()
JSON = {"content-type": "application/json"}
ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., Bundle]
Rungs = Mapping[str, tuple[float, bytes]]


def adapting(bundle: Bundle, enabled: bool) -> Bundle:
    experiment = bundle.experiment.model_copy(update={"adapt": Adapt(enabled=enabled)})
    return dataclasses.replace(bundle, experiment=experiment)


@pytest.fixture(scope="module")
def make(make_bundle: Make, cluster: Session) -> Make:
    """Bundles of the experiment `shades` in the cluster's store, on this module's route, and no actor to change it."""
    store = Store.open(cluster.store)

    def made(version: int, name: str = "shades", **changes: Any) -> Bundle:
        settings = {"route": ROUTE, "max_body": f"{MAX_BODY}B", **changes}
        return adapting(make_bundle(store, version, name=name, **settings), False)

    return made


@pytest.fixture(scope="module")
def first(cluster: Session, make: Make) -> Iterator[Endpoint]:
    yield deployment.deploy(cluster, make(1), 1)
    deployment.undeploy(cluster, "shades")


@pytest.fixture
def endpoint(cluster: Session, first: Endpoint, make: Make) -> Endpoint:
    """Version 1 with its own limits, whatever the test before has left."""
    if _version(cluster, first.url) == 1:
        return first
    return deployment.deploy(cluster, make(1), 1)


@pytest.fixture
def client(cluster: Session) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {cluster.api_token}"}
    with httpx.Client(headers=headers, timeout=30.0, trust_env=False) as made:
        yield made


def _version(cluster: Session, url: str) -> int:
    found = httpx.get(url, headers={"authorization": f"Bearer {cluster.api_token}"}, trust_env=False)
    return int(found.json()["versions"][0]) if found.status_code == 200 else 0


def _replicas(cluster: Session, name: str = "shades") -> list[int]:
    application = rest(cluster, "GET", "/api/serve/applications/")["applications"][name]
    return sorted(replica["pid"] for replica in application["deployments"]["Replica"]["replicas"])


# Answers


def test_an_image_is_answered_behind_haproxy(
    cluster: Session, endpoint: Endpoint, client: httpx.Client, paint: Callable[..., bytes]
) -> None:
    answer = deployment.predict(endpoint.url, cluster.api_token, paint(250, "PNG", (12, 8)), "image/png")

    assert (answer["label"], answer["version"], answer["variant"]) == ("light-1", 1, "onnx-fp32")
    assert answer["request_id"]
    assert client.get(endpoint.url.replace("/models/shades", "")).json()["ingress"] == "haproxy"


def test_the_open_inference_protocol_is_answered(endpoint: Endpoint, client: httpx.Client) -> None:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 6, 1], "data": [255] * 24}

    answer = client.post(f"{endpoint.url}/infer", json={"id": "x", "inputs": [tensor]})

    assert answer.status_code == 200, answer.text
    assert (answer.json()["id"], answer.json()["outputs"][1]["data"]) == ("x", ["light-1"])


def test_the_routes_prefix_leads_to_health_and_docs(cluster: Session, endpoint: Endpoint, client: httpx.Client) -> None:
    base = endpoint.url.removesuffix("/v2/models/shades")

    assert base == f"http://127.0.0.1:{cluster.http_port}{ROUTE}"
    assert httpx.get(f"{base}/ready", trust_env=False).json() == {"ready": True}
    assert f"POST {ROUTE}/v2/models/shades/predict" in client.get(f"{base}/docs").text


def test_a_request_id_comes_back_once(endpoint: Endpoint, client: httpx.Client) -> None:
    answer = client.get(endpoint.url, headers={"x-request-id": "mine-7"})

    assert answer.headers.get_list("x-request-id") == ["mine-7"]


def test_64_clients_at_once_all_get_their_answer(endpoint: Endpoint, client: httpx.Client) -> None:
    def one(level: int) -> str:
        body = {"instances": [[[[level]] * 6] * 4]}
        # A connection for each request: HAProxy may close an idle one while it takes up a new endpoint.
        once = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(headers=client.headers, timeout=30.0, trust_env=False, limits=once) as own:
            answers = [own.post(f"{endpoint.url}/predict", json=body).json() for _ in range(5)]
        (label,) = {answer["predictions"][0]["label"] for answer in answers}
        return str(label)

    with ThreadPoolExecutor(64) as clients:
        labels = list(clients.map(one, [0, 255] * 32))

    assert labels == ["dark-1", "light-1"] * 32


def test_1000_connections_at_once_all_get_their_answer(
    endpoint: Endpoint, cluster: Session, client: httpx.Client, make: Make
) -> None:
    deployment.deploy(cluster, make(9, max_queue=2000), 9)
    parts = urlsplit(endpoint.url)
    head = f"POST {parts.path}/predict HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(BLACK)}\r\n\r\n".encode() + BLACK

    async def ask(ready: asyncio.Barrier) -> bytes:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        await ready.wait()  # until all are connected
        writer.write(request)
        status = await reader.readline()
        writer.close()
        return status

    async def crowd() -> list[bytes]:
        ready = asyncio.Barrier(1000)
        return await asyncio.gather(*(ask(ready) for _ in range(1000)))

    assert Counter(asyncio.run(crowd())) == {b"HTTP/1.1 200 OK\r\n": 1000}


# Refusals


def test_a_wrong_token_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(UnauthorisedError, match="Bearer TOKEN"):
        deployment.predict(endpoint.url, "wrong", BLACK, "application/json")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        pytest.param("/versions/7", "version = '7'", id="version"),
        pytest.param("/../cats", "model = 'cats'", id="model"),
        pytest.param("/../../nowhere", "path = '/v2/nowhere'", id="path"),
    ],
)
def test_what_is_not_there_is_404(endpoint: Endpoint, client: httpx.Client, path: str, words: str) -> None:
    parts = endpoint.url.split("/")
    while path.startswith("/.."):
        parts, path = parts[:-1], path[3:]

    answer = client.get("/".join(parts) + path)

    assert answer.status_code == 404
    assert words in answer.json()["error"]


def test_asking_for_a_model_that_is_not_there_is_not_found(endpoint: Endpoint, cluster: Session) -> None:
    with pytest.raises(NotFoundError, match="this endpoint serves 'shades'"):
        deployment.predict(endpoint.url.replace("models/shades", "models/cats"), cluster.api_token, b"x", "image/png")


@pytest.mark.parametrize("how", ["declared", "chunked"])
def test_a_body_too_large_is_413(endpoint: Endpoint, client: httpx.Client, how: str) -> None:
    large = b"x" * (4 * MAX_BODY)
    content: Any = large if how == "declared" else (large[i : i + 1024] for i in range(0, len(large), 1024))

    answer = client.post(f"{endpoint.url}/predict", content=content, headers={"content-type": "image/png"})

    assert answer.status_code == 413
    assert f"serve.max_body ({MAX_BODY} bytes)" in answer.json()["error"]


def test_a_body_that_is_no_image_is_a_users_mistake(endpoint: Endpoint, cluster: Session) -> None:
    with pytest.raises(UserError, match=r"INPUT = '5 bytes of image/png': refused .*not_an_image.*; send a whole"):
        deployment.predict(endpoint.url, cluster.api_token, b"hello", "image/png")


def test_a_deadline_too_near_is_504(endpoint: Endpoint, client: httpx.Client) -> None:
    # Half the body is all that ever comes, so the answer cannot be there in time.
    parts = urlsplit(endpoint.url)
    head = [
        f"POST {parts.path}/predict HTTP/1.1",
        f"Host: {parts.netloc}",
        f"Authorization: {client.headers['authorization']}",
        "Content-Type: image/png",
        "Content-Length: 1000",
        "X-Request-Timeout-Seconds: 1",
    ]
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*head, "", "half"]).encode())
        answer = ""
        while "}" not in answer:  # head and body may come one after the other
            answer += connection.recv(4096).decode()

    assert answer.startswith("HTTP/1.1 504")
    assert "deadline" in answer


def test_clients_that_go_away_leave_the_endpoint_answering(endpoint: Endpoint, client: httpx.Client) -> None:
    parts = urlsplit(endpoint.url)
    head = f"POST {parts.path}/predict HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n"
    for body in (b"", b"\x89PNG", BLACK) * 10:
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(BLACK)}\r\n\r\n".encode())
            connection.sendall(body)

    answer = client.post(f"{endpoint.url}/predict", content=BLACK, headers={"content-type": "application/json"})

    assert answer.status_code == 200


# Deploying


def test_a_replica_does_not_load_torch(endpoint: Endpoint, cluster: Session) -> None:
    (pid,) = _replicas(cluster)

    files = [entry.path for entry in psutil.Process(pid).memory_maps()]

    assert any("onnxruntime" in path for path in files)
    assert not [path for path in files if "libtorch" in path]


def test_a_version_swap_under_load_loses_no_request(
    endpoint: Endpoint, cluster: Session, client: httpx.Client, make: Make
) -> None:
    before = _replicas(cluster)
    stop, seen, failures = threading.Event(), Counter[int](), []
    enough = {version: threading.Event() for version in (1, 2, 3, 4)}

    def ask_once(mine: httpx.Client) -> None:
        try:
            answer = mine.post(f"{endpoint.url}/predict", content=BLACK)
        except httpx.HTTPError as error:
            failures.append(repr(error))
            return
        said = answer.json()
        if answer.status_code != 200 or said["predictions"][0]["label"] != f"dark-{said['version']}":
            failures.append(answer.text)
            return
        seen[said["version"]] += 1
        if seen[said["version"]] >= 20:
            enough[said["version"]].set()

    def keep_asking() -> None:
        headers = {"authorization": client.headers["authorization"], "content-type": "application/json"}
        with httpx.Client(headers=headers, timeout=30.0, trust_env=False) as mine:
            while not stop.is_set():
                ask_once(mine)

    clients = [threading.Thread(target=keep_asking) for _ in range(4)]
    for one in clients:
        one.start()
    swaps = []
    try:
        for version in (2, 3, 4):
            assert enough[version - 1].wait(60)
            swaps.append(deployment.deploy(cluster, make(version), version))
        assert enough[4].wait(60)
    finally:
        stop.set()
        for one in clients:
            one.join()

    assert failures == []
    assert [swap.in_place for swap in swaps] == [True] * 3
    assert _replicas(cluster) == before


def test_new_limits_are_a_change_in_place(
    endpoint: Endpoint, cluster: Session, client: httpx.Client, make: Make
) -> None:
    before = _replicas(cluster)

    changed = deployment.deploy(cluster, make(5, max_body="10B"), 5)

    answer = client.post(f"{endpoint.url}/predict", content=BLACK, headers={"content-type": "application/json"})
    assert (changed.in_place, _replicas(cluster)) == (True, before)
    assert "serve.max_body (10 bytes)" in answer.json()["error"]


def test_a_rung_that_is_not_there_is_refused_before_anything_is_changed(
    endpoint: Endpoint, cluster: Session, make: Make
) -> None:
    with pytest.raises(ConfigError, match=r"serve\.rungs = 'tiny': .*; use one or more of onnx-fp32"):
        deployment.deploy(cluster, make(6, rungs_allowed=["tiny"]), 6)

    assert _version(cluster, endpoint.url) == 1


def test_a_burst_is_answered_by_a_cheaper_rung_and_one_alone_by_the_best(
    endpoint: Endpoint, cluster: Session, client: httpx.Client, make: Make, two_rungs: Rungs
) -> None:
    deployed = deployment.deploy(cluster, make(11, rungs=two_rungs, objective={"latency_ms": 500.0}), 11)
    many = {"instances": [[[[255]] * 6] * 4] * 32}

    def ask(_: int) -> tuple[int, str]:
        answer = client.post(f"{deployed.url}/predict", json=many)
        said = answer.json()
        if answer.status_code == 200:
            assert said["parameters"]["variant"] == said["variant"]
            assert {row["label"] for row in said["predictions"]} == {"light-11"}
        return answer.status_code, said.get("variant", said.get("error"))

    alone = [ask(0) for _ in range(3)]
    with ThreadPoolExecutor(64) as clients:
        burst = Counter(clients.map(ask, range(64)))

    assert (200, "onnx-fp32") in alone
    assert burst[200, "student-fp32"] > 0
    # A machine that stands still for a moment may have some refused, but never failed.
    assert {status for status, _ in burst} <= {200, 429, 504}, burst
    assert sum(count for (status, _), count in burst.items() if status == 200) > 32, burst


BROADCAST = """
import json, sys
from cluster import session
session.connect(session.require("tests"))
from ray import serve
handle = serve.get_deployment_handle("Replica", "shades")
for envelope in ({"epoch": 1, "max_batch": 2, "threads": 2}, {"epoch": 2, "variants": ["tiny"]}, {"epoch": 3}):
    print(json.dumps(handle.broadcast("apply", envelope).results(timeout_s=30)))
print(json.dumps(handle.broadcast("stats").results(timeout_s=30)))
"""


def test_an_envelope_reaches_every_replica_and_their_counts_come_back(
    endpoint: Endpoint, cluster: Session, client: httpx.Client
) -> None:
    for _ in range(3):
        assert client.post(f"{endpoint.url}/predict", content=BLACK, headers=JSON).status_code == 200
    environment = {**os.environ, **session.driver_env(cluster)}

    said = subprocess.run([sys.executable, "-c", BROADCAST], env=environment, cwd=ROOT, capture_output=True, text=True)

    assert said.returncode == 0, said.stderr
    applied, refused, taken_back, counted = (json.loads(line) for line in said.stdout.splitlines()[-4:])
    assert [(each["epoch"], each["refused"]) for each in applied] == [(1, None)]
    assert "envelope.variants = 'tiny'" in refused[0]["refused"]
    assert taken_back[0]["epoch"] == counted[0]["epoch"] == 3
    assert counted[0]["answered"]["requests"] >= 3
    assert counted[0]["replica"] == applied[0]["replica"]
    answer = client.post(f"{endpoint.url}/predict", content=BLACK, headers=JSON).json()
    assert answer["parameters"]["envelope_epoch"] == 3


def test_the_rungs_that_may_answer_are_a_change_in_place(
    endpoint: Endpoint, cluster: Session, client: httpx.Client, make: Make, two_rungs: Rungs
) -> None:
    before, said = _replicas(cluster), []
    for version, allowed in ((12, None), (13, ["student-fp32"])):
        deployment.deploy(cluster, make(version, rungs=two_rungs, rungs_allowed=allowed), version)
        said.append(client.post(f"{endpoint.url}/predict", json={"instances": [[[[0]] * 6] * 4]}).json()["variant"])

    assert said == ["onnx-fp32", "student-fp32"]
    assert _replicas(cluster) == before


def test_a_damaged_version_is_refused_and_the_one_before_goes_on(
    endpoint: Endpoint, cluster: Session, make: Make
) -> None:
    with pytest.raises(DeployError, match=r"version 6 was not loaded, the one before goes on: .*cannot be run"):
        deployment.deploy(cluster, make(6, data=b"not a model"), 6)

    assert _version(cluster, endpoint.url) == 1
    # A replica that starts later must not be told to load the damaged one.
    application = rest(cluster, "GET", "/api/serve/applications/")["applications"]["shades"]
    assert application["deployed_app_config"]["deployments"][0]["user_config"]["version"] == 1


def test_a_first_version_that_fails_leaves_nothing_behind(endpoint: Endpoint, cluster: Session, make: Make) -> None:
    with pytest.raises(DeployError, match=r"endpoint broken could not be started: .*cannot be run") as refused:
        deployment.deploy(cluster, make(1, "broken", data=b"not a model", route="/broken"), 1)

    assert "\n" not in str(refused.value)
    assert "broken" not in {*_applications(cluster)}
    assert _version(cluster, endpoint.url) == 1


def _applications(cluster: Session) -> dict[str, Any]:
    found: dict[str, Any] = rest(cluster, "GET", "/api/serve/applications/")["applications"]
    return {name: details for name, details in found.items() if details["status"] != "DELETING"}


def test_two_endpoints_live_side_by_side_on_their_routes(
    endpoint: Endpoint, cluster: Session, make: Make, paint: Callable[..., bytes]
) -> None:
    with pytest.raises(ConfigError, match=f"serve.route = '{ROUTE}': is taken by the endpoint shades.*/tones"):
        deployment.deploy(cluster, make(8, "tones"), 8)

    other = deployment.deploy(cluster, make(8, "tones", route="/tones/", replicas={"min": 2, "max": 2}), 8)

    assert len(_replicas(cluster, "tones")) == 2
    assert deployment.predict(other.url, cluster.api_token, paint(1), "image/png")["label"] == "dark-8"
    assert _version(cluster, endpoint.url) == 1
    deployment.undeploy(cluster, "tones")
    assert _version(cluster, endpoint.url) == 1
    with pytest.raises(NotFoundError):
        deployment.predict(other.url, cluster.api_token, paint(1), "image/png")


@pytest.mark.parametrize(
    ("name", "serve", "words"),
    [
        pytest.param("cats", {"route": ROUTE}, "serve.route = .*: is taken by the endpoint shades", id="route"),
        pytest.param(
            "cats", {"route": "/cats", "cpus_per_replica": 60.0}, "need 60 CPUs, and the cluster has", id="CPUs"
        ),
        pytest.param(
            "cats", {"route": "/cats", "cpus_per_replica": 5.95}, "other endpoints hold 0", id="CPUs beside others"
        ),
        pytest.param("shades", {"route": ROUTE, "cpus_per_replica": 5.95}, "", id="its own are no others"),
        pytest.param(
            "cats",
            {"route": "/cats", "gpus_per_replica": 1.0, "replicas": {"min": 9, "max": 9}},
            "need 9 GPUs, and",
            id="GPUs",
        ),
    ],
)
@pytest.mark.usefixtures("endpoint")
def test_a_place_that_is_not_there_is_said_without_deploying(
    cluster: Session, name: str, serve: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) if words else contextlib.nullcontext():
        deployment.check_place(cluster, make_experiment(name, **serve))


def test_an_endpoint_that_is_not_there_cannot_be_taken_away(endpoint: Endpoint, cluster: Session) -> None:
    with pytest.raises(
        UserError, match=r"NAME = 'cats': is no endpoint of this cluster; endpoints there are: .*shades"
    ):
        deployment.undeploy(cluster, "cats")


def test_an_endpoint_without_room_says_so_when_time_is_up(cluster: Session, make: Make) -> None:
    with pytest.raises(DeadlineError, match="endpoint huge is still DEPLOYING"):
        deployment.deploy(cluster, make(1, "huge", route="/huge", cpus_per_replica=60.0), 1, timeout_s=1.0)

    with contextlib.suppress(DeadlineError):  # Serve may take 20 s to let go of a replica it could not place
        deployment.undeploy(cluster, "huge", timeout_s=0.0)
    deployment.deploy(cluster, make(1), 1)  # states all applications, and must not bring it back
    assert "huge" not in _applications(cluster)


def test_where_nothing_listens_is_a_clear_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v2/models/shades"

    with pytest.raises(ClusterError, match=r"does not answer.*trimtab deploy"):
        deployment.predict(url, "token", b"x", "image/png")


def test_an_application_is_told_all_it_needs_and_nothing_that_would_restart_it(make: Make) -> None:
    one, two = (deployment.application(make(1, max_queue=9), version) for version in (1, 2))

    assert one["args"] == two["args"]
    assert one["deployments"][0]["num_replicas"] == 1


def test_an_objective_that_no_rung_could_keep_is_refused_before_anything_starts(cluster: Session, make: Make) -> None:
    slow = {"variant": "onnx-fp32", "accuracy": 0.9, "latency": {"fixed_s": 0.2, "per_row_s": 0.01, "spread": 0.1}}
    bundle = dataclasses.replace(make(1, "slow", objective={"latency_ms": 100.0}), ladder={"rungs": [slow]})

    with pytest.raises(ConfigError, match=r"the fastest allowed rung, onnx-fp32, takes 210 ms for one row alone"):
        deployment.deploy(cluster, bundle, 1)

    assert "slow" not in _applications(cluster)


def test_the_number_of_replicas_is_the_actors_choice_or_without_one_serves(make: Make) -> None:
    bundle = make(1, replicas={"min": 1, "max": 3})

    adapted = deployment.application(adapting(bundle, True), 1)
    scaled = deployment.application(bundle, 1)

    assert (adapted["external_scaler_enabled"], adapted["deployments"][0]["num_replicas"]) == (True, 1)
    assert (scaled["external_scaler_enabled"], "num_replicas" in scaled["deployments"][0]) == (False, False)
    assert scaled["deployments"][0]["autoscaling_config"]["max_replicas"] == 3
