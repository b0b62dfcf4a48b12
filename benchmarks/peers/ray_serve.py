"""A Ray cluster with one Serve application in it, which lives as long as this process.

What makes Serve fast is in the environment, which Ray reads when it is imported: `benchmarks.servers` sets it.
"""

from __future__ import annotations

import json
import signal
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import ray
from ray import serve


def run(application: serve.Application, port: int, folder: str) -> None:
    """Serve it at / until SIGTERM or SIGINT."""
    _until_told(port, folder, 0, lambda: serve.run(application, route_prefix="/"))


def run_by_rest(import_path: str, args: dict[str, Any], port: int, folder: str, dashboard_port: int) -> None:
    """The same by Serve's REST interface, so that others can change it there."""
    config = {"name": "default", "route_prefix": "/", "import_path": import_path, "args": args}
    url = f"http://127.0.0.1:{dashboard_port}/api/serve/applications/"
    body = json.dumps({"applications": [config]}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"}, method="PUT")
    _until_told(port, folder, dashboard_port, lambda: urllib.request.urlopen(request, timeout=60).close())


def _until_told(port: int, folder: str, dashboard_port: int, deploy: Callable[[], Any]) -> None:
    ended = threading.Event()
    # A cluster of its own, whatever else runs on this machine; a dashboard only where it is used, as it takes CPU.
    dashboard = {"include_dashboard": True, "dashboard_port": dashboard_port} if dashboard_port else {}
    settings = {"include_dashboard": False, "logging_level": "ERROR", **dashboard}
    ray.init("local", num_cpus=4, _temp_dir=f"{folder}/ray", **settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deploy()
    ended.wait()
    serve.shutdown()
    ray.shutdown()
