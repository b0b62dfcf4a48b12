"""Order a training again: `python -m trimtab.kubernetes.order JOB --namespace NS`, what the CronJob runs.

Copies the RayJob that is there, so that its text is kept once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from cluster.errors import NotFoundError, TrimtabError
from trimtab.kubernetes.api import Server
from trimtab.kubernetes.pods import Manifest
from trimtab.kubernetes.render import RAY_API

MAX_STEM = 33  # of a RayJob's 47 characters; the time takes the rest


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trimtab.kubernetes.order", description=__doc__)
    parser.add_argument("job", help="the RayJob to copy")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--context")
    arguments = parser.parse_args(argv)
    try:
        made = order(Server.connect(arguments.context), arguments.namespace, arguments.job, time.time())
    except TrimtabError as error:
        print(f"order: {error}", file=sys.stderr)  # noqa: T201 a job's log
        return error.exit_code
    print(f"order: {made}")  # noqa: T201
    return 0


def order(server: Server, namespace: str, name: str, now: float) -> str:
    """The name of the copy; `now` in Unix seconds names it. Raises NotFoundError when there is nothing to copy."""
    template = server.get(RAY_API, "RayJob", namespace, name)
    if template is None:
        raise NotFoundError(f"no RayJob {name} in namespace {namespace}; apply the training first")
    made = copy_of(template, f"{name[:MAX_STEM].rstrip('-')}-{time.strftime('%y%m%d-%H%M', time.gmtime(now))}")
    server.create(made)
    return str(made["metadata"]["name"])


def copy_of(template: Manifest, name: str) -> Manifest:
    """A new job of the same spec, without what the server and the operator wrote into the old one."""
    meta, spec = template["metadata"], {key: value for key, value in template["spec"].items() if key != "jobId"}
    labels, namespace = meta.get("labels", {}), meta["namespace"]
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": RAY_API, "kind": "RayJob", "metadata": metadata, "spec": spec}


if __name__ == "__main__":
    sys.exit(main())
