"""Small networks for texts: cheap rungs of a ladder, which learn from the answers of an encoder.

Both take the encoder's own rows, int32 [n, length] of WordPiece ids padded with zeros. Neither has attention: a text
is a sum over its tokens and over their neighbourhoods. Knows no text.
"""

from __future__ import annotations

import torch
from torch import nn

from tasks import encoder, pretrained
from tasks.text import FIRST_WORD, VOCABULARY

STATIC_WIDTH = 256
PAIRS = 1 << 15  # buckets of hashed pairs
PRIMES = 1_000_003, 7_919
SPECIAL = 103  # ids up to here stand for no word


class Static(nn.Module):
    """A table with a vector for each token, weighted, averaged, then one hidden layer.

    The table begins as the encoder's own, turned to its principal components; rare tokens weigh more (as in
    S. Tulkens, T. van Dongen, *Model2Vec*, 2024, where each token has been through the whole encoder).
    """

    def __init__(self, num_outputs: int, hidden: int = 128) -> None:
        super().__init__()
        table, weights = table_of_words(STATIC_WIDTH)
        self.table = nn.Embedding(VOCABULARY, STATIC_WIDTH, _weight=table)
        self.weights = nn.Embedding(VOCABULARY, 1, _weight=weights)
        self.pairs = nn.Embedding(PAIRS, STATIC_WIDTH // 4)
        nn.init.zeros_(self.pairs.weight)
        self.layers = nn.Sequential(nn.Linear(STATIC_WIDTH * 5 // 4, hidden), nn.ReLU(), nn.Linear(hidden, num_outputs))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        used = words(rows)
        weights = self.weights(rows) * used[:, :, None]
        x = (self.table(rows) * weights).sum(1) / weights.sum(1).clamp(min=1e-3)
        pairs = hashed(rows, 2, PAIRS)
        y = encoder.mean(self.pairs(pairs), used[:, 1:])
        logits: torch.Tensor = self.layers(torch.cat([x, y], dim=1))
        return logits


class Ngrams(nn.Module):
    """A sum of one small vector for each token, and for each bucket of hashed pairs: a linear model.

    Feature hashing as in A. Joulin et al., *Bag of Tricks for Efficient Text Classification*, 2017.
    """

    def __init__(self, num_outputs: int, width: int = 16) -> None:
        super().__init__()
        self.tokens, self.pairs = nn.Embedding(VOCABULARY, width), nn.Embedding(PAIRS, width)
        for table in (self.tokens, self.pairs):
            nn.init.normal_(table.weight, std=0.1)
        self.last = nn.Linear(width, num_outputs)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        used = words(rows)
        x = encoder.mean(self.tokens(rows), used) + encoder.mean(self.pairs(hashed(rows, 2, PAIRS)), used[:, 1:])
        logits: torch.Tensor = self.last(x)
        return logits


def words(rows: torch.Tensor) -> torch.Tensor:
    """Which of the tokens [n, length] stand for words, bool of the same shape."""
    return rows > SPECIAL


def hashed(rows: torch.Tensor, size: int, num_buckets: int) -> torch.Tensor:
    """Buckets int64 [n, length - size + 1] of each `size` neighbours of [n, length]."""
    found = rows[:, : rows.shape[1] - size + 1].long()
    for i in range(1, size):
        found = found * PRIMES[i - 1] + rows[:, i : rows.shape[1] - size + 1 + i].long()
    return found % num_buckets


@torch.no_grad()
def table_of_words(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [VOCABULARY, width] and their weights [VOCABULARY, 1]: the vocabulary is in the order of frequency."""
    table = pretrained.weights()["embeddings.word_embeddings.weight"].clone()
    table -= table[FIRST_WORD:].mean(0)
    _, _, directions = torch.linalg.svd(table[FIRST_WORD::4], full_matrices=False)
    table = table @ directions[:width].T
    table /= table.std()
    rank = torch.arange(VOCABULARY, dtype=torch.float32)
    return table, (1 + (rank - FIRST_WORD).clamp(min=0.0)).log1p()[:, None] / 10
