"""What a replica asks of the Serve around it: its own name, and the envelope that holds already.

The only part of a replica that knows Ray, and only where it runs in it: anywhere else there is nothing to ask.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from typing import Any

DEPLOYMENT = "Replica"  # the application's only one
ACTOR = "adapt"  # the deployment actor that decides on the envelope
GC_THRESHOLDS = 10_000, 20, 50  # Python's own first one is 700 new objects
_log = logging.getLogger(__name__)


def replica_id() -> str:
    """Serve's name for this replica, or the process's number where there is no Serve."""
    return _replica_tag() or f"process-{os.getpid()}"


def settle() -> None:
    """To be called once all is loaded: Python's garbage collector leaves that alone from now on, and runs less often.

    The numbers of one image in JSON are enough objects to set it off, and then it looked through every module of Ray:
    half the time of such a request. Outside of a replica it stays as it is, as the process is somebody else's.
    """
    if _replica_tag() is not None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)


def _replica_tag() -> str | None:
    if "ray.serve" not in sys.modules:
        return None
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        return str(serve.get_replica_context().replica_tag)
    except RayServeException:
        return None


async def present_envelope(timeout_s: float) -> dict[str, Any] | None:
    """What the actor says holds now; None when it says nothing in time, or there is no actor."""
    if "ray.serve" not in sys.modules:
        return None
    from ray.serve.exceptions import RayServeException

    try:
        async with asyncio.timeout(timeout_s):
            found: dict[str, Any] | None = await _asked()
            return found
    except (RayServeException, ValueError):
        return None  # no Serve, or no such actor (yet)
    except Exception as error:  # the actor's own, and those of the way to it: none keeps a replica from starting
        _log.warning("no envelope from the actor %r, what the experiment says holds: %r", ACTOR, error)
        return None


async def _asked() -> Any:
    from ray import serve

    serve.get_replica_context()  # raises outside of a replica
    actor = await asyncio.to_thread(serve.get_deployment_actor, ACTOR)
    return await actor.envelope.remote()
