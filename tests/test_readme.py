"""The README is executed: its commands as they stand, its experiment file, its words about verbs and routes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cluster import experiment as experiments
from cluster.session import Session
from serve import deploy

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    # This run is `scripts/test`, and its environment is active already.
    return [line for line in lines if line not in ("", "scripts/test", "source .venv/bin/activate")]


def test_the_first_screen_has_the_two_commands() -> None:
    first_screen = "\n".join(TEXT.splitlines()[:40])

    assert "scripts/quickstart" in first_screen
    assert "scripts/test" in first_screen


def test_the_experiment_shown_is_valid() -> None:
    assert experiments.parse(yaml.safe_load(blocks("yaml")[0])).name == "digits"


def test_the_mistake_shown_is_what_a_person_sees(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(blocks("yaml")[0])
    shown = next(block for block in blocks("text") if block.startswith("$ "))
    command, answer = shown.strip().removeprefix("$ ").split("\n", 1)

    done = _bash(command, tmp_path, {})

    assert done.stderr.strip() == answer


def test_every_command_runs_as_it_stands(tmp_path: Path, cluster: Session, home: Path) -> None:
    for label, colour in (("cat", 60), ("dog", 190)):
        (tmp_path / "my-images" / label).mkdir(parents=True)
        for number in range(1, 41):
            image = Image.effect_noise((24, 20), 50).point(lambda value, base=colour: (value + base) // 2)
            image.convert("RGB").save(tmp_path / "my-images" / label / f"{number:03}.jpg")
    env = {"TRIMTAB_HOME": str(home), "TRIMTAB_CLUSTER": cluster.name, "TRIMTAB_STORE": cluster.store}

    for command in commands():
        done = _bash(command, ROOT if command.startswith("scripts/") else tmp_path, env)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command == "scripts/quickstart":
            assert "install" not in done.stderr  # it is installed: this is the second time
    for name in ("digits", "my-images"):  # side by side, each on a route of its own
        deploy.undeploy(cluster, name)


def test_every_verb_named_is_one() -> None:
    shown = subprocess.run([sys.executable, "-m", "trimtab", "--help"], capture_output=True, text=True, check=True)
    named = set(re.findall(r"trimtab ([a-z]+)", TEXT))

    assert {verb for verb in named if verb not in shown.stdout} == set()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", TEXT))
def test_every_link_leads_somewhere(link: str) -> None:
    path, _, heading = link.partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE) if heading else []

    assert (ROOT / path).exists()
    assert not heading or heading in [each.lower().replace(" ", "-") for each in headings]


def _bash(command: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TRIMTAB_", "RAY_"))}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**clean, "PATH": path, **env},
        capture_output=True,
        text=True,
        timeout=900,
    )
