"""A task of one's own that is nowhere on Python's path, from its folder to answers of a replica."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import pytest

from cluster.session import Session
from cluster.store import Store
from ladder.bundle import read_bundle
from serve import deploy

Run = Callable[..., "CompletedProcess[str]"]
EXAMPLE = Path(__file__).resolve().parent.parent / "experiments" / "own_task"
PATIENT = {"age": 59, "sex": 2, "bmi": 32.1, "bp": 101, "s1": 157, "s2": 93.2, "s3": 38, "s4": 4, "s5": 4.86, "s6": 87}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example, copied to where nobody looks for it, with its table."""
    from sklearn.datasets import load_diabetes

    shutil.copytree(EXAMPLE, tmp_path / "mine", ignore=shutil.ignore_patterns("*.csv", "__pycache__"))
    data = load_diabetes(scaled=False)
    rows = [[*data.feature_names, "progression"], *([*x, y] for x, y in zip(data.data, data.target, strict=True))]
    (tmp_path / "mine" / "diabetes.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    return tmp_path / "mine"


@pytest.fixture
def clean_endpoint(cluster: Session) -> Iterator[None]:
    yield
    deploy.undeploy(cluster, "diabetes")


@pytest.mark.usefixtures("clean_endpoint")
def test_a_task_of_values_gets_every_step_and_an_endpoint(
    trimtab: Run, cluster: Session, home: Path, folder: Path
) -> None:
    env = {"TRIMTAB_HOME": str(home), "TRIMTAB_CLUSTER": cluster.name, "TRIMTAB_STORE": cluster.store}
    settings = {"data.source.path": folder / "diabetes.csv", "train.workers": 2, "train.epochs": 30}
    overrides = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]

    done = trimtab("run", str(folder / "diabetes.yaml"), *overrides, "--json", env=env, timeout_s=900)

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["rejected"] == {"total": 0}
    assert figures["test accuracy"] > 0.5  # within 60 of the truth
    store = Store.open(cluster.store)
    (bundle,) = [made for key in store.keys("bundles") if (made := read_bundle(store, key)).name == "diabetes"]
    assert bundle.metrics["r2"] > 0.2
    assert "confusion" not in bundle.files
    assert "mean absolute error" in bundle.read("card").decode()
    assert {"onnx-fp32", "student-fp32"} <= _measured(bundle.ladder or {})
    assert sorted(bundle.code()) == ["diabetes.py", "diabetes_network.py"]

    with httpx.Client(headers={"authorization": f"Bearer {cluster.api_token}"}, trust_env=False) as client:
        one = client.post(f"{figures['endpoint']}/predict", json=PATIENT).json()
        rows = [list(PATIENT.values())] * 2
        several = client.post(f"{figures['endpoint']}/predict", json={"instances": rows}).json()
        named = client.post(f"{figures['endpoint']}/predict", json={"instances": [PATIENT, PATIENT]}).json()
        tensor = {"name": "patient", "datatype": "FP32", "shape": [2, 10], "data": rows}
        inferred = client.post(f"{figures['endpoint']}/infer", json={"inputs": [tensor]}).json()
        lacking = client.post(f"{figures['endpoint']}/predict", json={"age": 59})
        described = client.get(f"{figures['endpoint']}").json()
        document = client.get(f"{figures['endpoint'].split('/v2/')[0]}/openapi.json").json()
    value = pytest.approx(one["value"], rel=1e-4)
    assert 25 < one["value"] < 346
    assert [answer["value"] for answer in several["predictions"] + named["predictions"]] == [value] * 4
    (output,) = inferred["outputs"]
    assert (output["name"], output["shape"], output["data"]) == ("value", [2, 1], [value] * 2)
    assert lacking.status_code == 422
    assert "missing_number: 'sex'" in lacking.json()["error"]
    assert [spec["name"] for spec in described["outputs"]] == ["value"]

    body = document["paths"]["/v2/models/diabetes/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert list(body["example"]) == list(PATIENT)

    (folder / "diabetes.py").write_text((folder / "diabetes.py").read_text() + "# another state\n")
    plan = trimtab("plan", str(folder / "diabetes.yaml"), *overrides, "--json", env=env)
    assert [step["would"] for step in json.loads(plan.stdout)] == ["run"] * 4


@pytest.mark.usefixtures("clean_endpoint")
def test_a_network_that_no_graph_holds_is_served_by_torch(
    trimtab: Run, cluster: Session, home: Path, folder: Path
) -> None:
    env = {"TRIMTAB_HOME": str(home), "TRIMTAB_CLUSTER": cluster.name, "TRIMTAB_STORE": cluster.store}
    network = folder / "diabetes_network.py"
    line = "    def forward(self, rows: torch.Tensor) -> torch.Tensor:\n"
    changed = network.read_text().replace(
        line, f"{line}        if rows.sum() > 1e9:\n            return self(rows * 0)\n"
    )
    network.write_text(changed)
    settings = {"data.source.path": folder / "diabetes.csv", "train.epochs": 5, "ladder.student": "false"}
    overrides = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]

    said = trimtab("validate", str(folder / "diabetes.yaml"), *overrides, env=env)
    done = trimtab("run", str(folder / "diabetes.yaml"), *overrides, "--json", env=env, timeout_s=900)

    assert "served by torch alone" in said.stderr
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    with httpx.Client(headers={"authorization": f"Bearer {cluster.api_token}"}, trust_env=False) as client:
        answer = client.post(f"{figures['endpoint']}/predict", json=PATIENT).json()
        described = client.get(f"{figures['endpoint']}").json()
    assert (described["platform"], described["parameters"]["variants"]) == ("pytorch", ["torch-fp32"])
    assert answer["variant"] == "torch-fp32"
    assert 25 < answer["value"] < 346
    bundle = read_bundle(Store.open(cluster.store), described["parameters"]["bundle"])
    (reason,) = [each["reason"] for each in (bundle.ladder or {})["left_out"]]
    assert "cannot be exported to ONNX (Could not guard on data-dependent expression" in reason


def _measured(ladder: dict[str, Any]) -> set[str]:
    return {each["variant"] for each in [*ladder["rungs"], *ladder["left_out"]]}
