"""From an experiment to the Kubernetes objects that train and serve it.

Pure: no cluster, no files, no clock. Image, Ray's version, Serve's configuration, sizes and the names of secrets come
from one place, so that no two objects can disagree. Knows KubeRay's kinds; how they are checked or applied stands
beside it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.config import Experiment
from cluster.errors import ConfigError
from cluster.store import Store
from ladder.bundle import Bundle
from serve import deploy, standing
from tasks.task import Encoding
from trimtab.kubernetes import pods
from trimtab.kubernetes.pods import Manifest

RAY_API = "ray.io/v1"
GATE, PROVIDED = "trimtab.dev/feature-gate", "trimtab.dev/provided"
DAY_S = 86_400


@dataclass(frozen=True)
class Version:
    """The model version that is served: until it is replaced by a promotion or by hand, or where pinned, for good."""

    bundle: str
    number: int
    is_pinned: bool = False


def render(experiment: Experiment, version: Version | None, ray_version: str) -> dict[str, list[Manifest]]:
    """File name -> objects. Without a version there is nothing to serve, and no RayService.

    Raises:
        ConfigError: the experiment's name cannot be an object's.
    """
    if experiment.name.endswith("-"):
        raise ConfigError("name", experiment.name, "Kubernetes takes no name that ends in -", "leave the - away")
    files = {
        "shared.yaml": _shared(experiment),
        "raycluster.yaml": [_cluster(experiment, ray_version)],
        "rayjob.yaml": [job(experiment, ray_version)],
        "cronjob.yaml": _schedule(experiment),
    }
    if version is not None:
        files["rayservice.yaml"] = [service(experiment, version, ray_version)]
    return files


def service(experiment: Experiment, version: Version, ray_version: str) -> Manifest:
    """The endpoint. Another version, limit or number of replicas changes `serveConfigV2` alone: no new cluster."""
    spec = {
        "serveConfigV2": yaml.safe_dump(serve_config(experiment, version), sort_keys=False),
        "upgradeStrategy": {"type": "NewCluster"},
        "rayClusterDeletionDelaySeconds": 60,
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": pods.cluster_spec(
            experiment, ray_version, "serving", "replicas", experiment.kubernetes.serve_pod, _serving_pods(experiment)
        ),
    }
    made = _object("RayService", experiment.name, experiment, "serving", spec)
    made["metadata"]["annotations"]["ray.io/initializing-timeout"] = "15m"
    return made


def serve_config(experiment: Experiment, version: Version) -> Manifest:
    """Serve's whole configuration, as `serveConfigV2` holds it."""
    # All that `application` reads of a bundle; its files are in a store that may not be reachable from here.
    bundle = Bundle(
        Store(experiment.kubernetes.store), version.bundle, experiment, Encoding((), (), "", {}), "", "", {}, {}, ()
    )
    application = deploy.application(bundle, version.number)
    # Another code is another image, and that a new cluster: the image says which, and the file stays readable.
    application["args"]["code"] = experiment.kubernetes.image
    serve = experiment.serve.model_dump(mode="json", exclude_defaults=True)
    application["deployments"][0]["user_config"]["serve"] = serve
    if not version.is_pinned:
        application["deployments"][0]["user_config"][standing.FOLLOWS] = True
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": pods.HTTP_PORT},  # noqa: S104 a pod's own address, behind a Service
        "grpc_options": deploy.grpc_options(pods.GRPC_PORT),
        "applications": [application],
    }


def job(experiment: Experiment, ray_version: str) -> Manifest:
    """Preprocess, search, train, evaluate: each step is skipped where its result is in the store."""
    return _object("RayJob", f"{experiment.name}-train", experiment, "training", _job_spec(experiment, ray_version))


def cron_example(experiment: Experiment, ray_version: str) -> Manifest:
    """The schedule as KubeRay's own kind, which is behind a feature gate that is off by default."""
    spec = {
        "schedule": experiment.kubernetes.schedule,
        "timeZone": "Etc/UTC",
        "suspend": True,
        "jobTemplate": _job_spec(experiment, ray_version),
    }
    made = _object("RayCronJob", f"{experiment.name[:31].rstrip('-')}-cron", experiment, "schedule", spec)
    claim = [f"PersistentVolumeClaim/{experiment.kubernetes.claim}"] if experiment.kubernetes.claim else []
    shared = ", ".join(
        [f"ConfigMap/{experiment.name}-experiment", f"ConfigMap/{pods.settings_name(experiment)}", *claim]
    )
    made["metadata"]["annotations"] |= {GATE: "RayCronJob", f"{PROVIDED}-by-shared": shared}
    return made


def entrypoint(experiment: Experiment) -> str:
    """The steps' commands, one after the other, as a shell runs them."""
    trained = ("jobs.train",) if experiment.tune is None else ("tune.search", "tune.refit")
    steps = ("jobs.preprocess", *trained, "jobs.evaluate")
    return " && ".join(f"python -m {step} {pods.EXPERIMENT_FOLDER}/experiment.json" for step in steps)


