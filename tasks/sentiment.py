"""Sentiment of texts: positive, neutral, negative, or any other labels a user's texts have. Knows no HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.task import Ask, Encoding
from tasks.text import Text

SCALE = {"negative": -1.0, "neutral": 0.0, "positive": 1.0}


class Sentiment(Text):
    def answer(self, outputs: np.ndarray, encoding: Encoding, ask: Ask) -> dict[str, Any]:
        """Label and probabilities; a `score` from -1, negative, to 1 where the labels are the three of SCALE.

        `cut` is there, and true, where the text was longer than the model reads.
        """
        said = super().answer(outputs, encoding, ask)
        names = [label.lower() for label in encoding.labels]
        if set(names) == set(SCALE):
            said["score"] = round(float(sum(SCALE[name] * p for name, p in zip(names, outputs, strict=True))), 6)
        return said | (ask.detail or {})
