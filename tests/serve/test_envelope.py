"""What an envelope may say, and whom it lets in."""

from __future__ import annotations

import uuid
import zlib
from typing import Any

import pytest

from cluster.errors import ConfigError
from serve.envelope import LiveEnvelope, admits, read


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


def test_the_share_let_in_is_that_of_the_ids_and_always_the_same_ones() -> None:
    ids = [str(uuid.UUID(int=i)) for i in range(4000)]

    few, more = ({name for name in ids if admits(share, name)} for share in (0.2, 0.6))

    assert len(few) == pytest.approx(800, rel=0.15)
    assert len(more) == pytest.approx(2400, rel=0.1)
    assert few < more  # raising the share sends nobody away
    assert few == {name for name in ids if admits(0.2, name)}


def test_all_or_none() -> None:
    assert admits(1.0, "any")
    assert not admits(0.0, "any")


def test_the_share_is_independent_of_another_hash_of_the_id() -> None:
    ids = [str(i) for i in range(4000) if zlib.crc32(str(i).encode()) < 2**31]

    assert sum(admits(0.5, name) for name in ids) / len(ids) == pytest.approx(0.5, abs=0.05)
