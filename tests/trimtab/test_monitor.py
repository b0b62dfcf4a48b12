"""From lines of a stream to alerts in the journal, on the screen and at a webhook, through deaths of both sides."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from cluster.config import Experiment
from cluster.errors import ConfigError, NotFoundError, TrimtabError, UnauthorisedError, UserError
from cluster.experiment import parse
from cluster.session import Session
from cluster.store import Store
from ladder.bundle import write_bundle
from ladder.variants import export_onnx
from serve import deploy as deployment
from tasks.images import Images
from tasks.task import Encoding
from trimtab import alerts as kept
from trimtab import monitor as watching
from trimtab.screen import Screen
from trimtab.workspace import Workspace

from .conftest import Endpoint  # type: ignore[import-not-found]

ROOT = Path(__file__).resolve().parents[2]
T0 = 1.7e9
SECRET = "a secret of some length"


@dataclass(frozen=True)
class Beside(Workspace):
    """A workspace whose cluster is an address alone."""

    url: str = ""

    def cluster(self) -> Session:
        parts = urlsplit(self.url)
        return SimpleNamespace(dashboard_url=self.url, http_port=parts.port, api_token="token")  # type: ignore[return-value]


@pytest.fixture
def workspace(tmp_path: Path, endpoint: Endpoint) -> Workspace:
    return Beside(Screen(as_json=True), store_uri=str(tmp_path / "store"), url=endpoint.url)


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """1,600 events of banks, every tenth of them bad, the last 240 nearly all; and lines that are none."""
    generator, path = random.Random(0), tmp_path / "news.jsonl"
    with path.open("w") as file:
        for i in range(1600):
            word = "bad" if generator.random() < (0.1 if i < 1360 else 0.9) else "fine"
            file.write(json.dumps({"text": f"{word} news {i} of Nordbank", "time": T0 + 10 * i}) + "\n")
            if i % 400 == 0:
                file.write("no json\n\n")
    return path


def experiment(**alerts: object) -> Experiment:
    topics = {"banks": {"words": ["nordbank"]}}
    settings = {"negative": ["bad"], "topics": topics, **alerts}
    return parse({"name": "news", "data": {"source": {"kind": "digits"}}, "alerts": settings})


def watch(made: Experiment, stream: Path | str, workspace: Workspace, **more: Any) -> None:
    settings = {"topics": None, "follow": False, "fresh": False, "patience_s": 60.0, "drain_s": 60.0, **more}
    # A screen takes the streams as they are when it is made.
    watching.watch(made, str(stream), dataclasses.replace(workspace, screen=Screen(as_json=True)), **settings)


def found(workspace: Workspace, **more: Any) -> list[dict[str, Any]]:
    settings = {"since": None, "topic": None, "undelivered": False, **more}
    return kept.found(experiment(), workspace, **settings)


def test_a_surge_is_on_the_screen_in_the_journal_and_at_the_webhook(
    stream: Path,
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    hook: tuple[int, list[tuple[dict[str, str], dict[str, Any]]]],
) -> None:
    port, got = hook
    monkeypatch.setenv("TRIMTAB_WEBHOOK", f"http://127.0.0.1:{port}/private-path")
    monkeypatch.setenv("TRIMTAB_WEBHOOK_SECRET", SECRET)

    watch(experiment(private_hosts=[f"127.0.0.1:{port}"]), stream, workspace)

    said = capsys.readouterr()
    *shown, end = [json.loads(line) for line in said.out.splitlines()]
    (alert,) = found(workspace)
    assert [{name: value for name, value in one.items() if name != "kind"} for one in shown] == [alert]
    assert (alert["rule"], alert["state"], alert["topic"]) == ("surge", "raised", "banks")
    assert 0 < alert["at"] - (T0 + 13_600) < 2000
    assert alert["evidence"]["texts"][0]["text"].startswith("bad news")
    ((headers, body),) = got
    assert (headers["webhook-id"], body["id"]) == (f"{alert['id']}-raised", alert["id"])
    assert (end["lines"], end["events counted"], end["left out, json"], end["alerts"]) == (1608, 1600, 4, 1)
    assert "left out    line 2 is not JSON" in said.err
    assert "private-path" not in said.out + said.err
    assert SECRET not in said.out + said.err
    assert found(workspace, undelivered=True) == []


@pytest.fixture
def hook() -> Iterator[tuple[int, list[tuple[dict[str, str], dict[str, Any]]]]]:
    """Port and messages of a receiver."""
    got: list[tuple[dict[str, str], dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_address[1], got
    server.shutdown()
    server.server_close()


def test_ended_in_the_middle_it_goes_on_where_it_was_and_gives_nothing_twice(
    stream: Path, workspace: Workspace, endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch(experiment(), stream, Beside(workspace.screen, store_uri=str(tmp_path / "other"), url=endpoint.url))
    whole = kept.found(experiment(), Workspace(Screen(), store_uri=str(tmp_path / "other")), None, None, False)
    for _ in range(3):
        endpoint.asked.clear()
        endpoint.answer, answers = _stops_after(15, endpoint.answer), endpoint.answer
        with pytest.raises(UnauthorisedError):
            watch(experiment(), stream, workspace)
        endpoint.answer = answers

    watch(experiment(), stream, workspace)
    watch(experiment(), stream, workspace)

    assert found(workspace) == whole
    assert "goes on at byte" in capsys.readouterr().err
    state = json.loads((tmp_path / "store/alerts/news/state.json").read_text())
    assert state["monitor"]["counts"]["counted"] == 1600


def _stops_after(num: int, answer: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    left = [num]

    def answered(instances: list[Any]) -> Any:
        left[0] -= 1
        return answer(instances) if left[0] >= 0 else (401, {}, {"error": "no"})

    return answered


def test_with_other_settings_it_says_how_to_begin_anew(stream: Path, workspace: Workspace) -> None:
    watch(experiment(), stream, workspace)

    with pytest.raises(TrimtabError, match=r"another window.*--fresh"):
        watch(experiment(window="5m"), stream, workspace)
    watch(experiment(window="5m"), stream, workspace, fresh=True)


def test_events_the_endpoint_refuses_are_counted_and_the_others_are_not_lost(
    workspace: Workspace, endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, answer = tmp_path / "few.jsonl", endpoint.answer
    texts = ["fine", "", "bad", "x" * 300_000, "🚀\0", "fine"]
    path.write_text("\n".join(json.dumps({"text": text, "time": T0 + i}) for i, text in enumerate(texts)))
    endpoint.answer = lambda asked: (422, {}, {"error": "is empty"}) if "" in asked else answer(asked)

    watch(experiment(), path, workspace)

    end = json.loads(capsys.readouterr().out)
    assert (end["events counted"], end["left out, refused"], end["left out, long"]) == (4, 1, 1)


def test_topics_from_a_file(workspace: Workspace, stream: Path, tmp_path: Path) -> None:
    (tmp_path / "topics.yaml").write_text("money: {pattern: 'Nord.*'}")
    (tmp_path / "wrong.yaml").write_text("money: {pattern: '(?=x)'}")
    (tmp_path / "no.yaml").write_text("[")

    watch(experiment(), stream, workspace, topics=tmp_path / "topics.yaml")

    assert {one["topic"] for one in found(workspace)} == {"money"}
    with pytest.raises(ConfigError, match=r"alerts\.topics\.money"):
        watch(experiment(), stream, workspace, topics=tmp_path / "wrong.yaml")
    with pytest.raises(UserError, match="--topics"):
        watch(experiment(), stream, workspace, topics=tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("url", "secret", "problem"),
    [
        pytest.param("https://elsewhere.example.com/x", SECRET, "add elsewhere.example.com to alerts.hosts", id="host"),
        pytest.param("https://hooks.example.com/x", "short", "a signature needs 16", id="secret"),
    ],
)
def test_a_webhook_that_may_not_be_used_is_refused_before_anything_is_read(
    stream: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, url: str, secret: str, problem: str,
    endpoint: Endpoint,
) -> None:  # fmt: skip
    monkeypatch.setenv("TRIMTAB_WEBHOOK", url)
    monkeypatch.setenv("TRIMTAB_WEBHOOK_SECRET", secret)

    with pytest.raises(ConfigError, match=problem):
        watch(experiment(hosts=["hooks.example.com"]), stream, workspace)

    assert endpoint.asked == []


def test_before_anything_was_watched_there_is_nothing_to_list(workspace: Workspace) -> None:
    with pytest.raises(NotFoundError, match="trimtab monitor"):
        found(workspace)


# A real endpoint, and a monitor that is killed


@pytest.fixture
def shades(cluster: Session) -> Iterator[str]:
    """An endpoint that says whether an image of 4 x 6 is dark or light."""
    import torch

    class Shades(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            level = (rows.float().mean(dim=(1, 2, 3)) - 127.5) / 50
            return torch.stack([-level, level], dim=1)

    made = parse(TREE)
    encoding = Encoding(("dark", "light"), (4, 6, 1), "uint8", {"mean": [127.0], "std": [50.0]})
    bundle = write_bundle(
        Store.open(cluster.store),
        "5" * 16,
        experiment=made,
        encoding=encoding,
        dataset="d" * 16,
        run="r" * 16,
        metrics={"accuracy": 1.0},
        files={"onnx-fp32": ("model.onnx", export_onnx(Shades(), encoding, Images(made)))},
        variants=("torch-fp32", "onnx-fp32"),
        ladder=None,
    )
    yield deployment.deploy(cluster, bundle, 1).url
    deployment.undeploy(cluster, "watched")


TREE: dict[str, Any] = {
    "name": "watched",
    "data": {"source": {"kind": "digits"}},
    "serve": {"route": "/watched"},
    "adapt": {"enabled": False},
    "alerts": {"negative": ["dark"]},
}


def test_killed_at_a_real_endpoint_the_monitor_goes_on_and_each_alert_is_there_once(
    shades: str, cluster: Session, home: Path, tmp_path: Path, experiment_file: Callable[..., Path]
) -> None:
    stream, store = tmp_path / "images.jsonl", tmp_path / "store"
    file = experiment_file(**TREE)
    arguments = ["monitor", str(file), str(stream), "--json", "--follow", "--cluster", "tests", "--store", str(store)]
    generator = random.Random(1)
    image = {True: [[[[10]] * 6] * 4][0], False: [[[[240]] * 6] * 4][0]}
    lines = [
        json.dumps({"input": image[generator.random() < (0.1 if i < 800 else 0.9)], "time": T0 + 10 * i})
        for i in range(1100)
    ]

    def count() -> int:
        state = store / "alerts/watched/state.json"
        return int(json.loads(state.read_text())["monitor"]["counts"].get("counted", 0)) if state.exists() else 0

    stream.write_text("")
    written = 0
    for part in (300, 900, 1100):
        with stream.open("a") as file_:
            file_.writelines(f"{line}\n" for line in lines[written:part])
        written = part
        with (tmp_path / "out").open("ab") as out:
            process = subprocess.Popen([sys.executable, "-m", "trimtab", *arguments], stdout=out, stderr=out, cwd=ROOT)
        deadline = time.monotonic() + 240.0
        while count() < part and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert count() == part, (tmp_path / "out").read_text()[-2000:]

    listed = subprocess.run(
        [sys.executable, "-m", "trimtab", "alerts", str(file), "--json", "--store", str(store)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    (alert,) = json.loads(listed.stdout)
    assert (alert["rule"], alert["state"], alert["topic"]) == ("surge", "raised", "other")
    assert 0 < alert["at"] - (T0 + 8000) < 2000
