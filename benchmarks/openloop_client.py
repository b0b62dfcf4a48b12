"""The process that sends an open-loop load; started by `benchmarks.openloop`, ends by itself.

    python -m benchmarks.openloop_client FOLDER

Reads its plan, arrivals and images from the folder and leaves its records there. Sends everything when it is due: a
request takes an idle connection, or opens one. Knows two wires, no server.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import httptools
import numpy as np
import uvloop

from benchmarks.openloop import FAILED, Plan, Target, chosen


def main(folder: Path) -> None:
    told = json.loads((folder / "plan.json").read_text())
    plan = Plan(**{**told, "target": Target(**told["target"])})
    arrivals, images, labels = (np.load(folder / f"{part}.npy") for part in ("arrivals", "images", "labels"))
    gc.disable()  # a pause of ours would be a late request
    client = _Client(plan, arrivals, images)
    cpu, began = time.process_time(), time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(client.run())
    cpu_share = (time.process_time() - cpu) / (time.monotonic() - began)
    records, variants = _understood(client, labels)
    np.savez(folder / "records.npz", **records)
    facts = {"variants": variants, "started": client.started, "cpu_share": cpu_share}
    (folder / "facts.json").write_text(json.dumps(facts))


class _Client:
    """All on one event loop. Answers are kept as they came and read afterwards, to stay out of the way."""

    def __init__(self, plan: Plan, arrivals: np.ndarray, images: np.ndarray) -> None:
        self.plan, self.images = plan, images
        self.intended: list[float] = arrivals.tolist()
        self.rows = chosen(len(images), max(len(arrivals), 1 << 16 if plan.clients else 0), plan.rows, plan.seed)
        self.head = _head(plan, images)
        self.sent: list[float] = []
        self.done: dict[int, float] = {}
        self.answers: dict[int, tuple[int, int, bytes]] = {}  # status, length of the JSON, body
        self.idle: list[_Connection] = []
        self.waiting: deque[tuple[int, _Connection]] = deque()  # in the order they were sent
        self.num_open = 0
        self.started = 0.0

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        for _ in range(max(8, self.plan.clients)):
            with contextlib.suppress(OSError):  # it is the requests' answer that nobody is there
                self.idle.append((await self._connect())[1])
        self.finished = self.loop.create_future()
        self.started = time.monotonic()
        if self.plan.clients:
            for _ in range(self.plan.clients):
                self._again()
        else:
            self._pump()
        self._give_up()
        await self.finished

    def now(self) -> float:
        return time.monotonic() - self.started

    def _pump(self) -> None:
        """Send all that is due, and come back for the next."""
        now, position, total = self.now(), len(self.sent), len(self.intended)
        while position < total and self.intended[position] <= now:
            self._send(position, now)
            position, now = position + 1, self.now()
        if position < total:
            self.loop.call_later(max(0.0, self.intended[position] - now), self._pump)

    def _again(self) -> None:
        """The next request of a closed loop."""
        now = self.now()
        if now < self.plan.seconds and len(self.sent) < len(self.rows):
            self.intended.append(now)
            self._send(len(self.sent), now)

    def _send(self, number: int, now: float) -> None:
        self.sent.append(now)
        self.num_open += 1
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                connection.send(number)
                return
        self.loop.create_task(self._send_anew(number))

    async def _send_anew(self, number: int) -> None:
        try:
            _, connection = await self._connect()
        except OSError:
            self.end(number, None)
            return
        connection.send(number)

    async def _connect(self) -> tuple[Any, _Connection]:
        target = self.plan.target
        return await self.loop.create_connection(lambda: _Connection(self), target.host, target.port)

    def body(self, number: int) -> bytes:
        return self.images[self.rows[number]].tobytes()

    def end(self, number: int, answer: tuple[int, int, bytes] | None) -> None:
        """The last word on one request."""
        self.num_open -= 1
        if answer is not None:
            self.done[number], self.answers[number] = self.now(), answer
        if self.plan.clients:
            self.loop.call_soon(self._again)
        self._check_finished()

    def _check_finished(self) -> None:
        over = self.now() >= self.plan.seconds if self.plan.clients else len(self.sent) == len(self.intended)
        if over and self.num_open == 0 and not self.finished.done():
            self.finished.set_result(None)

    def _give_up(self) -> None:
        bound = self.now() - self.plan.give_up_s
        while self.waiting and (
            self.waiting[0][1].number != self.waiting[0][0] or self.sent[self.waiting[0][0]] < bound
        ):
            number, connection = self.waiting.popleft()
            if connection.number == number:
                connection.drop()
        self._check_finished()
        self.loop.call_later(0.05, self._give_up)


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self, client: _Client) -> None:
        self.client = client
        self.number = -1  # of the request in progress
        self.used = False
        self.heard = False
        self._reset()

    def _reset(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.parts: list[bytes] = []
        self.json_length = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def send(self, number: int) -> None:
        self.number, self.heard = number, False
        self.transport.writelines([self.client.head, self.client.body(number)])
        self.client.waiting.append((number, self))

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.drop()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"inference-header-content-length":
            self.json_length = int(value)

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        number, self.number = self.number, -1
        keeps = self.parser.should_keep_alive()
        answer = self.parser.get_status_code(), self.json_length, b"".join(self.parts)
        self._reset()
        self.used = True
        if keeps:
            self.client.idle.append(self)
        else:
            self.transport.close()
        if number >= 0:
            self.client.end(number, answer)

    def drop(self) -> None:
        """Nobody waits for the answer any more."""
        number, self.number = self.number, -1
        self.transport.abort()
        if number >= 0:
            self.client.end(number, None)

    def connection_lost(self, _: Exception | None) -> None:
        number, self.number = self.number, -1
        if self in self.client.idle:
            self.client.idle.remove(self)
        if number < 0:
            return
        if self.used and not self.heard:  # the server had closed it as idle when the request was on its way
            self.client.loop.create_task(self.client._send_anew(number))
        else:
            self.client.end(number, None)


def _head(plan: Plan, images: np.ndarray) -> bytes:
    """What comes before the rows: the same for each request."""
    target = plan.target
    shape = [plan.rows, *images.shape[1:]]
    size = plan.rows * images[0].nbytes
    tree, headers = b"", {"content-type": "application/octet-stream", **target.headers}
    if target.wire == "oip":
        tensor = {"name": target.input_name, "shape": shape, "datatype": "UINT8"}
        tensor["parameters"] = {"binary_data_size": size}
        wanted = {"name": "probabilities", "parameters": {"binary_data": True}}
        tree = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
        headers["inference-header-content-length"] = str(len(tree))
    lines = [
        f"POST {target.path} HTTP/1.1",
        f"host: {target.host}:{target.port}",
        f"content-length: {size + len(tree)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + tree


def _understood(client: _Client, labels: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
    """The records' arrays, and the variants' names."""
    n, rows = len(client.sent), client.plan.rows
    done, status = np.full(n, np.nan), np.full(n, FAILED, np.int64)
    variant, predicted = np.full(n, -1, np.int64), np.full((n, rows), -1, np.int64)
    names: dict[str, int] = {}
    for number, (code, json_length, body) in client.answers.items():
        done[number], status[number] = client.done[number], code
        if code != 200:
            continue
        name, data = "", body
        if client.plan.target.wire == "oip":
            name, data = json.loads(body[:json_length])["parameters"]["variant"], body[json_length:]
            variant[number] = names.setdefault(name, len(names))
        predicted[number] = np.frombuffer(data, "<f4").reshape(rows, -1).argmax(axis=1)
    correct = (predicted == labels[client.rows[:n]]).sum(axis=1)
    times = {"intended": np.array(client.intended[:n]), "sent": np.array(client.sent), "done": done}
    return times | {"status": status, "variant": variant, "predicted": predicted, "correct": correct}, list(names)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
