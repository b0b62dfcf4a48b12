"""`trimtab init --task custom`: a task of one's own that works as it stands, with its experiment file and its test.

Writes files beside each other and never over another. Knows templates; what a task is stands in `tasks.task`.
"""

from __future__ import annotations

import csv
import io
import json
import random
from importlib import resources
from pathlib import Path
from string import Template

from cluster import experiment as experiments
from cluster.errors import DataError, UserError
from trimtab.scaffold import write
from trimtab.tables import check_header

COLUMNS, LABEL = ["height", "width", "weight"], "size"
NUM_ROWS = 200


def skeleton(name: str, data: str | None, target: Path) -> list[Path]:
    """Write the experiment file `target`, and beside it a task, its test and, without `data`, a table of made numbers.

    `data` is a CSV file whose last column is the label. Returns what was written.

    Raises:
        DataError: `data` is no CSV file with two columns or more.
        ConfigError: `name` is no name of an experiment.
        UserError: one of the files exists, or cannot be written.
    """
    experiments.parse({"name": name, "data": {"source": {"kind": "digits"}}})
    module = f"{name.replace('-', '_')}_task"
    columns, label = _header(Path(data)) if data else (COLUMNS, LABEL)
    table = Path(data).expanduser().absolute() if data else target.absolute().with_name(f"{name}.csv")
    words = {
        "name": name,
        "file": target.name,
        "module": module,
        "class_name": "".join(part.capitalize() for part in module.split("_")),
        "path": json.dumps(str(table)),
        "columns": json.dumps(columns),
        "label": json.dumps(label),
    }
    texts = {
        target: _filled("task.yaml", words),
        target.with_name(f"{module}.py"): _filled("task.py", words),
        target.with_name(f"test_{module}.py"): _filled("test_task.py", words),
        **({} if data else {table: _made_rows()}),
    }
    for path in texts:
        if path.exists():
            raise UserError("--out", str(path), "already exists", "name another file or folder, or remove it")
    for path, text in texts.items():
        write(path, text)
    return list(texts)


def _filled(template: str, words: dict[str, str]) -> str:
    text = resources.files("trimtab").joinpath("templates", f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(words)


def _header(path: Path) -> tuple[list[str], str]:
    try:
        with path.expanduser().open(newline="", encoding="utf-8-sig") as file:
            names = next(csv.reader(file), [])
    except (OSError, RuntimeError, UnicodeDecodeError, csv.Error) as error:  # expanduser may know no such user
        raise DataError("--data", str(path), f"is not a readable CSV file ({error})", "name a CSV file") from error
    check_header(str(path), names)
    if len(names) < 2:
        raise DataError("--data", str(path), "has no two columns", "name a CSV file whose last column is the label")
    return names[:-1], names[-1]


def _made_rows() -> str:
    """Boxes by their measures, large ones beyond a volume."""
    numbers, out = random.Random(0), io.StringIO()  # noqa: S311 for a table of examples
    writer = csv.writer(out)
    writer.writerow([*COLUMNS, LABEL])
    for _ in range(NUM_ROWS):
        height, width, weight = (round(numbers.uniform(1, 10), 2) for _ in range(3))
        writer.writerow([height, width, weight, "large" if height * width > 25 else "small"])
    return out.getvalue()
