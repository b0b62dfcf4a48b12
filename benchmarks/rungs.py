"""A bundle's ladder for the page: what each rung reaches, and how many times as fast as the trained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ladder.bundle import Bundle

SIZES = ("1", "8", "32")  # rows of a forward pass


def seconds(bundle: Bundle, variant: str) -> dict[str, float]:
    """Seconds of a forward pass by its rows, also of a form that did not become a rung but was timed."""
    ladder = bundle.ladder or {}
    every = [*ladder["rungs"], *(out for out in ladder["left_out"] if "seconds" in out)]
    found: dict[str, float] = next(rung["seconds"] for rung in every if rung["variant"] == variant)
    return found


def _reference(bundle: Bundle) -> str:
    """The trained network itself, in fp32."""
    name: str = (bundle.ladder or {})["reference"]
    return name


def faster(bundle: Bundle, variant: str, size: str) -> float:
    """How many times as fast as the reference it is with `size` rows; NaN where a batch is never that large."""
    ours, theirs = seconds(bundle, variant), seconds(bundle, _reference(bundle))
    return theirs[size] / ours[size] if size in ours and size in theirs else float("nan")


def table(title: str, bundle: Bundle, reached: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """`reached` has figures by their names for each variant, the same names for all."""
    names: Sequence[str] = list(reached[bundle.variants[0]])
    sizes = [size for size in SIZES if size in seconds(bundle, _reference(bundle))]
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
