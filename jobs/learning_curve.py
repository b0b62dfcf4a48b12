"""A picture of how a training went: loss and accuracy by epoch. Knows a history, measures nothing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any


def picture(history: Sequence[Mapping[str, Any]], best_epoch: int) -> bytes:
    """PNG of the losses on the left and the validation accuracy on the right, with the epoch whose weights were kept.

    `history` has one entry per epoch, as `history.json` does; `best_epoch` counts from 0.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, no pyplot and so no global state
    losses, accuracy = figure.subplots(1, 2)
    epochs = [entry["epoch"] + 1 for entry in history]
    line: dict[str, Any] = {"marker": "o" if len(epochs) < 30 else None, "markersize": 3}
    for name, colour in (("train_loss", "tab:orange"), ("validation_loss", "tab:blue")):
        losses.plot(epochs, [entry[name] for entry in history], color=colour, **line)
    losses.legend(["training", "validation"], frameon=False)
    if all(entry["validation_loss"] > 0 < entry["train_loss"] for entry in history):
        losses.set_yscale("log")
    shares = [100 * entry["validation_accuracy"] for entry in history]
    accuracy.plot(epochs, shares, color="tab:blue", **line)
    for axes, words in ((losses, "loss"), (accuracy, "validation accuracy, %")):
        axes.axvline(best_epoch + 1, color="0.6", linestyle=":", zorder=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(words)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()
