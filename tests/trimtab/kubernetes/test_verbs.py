from __future__ import annotations

from pathlib import Path

import pytest

from cluster import experiment as experiments
from cluster.errors import ConfigError
from trimtab.kubernetes import verbs

EXAMPLE = Path(__file__).parents[3] / "experiments" / "own_task" / "diabetes.yaml"


def test_a_task_that_lies_in_a_folder_of_this_machine_is_told_to_go_into_the_image() -> None:
    with pytest.raises(ConfigError, match="install it as a package in the image"):
        verbs.files(experiments.load(EXAMPLE), None, None)
