"""Rules for every pod: the restricted security standard, bounds that Ray can count on, probes left to KubeRay.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trimtab.kubernetes.cluster_rules import pod_specs
from trimtab.kubernetes.findings import Said, at, walk
from trimtab.kubernetes.kind_rules import cluster_specs
from trimtab.kubernetes.pods import Manifest

PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
FORBIDDEN = ("hostNetwork", "hostPID", "hostIPC")
RESTRICTED_VOLUMES = (
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
)  # fmt: skip


def pods(one: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Every pod's spec in an object of any kind, with its path."""
    if one.get("kind") == "Pod":
        yield "spec", one.get("spec") or {}
    for path, value in walk(one):
        if isinstance(value, dict) and isinstance(value.get("spec"), dict) and "containers" in value["spec"] and path:
            yield f"{path}.spec", value["spec"]


def pod_rules(one: Manifest) -> Said:
    """All rules of all pods of an object."""
    for path, pod in pods(one):
        yield from _security(pod, path)
        for where, container in _containers(pod, path):
            yield from _container_security(pod, container, where)
            yield from _image(container, where)
    for way, cluster in cluster_specs(one):
        for path, pod in pod_specs(cluster, way):
            if not pod.get("containers"):
                yield "containers", f"{path}.containers", "has none", "write the Ray container first"
                continue
            yield from _ray_container(pod["containers"][0], f"{path}.containers[0]")


def _containers(pod: Manifest, path: str) -> Iterator[tuple[str, Manifest]]:
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(pod.get(kind) or ()):
            yield f"{path}.{kind}[{index}]", container


def _security(pod: Manifest, path: str) -> Said:
    for field in FORBIDDEN:
        if pod.get(field):
            yield "pod-security", f"{path}.{field}", "is not allowed under `restricted`", "leave it away"
    for index, volume in enumerate(pod.get("volumes") or ()):
        for kind in set(volume) - {"name", *RESTRICTED_VOLUMES}:
            yield "pod-security", f"{path}.volumes[{index}].{kind}", "is not allowed under `restricted`", "use another"


def _container_security(pod: Manifest, container: Manifest, path: str) -> Said:
    own, shared = container.get("securityContext") or {}, pod.get("securityContext") or {}
    either = {**shared, **own}
    wanted = {
        "allowPrivilegeEscalation: false": own.get("allowPrivilegeEscalation") is False,
        "capabilities.drop: [ALL]": "ALL" in (at(own, "capabilities.drop") or ()),
        "runAsNonRoot: true": either.get("runAsNonRoot") is True,
        "seccompProfile.type: RuntimeDefault": at(either, "seccompProfile.type") in ("RuntimeDefault", "Localhost"),
    }
    if own.get("privileged") or either.get("runAsUser") == 0:
        yield "pod-security", f"{path}.securityContext", "is root or privileged", "leave that away"
    if set(at(own, "capabilities.add") or ()) - {"NET_BIND_SERVICE"}:
        yield "pod-security", f"{path}.securityContext.capabilities.add", "adds capabilities", "leave it away"
    for mend in (mend for mend, met in wanted.items() if not met):
        yield "pod-security", f"{path}.securityContext", "is less than `restricted` asks", f"write {mend}"


def _image(container: Manifest, path: str) -> Said:
    image = str(container.get("image", ""))
    if not re.search(r"(:\w[\w.-]*|@sha256:[0-9a-f]{64})$", image) or image.endswith(":latest"):
        problem = f"{image!r} may be another one tomorrow"
        yield "image", f"{path}.image", problem, "name a version's tag or a digest"


def _ray_container(container: Manifest, path: str) -> Said:
    requests, limits = at(container, "resources.requests") or {}, at(container, "resources.limits") or {}
    if not limits.get("memory") or str(requests.get("memory", limits.get("memory"))) != str(limits["memory"]):
        problem = "KubeRay tells Ray the limit, and more than the request may not be there"
        yield "memory", f"{path}.resources", problem, "write memory as a limit and the same as a request"
    if not requests.get("cpu") and not limits.get("cpu"):
        yield "cpu", f"{path}.resources.requests.cpu", "is not set, and Ray counts the node's", "write one"
    for probe in PROBES:
        if probe in container:
            problem = "takes the place of the one KubeRay puts there"
            yield "probes", f"{path}.{probe}", problem, "leave it away"
