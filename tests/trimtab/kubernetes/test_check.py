"""Manifests that an API server would admit and KubeRay, Kubernetes or Ray would not do as they read: each is found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from cluster.errors import DataError
from trimtab.kubernetes import check, manifests, overlay

K8S = Path(__file__).resolve().parents[3] / "k8s"
BASE = overlay.build(K8S / "base")
CRON = manifests.folder(K8S / "examples")["raycronjob.yaml"][0]
HEAD, GROUP = "headGroupSpec", "workerGroupSpecs.0"
SERVICE = "spec.rayClusterConfig"
JOB_HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec"


def broken(kind: str, path: str, value: object) -> list[check.Finding]:
    """The base with one value set, or taken away where it is `...`."""
    objects = copy.deepcopy([*BASE, CRON])
    at: Any = next(one for one in objects if one["kind"] == kind)
    *way, last = path.split("/") if "/" in path else path.split(".")
    for part in way:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return check.objects_together(objects)


def rule(policy: str, ttl: int, **condition: str) -> dict[str, Any]:
    return {"policy": policy, "condition": {**condition, "ttlSeconds": ttl}}


CASES = [
    ("api-version", "RayJob", "apiVersion", "ray.io/v1alpha1"),
    ("name", "RayService", "metadata.name", "a" * 48),
    ("name", "RayCronJob", "metadata.name", "a" * 37),
    ("name", "RayCluster", "metadata.name", "1st"),
    ("name", "RayJob", "metadata.generateName", "digits-"),
    ("null", "RayCluster", "metadata.annotations", None),
    ("ray-version", "RayCluster", "spec.rayVersion", ...),
    ("ray-version", "RayJob", "spec.rayClusterSpec.rayVersion", "2.59.0"),
    ("auth", "RayCluster", "spec.authOptions", {}),
    ("auth", "RayCluster", "spec.rayVersion", "2.51.0"),
    ("autoscaler-v2", "RayCluster", f"spec.{GROUP}.idleTimeoutSeconds", 30),
    ("autoscaler-v2", "RayService", f"{SERVICE}.enableInTreeAutoscaling", True),
    ("autoscaler-token", "RayService", f"{SERVICE}.enableInTreeAutoscaling", True),
    ("max-replicas", "RayCluster", f"spec.{GROUP}.maxReplicas", ...),
    ("worker-group", "RayCluster", f"spec.{GROUP}.replicas", 7),
    ("head-state", "RayCluster", "spec.gcsFaultToleranceOptions", {}),
    ("start-parameters", "RayCluster", f"spec.{HEAD}.rayStartParams.num-cpus", 0),
    ("head-without-work", "RayCluster", f"spec.{HEAD}.rayStartParams.num-cpus", "4"),
    ("head-without-work", "RayService", "spec.excludeHeadPodFromServeSvc", ...),
    ("head-service", "RayService", f"{SERVICE}.{HEAD}.headService.metadata.name", "mine"),
    ("submission-mode", "RayJob", "spec.submissionMode", "K8SJobMode"),
    ("submission-mode", "RayJob", "spec.submissionMode", "SidecarMode"),
    ("backoff", "RayJob", "spec", {"clusterSelector": {"a": "b"}, "backoffLimit": 1, "entrypoint": "x"}),
    ("deadline", "RayJob", "spec.preRunningDeadlineSeconds", ...),
    ("deadline", "RayJob", "spec.activeDeadlineSeconds", 0),
    ("deletion-rules", "RayJob", "spec.shutdownAfterJobFinishes", True),
    ("deletion-rules", "RayJob", "spec.deletionStrategy.onSuccess", {"policy": "DeleteSelf"}),
    ("suspend", "RayJob", "spec.suspend", True),
    ("upgrade", "RayService", "spec.upgradeStrategy.type", "Newcluster"),
    ("upgrade", "RayService", "spec.upgradeStrategy.type", "NewClusterWithIncrementalUpgrade"),
    ("schedule", "RayCronJob", "spec.schedule", "TZ=UTC 0 3 * * *"),
    ("schedule", "RayCronJob", "spec.schedule", "@daily"),
    ("feature-gate", "RayCronJob", "metadata.annotations", {}),
    ("feature-gate", "RayCluster", "spec.networkPolicy", {"mode": "DenyAll"}),
    ("feature-gate", "RayCluster", "spec.gcsFaultToleranceOptions", {"backend": "rocksdb"}),
    ("memory", "RayJob", f"{JOB_HEAD}.containers.0.resources.limits.memory", "9Gi"),
    ("cpu", "RayJob", f"{JOB_HEAD}.containers.0.resources.requests.cpu", ...),
    ("probes", "RayJob", f"{JOB_HEAD}.containers.0.livenessProbe", {"httpGet": {"port": 1}}),
    ("image", "RayJob", f"{JOB_HEAD}.containers.0.image", "trimtab:latest"),
    ("image", "RayJob", f"{JOB_HEAD}.containers.0.image", "trimtab"),
    ("pod-security", "RayJob", f"{JOB_HEAD}.containers.0.securityContext.runAsUser", 0),
    ("pod-security", "RayJob", f"{JOB_HEAD}.containers.0.securityContext.capabilities", ...),
    ("pod-security", "RayJob", f"{JOB_HEAD}.hostNetwork", True),
    ("pod-security", "CronJob", "spec.jobTemplate.spec.template.spec.containers.0.securityContext", {}),
    ("reference", "RayJob", f"{JOB_HEAD}.volumes.0.configMap.name", "digit-experiment"),
    ("reference", "CronJob", "spec.jobTemplate.spec.template.spec.serviceAccountName", "nobody"),
    ("reference", "RayCluster", "spec.authOptions.secretName", "elsewhere"),
    ("twice", "Role", "kind", "RoleBinding"),
    ("serve-config", "RayService", "spec.serveConfigV2", "applications: [{name: a, import_path: serve.app:built}]"),
    ("serve-config", "RayService", "spec.serveConfigV2", "applications: [{name: a}]\napplications: []"),
    ("serve-config", "RayService", "spec.serveConfigV2", "applications: [{name: a, import_path: a.b, num_replica: 1}]"),
]


@pytest.mark.parametrize(
    ("wanted", "kind", "path", "value"), [pytest.param(*case, id=f"{case[0]}-{n}") for n, case in enumerate(CASES)]
)
def test_a_broken_manifest_is_found_for_its_own_reason(wanted: str, kind: str, path: str, value: object) -> None:
    found = broken(kind, path, value)

    assert wanted in {one.rule for one in found}, found
    assert all(one.problem and one.mend and one.path for one in found)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        pytest.param(
            [rule("DeleteSelf", 1, jobStatus="FAILED", jobDeploymentStatus="Failed")], "exactly one", id="two"
        ),
        pytest.param([rule("DeleteSelf", 1)], "exactly one", id="none"),
        pytest.param(
            [rule("DeleteSelf", 1, jobStatus="FAILED"), rule("DeleteCluster", 5, jobStatus="FAILED")],
            "must rise",
            id="self before cluster",
        ),
    ],
)
def test_deletion_rules_that_the_operator_refuses(rules: list[dict[str, Any]], said: str) -> None:
    found = broken("RayJob", "spec.deletionStrategy.deletionRules", rules)

    assert [said in one.problem for one in found] == [True]


def test_the_workers_alone_cannot_be_deleted_under_an_autoscaler() -> None:
    objects = copy.deepcopy(BASE)
    job = next(one for one in objects if one["kind"] == "RayJob")["spec"]
    job["rayClusterSpec"]["enableInTreeAutoscaling"] = True
    job["deletionStrategy"]["deletionRules"] = [rule("DeleteWorkers", 1, jobStatus="FAILED")]

    assert any("DeleteWorkers" in one.problem for one in check.objects_together(objects))


def test_the_old_and_the_new_way_to_keep_the_heads_state_do_not_mix() -> None:
    objects = copy.deepcopy(BASE)
    cluster = next(one for one in objects if one["kind"] == "RayCluster")
    cluster["metadata"]["annotations"]["ray.io/ft-enabled"] = "true"
    cluster["spec"]["gcsFaultToleranceOptions"] = {"redisAddress": "redis:6379"}
    cluster["spec"]["headGroupSpec"]["rayStartParams"]["redis-password"] = "x"
    container = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}]

    assert [one.rule for one in check.objects_together(objects)] == ["head-state"] * 3


def test_an_incremental_upgrade_needs_steps_within_its_surge() -> None:
    objects = overlay.build(K8S / "overlays" / "incremental")
    service = next(one for one in objects if one["kind"] == "RayService")["spec"]
    service["upgradeStrategy"]["clusterUpgradeOptions"] |= {"stepSizePercent": 60, "intervalSeconds": 0}

    assert [one.path.rpartition(".")[2] for one in check.objects_together(objects)] == [
        "stepSizePercent",
        "intervalSeconds",
    ]


def test_a_key_that_is_there_twice_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: ConfigMap\nmetadata: {name: a}\nkind: Secret\n")

    with pytest.raises(DataError, match="key `kind` twice"):
        check.folder(tmp_path)


def test_the_verb_says_what_it_found_and_fails(trimtab: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    one = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]}}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(one))

    bad = trimtab("kubernetes", "check", str(tmp_path), "--json")
    good = trimtab("kubernetes", "check", "k8s/overlays/production")
    empty = trimtab("kubernetes", "check", str(K8S / "overlays"))

    assert bad.returncode == 1
    assert {one["rule"] for one in json.loads(bad.stdout)} == {"pod-security", "image"}
    assert (good.returncode, good.stdout) == (0, "")
    assert (empty.returncode, "holds no manifest" in empty.stderr) == (2, True)
