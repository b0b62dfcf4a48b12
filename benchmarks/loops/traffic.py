"""A small world around an endpoint: requests at a steady rate, and labels that come back some seconds after answers.

What the rows look like and what they mean may be changed while it runs (`show`). Open loop, to loopback only, from one
thread with an event loop; what was seen of every request is kept. Knows nothing of versions but their numbers.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
import numpy as np

from benchmarks import payloads
from benchmarks.endpoint import Endpoint

Rows = tuple[np.ndarray, np.ndarray]  # uint8 [n, *shape] and int64 [n]
GIVE_UP_S = 5.0
REFUSED = (429, 504)  # the endpoint says that it could not answer in time


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: when it was due (unix seconds), how long it took from then, and what came."""

    at: float
    seconds: float
    status: int  # 0 where nothing came
    version: int  # 0 where nobody said
    right: bool


class Traffic:
    """`labelled` is the share of the answers whose label comes back, `delay_s` how much later."""

    def __init__(
        self, served: Endpoint, rows: Rows, *, per_s: float, labelled: float = 0.0, delay_s: float = 2.0, seed: int = 0
    ) -> None:
        self.seen: list[Seen] = []
        self._served, self._rows, self._per_s = served, rows, per_s
        self._labelled, self._delay_s = labelled, delay_s
        self._generator = np.random.default_rng(seed)
        self._words: list[tuple[float, dict[str, str]]] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def show(self, rows: Rows) -> None:
        """From the next request on the world is this."""
        self._rows = rows

    def since(self, start: float, end: float = float("inf")) -> list[Seen]:
        """Requests that were due in [start, end), unix seconds."""
        return [one for one in list(self.seen) if start <= one.at < end]

    async def _run(self) -> None:
        url = f"http://127.0.0.1:{self._served.cluster.http_port}"
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        headers = self._served.headers
        async with httpx.AsyncClient(
            base_url=url, headers=headers, limits=limits, timeout=GIVE_UP_S, trust_env=False
        ) as client:
            asked: set[asyncio.Task[None]] = set()
            labels = asyncio.create_task(self._say(client))
            due = time.time()
            while not self._ended.is_set():
                task = asyncio.create_task(self._ask(client, due))
                asked.add(task)
                task.add_done_callback(asked.discard)
                due += self._generator.exponential(1.0 / self._per_s)
                await asyncio.sleep(max(0.0, due - time.time()))
            await asyncio.gather(*asked)
            labels.cancel()

    async def _ask(self, client: httpx.AsyncClient, due: float) -> None:
        images, truths = self._rows
        chosen = int(self._generator.integers(len(images)))
        body, head_length = payloads.binary_body(images[chosen : chosen + 1])
        name, status, version, right = uuid.uuid4().hex, 0, 0, False
        headers = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(head_length),
            "x-request-id": name,
        }
        try:
            answer = await client.post(f"{self._served.path}/infer", content=body, headers=headers)
            status = answer.status_code
            if status == 200:
                length = int(answer.headers["inference-header-content-length"])
                said = json.loads(answer.content[:length])
                version, first = int(said["parameters"]["version"]), said["outputs"][0]
                outputs = np.frombuffer(
                    answer.content[length : length + first["parameters"]["binary_data_size"]], np.float32
                )
                right = int(outputs.argmax()) == int(truths[chosen])
        except httpx.HTTPError:
            pass
        self.seen.append(Seen(due, time.time() - due, status, version, right))
        if status == 200 and self._generator.random() < self._labelled:
            word = {"request_id": name, "label": self._served.bundle.encoding.labels[int(truths[chosen])]}
            self._words.append((time.time() + self._delay_s, word))

    async def _say(self, client: httpx.AsyncClient) -> None:
        """Labels whose time has come, once a second."""
        while True:
            await asyncio.sleep(1.0)
            now = time.time()
            due = [word for at, word in self._words if at <= now]
            self._words = [entry for entry in self._words if entry[0] > now]
            for start in range(0, len(due), 1000):
                body = {"feedback": due[start : start + 1000]}
                try:
                    await client.post(f"{self._served.path}/feedback", json=body)
                except httpx.HTTPError:
                    self._words += [(now, word) for word in due]


def accuracy(seen: list[Seen]) -> float:
    """The share of all requests with a right answer: effective accuracy."""
    return sum(one.right for one in seen) / max(1, len(seen))


def failed(seen: list[Seen]) -> int:
    """Requests that got neither an answer nor the word that there is no time for one."""
    return sum(one.status not in (200, *REFUSED) for one in seen)


def refused(seen: list[Seen]) -> float:
    """The share of them for which there was no time."""
    return sum(one.status in REFUSED for one in seen) / max(1, len(seen))


def wait(condition: Callable[[], object], timeout_s: float, every_s: float = 0.5) -> float | None:
    """The time (unix) when it held; None when it did not in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return time.time()
        time.sleep(every_s)
    return None
