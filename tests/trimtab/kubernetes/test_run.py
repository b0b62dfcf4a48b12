"""The way onto a cluster, against a server that keeps objects as an API server does, asked by the official client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from cluster import experiment as experiments
from cluster.config import Experiment
from cluster.errors import ClusterError, TrimtabError, UnauthorisedError, UserError
from trimtab.kubernetes import order, run
from trimtab.kubernetes.api import Server, with_live_workers
from trimtab.screen import Screen

TOKEN = "from-the-kubeconfig"
SECRETS = "/api/v1/namespaces/trimtab/secrets"
JOBS = "/apis/ray.io/v1/namespaces/trimtab/rayjobs"
SERVICES = "/apis/ray.io/v1/namespaces/trimtab/rayservices"


class Cluster(ThreadingHTTPServer):
    """Keeps what is applied; a RayJob ends at once as `outcome`, a RayService is Ready at once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, dict[str, Any]] = {
            f"{SECRETS}/trimtab-{n}": {} for n in ("endpoint-tokens", "ray-token")
        }
        self.asked: list[tuple[str, str, dict[str, list[str]], str]] = []
        self.outcome, self.log = "SUCCEEDED", "starting\n"
        self.earlier: list[str] = []  # logs of tries before the last one

    def live(self, path: str, one: dict[str, Any]) -> dict[str, Any]:
        if path.startswith(JOBS) and self.earlier:
            return one | {"status": {"jobDeploymentStatus": "Running"}}
        if path.startswith(JOBS):
            return one | {"status": {"jobDeploymentStatus": "Complete", "jobStatus": self.outcome}}
        if path.startswith(SERVICES):
            ready = {"conditions": [{"type": "Ready", "status": "True"}], "observedGeneration": 1}
            return one | {"status": ready}
        return one


class Handler(BaseHTTPRequestHandler):
    server: Cluster
    protocol_version = "HTTP/1.1"

    def _do(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append(
            (self.command, parts.path, parse_qs(parts.query), self.headers.get("content-type", ""))
        )
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"message": "Unauthorized"})
        elif parts.path.endswith("/log"):
            earlier = self.server.earlier
            self._answer(200, earlier.pop() if earlier else self.server.log)
        elif parts.path.endswith("/pods"):
            name = f"submitter-{len(self.server.earlier)}"
            pod = {"metadata": {"name": name}, "status": {"phase": "Succeeded"}}
            self._answer(200, {"items": [pod]})
        elif self.command in ("PATCH", "POST"):
            one = json.loads(body)
            path = parts.path if self.command == "PATCH" else f"{parts.path}/{one['metadata']['name']}"
            self.server.objects[path] = one
            self._answer(200, one)
        elif parts.path not in self.server.objects:
            self._answer(404, {"message": "not found"})
        elif self.command == "DELETE":
            self._answer(200, self.server.objects.pop(parts.path))
        else:
            self._answer(200, self.server.live(parts.path, self.server.objects[parts.path]))

    do_GET = do_PATCH = do_POST = do_DELETE = _do  # noqa: N815

    def _answer(self, status: int, body: Any) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cluster]:
    from cluster import progress

    with Cluster() as made:
        progress.result(bundle="abc", version=3)
        made.log += capsys.readouterr().out
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{made.server_port}"}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
        monkeypatch.setattr(run, "POLL_S", 0.01)
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def digits() -> Experiment:
    return experiments.parse({"name": "digits", "data": {"source": {"kind": "digits"}}})


