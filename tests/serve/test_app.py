"""That the application runs is tested in test_deploy; here, what its import path builds and refuses."""

from __future__ import annotations

import importlib

import pytest
from pydantic import ValidationError

from serve import deploy

# Ray Serve's own modules warn when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field` is deprecated")


def test_the_import_path_builds_an_application() -> None:
    module, _, function = deploy.IMPORT_PATH.partition(":")
    build = getattr(importlib.import_module(module), function)

    built = build({"name": "digits", "store": "store", "code": "0"})

    assert type(built).__name__ == "Application"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"name": "digits"}, id="one is missing"),
        pytest.param({"name": "digits", "store": "store", "bundle": "b"}, id="one too many"),
        pytest.param({"name": 1, "store": "store"}, id="wrong type"),
    ],
)
def test_other_arguments_are_refused(arguments: dict[str, object]) -> None:
    from serve.app import build

    with pytest.raises(ValidationError):
        build(arguments)
