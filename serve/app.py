"""The Serve application of an experiment: `serve.app:build` is the import path for `serve` and RayService.

What may change while it runs (version, limits, number of replicas) is not in its arguments but in the
deployment's options, because new arguments make Serve start every replica anew.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from cluster.config import Section
from serve.deploy import DEPLOYMENT
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


def build(args: dict[str, Any]) -> Application:
    """The application, without a version yet: its `user_config` names one. `args` are `Arguments`."""
    arguments = Arguments.model_validate(args)
    deployment = serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=20,
        health_check_period_s=5,
        health_check_timeout_s=30,
        max_constructor_retry_count=2,
        logging_config={"enable_access_log": False},
    )(serve.ingress()(Replica))
    return deployment.bind(arguments.name, arguments.store)
