from __future__ import annotations

from pathlib import Path

import torch

from cluster.store import Store
from jobs import warm
from ladder.bundle import read_bundle
from tasks.task import load_task


def test_a_network_begins_with_the_weights_that_fit(trained_digits: Path) -> None:
    store = Store.open(str(trained_digits))
    good = read_bundle(store, "good")
    same = load_task(good.experiment).network(good.encoding)
    other = torch.nn.ModuleDict({name: torch.nn.Linear(3, 3) for name in dict(same.named_children())})
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}

    num_same, num_other = warm.begin(same, store, "good"), warm.begin(other, store, "good")

    from safetensors.torch import load

    assert num_same == len(same.state_dict())
    assert all(torch.equal(tensor, load(good.read("weights"))[name]) for name, tensor in same.state_dict().items())
    assert num_other == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
