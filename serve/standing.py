"""Which version answers where a configuration is kept outside of the cluster and may be applied again at any time.

KubeRay's operator gives Serve the configuration of a RayService anew when it is changed, for a new cluster, and when
the operator itself has started anew. The version in it may have been replaced since, by a promotion or by hand: what
was put in its place is written down in the store, and holds for every configuration that `follows`. A version that was
never replaced is what its configuration says. Knows neither Ray nor Kubernetes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cluster.store import Store

FOLLOWS, INSTEAD = "follows", "instead"  # keys of a `user_config`
MOST = 200  # bundles that are remembered as replaced


def replacing(before: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The `user_config` `told`, with what it replaces where the one before came from outside; see `keep`."""
    if not before.get(FOLLOWS) and INSTEAD not in before:
        return dict(told)
    replaced = _without(told["bundle"], *before.get(INSTEAD, ()), before["bundle"])
    return {key: value for key, value in told.items() if key != FOLLOWS} | {INSTEAD: replaced}


def keep(store: Store, name: str, told: Mapping[str, Any]) -> None:
    """Write down what `replacing` found; nothing where it found nothing. Raises StoreError."""
    if INSTEAD not in told:
        return
    known = _read(store, name)
    earlier = (*known[INSTEAD], known["bundle"]) if known else ()
    found = {"bundle": told["bundle"], "version": told["version"]}
    found[INSTEAD] = _without(told["bundle"], *earlier, *told[INSTEAD])[-MOST:]
    store.put(_path(name), json.dumps(found).encode())


def meant(store: Store, name: str, told: Mapping[str, Any]) -> tuple[str, int]:
    """Bundle and version that a `user_config` comes to. Asks the store only where it follows; raises StoreError."""
    found = _read(store, name) if told.get(FOLLOWS) else None
    which = found if found is not None and told["bundle"] in found[INSTEAD] else told
    return str(which["bundle"]), int(which["version"])


def _read(store: Store, name: str) -> dict[str, Any] | None:
    data = store.get(_path(name))
    found: dict[str, Any] | None = json.loads(data) if data else None
    return found


def _path(name: str) -> str:
    return f"standing/{name}.json"


def _without(bundle: str, *others: str) -> list[str]:
    """Each once, the last mentioned last."""
    return [one for one in dict.fromkeys(reversed(others)) if one != bundle][::-1]
