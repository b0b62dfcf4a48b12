"""A network that PyTorch runs: the same answers as the network's, from weights and the task's own code."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
import torch

from cluster.config import Experiment
from cluster.errors import TrimtabError
from ladder import forms
from ladder.variants import REFERENCE, ExportError
from tasks.images import Images
from tasks.task import Encoding

ENCODING = Encoding(("a", "b", "c"), (8, 8, 1), "uint8", {"mean": [100.0], "std": [50.0]})
ROWS = np.random.default_rng(0).integers(0, 256, (17, 8, 8, 1), dtype=np.uint8)


class Undecided(torch.nn.Module):
    """No graph holds it: what it computes depends on the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layer(rows.float().flatten(1)) / (50.0 if rows.sum() < 1e9 else 1.0)


class Task(Images):
    def network(self, encoding: Encoding) -> torch.nn.Module:
        return Undecided()


def task(kind: type[Images] = Task, **sections: object) -> Images:
    tree = {"name": "t", "data": {"source": {"kind": "digits"}}, **sections}
    return kind(Experiment.model_validate(tree))


def expected(network: torch.nn.Module, rows: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network.eval()(torch.from_numpy(rows)).softmax(dim=1).numpy()


def test_a_network_that_no_graph_holds_is_run_by_torch_with_the_reason() -> None:
    made = task()
    network = made.network(ENCODING)

    variant, data, lacking = forms.export_plain(network, ENCODING, made)

    assert (variant, forms.suffix(variant)) == ("torch-fp32", ".safetensors")
    assert "cannot be exported to ONNX" in lacking
    predictor = forms.opened(variant, data, made, ENCODING)
    for n in (1, 2, 17):
        answer = predictor(ROWS[:n])
        assert answer.dtype == np.float32
        assert np.allclose(answer, expected(network, ROWS[:n]), atol=1e-6)


def test_a_network_that_a_graph_holds_is_exported() -> None:
    made = task(Images)

    variant, _, lacking = forms.export_plain(made.network(ENCODING), ENCODING, made)

    assert (variant, forms.suffix(variant), lacking) == (REFERENCE, ".onnx", "")


def test_larger_forms_are_built_anew_around_the_weights() -> None:
    made = task(Images, ladder={"views": True}, train={"augment": "shift_flip"})
    network = made.network(ENCODING).eval()

    for name, form in {"": network, **made.larger(network, ENCODING)}.items():
        variant, data = forms.export_torch(form, ENCODING, made, name)

        assert variant == (f"torch-{name}-fp32" if name else "torch-fp32")
        assert np.allclose(forms.opened(variant, data, made, ENCODING)(ROWS), expected(form, ROWS), atol=1e-5)


def test_a_shift_is_added_to_each_answer_once_more_each_time() -> None:
    made = task()
    variant, data, _ = forms.export_plain(made.network(ENCODING), ENCODING, made)
    by = np.array([0.5, 0.0, -1.0], np.float32)

    twice = forms.shifted(variant, forms.shifted(variant, data, by), by)

    before, after = (forms.opened(variant, one, made, ENCODING)(ROWS) for one in (data, twice))
    assert np.allclose(after, before + 2 * by, atol=1e-6)


def test_several_threads_may_run_it_at_once() -> None:
    made = task()
    variant, data, _ = forms.export_plain(made.network(ENCODING), ENCODING, made)
    predictor, answers = forms.opened(variant, data, made, ENCODING), list[np.ndarray]()
    truth = predictor(ROWS)

    threads = [threading.Thread(target=lambda: answers.append(predictor(ROWS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 4
    assert all(np.array_equal(answer, truth) for answer in answers)


def test_a_pass_leaves_the_process_its_number_of_threads() -> None:
    made = task()
    variant, data, _ = forms.export_plain(made.network(ENCODING), ENCODING, made)
    before = torch.get_num_threads()

    forms.opened(variant, data, made, ENCODING, threads=before + 1)(ROWS)

    assert torch.get_num_threads() == before


def test_a_network_that_the_task_builds_otherwise_or_that_answers_nan_has_no_form() -> None:
    made = task()
    broken = Undecided()
    with torch.no_grad():
        broken.layer.weight.fill_(float("nan"))

    with pytest.raises(ExportError, match="not the network that the task builds"):
        forms.export_torch(torch.nn.Sequential(Undecided()), ENCODING, made)
    with pytest.raises(ExportError, match="NaN"):
        forms.export_plain(broken, ENCODING, made)


def test_weights_of_another_network_are_one_sentence() -> None:
    made = task()
    variant, data, _ = forms.export_plain(made.network(ENCODING), ENCODING, made)

    with pytest.raises(TrimtabError, match="builds another network than these weights are of"):
        forms.opened(variant, data, task(Images), ENCODING)
    with pytest.raises(TrimtabError, match="builds another network"):
        forms.opened("torch-views-fp32", data, made, ENCODING)


def test_a_gpu_is_looked_for_where_replicas_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task()
    variant, data, _ = forms.export_plain(made.network(ENCODING), ENCODING, made)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    moved: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: moved.append(str(device)) or module)

    forms.opened(variant, data, made, ENCODING)
    with pytest.raises((AssertionError, RuntimeError)):  # there is none here after all
        forms.opened(variant, data, task(serve={"gpus_per_replica": 1.0}), ENCODING)(ROWS)

    assert moved == ["cpu", "cuda"]


def test_a_file_that_is_no_safetensors_is_never_run() -> None:
    pickled = io.BytesIO()
    torch.save({"layer.weight": torch.zeros(3, 64)}, pickled)

    with pytest.raises(Exception, match=r"(?i)header"):
        forms.opened("torch-fp32", pickled.getvalue(), task(), ENCODING)
