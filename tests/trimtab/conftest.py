"""An HTTP endpoint that answers as a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Reply = tuple[int, dict[str, str], Any]


def says(instances: list[Any]) -> Reply:
    """`bad` where a text has the word, `good` elsewhere."""
    labels = ["bad" if "bad" in str(one) else "good" for one in instances]
    pairs = [{"label": label, "probabilities": {label: 0.9}} for label in labels]
    return 200, {}, {"predictions": pairs}


@dataclass
class Endpoint:
    """`replies` are used up one after another, then `answer` is asked; `asked` has the instances of each request."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    answer: Callable[[list[Any]], Reply] = says
    asked: list[list[Any]] = field(default_factory=list)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet: two would wait for an acknowledgement

        def do_POST(self) -> None:
            instances = json.loads(self.rfile.read(int(self.headers["content-length"])))["instances"]
            made.asked.append(instances)
            status, headers, body = made.replies.pop(0) if made.replies else made.answer(instances)
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}/v2/models/news"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()
