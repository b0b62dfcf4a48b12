"""The recommender's network: a tower for items, of text and behaviour, and one for users, of what they chose last.

Knows histories as item numbers, texts as vectors; nothing of titles, requests or files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SEEN = -1000.0  # added to the score of an item that the history has: below all others, and can be taken back


class Towers(nn.Module):
    """Histories int32 [n, length] to scores float32 [n, items]; rows are item index + 1, newest first, 0 for none.

    Item: layernorm(MLP(text vector) + its own embedding), so that one nobody has chosen yet has a vector by its text.
    User: mean of the `recent` last items' vectors with a learned decay, plus an MLP of it. Score: scaled cosine plus a
    bias that begins as the log of popularity. Two towers after Covington et al. (2016) and Yi et al. (2019), here with
    the softmax over the whole catalogue, which needs no correction for sampling. An empty history gives the bias alone.
    Outside of training SEEN is added to the scores of the history's items.
    """

    texts: torch.Tensor

    def __init__(
        self, texts: np.ndarray, num_events: np.ndarray, width: int = 64, recent: int = 20, dropout: float = 0.2
    ) -> None:
        """`texts` float32 [items, d] of unit length; `num_events` [items] of training."""
        super().__init__()
        num_items, text_width = texts.shape
        self.recent = recent
        self.register_buffer("texts", torch.as_tensor(texts, dtype=torch.float32), persistent=False)
        self.text = nn.Sequential(
            nn.Linear(text_width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.own = nn.Embedding(num_items, width)
        nn.init.normal_(self.own.weight, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.user = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.log_decay = nn.Parameter(torch.tensor(-2.0))
        self.log_scale = nn.Parameter(torch.tensor(2.5))
        popularity = np.log1p(num_events.astype(np.float64))
        self.bias = nn.Parameter(torch.as_tensor(popularity - popularity.mean(), dtype=torch.float32))

    def items(self) -> torch.Tensor:
        """Vectors float32 [items, width] of unit length, of the whole catalogue."""
        return functional.normalize(self.norm(self.text(self.texts) + self.own.weight), dim=1)

    def users(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Vectors float32 [n, width] of unit length, zeros for an empty history; `items` as the method has them."""
        rows = rows[:, : self.recent]
        there = (rows > 0).to(items.dtype)
        mean = weighted(rows, items, there * torch.exp(-self.log_decay.exp() * places(rows)))
        return functional.normalize(mean + self.user(mean), dim=1) * there.amax(1, keepdim=True)

    def scores(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """float32 [n, items], nothing added for what was seen."""
        return self.log_scale.exp() * (self.users(rows, items) @ items.T) + self.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        scores = self.scores(rows, self.items())
        return scores if self.training else scores + seen(rows, scores)


class Ensemble(nn.Module):
    """Pairs of towers that learn side by side; the mean of their scores ranks.

    Each has its own loss, else they would be one wider network: pairs that began differently err differently (B.
    Lakshminarayanan et al., *Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles*, 2017). While
    it learns it gives float32 [n, pairs, items], else as `Towers` does. Vectors have the pairs beside each other, so
    that ranking is still one product of matrices.
    """

    def __init__(self, pairs: Sequence[Towers]) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(pairs)
        self.recent = pairs[0].recent

    @property
    def towers(self) -> list[Towers]:
        return [pair for pair in self.pairs if isinstance(pair, Towers)]

    @property
    def texts(self) -> torch.Tensor:
        """float32 [items, d]."""
        return self.towers[0].texts

    def items(self) -> torch.Tensor:
        """Vectors float32 [items, pairs * width]."""
        return torch.cat([pair.items() for pair in self.towers], dim=1)

    def scores(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """float32 [n, items], nothing added for what was seen; `items` as the method has them."""
        parts = zip(self.towers, items.chunk(len(self.pairs), dim=1), strict=True)
        users = torch.cat([pair.log_scale.exp() * pair.users(rows, part) for pair, part in parts], dim=1)
        bias = torch.stack([pair.bias for pair in self.towers]).mean(0)
        return users @ items.T / len(self.pairs) + bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if self.training:
            return torch.stack([pair(rows) for pair in self.towers], dim=1)
        scores = self.scores(rows, self.items())
        return scores + seen(rows, scores)


def places(rows: torch.Tensor) -> torch.Tensor:
    """float32 [length]: 0 for the newest item of a history."""
    return torch.arange(rows.shape[1], device=rows.device, dtype=torch.float32)


def weighted(rows: torch.Tensor, vectors: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean float32 [n, d] of the histories' vectors [items, d] by weight float32 [n, length]; zeros for no weight."""
    chosen = vectors[(rows.long() - 1).clamp(min=0)]  # [n, length, d]
    return (chosen * weight[:, :, None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-6)


def seen(rows: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """SEEN at the items of each history, 0 elsewhere, in the shape of the scores."""
    blank = scores.new_zeros(scores.shape[0], scores.shape[1] + 1)  # the first column is of those who are not there
    return blank.scatter(1, rows.long(), SEEN)[:, 1:]
