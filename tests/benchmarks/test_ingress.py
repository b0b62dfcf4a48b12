"""Which rungs are free to be chosen, and what that costs in accuracy."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import ingress


def rung(variant: str, accuracy: float) -> dict[str, Any]:
    return {"variant": variant, "accuracy": accuracy, "latency": {"per_row_s": 0.001}}


def test_only_rungs_of_nearly_the_same_accuracy_are_free() -> None:
    rungs = [rung("onnx-fp32", 0.99), rung("onnx-int8", 0.9895), rung("student-int8", 0.97)]

    settings = ingress.serve_sections(rungs)

    assert settings["trimtab"] == {"rungs": ["onnx-fp32"]}
    assert settings["trimtab-free"] == {"rungs": ["onnx-fp32", "onnx-int8"], "objective": {"latency_ms": 32.0}}


def test_a_ladder_of_one_rung_has_nothing_to_free() -> None:
    assert list(ingress.serve_sections([rung("onnx-fp32", 0.99)])) == ["trimtab"]
    assert "none to free" in ingress.accuracy_loss([], {"onnx-fp32": 0.99})[1]


def test_the_loss_is_that_of_the_rungs_that_answered() -> None:
    measured = [
        {"server": "trimtab-free", "connections": 1, "variants": {"onnx-fp32": 50}},
        {"server": "trimtab-free", "connections": 64, "variants": {"onnx-fp32": 1, "onnx-int8": 3}},
    ]

    loss, words = ingress.accuracy_loss(measured, {"onnx-fp32": 0.99, "onnx-int8": 0.986})

    assert loss == pytest.approx(0.003)
    assert words.startswith("With the ladder free, onnx-fp32 25%, onnx-int8 75% answered, 0.30 points")
