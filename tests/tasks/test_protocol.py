from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.config import Experiment
from cluster.errors import ConfigError
from tasks.protocol import Example, check
from tasks.task import load_task

ROWS = [Example(f"{i} {i + 1} {i + 2}".encode(), "odd" if i % 2 else "even") for i in range(6)]


def test_a_good_task_passes_with_what_it_made(own_task: Callable[..., Experiment]) -> None:
    tried = check(load_task(own_task()), [*ROWS, Example(b"1 2 x", "odd")])

    assert tried.encoding.labels == ("even", "odd")
    assert (tried.encoding.shape, tried.encoding.dtype) == ((3,), "float32")
    assert (tried.num_rows, tried.num_rejected) == (6, 1)


def test_without_rows_it_is_tried_on_its_example(own_task: Callable[..., Experiment]) -> None:
    assert check(load_task(own_task()), []).num_rows == 4


@pytest.mark.parametrize(
    ("method", "words"),
    [
        pytest.param(
            "def clean(self, value): return 0", r"clean\(\) cannot be called as clean\(value, shape\)", id="arguments"
        ),
        pytest.param("def row_shape(self, values): return [3]", r"row_shape\(\) gave \[3\]", id="shape"),
        pytest.param("def clean(self, value, shape): return [1.0]", r"clean\(\) gave a list", id="no array"),
        pytest.param(
            "def clean(self, value, shape): return np.zeros(2)", r"clean\(\) gave float64 \[2\]", id="row's shape"
        ),
        pytest.param("def clean(self, value, shape): return np.full(3, np.nan)", r"clean\(\) gave NaN", id="NaN"),
        pytest.param(
            "def clean(self, value, shape): return np.random.rand(3)", r"clean\(\) gave two rows for one", id="chance"
        ),
        pytest.param(
            "def clean(self, value, shape): raise Rejected('no')", r"clean\(\) refused all 6 rows", id="all refused"
        ),
        pytest.param(
            "def partial_statistics(self, rows): return {'a': np.int64(1)}",
            r"partial_statistics\(\) gave what JSON",
            id="no JSON",
        ),
        pytest.param(
            "def partial_statistics(self, rows): return 1", r"partial_statistics\(\) gave a int", id="no dict"
        ),
        pytest.param(
            "def statistics(self, partials): return {'high': partials[0]['high']}",
            r"statistics\(\) depends on the order",
            id="order",
        ),
        pytest.param(
            "def statistics(self, partials): return {'n': len(partials)}",
            r"statistics\(\) depends on how rows were cut",
            id="cut",
        ),
        pytest.param("def network(self, encoding): return 1", r"network\(\) gave a int", id="no network"),
        pytest.param(
            "def network(self, encoding):\n        import torch; return torch.nn.Linear(4, 2)",
            r"the network of its network\(\), called with torch.float32 \[6, 3\], raised RuntimeError",
            id="network's input",
        ),
        pytest.param(
            "def network(self, encoding):\n        import torch; return torch.nn.Linear(3, 7)",
            r"network that answers \[6, 7\] to 6 rows; let it give a network of rows to \[rows, 2\]",
            id="network's output",
        ),
        pytest.param(
            "def loss(self, logits, targets): return (logits.sum(1) - targets) ** 2",
            r"loss\(\) gave \[6\]",
            id="loss of each row",
        ),
        pytest.param(
            "def loss(self, logits, targets): return logits.detach().sum()",
            r"loss\(\) has no gradient",
            id="no gradient",
        ),
        pytest.param(
            "def students(self, encoding):\n        import torch; return {'student': torch.nn.Linear(3, 1)}",
            r"students\(\) made a network that answers \[6, 1\]",
            id="student",
        ),
        pytest.param(
            "def augment(self, rows, generator): return rows[:, :2]",
            r"augment\(\) changed the rows' shape",
            id="augmented shape",
        ),
        pytest.param(
            "def augment(self, rows, generator):\n        import torch; return rows + torch.rand(rows.shape)",
            r"augment\(\) gave two results for one seed",
            id="augmented by chance",
        ),
        pytest.param(
            "def outputs(self, logits): return logits.double()", r"outputs\(\) gave \[6, 2\]", id="double outputs"
        ),
        pytest.param(
            "def outputs(self, logits): return logits[:, :1].float()",
            r"outputs\(\) gave 1 numbers a row; let it give 2",
            id="outputs' width",
        ),
        pytest.param(
            "def right(self, outputs, truth): return outputs[:, 0] * 0 + 2",
            r"right\(\) gave numbers from 2 to 2",
            id="right above one",
        ),
        pytest.param("def right(self, outputs, truth): return 1.0", r"right\(\) gave a float", id="right of all"),
        pytest.param(
            "def metrics(self, outputs, truth, encoding): return {'rows': 6}",
            r"metrics\(\) gave no `accuracy`",
            id="metrics",
        ),
        pytest.param(
            "def labels(self, outputs, encoding): return ['a']", r"labels\(\) gave something else", id="labels"
        ),
        pytest.param(
            "def input_spec(self, encoding): return TensorSpec('x', 'FP64', (-1, 3))",
            r"input_spec\(\) gave TensorSpec",
            id="datatype",
        ),
        pytest.param(
            "def media_types(self): return 'text/plain'", r"media_types\(\) gave 'text/plain'", id="media types"
        ),
        pytest.param(
            "def decode(self, body, content_type, encoding): return np.zeros(3, np.float32)",
            r"decode\(\) took a body that is none",
            id="takes all",
        ),
        pytest.param(
            "def sample(self, row, encoding): return 'a.png', b'1 2 3'",
            r"sample\(\) gave a file 'a.png'; let it give one that media_types\(\) has: .txt",
            id="sample's kind",
        ),
        pytest.param(
            "def sample(self, row, encoding): return 'a.txt', b'7 8 9'",
            r"decode\(\) made another row of what sample\(\) gave",
            id="other sample",
        ),
        pytest.param(
            "def answer(self, outputs, encoding, ask): return {'p': outputs}",
            r"answer\(\) gave what JSON cannot say",
            id="answer",
        ),
        pytest.param(
            "def gather(self): return {'a': 'text'}", r"gather\(\) gave something else than bytes", id="gathered"
        ),
        pytest.param(
            "targets = 'number'", "its `targets` is 'number'; set it to one of 'label', 'value'", id="setting"
        ),
    ],
)
def test_what_is_wrong_names_the_method_and_what_is_expected(
    own_task: Callable[..., Experiment], method: str, words: str
) -> None:
    task = load_task(own_task("sums:Wrong", f"class Wrong(Sums):\n    {method}\n"))

    with pytest.raises(ConfigError, match=words):
        check(task, ROWS)
