"""KubeRay's rules for each kind beyond its RayCluster spec: names, clean-up, deadlines, upgrades, gates.

What the operator refuses after admission, or does in silence otherwise than it reads: found by running KubeRay 1.7.
Pure.
"""

from __future__ import annotations

import re

from trimtab.kubernetes.cluster_rules import cluster
from trimtab.kubernetes.findings import Said, at
from trimtab.kubernetes.pods import Manifest
from trimtab.kubernetes.render import GATE, RAY_API

MAX_NAME = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
UPGRADES = ("NewCluster", "None", "NewClusterWithIncrementalUpgrade")
ORDER = {"DeleteWorkers": 0, "DeleteCluster": 1, "DeleteSelf": 2}


def ray_object(one: Manifest) -> Said:
    """All rules of one object of KubeRay's kinds."""
    yield from _identity(one)
    yield from _gates(one)
    spec, annotations = one.get("spec") or {}, at(one, "metadata.annotations") or {}
    match one["kind"]:
        case "RayCluster":
            yield from cluster(spec, "spec", annotations)
        case "RayJob":
            yield from _job(spec, "spec", annotations)
        case "RayService":
            yield from _service(spec, annotations)
        case "RayCronJob":
            yield from _cron(spec, annotations)


def cluster_specs(one: Manifest) -> list[tuple[str, Manifest]]:
    """Where an object holds a RayClusterSpec."""
    ways = {
        "RayCluster": "spec",
        "RayJob": "spec.rayClusterSpec",
        "RayService": "spec.rayClusterConfig",
        "RayCronJob": "spec.jobTemplate.rayClusterSpec",
    }
    way = ways.get(one["kind"])
    spec = at(one, way) if way else None
    return [(way, spec)] if way and isinstance(spec, dict) else []


def _identity(one: Manifest) -> Said:
    if one["apiVersion"] != RAY_API:
        yield "api-version", "apiVersion", f"is {one['apiVersion']}, which is only still served", f"write {RAY_API}"
    metadata = one.get("metadata") or {}
    if "generateName" in metadata:
        yield "name", "metadata.generateName", "works with `kubectl create` alone", "give it a name"
        return
    name, most = str(metadata.get("name", "")), MAX_NAME[one["kind"]]
    if len(name) > most:
        yield "name", "metadata.name", f"has {len(name)} characters, KubeRay takes {most}", "shorten it"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        mend = "small letters, digits and -, a letter first, no - last"
        yield "name", "metadata.name", f"{name!r} is no DNS-1035 label", mend


def _gates(one: Manifest) -> Said:
    gated = {"RayCronJob": "kind"} if one["kind"] == "RayCronJob" else {}
    for path, spec in cluster_specs(one):
        for field, gate in (
            ("networkPolicy", "RayClusterNetworkPolicy"),
            ("historyServerOptions", "RayClusterHistoryServer"),
            ("tlsOptions", "RayClusterMTLS"),
        ):
            if spec.get(field) is not None:
                gated[gate] = f"{path}.{field}"
        if at(spec, "gcsFaultToleranceOptions.backend") == "rocksdb":
            gated["GCSFaultToleranceEmbeddedStorage"] = f"{path}.gcsFaultToleranceOptions.backend"
    said = str((at(one, "metadata.annotations") or {}).get(GATE, ""))
    for gate, path in gated.items():
        if gate not in said:
            problem = f"does nothing unless the operator's alpha gate {gate} is on"
            yield "feature-gate", path, problem, f"say so in the annotation {GATE}: {gate}, or leave it away"


def _job(spec: Manifest, path: str, annotations: Manifest) -> Said:
    yield from _submission(spec, path)
    yield from _clean_up(spec, path)
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if not isinstance(spec.get(field), int) or spec[field] < 1:
            yield "deadline", f"{path}.{field}", "is not set: a pod without room waits for ever", "write seconds"
    if spec.get("rayClusterSpec") is not None:
        yield from cluster(spec["rayClusterSpec"], f"{path}.rayClusterSpec", annotations)
    elif not spec.get("clusterSelector"):
        yield "job-cluster", path, "has neither rayClusterSpec nor clusterSelector", "write one of them"


def _submission(spec: Manifest, path: str) -> Said:
    mode, where = spec.get("submissionMode", "K8sJobMode"), f"{path}.submissionMode"
    if mode not in SUBMISSION_MODES:
        yield "submission-mode", where, f"{mode!r} passes admission and is refused", f"one of {SUBMISSION_MODES}"
    if mode == "SidecarMode":
        for field in ("submitterPodTemplate", "submitterConfig"):
            if spec.get(field) is not None:
                yield "submission-mode", f"{path}.{field}", "does not go with SidecarMode", "leave it away"
        if at(spec, "rayClusterSpec.headGroupSpec.template.spec.restartPolicy") != "Never":
            problem = "must be Never on the head in SidecarMode"
            yield "submission-mode", f"{path}.rayClusterSpec", problem, "write restartPolicy: Never"
    if mode != "InteractiveMode" and not spec.get("entrypoint"):
        yield "submission-mode", f"{path}.entrypoint", "is not set", "write the command"
    if spec.get("backoffLimit") and (spec.get("clusterSelector") or mode == "InteractiveMode"):
        problem = "makes a new cluster for each retry, which this job cannot have"
        yield "backoff", f"{path}.backoffLimit", problem, "leave it away"