def _job_spec(experiment: Experiment, ray_version: str) -> Manifest:
    pod, workers = experiment.kubernetes.train_pod, experiment.train.max_workers
    # One CPU for each worker and one for what reads the data.
    num_pods = max(math.ceil((workers + 1) / pod.cpus), math.ceil(workers / pod.gpus) if pod.gpus else 1)
    submitter = pods.template(experiment, "training", "ray-job-submitter", pods.SUBMITTER)
    submitter["spec"]["restartPolicy"] = "Never"
    cluster = pods.cluster_spec(experiment, ray_version, "training", "trainers", pod, (num_pods, num_pods))
    return {
        "entrypoint": entrypoint(experiment),
        "submissionMode": "K8sJobMode",
        "backoffLimit": 0,
        "activeDeadlineSeconds": DAY_S,
        "preRunningDeadlineSeconds": 1800,
        "deletionStrategy": {
            "deletionRules": [
                {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 60}},
                {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 600}},
            ]
        },
        "submitterPodTemplate": submitter,
        "rayClusterSpec": cluster,
    }


def _cluster(experiment: Experiment, ray_version: str) -> Manifest:
    """A cluster that stays, for `trimtab run FILE --address`."""
    spec = pods.cluster_spec(
        experiment, ray_version, "cluster", "workers", experiment.kubernetes.train_pod, _serving_pods(experiment)
    )
    return _object("RayCluster", experiment.name, experiment, "cluster", spec)


def _serving_pods(experiment: Experiment) -> tuple[int, int]:
    """Least and most pods that hold the replicas; two or more replicas are on two or more pods."""
    serve, pod = experiment.serve, experiment.kubernetes.serve_pod
    replicas, share = serve.replicas, serve.cpus_per_replica / pod.cpus
    if serve.gpus_per_replica > pod.gpus:
        problem = f"is less than the {serve.gpus_per_replica:g} of serve.gpus_per_replica"
        raise ConfigError("kubernetes.serve_pod.gpus", pod.gpus, problem, "raise it")
    if serve.gpus_per_replica:
        share = max(share, serve.gpus_per_replica / pod.gpus)
    least = max(min(2, replicas.min), math.ceil(replicas.min * share))
    return least, max(least, math.ceil(replicas.max * share))


def _shared(experiment: Experiment) -> list[Manifest]:
    settings = experiment.kubernetes
    tree = experiment.model_dump(mode="json", exclude={"kubernetes"}, exclude_defaults=True)
    experiment_map = _object("ConfigMap", f"{experiment.name}-experiment", experiment, "shared")
    experiment_map["data"] = {"experiment.json": json.dumps(tree, indent=1, sort_keys=True)}
    environment = _object("ConfigMap", pods.settings_name(experiment), experiment, "shared")
    environment["data"] = pods.RAY_ENVIRONMENT | {
        "TRIMTAB_STORE": settings.store,
        "TRIMTAB_TOKEN_FILE": f"{pods.TOKENS_FOLDER}/tokens",
    }
    made = [experiment_map, environment]
    if settings.claim:
        claim = _object("PersistentVolumeClaim", settings.claim, experiment, "shared")
        claim["spec"] = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "50Gi"}}}
        made.append(claim)
    return made


def _schedule(experiment: Experiment) -> list[Manifest]:
    """A CronJob that orders the training again: it copies the RayJob, so that there is no second text to keep."""
    name, namespace = f"{experiment.name}-retrain", experiment.kubernetes.namespace
    account = _object("ServiceAccount", name, experiment, "schedule")
    role = _object("Role", name, experiment, "schedule")
    role["rules"] = [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "list", "create"]}]
    binding = _object("RoleBinding", name, experiment, "schedule")
    binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    binding["subjects"] = [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
    command = ["python", "-m", "trimtab.kubernetes.order", f"{experiment.name}-train", "--namespace", namespace]
    pod = pods.pod_spec(experiment, "order", pods.SUBMITTER, command)
    pod |= {"restartPolicy": "Never", "serviceAccountName": name, "automountServiceAccountToken": True}
    spec = {
        "schedule": experiment.kubernetes.schedule,
        "timeZone": "Etc/UTC",
        "suspend": True,
        "concurrencyPolicy": "Forbid",
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {
            "spec": {
                "backoffLimit": 2,
                "activeDeadlineSeconds": 600,
                "template": {"metadata": {"labels": pods.labels(experiment, "schedule")}, "spec": pod},
            }
        },
    }
    return [account, role, binding, _object("CronJob", name, experiment, "schedule", spec)]


_APIS = {
    "RayCluster": RAY_API,
    "RayJob": RAY_API,
    "RayService": RAY_API,
    "RayCronJob": RAY_API,
    "CronJob": "batch/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
}


def _object(kind: str, name: str, experiment: Experiment, part: str, spec: Any = None) -> Manifest:
    settings = experiment.kubernetes
    made: Manifest = {
        "apiVersion": _APIS.get(kind, "v1"),
        "kind": kind,
        "metadata": {"name": name, "namespace": settings.namespace, "labels": pods.labels(experiment, part)},
    }
    if spec is not None:
        secrets = (settings.tokens_secret, settings.ray_token_secret, settings.credentials_secret)
        provided = ", ".join(f"Secret/{secret}" for secret in secrets if secret)
        made["metadata"]["annotations"] = {PROVIDED: provided}
        made["spec"] = spec
    return made
