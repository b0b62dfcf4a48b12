from __future__ import annotations

import pytest
import torch

from jobs.average import Average


def network(value: float = 0.0) -> torch.nn.Module:
    made = torch.nn.BatchNorm1d(1)
    with torch.no_grad():
        made.weight.fill_(value)
    return made


def test_a_known_series_has_a_known_average() -> None:
    live = network(8.0)
    average, means = Average(live, decay=0.2), []

    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            live.weight.fill_(value)
            live.running_mean.fill_(value)
        live.num_batches_tracked += 1
        average.update()
        means.append(average.network.weight.item())

    # Decay 1/10, then 2/11, then 0.2, since 3/12 is more than the decay.
    first = 0.1 * 8 + 0.9 * 1
    second = 2 / 11 * first + 9 / 11 * 2
    assert means == pytest.approx([first, second, 0.2 * second + 0.8 * 3])
    assert average.network.num_batches_tracked.item() == 3
    assert average.network.running_mean.item() == pytest.approx(means[-1] - 0.2 * 2 / 11 * 0.1 * 8)  # began at 0
    assert live.weight.item() == 3.0


def test_an_average_that_goes_on_is_the_one_that_stopped() -> None:
    live = network(1.0)
    first = Average(live, decay=0.9)
    first.update()
    second = Average(network(5.0), decay=0.9)

    second.load_state_dict(first.state_dict())

    assert second.network.weight.item() == first.network.weight.item()
    assert second.num_updates == 1


def test_it_learns_nothing_itself_and_keeps_how_its_weights_lie_in_memory() -> None:
    live = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    average = Average(live, decay=0.9)

    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert average.network.weight.is_contiguous(memory_format=torch.channels_last)
