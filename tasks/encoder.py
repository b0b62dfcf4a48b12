"""The text encoder and the networks on top of it and below it.

All take int32 [n, length]: WordPiece ids with [CLS] and [SEP], zero padded at the end; a text's padding changes
nothing. Written out here and not taken from a library, because it must be exported with both sizes free, and so that
neither training nor a replica loads one. Knows no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from tasks import pretrained
from tasks.text import VOCABULARY

WIDTH, HEADS, INNER, LAYERS, POSITIONS = 384, 12, 1536, 6, 512  # all-MiniLM-L6-v2
HIDDEN = 256  # of the head of an encoder that is not trained
MEMBERS = 4  # heads of such a one, side by side: half a point on PhraseBank for seconds
EPSILON = 1e-12


def _norm() -> nn.LayerNorm:
    return nn.LayerNorm(WIDTH, eps=EPSILON)


class Layer(nn.Module):
    """One transformer layer, normalised after each half (A. Vaswani et al., *Attention Is All You Need*, 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.attended, self.attended_norm = nn.Linear(WIDTH, WIDTH), _norm()
        self.widened, self.narrowed, self.norm = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH), _norm()

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """float32 [n, length, WIDTH] and what is added to the scores, [n, 1, 1, length]."""
        n, length, _ = x.shape
        query, key, value = (
            part(x).reshape(n, length, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * (WIDTH // HEADS) ** -0.5 + bias
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(n, length, WIDTH)
        x = self.attended_norm(x + self.attended(mixed))
        return self.norm(x + self.narrowed(functional.gelu(self.widened(x))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """int32 [n, length] -> float32 [n, 384] of length 1: the mean over a text's tokens, as its makers trained it."""

    width = WIDTH

    def __init__(self, layers: int = LAYERS) -> None:
        """The first `layers` of the pretrained network. Raises ConfigError when its package is missing."""
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.norm = _norm()
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.load_state_dict(_renamed(pretrained.weights(), layers))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.at(rows, (len(self.layers),))

    def at(self, rows: torch.Tensor, depths: tuple[int, ...]) -> torch.Tensor:
        """float32 [n, 384 * len(depths)]: the mean after so many layers, each of length 1."""
        used = rows != 0
        bias = torch.where(used, 0.0, -1e4)[:, None, None, :]
        x = self.norm(self.words(rows) + self.positions.weight[: rows.shape[1]])
        means = [mean(x.float(), used)]
        for layer in self.layers[: max(depths)]:
            x = layer(x, bias)
            means.append(mean(x.float(), used))
        return torch.cat([functional.normalize(means[depth], dim=1) for depth in depths], dim=1)


class Depths(Encoder):
    """int32 [n, length] -> float32 [n, 3 * 384]: means before the first layer, half way, and at the end.

    The end says what a text is about; how it is put, from which sentiment is read, is lost on the way there.
    """

    width = 3 * WIDTH

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        num = len(self.layers)
        return self.at(rows, (0, num // 2, num))


class Head(nn.Module):
    """float32 [n, width], each 384 of length 1 -> logits float32 [n, num_outputs]; one hidden layer, or none."""

    def __init__(self, num_outputs: int, hidden: int, dropout: float, width: int = WIDTH) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.BatchNorm1d(width, affine=False)] if hidden else []
        parts.append(nn.Dropout(dropout))
        if hidden:
            parts += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*parts, nn.Linear(hidden or width, num_outputs))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        scaled = vectors * WIDTH**0.5  # numbers around 1
        logits: torch.Tensor = self.layers(scaled)
        return logits


class Heads(nn.Module):
    """Heads that learn side by side from the same vectors; logits are their mean.

    While they learn, float32 [n, heads, num_outputs], since each has its own loss: heads that began differently err
    differently (B. Lakshminarayanan et al., *Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles*, 2017).
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        logits = torch.stack([head(vectors) for head in self.heads], dim=1)
        return logits if self.training else logits.mean(1)


class TextNetwork(nn.Module):
    """int32 [n, length] -> logits; `body` embeds a text, `head` answers."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(rows))
        return logits


def mean(x: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """float32 [n, length, width] -> [n, width] over the tokens that are `used`."""
    weights = used[:, :, None].to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def _renamed(given: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Weights under our names. A text has one segment, whose vector is added to each position's."""
    names = {
        "attention.self.query": "query",
        "attention.self.key": "key",
        "attention.self.value": "value",
        "attention.output.dense": "attended",
        "attention.output.LayerNorm": "attended_norm",
        "intermediate.dense": "widened",
        "output.dense": "narrowed",
        "output.LayerNorm": "norm",
    }
    kinds = ("weight", "bias")
    found = {f"norm.{kind}": given[f"embeddings.LayerNorm.{kind}"] for kind in kinds}
    found["words.weight"] = given["embeddings.word_embeddings.weight"]
    segment = given["embeddings.token_type_embeddings.weight"][0]
    found["positions.weight"] = given["embeddings.position_embeddings.weight"] + segment
    for i in range(layers):
        for theirs, ours in names.items():
            found |= {f"layers.{i}.{ours}.{kind}": given[f"encoder.layer.{i}.{theirs}.{kind}"] for kind in kinds}
    return found
