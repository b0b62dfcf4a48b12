"""The exponential moving average of a network's weights, which is steadier than the network itself.

B. Polyak, A. Juditsky, *Acceleration of Stochastic Approximation by Averaging*, 1992. The first steps count for less
than the decay says, else a short training would be judged by where it began. Knows no optimiser and no schedule.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """A second network whose weights and buffers follow those of the first one."""

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.num_updates, self._decay = 0, decay
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        self._means = [mean for mean, _ in pairs if mean.is_floating_point()]
        self._values = [value for _, value in pairs if value.is_floating_point()]
        self._counters = [(kept, value) for kept, value in pairs if not kept.is_floating_point()]

    def update(self) -> None:
        """Take in the network as it is now: mean = d x mean + (1 - d) x value, d the decay or less in the beginning."""
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        update(self._means, self._values, self.num_updates)
        for kept, value in self._counters:
            kept.copy_(value)
        self.num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.num_updates = state["num_updates"]


def _tensors(network: torch.nn.Module) -> list[torch.Tensor]:
    return [*(parameter.detach() for parameter in network.parameters()), *network.buffers()]
