"""A folder with a task of one's own, numbers in lines of text that are told apart by their sum; and a real server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from cluster import experiment as experiments
from cluster.config import Experiment
from ladder.bundle import Bundle
from serve.auth import Tokens
from serve.core import Core
from serve.web import Web

SUMS = """
import numpy as np
from sums_helper import WIDTH
from tasks.task import Rejected, Task, TensorSpec


class Sums(Task):
    def row_shape(self, values):
        return (WIDTH,)

    def clean(self, value, shape):
        try:
            row = np.array([float(word) for word in value.split()], np.float32)
        except ValueError as error:
            raise Rejected("not_numbers", str(error)) from error
        if row.shape != shape:
            raise Rejected("wrong_length")
        return row

    def partial_statistics(self, rows):
        return {"high": float(np.abs(rows).max())}

    def statistics(self, partials):
        return {"high": max(part["high"] for part in partials)}

    def network(self, encoding):
        import torch

        return torch.nn.Linear(WIDTH, len(encoding.labels))

    def loss(self, logits, targets):
        import torch

        return torch.nn.functional.cross_entropy(logits, targets)

    def input_spec(self, encoding):
        return TensorSpec("numbers", "FP32", (-1, WIDTH))

    def media_types(self):
        return ("text/plain",)

    def decode(self, body, content_type, encoding):
        return self.clean(body, encoding.shape)

    def sample(self, row, encoding):
        return "sample.txt", " ".join(repr(number) for number in row.tolist()).encode()


class Raising(Sums):
    def __init__(self, experiment):
        super().__init__(experiment)

        def fail(*arguments):
            raise ZeroDivisionError("an accident")

        setattr(self, experiment.settings["raises"], fail)
"""


@pytest.fixture
def own_task(tmp_path: Path) -> Callable[..., Experiment]:
    """Write the folder; `more` is code at the end of its module. Returns an experiment that lies in it."""

    def write(name: str = "sums:Sums", more: str = "", **sections: object) -> Experiment:
        module = name.partition(":")[0].replace(".", "/")
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{module}.py").write_text(SUMS + more)
        (tmp_path / "sums_helper.py").write_text("WIDTH = 3\n")
        tree = {"name": "sums", "task": name, "data": {"source": {"kind": "digits"}}, **sections}
        return experiments.parse(tree).lying_in(str(tmp_path))

    return write


@pytest.fixture(scope="session")
def serving() -> Callable[..., contextlib.AbstractContextManager[int]]:
    """`with serving(bundle, name, tokens) as port`: a real server of one version, until the block ends."""

    @contextlib.contextmanager
    def running(bundle: Bundle, name: str, tokens: list[str]) -> Iterator[int]:
        core = Core(name, bundle.experiment.serve)
        core.use(core.load(bundle, 1, bundle.experiment.serve))
        app = Web(core, Tokens(tokens))
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True
        thread.join(30)
        with contextlib.suppress(Exception):
            core.close()

    return running
