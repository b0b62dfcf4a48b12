"""A Kubernetes API server, asked through the official client: apply, look, delete, read logs.

Knows the kinds we render and how the server's refusals become words; not what an experiment is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.errors import ClusterError, TrimtabError, UnauthorisedError, first_line
from trimtab.kubernetes.findings import at
from trimtab.kubernetes.pods import Manifest

MANAGER = "trimtab"
TIMEOUT_S = 30.0
PLURALS = {
    "ConfigMap": "configmaps",
    "CronJob": "cronjobs",
    "Ingress": "ingresses",
    "Namespace": "namespaces",
    "NetworkPolicy": "networkpolicies",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "PriorityClass": "priorityclasses",
    "RayCluster": "rayclusters",
    "RayCronJob": "raycronjobs",
    "RayJob": "rayjobs",
    "RayService": "rayservices",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}


@dataclass(frozen=True)
class Server:
    """One API server, as a kubeconfig's context or a pod's own account names it."""

    client: Any  # kubernetes.client.ApiClient
    context: str

    @staticmethod
    def connect(context: str | None) -> Server:
        """By `context` of the kubeconfig, its current one by default, or a pod's own account.

        Raises:
            ClusterError: no kubeconfig, or no such context in it.
        """
        from kubernetes import client, config

        made = client.Configuration()
        try:
            config.load_kube_config(context=context, client_configuration=made)
            return Server(client.ApiClient(made), context or "the kubeconfig's current context")
        except config.ConfigException as error:
            if context is None:
                with contextlib.suppress(config.ConfigException):
                    config.load_incluster_config(client_configuration=made)
                    return Server(client.ApiClient(made), "this pod's account")
            problem = f"cannot be used ({first_line(error)})"
            mend = "see `kubectl config get-contexts`, or set KUBECONFIG"
            raise ClusterError("--context", context, problem, mend) from error

    def get(self, api: str, kind: str, namespace: str, name: str) -> Manifest | None:
        found: Manifest | None = self._ask("GET", _path(api, kind, namespace, name))
        return found

    def apply(self, one: Manifest) -> None:
        """Server-side, taking over what KubeRay's operator changed: it owns `workerGroupSpecs`, one atomic list.

        The number of workers that its autoscaler chose stays as it is.
        """
        meta = one["metadata"]
        namespace, name = meta.get("namespace", ""), meta["name"]
        there = self.get(one["apiVersion"], one["kind"], namespace, name)
        path = _path(one["apiVersion"], one["kind"], namespace, name)
        query = [("fieldManager", MANAGER), ("force", "true")]
        self._ask("PATCH", path, with_live_workers(one, there), query, "application/apply-patch+yaml")

    def create(self, one: Manifest) -> None:
        meta = one["metadata"]
        self._ask("POST", _path(one["apiVersion"], one["kind"], meta.get("namespace", "")), one)

    def delete(self, api: str, kind: str, namespace: str, name: str) -> None:
        """With all it owns; returns when the server has taken the order, not when all is gone."""
        self._ask("DELETE", _path(api, kind, namespace, name), {"propagationPolicy": "Foreground"})

    def pods(self, namespace: str, selector: str) -> list[Manifest]:
        found = self._ask("GET", _path("v1", "Pod", namespace), query=[("labelSelector", selector)]) or {}
        return list(found.get("items", []))

    def log(self, namespace: str, pod: str) -> Iterator[str]:
        """A pod's log from its first line, until the pod ends or the connection does."""
        query = [("follow", "true")]
        answer = self._request("GET", f"{_path('v1', 'Pod', namespace, pod)}/log", query=query, timeout_s=None)
        rest = b""
        for chunk in answer.response.stream(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
        if rest:
            yield rest.decode("utf-8", "replace")

    def _ask(
        self, method: str, path: str, body: Any = None, query: list[tuple[str, str]] | None = None, kind: str = ""
    ) -> Any:
        """The decoded answer; None for what is not there."""
        answer = self._request(method, path, body, query, kind or "application/json", TIMEOUT_S)
        text = answer.response.read()
        if answer.status == 404 and method in ("GET", "DELETE"):
            return None
        if answer.status < 400:
            return json.loads(text or b"{}")
        raise self._refusal(answer.status, method, path, text)

    def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: list[tuple[str, str]] | None = None,
        kind: str = "application/json",
        timeout_s: float | None = TIMEOUT_S,
    ) -> Any:
        from urllib3.exceptions import HTTPError

        parameters = self.client.param_serialize(
            method,
            path,
            query_params=query,
            header_params={"Accept": "application/json", "Content-Type": kind},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            return self.client.call_api(*parameters, _request_timeout=timeout_s)
        except HTTPError as error:
            problem = f"does not answer ({first_line(error)})"
            mend = "check the context and that the cluster runs: kubectl cluster-info"
            raise ClusterError("--context", self.context, problem, mend) from error

    def _refusal(self, status: int, method: str, path: str, text: bytes) -> TrimtabError:
        try:
            message = str(json.loads(text)["message"])
        except (ValueError, KeyError, TypeError):
            message = text.decode("utf-8", "replace")[:300]
        if status in (401, 403):
            return UnauthorisedError(f"{self.context} refused {method} {path}: {message}")
        if status == 404 and "/apis/ray.io/" in path:
            mend = "install the operator 1.7 or later, see docs/kubernetes.md"
            return ClusterError("--context", self.context, "has no KubeRay", mend)
        return TrimtabError(f"{self.context} answered {status} to {method} {path}: {message}")


def with_live_workers(one: Manifest, there: Manifest | None) -> Manifest:
    """`one` with the numbers of workers that the autoscaler set in what is there, where it has one."""
    way = {"RayCluster": "spec", "RayService": "spec.rayClusterConfig"}.get(one["kind"])
    if way is None or there is None or not at(one, f"{way}.enableInTreeAutoscaling"):
        return one
    made: Manifest = json.loads(json.dumps(one))
    live = {group.get("groupName"): group.get("replicas") for group in at(there, f"{way}.workerGroupSpecs") or ()}
    for group in at(made, f"{way}.workerGroupSpecs"):
        replicas = live.get(group["groupName"])
        if replicas is not None:
            group["replicas"] = min(max(replicas, group["minReplicas"]), group["maxReplicas"])
    return made


def _path(api: str, kind: str, namespace: str, name: str = "") -> str:
    root = f"/apis/{api}" if "/" in api else f"/api/{api}"
    place = f"/namespaces/{namespace}" if namespace and kind != "Namespace" else ""
    return f"{root}{place}/{PLURALS[kind]}" + (f"/{name}" if name else "")
