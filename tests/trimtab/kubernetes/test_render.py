"""An experiment's objects agree with it and with each other, whatever it says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from cluster import experiment as experiments
from cluster import head
from cluster.config import Experiment, Serve
from cluster.errors import ConfigError
from cluster.state import Session
from trimtab.kubernetes import check, manifests, overlay, pods, verbs
from trimtab.kubernetes.render import Version, render

VERSION = Version("abcdef", 7)


def experiment(**sections: Any) -> Experiment:
    return experiments.parse({"name": "shades", "data": {"source": {"kind": "digits"}}, **sections})


def made(**sections: Any) -> dict[str, dict[str, Any]]:
    files = render(experiment(**sections), VERSION, "2.60.0")
    return {one["kind"]: one for objects in files.values() for one in objects}


def served(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return yaml.safe_load(objects["RayService"]["spec"]["serveConfigV2"])["applications"][0]


def test_image_and_sizes_are_the_files_in_every_pod() -> None:
    objects = made(kubernetes={"image": "example.org/ours:1.2", "serve_pod": {"cpus": 3, "memory": "6GiB"}})
    text = manifests.dump(objects.values())

    assert text.count("image: ") == text.count("image: example.org/ours:1.2")
    (group,) = objects["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"cpu": "3", "memory": "6144Mi"}, "limits": {"memory": "6144Mi"}}


def test_the_replica_gets_its_version_and_what_the_file_promises() -> None:
    serve = {"objective": {"latency_ms": 40.0, "accuracy_at_least": 0.9}, "replicas": {"min": 2, "max": 5}}
    application = served(made(serve=serve))
    user_config = application["deployments"][0]["user_config"]

    assert (user_config["bundle"], user_config["version"]) == ("abcdef", 7)
    assert Serve.model_validate(user_config["serve"]) == experiment(serve=serve).serve
    assert user_config["serve"]["replicas"] == serve["replicas"]
    assert application["external_scaler_enabled"]  # by the adaptation actor, within them
    assert user_config["follows"]  # what a promotion has put in its place since


def test_a_pinned_version_follows_no_promotion() -> None:
    (service,) = render(experiment(), dataclasses.replace(VERSION, is_pinned=True), "2.60.0")["rayservice.yaml"]

    assert "follows" not in served({"RayService": service})["deployments"][0]["user_config"]


def test_another_version_or_limit_changes_nothing_but_serves_configuration() -> None:
    def rest(**sections: Any) -> dict[str, Any]:
        return made(**sections)["RayService"]["spec"] | {"serveConfigV2": ""}

    assert rest() == rest(serve={"max_queue": 9, "objective": {"latency_ms": 5.0}})
    before, after = served(made()), served(made(serve={"max_queue": 9}))
    assert (before["args"], before["import_path"]) == (after["args"], after["import_path"])


@pytest.mark.parametrize(
    ("replicas", "cpus", "pods_least_and_most"),
    [
        pytest.param({"min": 1, "max": 1}, 0.1, (1, 1), id="one"),
        pytest.param({"min": 2, "max": 4}, 0.1, (2, 2), id="two replicas are not lost with one node"),
        pytest.param({"min": 3, "max": 10}, 1.0, (2, 5), id="as many as have room"),
    ],
)
def test_there_are_pods_for_the_replicas(
    replicas: dict[str, int], cpus: float, pods_least_and_most: tuple[int, int]
) -> None:
    objects = made(serve={"replicas": replicas, "cpus_per_replica": cpus})
    (group,) = objects["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]

    assert (group["minReplicas"], group["maxReplicas"]) == pods_least_and_most


def test_replicas_on_gpus_get_pods_that_have_them() -> None:
    replicas, pod = {"min": 3, "max": 8}, {"gpus": 2, "cpus": 8}
    objects = made(serve={"replicas": replicas, "gpus_per_replica": 0.5}, kubernetes={"serve_pod": pod})
    (group,) = objects["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]

    assert (group["minReplicas"], group["maxReplicas"]) == (2, 2)
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert [one["key"] for one in group["template"]["spec"]["tolerations"]] == ["nvidia.com/gpu"]
    assert served(objects)["deployments"][0]["ray_actor_options"] == {"num_cpus": 0.1, "num_gpus": 0.5}
    with pytest.raises(ConfigError, match=r"kubernetes.serve_pod.gpus.*serve.gpus_per_replica"):
        made(serve={"gpus_per_replica": 1.0})


def test_an_object_store_needs_no_volume_but_its_credentials() -> None:
    settings = {"store": "s3://bucket/trimtab", "claim": None, "credentials_secret": "bucket-keys"}
    objects = made(kubernetes=settings)
    pod = objects["RayCluster"]["spec"]["headGroupSpec"]["template"]["spec"]

    assert "PersistentVolumeClaim" not in objects
    assert served(objects)["args"]["store"] == "s3://bucket/trimtab"
    assert {"secretRef": {"name": "bucket-keys"}} in pod["containers"][0]["envFrom"]
    files = render(experiment(kubernetes=settings), VERSION, "2.60.0")
    assert check.objects_together([one for file in files.values() for one in file]) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"image": "trimtab:latest"}, "another one tomorrow", id="latest"),
        pytest.param({"image": "trimtab"}, "image", id="no tag"),
        pytest.param({"store": "s3://bucket"}, "claim: null", id="a URI on a volume"),
        pytest.param({"claim": None}, "a folder a claim", id="a folder without a volume"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        experiment(kubernetes=settings)


def test_a_name_that_kubernetes_refuses_is_said_before() -> None:
    with pytest.raises(ConfigError, match="ends in -"):
        render(experiments.parse({"name": "a-", "data": {"source": {"kind": "digits"}}}), VERSION, "2.60.0")


@pytest.mark.parametrize("name", ["a", "a" * 40])
@pytest.mark.parametrize("chosen", [None, "local", "production", "gpu", "incremental"])
def test_whatever_the_name_and_the_overlay_nothing_is_found_wrong(name: str, chosen: str | None) -> None:
    settings = {"image": "example.org/ours:1.2", "namespace": "team"}
    whole = experiments.parse({"name": name, "data": {"source": {"kind": "digits"}}, "kubernetes": settings})
    objects = [one for file in verbs.files(whole, VERSION, chosen).values() for one in file]

    assert check.objects_together(objects) == []
    assert {one["metadata"].get("namespace", "team") for one in objects} == {"team"}
    assert "digits" not in manifests.dump(one for one in objects if one["kind"] != "ConfigMap")


def test_the_experiment_in_the_cluster_is_the_one_in_the_file() -> None:
    (config,) = (
        one
        for one in render(experiment(train={"workers": 3}), VERSION, "2.60.0")["shared.yaml"]
        if one["metadata"]["name"] == "shades-experiment"
    )

    assert experiments.parse(json.loads(config["data"]["experiment.json"])) == experiment(train={"workers": 3})


def test_ray_is_set_up_as_on_one_machine() -> None:
    session = Session("a", "", "", 8000, 9000, "", "", "")
    local = head.driver_env(session) | _serve_environment()

    assert {name: local.get(name) for name in pods.RAY_ENVIRONMENT} == pods.RAY_ENVIRONMENT


def _serve_environment() -> dict[str, str]:
    from cluster import ports

    chosen = ports.choose(None)
    try:
        return head.cluster_env(Session("a", "", "", 8000, 9000, "", "", "", temp_dir="/tmp/x"), chosen)
    finally:
        chosen.release()


def test_without_a_version_there_is_no_service_and_a_word(
    trimtab: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    shown = trimtab("kubernetes", "render", "experiments/digits.yaml", "-o", str(tmp_path / "out"))

    assert shown.returncode == 0, shown.stderr
    assert "has no version yet" in shown.stderr
    assert not (tmp_path / "out" / "rayservice.yaml").exists()
    assert check.folder(tmp_path / "out")[1] == []


def test_an_overlay_that_is_none_is_named(trimtab: Callable[..., CompletedProcess[str]]) -> None:
    shown = trimtab("kubernetes", "render", "experiments/digits.yaml", "--overlay", "prod", "--version", "k:1")

    assert (shown.returncode, "local, production" in shown.stderr) == (2, True)


def test_a_dry_run_prints_what_would_be_applied(trimtab: Callable[..., CompletedProcess[str]]) -> None:
    shown = trimtab("run", "experiments/digits.yaml", "--kubernetes", "--dry-run", "--overlay", "production")

    assert shown.returncode == 0, shown.stderr
    kinds = {one["kind"] for one in yaml.safe_load_all(shown.stdout)}
    assert {"RayJob", "RayService", "CronJob", "NetworkPolicy"} <= kinds
    assert "RayCluster" not in kinds


def test_a_patch_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    patch = {"target": {"kind": "RayJob"}, "patch": "- {op: replace, path: /spec/nothing, value: 1}"}
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [str(overlay.ROOT / "base")], "patches": [patch]})
    )

    with pytest.raises(Exception, match="/spec/nothing"):
        overlay.build(tmp_path)


def test_a_folder_of_ones_own_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/kustomization.yaml").write_text("resources: []\n")

    assert overlay.find("mine") == Path("mine")
    assert overlay.find("local") == overlay.ROOT / "overlays" / "local"
