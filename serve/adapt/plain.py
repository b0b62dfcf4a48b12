"""Frozen dataclasses as plain JSON and back: what every value that is kept in the journal can do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter


class Plain:
    """To be inherited from. With `SHORT`, fields that have their default are left out."""

    __slots__ = ()
    SHORT: ClassVar[bool] = False

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json", exclude_defaults=self.SHORT)
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises ValueError when a field is missing or no such value."""
        found: Self = _adapter(cls).validate_python(dict(data))
        return found


_ADAPTERS: dict[type[Plain], TypeAdapter[Any]] = {}


def _adapter(kind: type[Plain]) -> TypeAdapter[Any]:
    found = _ADAPTERS.get(kind)
    if found is None:
        found = _ADAPTERS[kind] = TypeAdapter(kind)
    return found
