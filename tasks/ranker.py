"""The ranking stage: several reasons to recommend an item, weighed by what validation users chose next.

A listwise softmax over the whole catalogue (Z. Cao et al., *Learning to Rank: From Pairwise to Listwise Approach*,
2007), linear in its features, so that a few hundred users are enough for its handful of weights. All is one graph: a
replica needs no index beside it. Knows histories and vectors as numbers; no titles, no requests, no files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tasks.towers import Ensemble, places, seen, weighted

FEATURES = ("towers", "neighbours", "text", "cold_text", "popularity", "cold")
SIMPLE = ("neighbours", "popularity")
TEXT_DECAY, NEIGHBOUR_DECAY = 0.9, 0.8
MOST_BYTES = 256 * 1024**2  # of features at a time
STEPS = 60  # of L-BFGS
RIDGE = 1e-4  # of the squared weights, so that two features that say the same share it


class Neighbours(nn.Module):
    """Score float32 [n, items] of a history: what its items' nearest are worth, newer items counting more."""

    nearest: torch.Tensor
    likeness: torch.Tensor

    def __init__(self, nearest: np.ndarray, likeness: np.ndarray, recent: int) -> None:
        """`nearest` int [items, k] and their `likeness` float32 [items, k], 0 where there are fewer."""
        super().__init__()
        self.recent = recent
        self.register_buffer("nearest", torch.as_tensor(nearest, dtype=torch.int64))
        self.register_buffer("likeness", torch.as_tensor(likeness, dtype=torch.float32))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows[:, : self.recent]
        chosen = (rows.long() - 1).clamp(min=0)
        weight = (rows > 0).float() * NEIGHBOUR_DECAY ** places(rows)
        worth = self.likeness[chosen] * weight[:, :, None]  # [n, recent, k]
        blank = worth.new_zeros(rows.shape[0], self.nearest.shape[0])
        return blank.scatter_add(1, self.nearest[chosen].flatten(1), worth.flatten(1))


class Ranked(nn.Module):
    """Histories int32 [n, length] to scores float32 [n, items]: a weighted sum of `features`, standardised by row."""

    items: torch.Tensor
    popularity: torch.Tensor
    coldness: torch.Tensor
    cold: torch.Tensor

    def __init__(
        self, towers: Ensemble, neighbours: Neighbours, num_events: np.ndarray, features: Sequence[str] = FEATURES
    ) -> None:
        super().__init__()
        self.features, self.neighbours, self.towers = tuple(features), neighbours, towers.eval()
        with torch.no_grad():
            self.register_buffer("items", towers.items())  # once, not for every request
        events = torch.as_tensor(num_events, dtype=torch.float32)
        self.register_buffer("popularity", _standard(events.log1p()[None]))
        self.register_buffer("coldness", 1 / (1 + events[None]))
        self.register_buffer("cold", _standard(self.coldness))
        self.weights = nn.Parameter(torch.ones(len(self.features)))
        self.simple: Ranked | None = None  # a cheaper form, of some of the features

    def said(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Each feature, float32 [n, items], or [1, items] where it does not depend on the history."""
        made: dict[str, torch.Tensor] = {"popularity": self.popularity, "cold": self.cold}
        if "towers" in self.features:
            made["towers"] = _standard(self.towers.scores(rows, self.items))
        if "neighbours" in self.features:
            made["neighbours"] = _standard(self.neighbours(rows))
        if "text" in self.features:
            recent = rows[:, : self.towers.recent]
            texts = self.towers.texts
            mean = weighted(recent, texts, (recent > 0).float() * TEXT_DECAY ** places(recent))
            made["text"] = _standard(functional.normalize(mean, dim=1) @ texts.T)
            made["cold_text"] = made["text"] * self.coldness
        return [made[name] for name in self.features]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        scores = sum(weight * feature for weight, feature in zip(self.weights, self.said(rows), strict=True))
        assert isinstance(scores, torch.Tensor)
        scores = scores.expand(rows.shape[0], -1)
        return scores + seen(rows, scores)

    def reduced(self, features: Sequence[str]) -> Ranked:
        """The same with some of the features alone; its weights are still to be learned."""
        num_events = (1 / self.coldness[0] - 1).round().numpy()
        return Ranked(self.towers, self.neighbours, num_events, features)


def fit(ranked: Ranked, rows: np.ndarray, truth: np.ndarray) -> Ranked:
    """Learn the weights from validation rows int32 [n, length] and what came next, int64 [n]; returns `ranked`."""
    num_items = ranked.popularity.shape[1]
    parts = np.array_split(np.arange(len(rows)), -(-len(rows) * num_items * 4 * len(ranked.features) // MOST_BYTES))
    weights = ranked.weights
    optimiser = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")
    prepared = [_prepared(ranked, rows[part], truth[part]) for part in parts]

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        losses = [
            functional.cross_entropy(features @ weights + mask, y, reduction="sum") for features, mask, y in prepared
        ]
        loss = torch.stack(losses).sum() / len(rows) + RIDGE * (weights**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return ranked


@torch.no_grad()
def scores(ranked: Ranked, rows: np.ndarray) -> np.ndarray:
    """float32 [n, items] of rows int32 [n, length], some at a time."""
    parts = np.array_split(rows, -(-len(rows) // 128))
    return np.concatenate([ranked(torch.from_numpy(part)).numpy() for part in parts])


@torch.no_grad()
def _prepared(ranked: Ranked, rows: np.ndarray, truth: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = torch.from_numpy(rows), torch.from_numpy(truth)
    features = torch.stack([each.expand(len(x), -1) for each in ranked.said(x)], dim=2)
    mask = seen(x, features[:, :, 0])
    return features, mask.scatter(1, y[:, None], 0.0), y


def _standard(scores: torch.Tensor) -> torch.Tensor:
    """Each row with mean 0 and deviation 1."""
    centred = scores - scores.mean(1, keepdim=True)
    return centred / ((centred**2).mean(1, keepdim=True).sqrt() + 1e-6)