def _clean_up(spec: Manifest, path: str) -> Said:
    strategy, where = spec.get("deletionStrategy") or {}, f"{path}.deletionStrategy"
    rules = strategy.get("deletionRules") or []
    if strategy.get("onSuccess") or strategy.get("onFailure"):
        yield "deletion-rules", where, "uses onSuccess or onFailure, which are old", "write deletionRules"
    old = [field for field in ("shutdownAfterJobFinishes", "ttlSecondsAfterFinished") if spec.get(field)]
    if rules and old:
        yield "deletion-rules", where, f"stands beside {' and '.join(old)}", "use one of the two ways"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        problem = "needs shutdownAfterJobFinishes: true, as with Kueue"
        yield "suspend", f"{path}.suspend", problem, "set it, and leave deletionRules away"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        problem = "does nothing without shutdownAfterJobFinishes"
        yield "deletion-rules", f"{path}.ttlSecondsAfterFinished", problem, "set that too"
    waits: dict[str, list[tuple[int, int]]] = {}
    for index, rule in enumerate(rules):
        condition = rule.get("condition") or {}
        statuses = [name for name in ("jobStatus", "jobDeploymentStatus") if condition.get(name)]
        if len(statuses) != 1:
            problem = "needs exactly one of jobStatus and jobDeploymentStatus"
            yield "deletion-rules", f"{where}.deletionRules[{index}].condition", problem, "write one"
        if rule.get("policy") == "DeleteWorkers" and at(spec, "rayClusterSpec.enableInTreeAutoscaling"):
            problem = "DeleteWorkers does not go with the autoscaler"
            yield "deletion-rules", f"{where}.deletionRules[{index}].policy", problem, "use DeleteCluster"
        if rule.get("policy") in ORDER:
            status = "".join(str(condition[name]) for name in statuses)
            waits.setdefault(status, []).append((ORDER[rule["policy"]], condition.get("ttlSeconds", 0)))
    for status, pairs in waits.items():
        times = [seconds for _, seconds in sorted(pairs)]
        if times != sorted(times) or len({order for order, _ in pairs}) < len(pairs):
            problem = f"ttlSeconds of {status} must rise from workers to cluster to self, one rule each"
            yield "deletion-rules", f"{where}.deletionRules", problem, "order them"


def _service(spec: Manifest, annotations: Manifest) -> Said:
    path, config = "spec.rayClusterConfig", spec.get("rayClusterConfig") or {}
    yield from cluster(config, path, annotations)
    if at(config, "headGroupSpec.headService.metadata.name"):
        where = f"{path}.headGroupSpec.headService.metadata.name"
        yield "head-service", where, "must not be set in a RayService", "leave the name away"
    kind = at(spec, "upgradeStrategy.type", "NewCluster")
    if kind not in UPGRADES:
        where = "spec.upgradeStrategy.type"
        yield "upgrade", where, f"{kind!r} passes admission and is refused", f"one of {UPGRADES}"
    if kind == "NewClusterWithIncrementalUpgrade":
        yield from _incremental(spec, config)
    if not spec.get("excludeHeadPodFromServeSvc"):
        problem = "sends requests to a head that has no replica"
        yield "head-without-work", "spec.excludeHeadPodFromServeSvc", problem, "write true"


def _incremental(spec: Manifest, config: Manifest) -> Said:
    options, where = at(spec, "upgradeStrategy.clusterUpgradeOptions"), "spec.upgradeStrategy.clusterUpgradeOptions"
    if not config.get("enableInTreeAutoscaling"):
        yield "upgrade", where, "needs the autoscaler", "set rayClusterConfig.enableInTreeAutoscaling: true"
    if not options:
        yield "upgrade", where, "is not set", "write stepSizePercent, intervalSeconds and gatewayClassName"
        return
    if options.get("stepSizePercent", 0) > options.get("maxSurgePercent", 100):
        yield "upgrade", f"{where}.stepSizePercent", "is above maxSurgePercent", "lower it"
    if options.get("intervalSeconds", 0) <= 0:
        yield "upgrade", f"{where}.intervalSeconds", "must be above 0", "write seconds"
    if not options.get("gatewayClassName"):
        yield "upgrade", f"{where}.gatewayClassName", "is not set", "name the controller's class"


def _cron(spec: Manifest, annotations: Manifest) -> Said:
    schedule = str(spec.get("schedule", ""))
    if "TZ=" in schedule:
        yield "schedule", "spec.schedule", "holds TZ=, which is refused", "use timeZone"
    elif len(schedule.split()) != 5:
        yield "schedule", "spec.schedule", f"{schedule!r} has not five fields", 'write for example "0 3 * * *"'
    yield from _job(spec.get("jobTemplate") or {}, "spec.jobTemplate", annotations)
