# /// script
# requires-python = ">=3.11"
# dependencies = ["ray[serve]==2.60.0", "numpy==2.4.6", "onnxruntime==1.32.0"]
# ///
"""Ray Serve as it comes, with its default autoscaling between 1 and `--workers` replicas."""

from __future__ import annotations

from model import arguments
from ray_serve import run
from ray_serve_default import Plain

if __name__ == "__main__":
    told = arguments()
    scaling = {"min_replicas": 1, "max_replicas": told.workers}
    run(Plain.options(num_replicas=None, autoscaling_config=scaling).bind(told.model), told.port, told.folder)
