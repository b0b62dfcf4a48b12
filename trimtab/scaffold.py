"""`trimtab init`: look at a folder and write a commented experiment file that fits it.

Knows the source kinds and what their folders look like; writes one file and never over another.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cluster.errors import DataError, UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
TABLE_KINDS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl"}
FILES_LOOKED_AT = 2000

TEMPLATE = """\
# {name}: made by `trimtab init`; every setting not written here has a default (trimtab config schema).
name: {name}              # of the model and its endpoint
task: images              # or my_package.my_module:MyTask
seed: 0                   # decides split, first weights, order and augmentation

data:
  source:
{source}
{image}  split: {split}
  shards: 4               # Parquet files per split
  max_rejected: 0.1       # fail when more than this share of the rows is unusable

model:
  network: {network}          # small, or large for colour and fine detail

train:
  workers: 1              # data-parallel processes
  epochs: 20
  batch_size: 128
  learning_rate: 0.01     # peak of a one-cycle schedule
  augment: {augment}          # none, shift, shift_flip (mirrors: not for digits or text), strong ...
  early_stopping: {{metric: accuracy, patience: 5}}

serve:
  route: /{name}          # its own on this cluster
  replicas: {{min: 1, max: 1}}
  objective: {{}}           # accuracy_at_least: 0.9 refuses to deploy anything worse
"""


def scaffold(name: str, data: str | None, target: Path) -> Path:
    """Write `target` for the folder or file `data` (None: scikit-learn's digits).

    Raises:
        DataError: the folder is missing or holds nothing that a source kind can read.
        UserError: `target` exists.
    """
    if target.exists():
        raise UserError("--out", str(target), "already exists", "name another file or remove it")
    source, image, large, own_test = _looked_at(data)
    text = TEMPLATE.format(
        name=name,
        source="\n".join(f"    {line}" for line in source),
        image=f"  image: {image}   # every image is scaled to this\n" if image else "",
        split="{validation: 0.1}  # the source brings its own test rows"
        if own_test
        else "{validation: 0.1, test: 0.1}",
        network="large" if large else "small",
        augment="shift_flip" if large else "shift",
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target


def name_from(path: Path) -> str:
    """A valid experiment name from a file or folder name."""
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:40]
    return name if re.match(r"[a-z]", name) else f"model-{name}".strip("-")[:40]


def _looked_at(data: str | None) -> tuple[list[str], str | None, bool, bool]:
    """Lines of the source, image size in YAML, whether it wants the large network, whether it has test rows."""
    if data is None:
        return ["kind: digits          # 1,797 digits that scikit-learn carries"], None, False, False
    root = Path(data).expanduser()
    if not root.exists():
        raise DataError("--data", data, "no such file or folder", "name the folder that holds your data")
    quoted = f"path: {json.dumps(str(root))}"  # JSON's quotes are YAML's
    if (root / "train-images-idx3-ubyte.gz").exists():
        return ["kind: idx", quoted], None, False, (root / "t10k-images-idx3-ubyte.gz").exists()
    suffixes = Counter(path.suffix.lower() for path in islice(_files(root), FILES_LOOKED_AT))
    tables = [suffix for suffix in TABLE_KINDS if suffixes[suffix]]
    if tables:
        columns = ["input: image           # column with JPEG or PNG bytes", "label: label"]
        return [f"kind: {TABLE_KINDS[tables[0]]}", quoted, *columns], _SIZE, True, False
    if sum(suffixes[suffix] for suffix in IMAGE_SUFFIXES):
        folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(folders) < 2:
            problem = f"has images but {len(folders)} class folder{'s' * (len(folders) != 1)}"
            raise DataError("--data", data, problem, "put each class's images into a folder of its own")
        return ["kind: image_folder", f"{quoted}  # classes: {', '.join(folders[:5])}"], _SIZE, True, False
    raise DataError("--data", data, "holds no images, tables or idx files", "name a folder with JPEG, PNG or Parquet")


_SIZE = "{height: 32, width: 32, channels: 3}"


def _files(root: Path) -> Iterator[Path]:
    return iter([root]) if root.is_file() else (path for path in root.rglob("*") if path.is_file())
