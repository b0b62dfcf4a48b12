from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jsonschema
import pydantic
import pytest
import yaml

from cluster.config import Experiment

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_schema_for_editors_accepts_every_experiment_of_ours(path: Path) -> None:
    schema = Experiment.model_json_schema()

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_the_schema_refuses_what_the_models_refuse() -> None:
    tree = {"name": "x", "data": {"source": {"kind": "digits"}}, "train": {"epoch": 3}}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, Experiment.model_json_schema())
    with pytest.raises(pydantic.ValidationError):
        Experiment.model_validate(tree)


def test_an_experiment_cannot_be_changed_once_made() -> None:
    made = Experiment.model_validate({"name": "x", "data": {"source": {"kind": "digits"}}})

    with pytest.raises(pydantic.ValidationError):
        made.name = "y"  # type: ignore[misc]


def test_reading_a_configuration_loads_nothing_heavy() -> None:
    code = (
        "import sys, cluster.config, cluster.experiment, trimtab.cli\n"
        "print(sorted({'ray', 'torch', 'mlflow', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    )

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"
