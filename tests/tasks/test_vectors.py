from __future__ import annotations

import pytest
import torch
from torch import nn

from tasks.vectors import SCALE, Cosines, WithoutVectors, WithVectors


def test_no_logit_of_cosines_is_larger_than_their_scale_whatever_was_learned() -> None:
    head = Cosines(8, 3, 0.0)
    with torch.no_grad():
        head.centres.mul_(1000)

    logits = head(head.centres)

    assert logits.shape == (3, 3)
    assert logits.diagonal().tolist() == pytest.approx([SCALE] * 3, rel=1e-5)
    assert logits.abs().max() <= SCALE * 1.00001


def test_vectors_stand_behind_the_logits_or_zeros_in_their_place() -> None:
    vectors = torch.randn(4, 8)
    head = Cosines(8, 3, 0.0)

    torch.testing.assert_close(WithVectors(head, 6)(vectors), torch.cat([head(vectors), vectors[:, 2:]], dim=1))
    plain = WithoutVectors(nn.Linear(8, 3), 8)(vectors)
    assert plain.shape == (4, 11)
    assert not plain[:, 3:].any()
