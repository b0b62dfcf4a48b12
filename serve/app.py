"""The Serve application of an experiment: `serve.app:build` is the import path for `serve` and RayService.

What may change while it runs (version, limits, number of replicas) is not in its arguments but in the
deployment's options, because new arguments make Serve start every replica anew.
"""

from __future__ import annotations

from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import DeploymentActorConfig

from cluster.config import Section
from serve.adapt.actor import Actor
from serve.presence import ACTOR, DEPLOYMENT
from serve.replica import Replica

# The queue with its bound is ours, in the replica: this only has to be more than a replica can hold.
MAX_ONGOING_REQUESTS = 4096


class Arguments(Section):
    name: str
    """Of the model and the endpoint."""
    store: str
    """Where bundles are."""
    code: str = ""
    """Fingerprint of the code that serves: when it changes, replicas must start anew to run it."""
    adapt: bool = True
    """Whether an actor adapts the replicas; what it may do is in the `user_config`, which changes in place."""
    dashboard: str = ""
    """URL of the cluster's dashboard, for the actor, where the cluster was not started by `trimtab up`."""


def build(args: dict[str, Any]) -> Application:
    """The application, without a version yet: its `user_config` names one. `args` are `Arguments`."""
    arguments = Arguments.model_validate(args)
    deployment = serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=20,
        # Three failures in a row end a replica: one that hangs is found, and another is there, within 40 s.
        health_check_period_s=2,
        health_check_timeout_s=10,
        max_constructor_retry_count=2,
        # Serve words its line for each request, and only then drops it, unless the level keeps it from both.
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        deployment_actors=[_actor(arguments)] if arguments.adapt else None,
    )(serve.ingress()(Replica))
    return deployment.bind(arguments.name, arguments.store)


def _actor(arguments: Arguments) -> DeploymentActorConfig:
    # Its loop is a thread without an event loop of its own, for which Serve's handles need one beside it.
    environment = {"env_vars": {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"}}
    return DeploymentActorConfig(
        name=ACTOR,
        actor_class=ray.remote(Actor),
        init_args=(arguments.name, arguments.store, DEPLOYMENT, arguments.dashboard),
        actor_options={"num_cpus": 0, "runtime_env": environment},
    )
