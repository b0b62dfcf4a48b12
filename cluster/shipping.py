"""Orders for a cluster that somebody else set up: our own code goes with the job, as it is here.

By Ray's own client, which packs and uploads a folder once for each content. What our code needs (torch and the like)
has to be there; `cluster.submit` is for a cluster that has all of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.errors import TrimtabError, first_line
from cluster.session import Session

PACKAGES = ("cluster", "tasks", "ladder", "jobs", "tune", "serve", "trimtab")
ROOT = Path(__file__).resolve().parent.parent


def submit(session: Session, order: dict[str, Any]) -> None:
    """Post a job's order (`entrypoint`, `submission_id`, `metadata`, `runtime_env`) with our packages beside it.

    Raises TrimtabError when the cluster does not take it.
    """
    from ray.job_submission import JobSubmissionClient

    headers = {"Authorization": f"Bearer {session.token}"} if session.token else None
    try:
        client = JobSubmissionClient(
            session.dashboard_url, headers=headers, verify=os.environ.get("SSL_CERT_FILE") or True
        )
        with _packed() as folder:
            runtime_env = {**order["runtime_env"], "working_dir": str(folder)}
            client.submit_job(**{**order, "runtime_env": runtime_env})
    except (RuntimeError, ValueError, OSError) as error:  # what Ray's client and the HTTP library under it raise
        raise TrimtabError(f"the cluster at {session.dashboard_url} takes no job ({first_line(error)})") from error


@contextlib.contextmanager
def _packed() -> Iterator[Path]:
    """A folder with a copy of our packages and nothing else that may lie beside them."""
    with tempfile.TemporaryDirectory() as folder:
        for name in PACKAGES:
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(folder)
