from __future__ import annotations

import numpy as np
import pytest

from serve.adapt.streams import Stream


def sure(generator: np.random.Generator, n: int, doubt: float = 0.3) -> list[float]:
    """Confidences of a classifier that is mostly sure."""
    return list(1.0 - 0.9 * generator.beta(doubt, 8.0, n))


def test_a_stream_that_stays_raises_nothing() -> None:
    stream, generator = Stream(), np.random.default_rng(0)

    assert all(stream.feed(sure(generator, 1000)) is None for _ in range(20))


@pytest.mark.parametrize(("doubt", "most"), [pytest.param(1.2, 400, id="large"), pytest.param(0.45, 6000, id="small")])
def test_a_change_is_found_with_the_means_before_and_after(doubt: float, most: int) -> None:
    stream, generator = Stream(), np.random.default_rng(1)
    stream.feed(sure(generator, 2000))

    change = stream.feed(sure(generator, most, doubt))

    assert change is not None
    assert change[1] < change[0]
