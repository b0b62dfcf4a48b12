"""A model version described for people: a card in Markdown, pictures of its confusion matrix and of its ladder.

Knows how to say things, measures nothing.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.config import Experiment, Train
from tasks.dataset import SPLITS, Dataset
from tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"macro_f1": "macro F1", "calibration_error": "expected calibration error, 15 bins", "r2": "R squared"}
SHOWN_CLASSES = 50  # beyond that tables and pictures stop being readable


def text(task: Task, dataset: Dataset, trained: dict[str, Any], metrics: dict[str, Any], ladder: dict[str, Any]) -> str:
    """The card; `trained` is the run's manifest, `metrics` the task's, `ladder` the bundle's."""
    experiment = task.experiment
    parts = [
        f"# {experiment.name}\n\nA model made by Trimtab from the experiment `{experiment.name}`.",
        _data(experiment, dataset),
        _recipe(experiment, trained),
        _results(trained, metrics, ladder),
        _ladder(ladder),
        *([_classes(metrics), _limits(task, dataset, metrics)] if "classes" in metrics else []),
    ]
    return "\n\n".join(parts) + "\n"


def confusion_picture(confusion: list[list[int]], labels: tuple[str, ...]) -> bytes:
    """PNG of a confusion matrix [true][predicted]; cells show each row's share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(14.0, 3.0 + 0.45 * len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, no pyplot and so no global state
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(labels) <= SHOWN_CLASSES:
        names = [_plain(label) for label in labels]
        # A `$` in a label is no formula.
        axes.set_xticks(range(len(labels)), names, rotation=90, parse_math=False)
        axes.set_yticks(range(len(labels)), names, parse_math=False)
    if len(labels) <= 20:
        for i, j in zip(*counts.nonzero(), strict=True):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=8)
    return _drawn(figure)


def ladder_picture(ladder: dict[str, Any]) -> bytes:
    """PNG of each variant's accuracy against the time of one row, those left out in grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left_out = [each for each in ladder["left_out"] if "accuracy" in each]
    for entries, colour in ((left_out, "0.6"), (ladder["rungs"], "tab:blue")):
        for entry in entries:
            x, y = 1000 * entry["seconds"]["1"], 100 * entry["accuracy"]
            axes.scatter(x, y, color=colour, zorder=2)
            axes.annotate(entry["variant"], (x, y), xytext=(6, 4), textcoords="offset points", color=colour, fontsize=9)
    rungs = [(1000 * r["seconds"]["1"], 100 * r["accuracy"]) for r in ladder["rungs"]]
    axes.plot(*zip(*rungs, strict=True), color="tab:blue", linewidth=1, alpha=0.5, zorder=1)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds for a batch of one row")
    axes.set_ylabel("accuracy on the validation split, %")
    axes.margins(x=0.25, y=0.2)
    axes.grid(alpha=0.3)
    return _drawn(figure)


def _drawn(figure: Figure) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label in a script that the font lacks is drawn as boxes
        figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()


def _data(experiment: Experiment, dataset: Dataset) -> str:
    counts = ", ".join(f"{dataset.num_rows(split):,} {split}" for split in SPLITS)
    shape = " x ".join(map(str, dataset.encoding.shape))
    rejected = dataset.rejected["total"]
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dataset.rejected["reasons"].items()))
    return (
        "## Data\n\n"
        f"Source `{experiment.data.source.kind}`, dataset `{dataset.key}`: {dataset.rows_in:,} rows read, "
        f"{rejected:,} rejected{f' ({reasons})' if reasons else ''}; {counts}. "
        f"Rows are {dataset.encoding.dtype} {shape} with {len(dataset.encoding.labels) or 'values instead of'} labels. "
        "The statistics for normalising come from the training rows alone."
        f"{_feedback(dataset.lineage)}"
    )


def _feedback(lineage: dict[str, Any]) -> str:
    if not lineage:
        return ""
    repeats = f", each {lineage['repeats']} times" if lineage["repeats"] > 1 else ""
    return (
        f" Among the rows are {lineage['learnt']:,} that were labelled by feedback{repeats}; "
        f"{lineage['held_out']:,} more were held out. Retrained after version {lineage['stable_version']} by order "
        f"`{lineage['order']}`, on the rows of dataset `{lineage['base']}`."
    )


def _workers(recipe: Train) -> str:
    least, most = recipe.min_workers, recipe.max_workers
    number = str(most) if least == most else f"{least} to {most}"
    return f"{number} worker{'s' if most > 1 else ''}"


def _recipe(experiment: Experiment, trained: dict[str, Any]) -> str:
    recipe, model = experiment.train, experiment.model
    num_rows, seconds = trained["rows"], trained["seconds"]
    network = (
        f"network `{model.network}` (width {model.width:g}, dropout {model.dropout}, label smoothing "
        f"{model.label_smoothing}), "
    )
    if ":" in experiment.task:  # which need not read `model`
        network = ""
    return (
        "## How it was made\n\n"
        f"Task `{experiment.task}`, {network}AdamW with a {recipe.schedule.replace('_', '-')} schedule: peak learning "
        f"rate {recipe.learning_rate}, weight decay {recipe.weight_decay}, batch {recipe.batch_size}, "
        f"augmentation `{recipe.augment}`, {_beside(recipe)}"
        f"seed {experiment.seed}, {_workers(recipe)}. "
        f"{trained['epochs']} of at most {recipe.epochs} epochs ({trained['over']}); the weights are those of epoch "
        f"{trained['best_epoch'] + 1}, the {'last' if recipe.keeps_last else 'best on the validation split'}. "
        f"{num_rows:,} rows in {seconds:.1f} s, {trained['cpu_s']:.1f} CPU-seconds on the workers. "
        "![Learning curve](learning.png)" + _origin(trained.get("origin") or {})
    )


