"""The file of a pretrained network's weights: read whole, told by its content. Loads no torch."""

from __future__ import annotations

import hashlib
import posixpath
from pathlib import Path

from pyarrow import fs

from cluster.config import Model
from cluster.errors import ConfigError, first_line

FIELD = "model.weights"


def read(path: str) -> bytes:
    """The file at a path or a pyarrow.fs URI, which every node must be able to read. Raises ConfigError."""
    try:
        if "://" not in path:
            return Path(path).expanduser().read_bytes()
        system, inner = fs.FileSystem.from_uri(path)
        with system.open_input_stream(posixpath.normpath(inner)) as stream:
            data: bytes = stream.read()
        return data
    except Exception as error:  # pyarrow raises ValueError, ArrowInvalid and OSError here
        problem = f"cannot be read ({getattr(error, 'strerror', None) or first_line(error)})"
        mend = "name a .safetensors or torchvision .pth file that every node can read"
        raise ConfigError(FIELD, path, problem, mend) from error


def fingerprint(model: Model) -> str:
    """Differs when the content does; empty where no weights are named. Raises ConfigError."""
    return hashlib.sha256(read(model.weights)).hexdigest()[:16] if model.weights else ""
