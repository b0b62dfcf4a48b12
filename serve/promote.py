"""Make a version that the replicas hold as their candidate the one that is deployed: `python -m serve.promote`.

With `--called` it is deployed already, by a configuration from outside, and only the registry is told. A job of its
own, because it asks Serve and the registry and waits for both; begun again after a death it comes to the same. Knows
nothing of why.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from cluster import history, session
from cluster.errors import TrimtabError
from cluster.registry import Registry
from cluster.session import Session
from cluster.state import default_store
from cluster.store import Store
from ladder.bundle import read_bundle
from serve import deploy


def promote(cluster: Session, store: Store, name: str, key: str, version: int) -> None:
    """Deploy `version`, whose bundle is `key`, at the endpoint `name` and call it stable.

    Raises:
        NotFoundError, DamagedError: a file of the bundle is gone or was altered.
        TrimtabError: as `serve.deploy.replace`; what was served goes on.
    """
    bundle = read_bundle(store, key)
    bundle.check()
    deploy.replace(cluster, bundle, version)
    Registry.open(store).set_stable(name, version)


def call_stable(store: Store, name: str, version: int) -> None:
    """Call the version stable that the endpoint `name` serves. Raises ClusterError, NotFoundError."""
    if Registry.open(store).set_stable(name, version):
        row = history.row("deployed", time.time_ns(), version, "as the cluster is configured")
        history.ledger(store, name).append([row])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serve.promote", description="Promote a candidate.")
    parser.add_argument("name", help="of the endpoint")
    parser.add_argument("bundle", help="key of the version's bundle")
    parser.add_argument("version", type=int)
    parser.add_argument("--called", action="store_true", help="it is served already: only say so in the registry")
    asked = parser.parse_args(argv)
    try:
        store = Store.open(default_store())
        if asked.called:
            call_stable(store, asked.name, asked.version)
        else:
            promote(session.require(), store, asked.name, asked.bundle, asked.version)
    except TrimtabError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