def test_it_trains_then_serves_the_version_that_came_out(
    cluster: Cluster, digits: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    run.run(digits, Screen(), "here", None, False)

    served = yaml.safe_load(cluster.objects[f"{SERVICES}/digits"]["spec"]["serveConfigV2"])
    user_config = served["applications"][0]["deployments"][0]["user_config"]
    assert (user_config["bundle"], user_config["version"]) == ("abc", 3)
    assert "http://digits-serve-svc.trimtab.svc:8000/v2/models/digits" in capsys.readouterr().out
    order_of = [path.rpartition("/")[0].rpartition("/")[2] for method, path, _, _ in cluster.asked if method == "PATCH"]
    assert order_of.index("configmaps") < order_of.index("rayjobs") < order_of.index("rayservices")
    for method, _, query, kind in cluster.asked:
        if method == "PATCH":  # the operator's hold on workerGroupSpecs is no conflict
            assert (query["fieldManager"], query["force"], kind) == (
                ["trimtab"],
                ["true"],
                "application/apply-patch+yaml",
            )


def test_a_second_run_trains_nothing(cluster: Cluster, digits: Experiment) -> None:
    run.run(digits, Screen(), None, None, False)
    before = _applied(cluster)

    run.run(digits, Screen(), None, None, False)

    assert _applied(cluster) == before == 2  # once to order it, once to note what it made


def test_data_on_the_clusters_volume_are_looked_at_by_a_job_each_time(cluster: Cluster) -> None:
    source = {"kind": "csv", "path": "/store/rows.csv"}
    texts = experiments.parse({"name": "digits", "task": "sentiment", "data": {"source": source}})
    run.run(texts, Screen(), None, None, False)
    before = _applied(cluster)

    run.run(texts, Screen(), None, None, False)

    assert _applied(cluster) == 2 * before == 4


def test_a_second_try_is_followed_and_what_came_of_it_counts(
    cluster: Cluster, digits: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster import progress

    progress.error(TrimtabError("the head was lost"))
    cluster.earlier = [capsys.readouterr().out]

    run.run(digits, Screen(), "here", None, False)

    assert "version    3" in capsys.readouterr().out


def test_other_inputs_train_anew(cluster: Cluster, digits: Experiment) -> None:
    run.run(digits, Screen(), None, None, False)

    run.run(digits.model_copy(update={"seed": 5}), Screen(), None, None, False)

    assert ("DELETE", f"{JOBS}/digits-train") in [(method, path) for method, path, _, _ in cluster.asked]


def test_a_trainings_own_error_is_what_is_said(
    cluster: Cluster, digits: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster import progress

    progress.error(UserError("data.source.path", "/x", "is not there", "mount it"))
    cluster.log, cluster.outcome = capsys.readouterr().out, "FAILED"

    with pytest.raises(UserError, match="is not there; mount it"):
        run.run(digits, Screen(), None, None, False)
    assert f"{SERVICES}/digits" not in cluster.objects


def test_a_job_that_dies_wordless_leaves_its_last_lines(cluster: Cluster, digits: Experiment) -> None:
    cluster.log, cluster.outcome = "Killed\n", "FAILED"

    with pytest.raises(TrimtabError, match="ended as FAILED; its last words:\nKilled"):
        run.run(digits, Screen(), None, None, False)


def test_a_missing_secret_is_named_with_the_command_that_makes_it(cluster: Cluster, digits: Experiment) -> None:
    del cluster.objects[f"{SECRETS}/trimtab-endpoint-tokens"]

    with pytest.raises(ClusterError, match=r"trimtab-endpoint-tokens.*kubectl -n trimtab create secret generic"):
        run.run(digits, Screen(), None, None, False)


def test_a_refused_token_and_a_context_that_is_not_there(cluster: Cluster, digits: Experiment, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"--context = 'elsewhere'"):
        run.run(digits, Screen(), "elsewhere", None, False)

    (tmp_path / "config").write_text((tmp_path / "config").read_text().replace(TOKEN, "wrong"))
    with pytest.raises(UnauthorisedError, match="Unauthorized"):
        run.run(digits, Screen(), None, None, False)


def test_the_number_of_workers_that_the_autoscaler_chose_stays() -> None:
    def cluster_of(replicas: int, scaled: bool = True) -> dict[str, Any]:
        group = {"groupName": "g", "replicas": replicas, "minReplicas": 1, "maxReplicas": 5}
        spec = {"enableInTreeAutoscaling": scaled, "workerGroupSpecs": [group]}
        return {"kind": "RayCluster", "spec": spec}

    def number(one: dict[str, Any]) -> int:
        return int(one["spec"]["workerGroupSpecs"][0]["replicas"])

    assert number(with_live_workers(cluster_of(5), cluster_of(3))) == 3
    assert number(with_live_workers(cluster_of(5), cluster_of(9))) == 5
    assert number(with_live_workers(cluster_of(5, scaled=False), cluster_of(3))) == 5


def test_the_cron_job_orders_a_copy_of_the_training(cluster: Cluster, digits: Experiment) -> None:
    run.run(digits, Screen(), None, None, False)

    name = order.order(Server.connect(None), "trimtab", "digits-train", 0.0)

    assert name == "digits-train-700101-0000"
    copy, original = cluster.objects[f"{JOBS}/{name}"], cluster.objects[f"{JOBS}/digits-train"]
    assert copy["spec"] == original["spec"]
    assert "annotations" not in copy["metadata"]


def _applied(cluster: Cluster) -> int:
    return sum((method, path) == ("PATCH", f"{JOBS}/digits-train") for method, path, _, _ in cluster.asked)
