"""What an envelope may say."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import ConfigError
from serve.envelope import LiveEnvelope, read


def test_it_goes_out_and_comes_back_as_a_dictionary() -> None:
    made = LiveEnvelope(epoch=3, max_batch=8, variants=["onnx-int8"], admit=0.5)

    assert read(made.model_dump()) == made
    assert read({}) == LiveEnvelope()


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        pytest.param({"max_batch": 0}, r"envelope\.max_batch = 0: input should be greater", id="bound"),
        pytest.param({"admit": 1.5}, r"envelope\.admit = 1\.5", id="share"),
        pytest.param({"max_wait_s": float("nan")}, r"envelope\.max_wait_s = nan", id="no number"),
        pytest.param({"epoch": "3"}, r"envelope\.epoch = '3'", id="type"),
        pytest.param({"batch": 3}, r"envelope\.batch = 3: .* known are epoch, max_batch", id="unknown"),
    ],
)
def test_a_wrong_one_is_refused_by_its_field(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tree)
