from __future__ import annotations

import pytest
import torch

from cluster.config import Model
from tasks import cnn
from tasks.task import Encoding


def encoding(height: int, width: int, channels: int, num_labels: int = 10) -> Encoding:
    statistics = {"mean": [100.0] * channels, "std": [50.0] * channels}
    return Encoding(tuple(map(str, range(num_labels))), (height, width, channels), "uint8", statistics)


def rows(n: int, height: int, width: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8, generator=generator)


SIZES = pytest.mark.parametrize(
    "shape",
    [
        pytest.param((4, 4, 1), id="smallest"),
        pytest.param((8, 8, 1), id="digits"),
        pytest.param((28, 28, 1), id="mnist"),
        pytest.param((32, 32, 3), id="cifar"),
        pytest.param((5, 37, 3), id="a strip"),
        pytest.param((224, 160, 3), id="a photo"),
    ],
)


@SIZES
@pytest.mark.parametrize("network", ["small", "large"])
def test_both_networks_take_images_of_any_size(network: str, shape: tuple[int, int, int]):
    torch.manual_seed(0)
    made = cnn.build(Model(network=network), encoding(*shape))

    logits = made(rows(2, *shape))

    assert logits.shape == (2, 10)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert sum(p.numel() for p in made.parameters()) < 1_500_000


@pytest.mark.parametrize("network", ["small", "large"])
def test_width_multiplies_the_channels(network: str):
    sizes = [
        sum(p.numel() for p in cnn.build(Model(network=network, width=width), encoding(32, 32, 3)).parameters())
        for width in (0.25, 0.5, 1.0, 2.0)
    ]

    assert sizes == sorted(sizes)
    assert sizes[3] > 3 * sizes[2]


@SIZES
def test_the_narrow_network_lies_between_the_small_and_the_large_one(shape: tuple[int, int, int]):
    torch.manual_seed(0)
    made = cnn.build_narrow(Model(network="large"), encoding(*shape))

    logits = made.eval()(rows(2, *shape))

    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()
    assert sum(p.numel() for p in made.parameters()) < 200_000


def test_views_answer_alike_for_an_image_and_its_mirror_image():
    torch.manual_seed(0)
    made = cnn.build(Model(), encoding(8, 8, 3)).eval()
    images = rows(4, 8, 8, 3)

    both = [torch.softmax(cnn.Views(made, 8, 8, shifts=(-1, 0, 1))(x), dim=1) for x in (images, images.flip(2))]
    alone, mirrored = (torch.softmax(made(x), dim=1) for x in (images, images.flip(2)))
    pair = torch.softmax(cnn.Views(made, 8, 8, shifts=(0,))(images), dim=1)

    assert not torch.allclose(alone, mirrored, atol=1e-4)
    assert torch.allclose(pair, (alone + mirrored) / 2, atol=1e-5)
    assert both[0].shape == (4, 10)
    assert torch.allclose(*both, atol=0.05)
    assert torch.allclose(both[0].sum(dim=1), torch.ones(4))


@SIZES
def test_the_tiny_network_does_too_with_few_weights(shape: tuple[int, int, int]):
    torch.manual_seed(0)
    made = cnn.build_tiny(encoding(*shape))

    logits = made.eval()(rows(2, *shape))

    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()
    assert sum(p.numel() for p in made.parameters()) < 100_000


def test_normalising_is_part_of_the_network_and_of_its_weights():
    made = cnn.build(Model(), encoding(8, 8, 1))

    normal = made[0](torch.full((1, 8, 8, 1), 150, dtype=torch.uint8))

    assert torch.equal(normal, torch.ones(1, 1, 8, 8))
    assert "0.mean" in made.state_dict()
