"""One pass of a network over many rows, some at a time. Knows no task and no engine."""

from __future__ import annotations

import torch

from tasks.task import trimmed

ROWS = 128  # of one pass


@torch.no_grad()
def answers(network: torch.nn.Module, rows: torch.Tensor, *, trims: bool = False, bf16: bool = False) -> torch.Tensor:
    """What a network, left in evaluation mode, says of rows [n, *shape]: float32 [n, *], where the rows are.

    Rows that end in zeros go in the order of their length, where `trims` says so, each batch cut to its longest.
    """
    network.eval()
    device = next((parameter.device for parameter in network.parameters()), rows.device)
    order = (rows != 0).sum(1).argsort() if trims else torch.arange(len(rows))
    parts = []
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for some in torch.split(order, ROWS):
            batch = trimmed(rows[some]) if trims else rows[some]
            parts.append(network(batch.to(device)).float().to(rows.device))
    found = torch.cat(parts)
    return torch.empty_like(found).index_copy_(0, order, found)
