"""Networks that also give a text's vector, so that one pass serves both the intent and the search for passages.

All map to float32 [n, num_outputs + width], the vector last. Knows neither intents nor passages.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

SCALE = 19.0  # of a cosine: no logit is larger; from 15 to 30 tried, more is surer of an intent, less of none


class Cosines(nn.Module):
    """float32 [n, width] -> logits [n, num_outputs]: how near a text is to what was learned of each class.

    Scaled cosines (F. Wang et al., *NormFace*, 2017). That they are bounded is what makes the largest of them tell
    texts of no class: free weights grow, and with them the logits of texts far from all classes.
    """

    def __init__(self, width: int, num_outputs: int, dropout: float) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_outputs, width) / width**0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        texts = functional.normalize(self.dropout(vectors), dim=1)
        return SCALE * (texts @ functional.normalize(self.centres, dim=1).T)


class WithVectors(nn.Module):
    """A head with the last `width` numbers of the vectors it was given behind its logits."""

    def __init__(self, head: nn.Module, width: int) -> None:
        super().__init__()
        self.head, self.width = head, width

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.head(vectors), vectors[:, -self.width :]], dim=1)


class WithoutVectors(nn.Module):
    """A whole network with zeros in their place: its own would be of no use in a search."""

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.network, self.width = network, width

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        logits = self.network(rows)
        return torch.cat([logits, logits.new_zeros(1, self.width).expand(logits.shape[0], -1)], dim=1)
