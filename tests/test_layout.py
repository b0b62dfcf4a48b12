"""The project checks itself: who imports whom, what the bare names mean, what a file may not hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["cluster", "tasks", "ladder", "jobs", "tune", "serve", "trimtab"]
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_imports_point_one_way() -> None:
    checked = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_bare_names_serve_and_tune_mean_rays(path: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)]

    assert not [alias.name for node in imports for alias in node.names if alias.name in ("serve", "tune")]


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_packages_do_no_work_when_imported(path: Path) -> None:
    assert path.read_text() == ""


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name != "__init__.py"], ids=lambda p: p.stem)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_ray_is_started_in_one_place_and_its_private_parts_in_none() -> None:
    inits = [path.name for path in SOURCES if "ray.init(" in path.read_text()]
    private = [path.name for path in SOURCES if "ray._private" in path.read_text() or "._internal" in path.read_text()]

    assert inits == ["session.py"]
    assert private == []


def test_the_tests_mirror_the_code() -> None:
    modules = [*SOURCES, *(ROOT / "benchmarks").glob("*.py")]
    known = {path.relative_to(ROOT).with_suffix("") for path in modules}
    strays = [
        str(test.relative_to(ROOT))
        for test in (ROOT / "tests").glob("*/**/test_*.py")
        if test.parent.name != "k8s"  # the manifests' own tests: they mirror no code
        and test.relative_to(ROOT / "tests").with_name(test.stem.removeprefix("test_")) not in known
    ]

    assert strays == []
