"""Pod templates and RayCluster specs as plain dictionaries: what every Ray pod of ours has in common.

Pure. Follows the restricted pod security standard, and gives memory as a bound that is also a request, since Ray
takes a pod's limits for what it may use. Knows the sizes and names of the `kubernetes` section, not what is run.
"""

from __future__ import annotations

from typing import Any

from cluster.config import Experiment, Kubernetes, Pod

Manifest = dict[str, Any]

SETTINGS, TOKENS_FOLDER, EXPERIMENT_FOLDER = "settings", "/etc/trimtab/tokens", "/etc/trimtab/experiment"
HTTP_PORT, GRPC_PORT = 8000, 9000
HEAD = Pod.model_validate({"cpus": 1, "memory": "4GiB"})
SUBMITTER = Pod.model_validate({"cpus": 1, "memory": "512MiB"})
AUTOSCALER_RESOURCES = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}}
SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
GPU_NODES = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}  # often tainted against all others
# What a cluster on one machine is started with too; the reasons stand there, in `cluster.head`.
RAY_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(64 * 1024**2),
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
    "RAY_JOB_STOP_WAIT_TIME_S": "10",
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "600",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_USAGE_DISABLED": "1",
}


def labels(experiment: Experiment, part: str) -> dict[str, str]:
    """`part`: shared, cluster, training, serving or schedule; what `kubectl apply -l` chooses by."""
    return {
        "app.kubernetes.io/name": experiment.name,
        "app.kubernetes.io/part-of": "trimtab",
        "app.kubernetes.io/component": part,
    }


def settings_name(experiment: Experiment) -> str:
    return f"{experiment.name}-{SETTINGS}"


def cluster_spec(
    experiment: Experiment, ray_version: str, part: str, group: str, pod: Pod, replicas: tuple[int, int]
) -> Manifest:
    """A RayClusterSpec with a head that takes no work and one group of workers, `replicas` (least, most) of them."""
    return {
        "rayVersion": ray_version,
        "authOptions": {"mode": "token", "secretName": experiment.kubernetes.ray_token_secret},
        "enableInTreeAutoscaling": False,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 reached through a Service
            "template": template(experiment, part, "ray-head", HEAD),
        },
        "workerGroupSpecs": [
            {
                "groupName": group,
                "replicas": replicas[1],
                "minReplicas": replicas[0],
                "maxReplicas": replicas[1],
                "rayStartParams": {},
                "template": template(experiment, part, "ray-worker", pod),
            }
        ],
    }


def template(experiment: Experiment, part: str, container: str, pod: Pod) -> Manifest:
    """A pod with one container of our image; the same volumes and settings in each."""
    return {"metadata": {"labels": labels(experiment, part)}, "spec": pod_spec(experiment, container, pod)}


def pod_spec(experiment: Experiment, container: str, pod: Pod, command: list[str] | None = None) -> Manifest:
    settings = experiment.kubernetes
    one: Manifest = {
        "name": container,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "resources": _resources(pod),
        "envFrom": [{"configMapRef": {"name": settings_name(experiment)}}],
        "securityContext": SECURITY,
        "volumeMounts": [
            {"name": "experiment", "mountPath": EXPERIMENT_FOLDER, "readOnly": True},
            {"name": "tokens", "mountPath": TOKENS_FOLDER, "readOnly": True},
        ],
    }
    if command:
        one["command"] = command
    if settings.credentials_secret:
        one["envFrom"].append({"secretRef": {"name": settings.credentials_secret}})
    if settings.claim:
        one["volumeMounts"].append({"name": "store", "mountPath": settings.store})
    return {
        "automountServiceAccountToken": False,
        # The store's files belong to the image's group, so that every pod may write them.
        "securityContext": {"fsGroup": 100, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [one],
        "volumes": _volumes(experiment.name, settings),
        **({"tolerations": [GPU_NODES]} if pod.gpus else {}),
    }


def _volumes(name: str, settings: Kubernetes) -> list[Manifest]:
    volumes: list[Manifest] = [
        {"name": "experiment", "configMap": {"name": f"{name}-experiment"}},
        {"name": "tokens", "secret": {"secretName": settings.tokens_secret}},
    ]
    if settings.claim:
        volumes.append({"name": "store", "persistentVolumeClaim": {"claimName": settings.claim}})
    return volumes


def _resources(pod: Pod) -> Manifest:
    # A CPU limit would only add throttling to what the scheduler reserves anyway.
    memory = f"{pod.memory >> 20}Mi"
    made = {"requests": {"cpu": str(pod.cpus), "memory": memory}, "limits": {"memory": memory}}
    if pod.gpus:
        made["limits"]["nvidia.com/gpu"] = str(pod.gpus)
    return made
