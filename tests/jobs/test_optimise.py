from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from cluster.config import Train
from jobs.optimise import Fault, Optimiser, Share
from jobs.pace import Stopwatch
from jobs.schedule import Rates

CPU, ALONE, NOW = torch.device("cpu"), Share(num_rows=128, world=1), Rates(0.1, 0.9)
ROOT = Path(__file__).resolve().parents[2]


def linear() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def batch(num_rows: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_rows, 4, generator=generator), torch.randint(0, 3, (num_rows,), generator=generator)


def groups(network: torch.nn.Module, recipe: Train) -> list[dict[str, Any]]:
    return [{"params": list(network.parameters()), "lr": recipe.learning_rate}]


def optimiser(network: torch.nn.Module, **recipe: Any) -> Optimiser:
    made = Train.model_validate({"precision": "fp32", "weight_decay": 0.0, **recipe})
    return Optimiser(network, groups(network, made), made, CPU, functional.cross_entropy, lambda yes: yes)


def gradient(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("parts", [2, 3, 128])
def test_a_batch_in_parts_has_the_gradient_of_the_batch(parts: int) -> None:
    whole, cut = linear(), linear()

    loss = optimiser(whole).learn(*batch(), ALONE, Stopwatch())
    same_loss = optimiser(cut, accumulate=parts).learn(*batch(), ALONE, Stopwatch())

    assert torch.allclose(gradient(cut), gradient(whole), atol=1e-7)
    assert same_loss.item() == pytest.approx(loss.item(), rel=1e-6)


def test_shares_of_unequal_size_have_the_gradient_of_the_batch_in_their_mean() -> None:
    whole = linear()
    optimiser(whole).learn(*batch(7), Share(7, 1), Stopwatch())
    rows, targets = batch(7)

    shares = []
    for rank in range(3):
        mine = linear()
        optimiser(mine).learn(rows[rank::3], targets[rank::3], Share(7, 3), Stopwatch())
        shares.append(gradient(mine))

    assert torch.allclose(torch.stack(shares).mean(0), gradient(whole), atol=1e-7)


@pytest.mark.parametrize(
    ("clip_norm", "expected"),
    [
        pytest.param(0.01, 0.01, id="longer ones are shortened"),
        pytest.param(1e6, None, id="shorter ones are left"),
        pytest.param(None, None, id="none is shortened by default"),
    ],
)
def test_the_gradients_norm_is_bounded(clip_norm: float | None, expected: float | None) -> None:
    network = linear()
    made = optimiser(network, clip_norm=clip_norm)
    loss = made.learn(*batch(), ALONE, Stopwatch())
    before = gradient(network)

    made.step(0, loss, NOW)

    after = gradient(network)
    assert after.norm().item() == pytest.approx(expected or before.norm().item(), rel=1e-4)
    assert torch.allclose(after / after.norm(), before / before.norm(), atol=1e-6)  # where it points stays


def test_a_step_uses_the_rates_it_is_given_and_the_recipes_decay() -> None:
    network = linear()
    made = optimiser(network, learning_rate=7.0, weight_decay=0.25)

    made.step(0, made.learn(*batch(), ALONE, Stopwatch()), Rates(0.5, 0.8))

    (group,) = made.adamw.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.8, 0.99), 0.25)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        pytest.param(lambda rows: rows.fill_(float("nan")), "loss", id="rows that are no numbers"),
        pytest.param(lambda rows: rows.mul_(1e30), "gradient", id="a gradient whose norm overflows"),
    ],
)
def test_what_is_not_finite_changes_no_weight(spoil: Any, what: str) -> None:
    network = linear()
    made = optimiser(network)
    before, (rows, targets) = weights(network), batch()
    spoil(rows)
    loss = made.learn(rows, targets, ALONE, Stopwatch())
    loss = loss if what == "loss" else torch.zeros_like(loss)

    fault = made.step(5, loss, NOW)

    assert fault == Fault(what, 5)
    assert torch.equal(weights(network), before)


def test_a_float16_step_that_overflows_is_left_out_and_the_scale_falls() -> None:
    network = linear()
    made = optimiser(network, precision="fp16")
    made.step(0, made.learn(*batch(), ALONE, Stopwatch()), NOW)
    before, scale = weights(network), made.state_dict()["scaler"]["scale"]
    loss = made.learn(*batch(), ALONE, Stopwatch())
    network.weight.grad[0, 0] = float("inf")

    fault = made.step(1, loss, NOW)

    assert fault is None
    assert torch.equal(weights(network), before)
    assert made.state_dict()["scaler"]["scale"] == scale / 2


def test_a_float16_loss_that_is_not_finite_is_a_fault_all_the_same() -> None:
    made = optimiser(linear(), precision="fp16")
    rows, targets = batch()
    loss = made.learn(rows.fill_(float("nan")), targets, ALONE, Stopwatch())

    assert made.step(2, loss, NOW) == Fault("loss", 2)


