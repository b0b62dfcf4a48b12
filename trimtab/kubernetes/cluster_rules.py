"""KubeRay's rules for a RayCluster's spec, which also sits in RayJob and RayService.

What the operator refuses after admission, or does in silence otherwise than it reads: found by running KubeRay 1.7.
Pure.
"""

from __future__ import annotations

from itertools import chain

from trimtab.kubernetes.findings import Said, at
from trimtab.kubernetes.pods import Manifest

AUTH_SINCE, PRIORITY_SINCE, K8S_AUTH_SINCE = (2, 52), (2, 56), (2, 55)
REDIS_VARIABLES = ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME")


def cluster(spec: Manifest, path: str, annotations: Manifest) -> Said:
    """All rules of one spec; `annotations` are those of the object it is in."""
    yield from _version(spec, path)
    yield from _auth(spec, path)
    yield from _autoscaler(spec, path)
    yield from _head_state(spec, path, annotations)
    yield from _groups(spec, path)
    yield from _start_parameters(spec, path)


def version(spec: Manifest) -> tuple[int, ...]:
    words = str(spec.get("rayVersion") or "0").split(".")[:2]
    return tuple(int(word) if word.isdecimal() else 0 for word in words)


def _version(spec: Manifest, path: str) -> Said:
    if not spec.get("rayVersion"):
        yield "ray-version", f"{path}.rayVersion", "is not set", "write the image's version of Ray"


def _auth(spec: Manifest, path: str) -> Said:
    options = spec.get("authOptions")
    where = f"{path}.authOptions"
    if at(options, "mode") != "token":
        # The schema has no default, whatever the field's comment says.
        yield "auth", where, "leaves Ray open to whoever reaches it", "write mode: token"
    elif version(spec) < AUTH_SINCE:
        yield "auth", where, f"needs Ray 2.52, this is {spec.get('rayVersion')}", "take a later image"
    if at(options, "enableK8sTokenAuth") and version(spec) < K8S_AUTH_SINCE:
        yield "auth", f"{where}.enableK8sTokenAuth", "needs Ray 2.55", "take a later image"


def _autoscaler(spec: Manifest, path: str) -> Said:
    named_v2 = at(spec, "autoscalerOptions.version") == "v2"
    for index, group in enumerate(spec.get("workerGroupSpecs") or ()):
        for field in ("idleTimeoutSeconds", "priority"):
            if group.get(field) is not None and not named_v2:
                where = f"{path}.workerGroupSpecs[{index}].{field}"
                yield "autoscaler-v2", where, "needs the autoscaler v2 by name", "set autoscalerOptions.version: v2"
        if group.get("priority") and version(spec) < PRIORITY_SINCE:
            yield "autoscaler-v2", f"{path}.workerGroupSpecs[{index}].priority", "needs Ray 2.56", "take a later image"
    if not spec.get("enableInTreeAutoscaling"):
        return
    if not named_v2:
        where = f"{path}.autoscalerOptions.version"
        yield "autoscaler-v2", where, "is not named, and older images take v1", "write version: v2"
    for where, pod in pod_specs(spec, path):
        if pod.get("restartPolicy", "Never") != "Never":
            problem = "lets a pod come back that the autoscaler took away"
            yield "autoscaler-restart", f"{where}.restartPolicy", problem, "write Never, or leave it away"
    head = f"{path}.headGroupSpec.template.spec"
    if at(spec, "headGroupSpec.template.spec.automountServiceAccountToken") is False:
        mend = "write true on the head alone"
        yield "autoscaler-token", f"{head}.automountServiceAccountToken", "keeps the autoscaler from the API", mend


def _head_state(spec: Manifest, path: str, annotations: Manifest) -> Said:
    options = spec.get("gcsFaultToleranceOptions")
    if "ray.io/ft-enabled" in annotations:
        mend = "use gcsFaultToleranceOptions"
        yield "head-state", "metadata.annotations", "has ray.io/ft-enabled, which is the old way", mend
    if options is None:
        return
    if options.get("backend", "redis") == "redis" and not options.get("redisAddress"):
        yield "head-state", f"{path}.gcsFaultToleranceOptions.redisAddress", "is not set", "name the Redis"
    for where, pod in pod_specs(spec, path):
        for index, container in enumerate(pod.get("containers") or ()):
            names = [one.get("name") for one in container.get("env") or ()]
            for name in (name for name in names if name in REDIS_VARIABLES):
                problem = f"sets {name} beside gcsFaultToleranceOptions"
                yield "head-state", f"{where}.containers[{index}].env", problem, "leave the variable away"
    if "redis-password" in (at(spec, "headGroupSpec.rayStartParams") or {}):
        where = f"{path}.headGroupSpec.rayStartParams"
        yield "head-state", where, "has redis-password beside gcsFaultToleranceOptions", "use redisPassword there"


def _groups(spec: Manifest, path: str) -> Said:
    names = [group.get("groupName") for group in spec.get("workerGroupSpecs") or ()]
    for index, group in enumerate(spec.get("workerGroupSpecs") or ()):
        where = f"{path}.workerGroupSpecs[{index}]"
        if names.count(group.get("groupName")) > 1:
            yield "worker-group", f"{where}.groupName", "is there twice", "give each group a name of its own"
        if group.get("maxReplicas") is None:
            yield "max-replicas", f"{where}.maxReplicas", "is not set, and means 2,147,483,647", "write a bound"
            continue
        least, most = group.get("minReplicas", 0), group["maxReplicas"]
        if not least <= group.get("replicas", least) <= most:
            problem = f"is {group.get('replicas', least)}, outside {least} to {most}"
            yield "worker-group", f"{where}.replicas", problem, "write one between the two"


def _start_parameters(spec: Manifest, path: str) -> Said:
    head = spec.get("headGroupSpec") or {}
    groups = [(f"{path}.headGroupSpec", head)]
    groups += [(f"{path}.workerGroupSpecs[{i}]", group) for i, group in enumerate(spec.get("workerGroupSpecs") or ())]
    for where, group in groups:
        for name, value in (group.get("rayStartParams") or {}).items():
            if not isinstance(value, str):
                yield "start-parameters", f"{where}.rayStartParams.{name}", "is no text", f'write "{value}"'
    if str((head.get("rayStartParams") or {}).get("num-cpus")) != "0":
        where = f"{path}.headGroupSpec.rayStartParams.num-cpus"
        yield "head-without-work", where, "lets replicas and trainings onto the head", 'write num-cpus: "0"'


def pod_specs(spec: Manifest, path: str) -> list[tuple[str, Manifest]]:
    """The head's and the workers' pods with their paths."""
    head = [(f"{path}.headGroupSpec.template.spec", at(spec, "headGroupSpec.template.spec") or {})]
    workers = [
        (f"{path}.workerGroupSpecs[{index}].template.spec", at(group, "template.spec") or {})
        for index, group in enumerate(spec.get("workerGroupSpecs") or ())
    ]
    return list(chain(head, workers))