def _beside(recipe: Train) -> str:
    """What not every training does."""
    clip, ema = recipe.clip_norm, recipe.ema
    said = [
        f"gradients clipped to norm {clip:g}, " if clip is not None else "",
        f"weights averaged with decay {ema:g}, " if ema is not None else "",
        "labels weighed by their rarity, " if recipe.class_weights == "balanced" else "",
    ]
    return "".join(said)


def _origin(origin: dict[str, Any]) -> str:
    """Which search chose the settings, and what it saw in them."""
    if not origin:
        return ""
    settings = ", ".join(f"{name} {_shown(value)}" for name, value in origin["config"].items())
    both = " It learned from the validation rows too, so figures on them say little." * origin["with_validation"]
    return (
        f"\n\nThe settings {settings} were chosen by trial `{origin['trial']}`, the best of {origin['trials']} in the "
        f"search `{origin['search']}`: validation {origin['metric']} {_shown(origin['value'])} there.{both}"
    )


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _results(trained: dict[str, Any], metrics: dict[str, Any], ladder: dict[str, Any]) -> str:
    validation = trained["metrics"]
    n, accuracy = metrics["rows"], metrics["accuracy"]
    error = math.sqrt(accuracy * (1 - accuracy) / n)
    figures = {name: value for name, value in metrics.items() if isinstance(value, float) and name != "accuracy"}
    lines = [f"| {NAMES.get(name, name.replace('_', ' '))} | {value:.4f} |\n" for name, value in figures.items()]
    picture = " ![Confusion matrix](confusion.png)" if "confusion" in metrics else ""
    return (
        f"## Results on {n:,} test rows\n\n"
        "| metric | value |\n|---|---|\n"
        f"| accuracy | {accuracy:.4f} (standard error {error:.4f}) |\n" + "".join(lines) + "| accuracy on the "
        f"validation split | {validation['validation_accuracy']:.4f} |\n\n"
        f"Measured once, on the ladder's top rung `{ladder['rungs'][0]['variant']}`.{picture}"
    )


def _ladder(ladder: dict[str, Any]) -> str:
    """Rungs from the most accurate to the cheapest, then what was left out and why."""
    largest = ladder["rungs"][0]["seconds"]
    size = max(map(int, largest))
    lines = [
        f"| {rung['variant']} | {rung['accuracy']:.4f} | {rung['agreement']:.4f} | {1000 * rung['seconds']['1']:.3f} "
        f"| {1000 * rung['seconds'][str(size)]:.3f} | {rung['bytes'] / 1024:,.0f} | {rung['memory_bytes'] / 1024:,.0f} "
        f"| {1000 * rung['load_s']:.0f} |"
        for rung in ladder["rungs"]
    ]
    left_out = [f"- `{each['variant']}` {each['reason']}." for each in ladder["left_out"]]
    return (
        "## Ladder\n\nFrom the most accurate to the cheapest. Accuracy and agreement with "
        f"`{ladder['reference']}` are on the {ladder['rows']:,} validation rows; milliseconds are of one pass on one "
        "thread of the machine that made the bundle. ![Accuracy against time](ladder.png)\n\n"
        f"| variant | accuracy | agreement | ms, 1 row | ms, {size} rows | KiB | KiB in memory | ms to load |\n"
        "|---|---|---|---|---|---|---|---|\n"
        + "\n".join(lines)
        + ("\n\nLeft out:\n\n" + "\n".join(left_out) if left_out else "")
    )


def _classes(metrics: dict[str, Any]) -> str:
    ranked = sorted(metrics["classes"].items(), key=lambda item: item[1]["f1"])
    shown = dict(ranked[:SHOWN_CLASSES]) if len(ranked) > SHOWN_CLASSES else metrics["classes"]
    title = "## By class" if shown is metrics["classes"] else f"## The {SHOWN_CLASSES} weakest classes"
    lines = [
        f"| {_escaped(label)} | {c['precision']:.4f} | {c['recall']:.4f} | {c['f1']:.4f} | {c['rows']:,} |"
        for label, c in shown.items()
    ]
    return f"{title}\n\n| class | precision | recall | F1 | rows |\n|---|---|---|---|---|\n" + "\n".join(lines)


def _limits(task: Task, dataset: Dataset, metrics: dict[str, Any]) -> str:
    weakest, figures = min(metrics["classes"].items(), key=lambda item: item[1]["f1"])
    knows = f"It knows {len(dataset.encoding.labels)} labels and "
    if task.outside is None:
        knows += "gives one of them to every input, also to one that is none of them."
    else:
        knows += "says of an input that is like none of them that it is outside, which it does not always see."
    scaled = (
        " Inputs of another size are scaled, which blurs or distorts them." if task.experiment.task == "images" else ""
    )
    return (
        f"## Limits\n\n{knows} The figures hold for inputs like the test rows; its weakest class there is "
        f"{_escaped(weakest)} (F1 {figures['f1']:.4f}). Small classes have uncertain figures.{scaled}"
    )


def _escaped(label: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in _plain(label))


def _plain(label: str, limit: int = 40) -> str:
    text = " ".join(label.split())  # a line break would end a table's row
    return text if len(text) <= limit else text[: limit - 3] + "..."
