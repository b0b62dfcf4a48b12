"""Everything under k8s/, judged as an API server, KubeRay's operator and Ray Serve would."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cluster import experiment as experiments
from serve.deploy import IMPORT_PATH
from trimtab.kubernetes import check, manifests, overlay, verbs
from trimtab.kubernetes.render import Version, cron_example, render

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
KUBERNETES = "1.34"
Admission = Callable[[dict[str, Any]], list[str]]

BUNDLES = {
    "base": overlay.build(K8S / "base"),
    "examples": [one for objects in manifests.folder(K8S / "examples").values() for one in objects],
    **{name: overlay.build(K8S / "overlays" / name) for name in OVERLAYS},
}


def test_all_overlays_are_here() -> None:
    assert OVERLAYS == ["gpu", "incremental", "local", "production"]


def test_the_base_is_what_render_writes() -> None:
    digits, ray = experiments.load(ROOT / "experiments" / "digits.yaml"), verbs.ray_version()
    example = Version("0" * 16, 1)
    mend = "write it anew: trimtab kubernetes render experiments/digits.yaml --version 0000000000000000:1 -o k8s/base"

    assert manifests.folder(K8S / "base") == render(digits, example, ray), mend
    assert BUNDLES["examples"] == [cron_example(digits, ray)]


@pytest.mark.parametrize("name", BUNDLES)
def test_an_api_server_would_admit_kuberays_kinds(name: str, admission: Admission) -> None:
    assert [(one["kind"], said) for one in BUNDLES[name] for said in admission(one)] == []


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        pytest.param("RayCluster", "spec.rayVersoin", "2.60.0", "Additional properties", id="an unknown field"),
        pytest.param("RayJob", "spec.backoffLimit", "2", "not of type 'integer'", id="text for a number"),
        pytest.param("RayJob", "spec.backoffLimit", 2**31, "greater than the maximum", id="more than 32 bits"),
        pytest.param("RayCluster", "spec.authOptions.mode", "tokens", "is not one of", id="not in the enum"),
        pytest.param("RayCluster", "spec.headGroupSpec", {}, "'template' is a required", id="a required field"),
        pytest.param("RayJob", "spec.deletionStrategy", {}, "deletionStrategy", id="CEL: an empty strategy"),
        pytest.param("RayJob", "spec.managedBy", "me", "managedBy", id="CEL: a value of two"),
        pytest.param(
            "RayJob",
            "spec.deletionStrategy.deletionRules",
            [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}],
            "JobStatus",
            id="CEL: two conditions in one",
        ),
        pytest.param(
            "RayCluster",
            "spec.headGroupSpec.template.spec.containers.0.resources.limits.memory",
            "4 gigabytes",
            "does not match",
            id="no quantity",
        ),
    ],
)
def test_an_api_server_would_refuse(kind: str, path: str, value: object, said: str, admission: Admission) -> None:
    one = copy.deepcopy(next(one for one in BUNDLES["base"] if one["kind"] == kind))
    *way, last = path.split(".")
    at: Any = one
    for part in way:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[last] = value

    assert any(said.lower() in words.lower() for words in admission(one)), admission(one)


def test_a_default_stands_in_for_a_required_field(admission: Admission) -> None:
    one = copy.deepcopy(next(one for one in BUNDLES["base"] if one["kind"] == "RayCluster"))
    del one["spec"]["workerGroupSpecs"][0]["minReplicas"]

    assert admission(one) == []


@pytest.mark.parametrize("name", BUNDLES)
def test_the_built_in_kinds_are_valid(name: str) -> None:
    for one in BUNDLES[name]:
        if not one["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", BUNDLES)
def test_kuberays_operator_would_take_them_and_every_pod_is_restricted(name: str) -> None:
    assert check.objects_together(BUNDLES[name]) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_kustomize_builds_the_same_as_render(name: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl, whose `kustomize` works without a cluster")
    built = subprocess.run(
        ["kubectl", "kustomize", K8S / "overlays" / name], capture_output=True, text=True, check=True
    )

    def key(one: dict[str, Any]) -> tuple[str, str]:
        return one["kind"], one["metadata"]["name"]

    assert sorted(BUNDLES[name], key=key) == sorted(yaml.safe_load_all(built.stdout), key=key)


def test_every_kustomization_names_only_files_that_are_there_and_no_file_is_left_out() -> None:
    for path in K8S.rglob("kustomization.yaml"):
        tree = overlay.kustomization(path.parent)
        named = {*tree["resources"], *(patch["path"] for patch in tree.get("patches", ()) if "path" in patch)}
        others = {one.name for one in path.parent.glob("*.yaml")} - {path.name}
        assert (tree["apiVersion"], tree["kind"]) == ("kustomize.config.k8s.io/v1beta1", "Kustomization")
        assert {name for name in named if not (path.parent / name).is_dir()} == others


def test_production_is_what_it_says() -> None:
    of = {(one["kind"], one["metadata"]["name"]): one for one in BUNDLES["production"]}
    config = of["RayService", "digits"]["spec"]["rayClusterConfig"]

    assert config["autoscalerOptions"]["version"] == "v2"
    assert config["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert config["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "trimtab-redis"
    assert config["authOptions"]["mode"] == "token"
    assert of["Ingress", "digits"]["spec"]["tls"]
    assert {"PodDisruptionBudget", "NetworkPolicy"} <= {kind for kind, _ in of}
    assert of["ConfigMap", "digits-settings"]["data"]["MLFLOW_TRACKING_URI"]


def test_rays_version_is_the_same_everywhere() -> None:
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    images = re.findall(r"rayproject/ray:([\d.]+)-py311", (K8S / "Dockerfile").read_text())
    written = {
        version for path in K8S.rglob("*.yaml") for version in re.findall(r"rayVersion: (\S+)", path.read_text())
    }

    assert set(images) == written == {pinned}
    (needed,) = (one for one in _dependencies() if one.startswith("ray["))
    assert needed.endswith(f">={pinned.rpartition('.')[0]},<2.{int(pinned.split('.')[1]) + 1}")


def test_our_own_version_is_the_images_tag() -> None:
    assert f"trimtab:{_project()['version']}" == experiments.load(ROOT / "experiments/digits.yaml").kubernetes.image


def test_the_dockerfile_is_clean() -> None:
    linted = subprocess.run(
        [Path(sys.executable).parent / "hadolint", K8S / "Dockerfile"], capture_output=True, text=True
    )

    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_image_is_not_roots_and_has_what_kuberay_calls() -> None:
    text = (K8S / "Dockerfile").read_text()

    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1] == "1000"
    assert "command -v bash wget" in text
    assert "HEALTHCHECK" not in text


def test_a_build_gets_the_code_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line.strip("!/") for line in ignored if line.startswith("!")}
    packages = {name.rstrip("*") for name in _tool()["setuptools"]["packages"]["find"]["include"]}

    assert next(line for line in ignored if line and not line.startswith("#")) == "*"
    assert let_in == packages | {"tune", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}


def test_what_serves_is_our_application() -> None:
    (service,) = (one for one in BUNDLES["base"] if one["kind"] == "RayService")

    assert yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["import_path"] == IMPORT_PATH


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _dependencies() -> list[str]:
    return list(_project()["dependencies"])


def _tool() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
