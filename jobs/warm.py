"""How a training begins that follows another: with its weights.

Knows weights by their names and shapes, not what they were trained on.
"""

from __future__ import annotations

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
