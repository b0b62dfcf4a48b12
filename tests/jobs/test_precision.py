from __future__ import annotations

import pytest
import torch

from jobs.precision import autocast_dtype, uses_bf16


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        pytest.param("fp32", None, id="float32 is no autocast"),
        pytest.param("bf16", torch.bfloat16, id="bfloat16 where asked for"),
        pytest.param("fp16", torch.float16, id="float16 where asked for"),
    ],
)
def test_a_precision_that_is_named_is_taken(precision: str, expected: torch.dtype | None) -> None:
    assert autocast_dtype(precision, torch.device("cpu")) is expected


def test_auto_takes_bfloat16_where_the_device_is_fast_at_it() -> None:
    device = torch.device("cpu")

    assert autocast_dtype("auto", device) is (torch.bfloat16 if uses_bf16("auto", device) else None)
