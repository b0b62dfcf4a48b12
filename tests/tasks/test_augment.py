from __future__ import annotations

import pytest
import torch

from tasks import augment


def rows(n: int, height: int, width: int, num_channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, height, width, num_channels), dtype=torch.uint8, generator=generator)


def test_a_shift_moves_each_row_by_at_most_a_tenth_of_the_side():
    before = torch.zeros(200, 20, 30, 1, dtype=torch.uint8)
    before[:, 10, 15] = 255

    after = augment.shift(before, torch.Generator().manual_seed(0))

    where = after[..., 0].nonzero()
    assert len(where) == 200
    assert set(where[:, 1].tolist()) == {8, 9, 10, 11, 12}
    assert set(where[:, 2].tolist()) == {12, 13, 14, 15, 16, 17, 18}


def test_a_flip_mirrors_about_half_of_the_rows():
    before = rows(400, 4, 5, 3)

    after = augment.flip(before, torch.Generator().manual_seed(0))

    same = (after == before).flatten(1).all(1)
    mirrored = (after == before.flip(2)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 150 < same.sum() < 250


def test_a_crop_shows_a_part_of_each_image_in_its_own_size():
    before = (
        torch.arange(16, dtype=torch.uint8).mul(10).expand(100, 12, 16)[..., None].contiguous()
    )  # brighter to the right

    after = augment.crop(before, torch.Generator().manual_seed(0))

    widths = (after[:, 6, -1, 0].int() - after[:, 6, 0, 0].int()) / 10
    assert after.shape == before.shape
    assert widths.min() >= 6  # of 15 steps from the first to the last column
    assert widths.max() <= 15
    assert widths.std() > 1


def test_colours_change_each_image_in_its_own_way_and_grey_ones_only_in_light():
    before = torch.full((100, 4, 4, 3), 100, dtype=torch.uint8)
    before[..., 0] = 160

    after = augment.colour(before, torch.Generator().manual_seed(0)).float()

    assert (after[..., 0] - after[..., 1]).std() > 5  # more and less coloured
    assert after.mean(dim=(1, 2, 3)).std() > 10  # brighter and darker
    grey = augment.colour(before[..., :1], torch.Generator().manual_seed(0))
    assert grey.shape == (100, 4, 4, 1)


def test_a_cutout_hides_a_part_of_about_half_of_the_images_behind_their_mean():
    before = rows(200, 20, 30, 3)

    after = augment.cutout(before, torch.Generator().manual_seed(0))

    hidden = (after != before).any(dim=3)
    share = hidden.flatten(1).float().mean(1)
    assert 70 < (share > 0).sum() < 130
    assert share.max() < 0.3
    one = int(share.argmax())
    places = hidden[one].nonzero()
    height, width = (places.max(0).values - places.min(0).values + 1).tolist()
    assert height * width == pytest.approx(int(hidden[one].sum()), rel=0.1)  # some pixels have that colour already
    mean = before[one].float().mean(dim=(0, 1)).round()
    assert torch.equal(after[one][tuple(places[0])].float(), mean)


def test_changes_are_made_one_after_the_other():
    before = rows(16, 8, 8, 3)

    both = augment.augmented(before, ("flip", "colour"), torch.Generator().manual_seed(3))

    generator = torch.Generator().manual_seed(3)
    assert torch.equal(both, augment.colour(augment.flip(before, generator), generator))
    assert augment.augmented(before, (), generator) is before


@pytest.mark.parametrize("change", augment.CHANGES.values(), ids=augment.CHANGES)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_random_changes_repeat_with_their_generator(change, num_channels):
    before = rows(16, 8, 9, num_channels)

    once, again, other = (change(before, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))

    assert (once.dtype, once.shape) == (torch.uint8, before.shape)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
