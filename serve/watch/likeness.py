"""Texts as vectors whose cosine says how much they are about the same: the pretrained encoder, on this process's CPU.

MiniLM's mean over a text's tokens, of length 1 (N. Reimers, I. Gurevych, *Sentence-BERT*, 2019). Knows no topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.pretrained import TOKENIZER, read

if TYPE_CHECKING:
    from serve.watch.topics import Embed

MAX_TOKENS = 64
BATCH = 32


def embedder() -> Embed:
    """Raises ConfigError where the encoder's package is missing."""
    data = read(TOKENIZER)  # first: it says what to install
    import torch
    from tokenizers import Tokenizer

    from tasks.encoder import Encoder
    from tasks.task import trimmed

    words, network = Tokenizer.from_buffer(data), Encoder().eval()
    words.no_padding()
    words.enable_truncation(MAX_TOKENS)

    def embed(texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), MAX_TOKENS), np.int32)
        for row, encoded in zip(rows, words.encode_batch_fast(list(texts)), strict=True):
            row[: len(encoded.ids)] = encoded.ids
        parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        with torch.inference_mode():
            vectors = [network(torch.from_numpy(trimmed(part))).numpy() for part in parts]
        return np.concatenate(vectors) if vectors else np.zeros((0, network.width), np.float32)

    return embed
