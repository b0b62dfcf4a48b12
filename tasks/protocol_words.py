"""What is wrong with a task of one's own, in the words of the checker: the method, what it gave, what is expected."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from cluster.errors import ConfigError


class Say:
    """Refuses in the name of the task."""

    def __init__(self, name: str) -> None:
        self._name = name

    def wrong(self, method: str, gave: str, expected: str) -> ConfigError:
        return ConfigError("task", self._name, f"its {method}() {gave}", f"let it {expected}")

    def array(self, method: str, found: Any, shape: tuple[int, ...], kinds: str, expected: str) -> None:
        if not isinstance(found, np.ndarray):
            raise self.wrong(method, f"gave a {type(found).__name__}", expected)
        if found.shape != shape or found.dtype.kind not in kinds:
            raise self.wrong(method, f"gave {found.dtype} {list(found.shape)}", expected)
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise self.wrong(method, "gave NaN or infinity", expected)

    def json(self, method: str, found: Any) -> None:
        try:
            same = json.loads(json.dumps(found)) == found
        except (TypeError, ValueError) as error:
            raise self.wrong(
                method, f"gave what JSON cannot say ({error})", "give numbers, texts, lists and dicts"
            ) from None
        if not same:
            raise self.wrong(method, "gave what JSON says otherwise", "use lists for tuples, and texts as keys")
