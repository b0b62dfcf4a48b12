"""A model small enough to make in a second and easy to check: it says whether an image is dark or light.

And what tests on a real cluster do with an endpoint of it: ask it again and again, look at its replicas, wait.
"""

from __future__ import annotations

import dataclasses
import io
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import pytest
from PIL import Image

from cluster import experiment as experiments
from cluster.config import Experiment, Serve
from cluster.session import Session, rest
from cluster.store import Store
from ladder.bundle import Bundle, write_bundle
from ladder.variants import export_onnx
from serve import batcher
from serve.core import Core
from serve.deploy import Endpoint
from serve.ladder import Ladder
from tasks.images import Images
from tasks.task import Encoding

SHAPE = (4, 6, 1)


def make_experiment(name: str = "shades", **serve: object) -> Experiment:
    return experiments.parse({"name": name, "data": {"source": {"kind": "digits"}}, "serve": serve})


def encoding(version: int) -> Encoding:
    """Labels name the version, so an answer shows which model it came from."""
    return Encoding((f"dark-{version}", f"light-{version}"), SHAPE, "uint8", {"mean": [127.0], "std": [50.0]})


def until(what: Callable[[], Any], timeout_s: float = 180.0) -> Any:
    """The first thing that is not nothing."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
    return found


def replicas(cluster: Session, name: str) -> list[int]:
    """The processes of an endpoint's replicas that run."""
    application = rest(cluster, "GET", "/api/serve/applications/")["applications"][name]
    found = application["deployments"]["Replica"]["replicas"]
    return sorted(replica["pid"] for replica in found if replica["state"] == "RUNNING")


class Clients:
    """Ask the same again and again, each after `pause_s`, and say in feedback that `label` was right, if it is given.

    Whatever is no answer is kept in `failures`; `by_version` counts the others.
    """

    def __init__(
        self, cluster: Session, endpoint: Endpoint, body: object, num: int, *, label: str = "", pause_s: float = 0.0
    ) -> None:
        self._headers, self._url = {"authorization": f"Bearer {cluster.api_token}"}, endpoint.url
        self._body, self._label, self._pause_s = body, label, pause_s
        self._stop = threading.Event()
        self.by_version, self.failures = Counter[int](), list[str]()
        self._threads = [threading.Thread(target=self._ask) for _ in range(num)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, num: int = 20) -> None:
        """Wait for so many answers more."""
        wanted = self.by_version.total() + num
        until(lambda: self.by_version.total() >= wanted)

    def _ask(self) -> None:
        said: list[dict[str, str]] = []
        with httpx.Client(headers=self._headers, timeout=30.0, trust_env=False) as client:
            while not self._stop.wait(self._pause_s):
                if (answer := self._post(client, "predict", self._body, 200)) is None:
                    continue
                found = answer["parameters"]
                self.by_version[found["version"]] += 1
                said.append({"request_id": found["request_id"], "label": self._label})
                if self._label and len(said) >= 20:
                    self._post(client, "feedback", {"feedback": said}, 202)
                    said = []

    def _post(self, client: httpx.Client, path: str, body: object, status: int) -> dict[str, Any] | None:
        try:
            answer = client.post(f"{self._url}/{path}", json=body)
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
            return None
        if answer.status_code != status:
            self.failures.append(answer.text)
            return None
        return dict(answer.json())


@pytest.fixture(scope="session")
def onnx() -> bytes:
    import torch

    class Shades(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            level = (rows.float().mean(dim=(1, 2, 3)) - 127.5) / 50
            return torch.stack([-level, level], dim=1)

    return export_onnx(Shades(), encoding(1), Images(make_experiment()))


@pytest.fixture(scope="session")
def slow_onnx() -> bytes:
    """The same answers, in some milliseconds a row."""
    import torch

    class Slow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.square = torch.nn.Parameter(torch.full((512, 512), 1e-3))

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            level = (rows.float().mean(dim=(1, 2, 3)) - 127.5) / 50
            busy = level[:, None].expand(-1, 512)
            for _ in range(100):
                busy = torch.tanh(busy @ self.square)
            return torch.stack([-level, level + 1e-12 * busy[:, 0]], dim=1)

    return export_onnx(Slow(), encoding(1), Images(make_experiment()))


@pytest.fixture(scope="session")
def two_rungs(onnx: bytes, slow_onnx: bytes) -> dict[str, tuple[float, bytes]]:
    return {"onnx-fp32": (0.95, slow_onnx), "student-fp32": (0.9, onnx)}


@pytest.fixture(scope="session")
def make_bundle(onnx: bytes) -> Callable[..., Bundle]:
    def make(
        store: Store,
        version: int = 1,
        data: bytes = onnx,
        name: str = "shades",
        rungs: Mapping[str, tuple[float, bytes]] | None = None,
        rungs_allowed: list[str] | None = None,
        **serve: object,
    ) -> Bundle:
        """`rungs` maps a variant to its accuracy and graph; without it there is one, and no table."""
        files = {"onnx-fp32": ("model.onnx", data)}
        files |= {variant: (f"{variant}.onnx", graph) for variant, (_, graph) in (rungs or {}).items()}
        table = [{"variant": variant, "accuracy": accuracy} for variant, (accuracy, _) in (rungs or {}).items()]
        return write_bundle(
            store,
            uuid.uuid4().hex[:16],
            experiment=make_experiment(name, **serve, **({"rungs": rungs_allowed} if rungs_allowed else {})),
            encoding=encoding(version),
            dataset="d" * 16,
            run="r" * 16,
            metrics={"accuracy": 1.0},
            files=files,
            variants=tuple(rungs) if rungs else ("torch-fp32", "onnx-fp32"),
            ladder={"rungs": table} if rungs else None,
        )

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(Store.open(str(tmp_path_factory.mktemp("shades"))))


@pytest.fixture(autouse=True)
def on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward passes of these tests wait for one another: never on the loop, whatever their ladder says."""
    monkeypatch.setattr(batcher, "INLINE_S", 0.0)


@pytest.fixture
def core(bundle: Bundle) -> Core:
    """Serves version 3 of `shades`; its batcher's thread ends with the process."""
    made = Core("shades", Serve())
    made.use(made.load(bundle, 3, Serve()))
    return made


@pytest.fixture
def compute_with(core: Core) -> Callable[[Callable[[np.ndarray], np.ndarray]], None]:
    """Puts another forward pass behind the only rung of `core`."""

    def replaced(forward: Callable[[np.ndarray], np.ndarray]) -> None:
        model = core.model("shades")
        core.use(dataclasses.replace(model, ladder=Ladder(model.ladder.rungs, {"onnx-fp32": forward})))

    return replaced


@pytest.fixture(scope="session")
def paint() -> Callable[..., bytes]:
    """Makes an image file of one grey level, 4 x 6 unless told otherwise."""

    def made(level: int, kind: str = "PNG", size: tuple[int, int] = (6, 4)) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.full(size[::-1], level, np.uint8)).save(file, kind)
        return file.getvalue()

    return made


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("secret\n")
    return path