def test_float16_on_a_gpu_learns() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: float16 through its kernels and the scaler's asynchronous checks are not run here")
    network, gpu = linear().cuda(), torch.device("cuda")
    recipe = Train.model_validate({"precision": "fp16", "weight_decay": 0.0})
    made = Optimiser(network, groups(network, recipe), recipe, gpu, functional.cross_entropy, lambda yes: yes)
    rows, targets = (tensor.cuda() for tensor in batch())

    losses = []
    for step in range(20):
        loss = made.learn(rows, targets, ALONE, Stopwatch())
        assert made.step(step, loss, NOW) is None
        losses.append(loss.item())

    assert losses[-1] < losses[0]
    assert made.settle() is None


def test_an_optimiser_that_goes_on_takes_the_step_the_other_would_have_taken() -> None:
    network, other = linear(), linear()
    first, second = optimiser(network), optimiser(other)
    first.step(0, first.learn(*batch(), ALONE, Stopwatch()), NOW)
    other.load_state_dict(network.state_dict())

    second.load_state_dict(copy.deepcopy(first.state_dict()))  # as read from a file
    for made in (first, second):
        made.step(1, made.learn(*batch(), ALONE, Stopwatch()), NOW)

    assert torch.equal(weights(network), weights(other))


RANK = """
import json, os, sys, torch
from datetime import timedelta
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from cluster.config import Train
from jobs.optimise import Optimiser, Share
from jobs.pace import Stopwatch
from jobs.ranks import Ranks
from jobs.schedule import Rates

rank, file = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group(
    "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
)
ranks = Ranks(rank, 2, torch.device("cpu"))
torch.manual_seed(0)
network = torch.nn.Linear(4, 3)
model = DistributedDataParallel(network, gradient_as_bucket_view=True)
num_synced = 0

def count(state, bucket):
    global num_synced
    num_synced += 1
    work = distributed.all_reduce(bucket.buffer().div_(2), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])

model.register_comm_hook(None, count)
recipe = Train.model_validate({"precision": "fp32", "accumulate": 2})
groups = [{"params": list(model.parameters()), "lr": recipe.learning_rate}]
made = Optimiser(model, groups, recipe, ranks.device, functional.cross_entropy, ranks.agree)
generator = torch.Generator().manual_seed(1)
rows, targets = torch.randn(9, 4, generator=generator), torch.randint(0, 3, (9,), generator=generator)
watch, share = Stopwatch(), Share(9, 2)
loss = made.learn(rows[rank::2], targets[rank::2], share, watch)
gradient = torch.cat([p.grad.flatten() for p in network.parameters()]).tolist()
made.step(0, loss, Rates(0.1, 0.9))
if rank == 1:
    rows[rank] = float("nan")  # of its own share alone
fault = made.step(1, made.learn(rows[rank::2], targets[rank::2], share, watch), Rates(0.1, 0.9))
after = torch.cat([p.detach().flatten() for p in network.parameters()]).tolist()
print(json.dumps({
    "gradient": gradient, "fault": vars(fault), "weights": after, "synced": num_synced,
    "sum": ranks.sums(torch.tensor([1.0 + rank], dtype=torch.float64)), "table": ranks.table([rank, 5.0]),
    "agree": [ranks.agree(True), ranks.agree(rank == 0)], "waited": watch.seconds["sync"],
}))
distributed.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # a thread of gloo that still wants Python while it ends would abort the process
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two real ranks over gloo say: one step of nine rows in two parts each, then one in which rank 1 sees NaN."""
    file = tmp_path_factory.mktemp("ranks") / "rendezvous"
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(file)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    return [json.loads(out) for out, _ in said]


def test_two_ranks_have_the_gradient_of_one_and_meet_once_per_step(pair: list[dict[str, Any]]) -> None:
    alone = linear()
    optimiser(alone).learn(*batch(9), Share(9, 1), Stopwatch())

    assert pair[0]["gradient"] == pair[1]["gradient"]
    assert pair[0]["gradient"] == pytest.approx(gradient(alone).tolist(), abs=1e-6)
    assert [rank["synced"] for rank in pair] == [2, 2]  # two steps of two parts
    assert all(rank["waited"] > 0 for rank in pair)


def test_both_ranks_stop_in_the_step_in_which_one_of_them_sees_what_is_not_finite(pair: list[dict[str, Any]]) -> None:
    assert [rank["fault"] for rank in pair] == [{"what": "loss", "step": 1}] * 2
    assert pair[0]["weights"] == pair[1]["weights"]
    assert all(abs(weight) < 10 for weight in pair[0]["weights"])  # as the first step left them


def test_ranks_add_up_agree_and_show_their_numbers(pair: list[dict[str, Any]]) -> None:
    assert [rank["sum"] for rank in pair] == [[3.0], [3.0]]
    assert [rank["table"] for rank in pair] == [[[0.0, 5.0], [1.0, 5.0]]] * 2
    assert [rank["agree"] for rank in pair] == [[True, False]] * 2
