"""A bundle's ladder for the page: what each rung reaches, and how many times as fast as the trained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ladder.bundle import Bundle
from ladder.variants import REFERENCE

SIZES = ("1", "8", "32")  # rows of a forward pass


def seconds(bundle: Bundle, variant: str) -> dict[str, float]:
    """Seconds of a forward pass by its rows, also of a form that did not become a rung but was timed."""
    ladder = bundle.ladder or {}
    every = [*ladder["rungs"], *(out for out in ladder["left_out"] if "seconds" in out)]
    found: dict[str, float] = next(rung["seconds"] for rung in every if rung["variant"] == variant)
    return found


def faster(bundle: Bundle, variant: str, size: str) -> float:
    """How many times as fast as the trained network it is with `size` rows; NaN where a batch is never that large.

    That is its plain form in fp32. What the ladder is measured against may be a dearer one, which averages views.
    """
    ours, theirs = seconds(bundle, variant), seconds(bundle, REFERENCE)
    return theirs[size] / ours[size] if size in ours and size in theirs else float("nan")


def table(title: str, bundle: Bundle, reached: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """`reached` has figures by their names for each variant, the same names for all."""
    names: Sequence[str] = list(reached[bundle.variants[0]])
    sizes = [size for size in SIZES if size in seconds(bundle, REFERENCE)]
    return {
        "title": title,
        "columns": ["variant", *names, *(f"times as fast, b = {size}" for size in sizes)],
        "rows": [
            [
                variant,
                *(f"{reached[variant][name]:.4f}" for name in names),
                *(f"{faster(bundle, variant, size):.1f}" for size in sizes),
            ]
            for variant in bundle.variants
        ],
    }
