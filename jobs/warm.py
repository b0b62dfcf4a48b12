"""How a training begins that follows another: with its weights, and giving way to what the machine has to do.

Knows weights by their names and shapes, not what they were trained on.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.store import Store

if TYPE_CHECKING:
    import torch


def begin(network: torch.nn.Module, store: Store, bundle: str) -> int:
    """Put a version's weights into `network` where name and shape fit; returns how many tensors did.

    What fits nothing, such as the last layer where there are other labels, stays as it is. Raises NotFoundError,
    DamagedError.
    """
    from safetensors.torch import load

    kept = load(store.read("bundles", bundle, store.manifest("bundles", bundle)["files"]["weights"]))
    own = network.state_dict()
    fitting = {name: kept[name] for name, tensor in own.items() if name in kept and kept[name].shape == tensor.shape}
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


def give_way() -> None:
    """Let this process have a processor only where nothing else wants it, and with it whatever it starts from now on.

    On Linux by the scheduling class for that (SCHED_IDLE): a process of niceness 19 still gets in the way of one that
    wakes for each request, this one leaves at once. Elsewhere by niceness.
    """
    if sys.platform != "linux":
        os.setpriority(os.PRIO_PROCESS, 0, 19)
        return
    for thread in Path("/proc/self/task").iterdir():  # those that numeric libraries have begun too
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
