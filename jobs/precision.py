"""Which numbers a network is trained in. Knows a device, not what is trained on it."""

from __future__ import annotations

from pathlib import Path

import torch


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype that forward passes are computed in where it pays; None for float32 throughout."""
    if precision == "fp16":
        return torch.float16
    return torch.bfloat16 if uses_bf16(precision, device) else None


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bf16: as asked, or by `auto` where the device does so natively (slow elsewhere)."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
