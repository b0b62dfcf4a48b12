from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from cluster.config import Experiment
from cluster.errors import DataError
from tasks.images import Images
from tasks.task import Ask, Encoding, Rejected, load_task

GREY = Encoding(("a", "b"), (8, 6, 1), "uint8", {"mean": [0.0], "std": [1.0]})
COLOUR = Encoding(("a", "b"), (8, 6, 3), "uint8", {"mean": [0.0] * 3, "std": [1.0] * 3})


def experiment(image: dict | None = None, **sections) -> Experiment:
    return Experiment.model_validate({"name": "t", "data": {"source": {"kind": "digits"}, "image": image}, **sections})


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(height: int = 8, width: int = 6, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png_header_of(width: int, height: int) -> bytes:
    """A PNG that says it is huge and carries no pixels: decoding it would fail in another way."""
    ihdr = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    data = b"IDAT" + zlib.compress(b"")
    chunk = [len(c[4:]).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (ihdr, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk)


def test_a_png_of_the_right_shape_comes_through_unchanged():
    pixels = picture()

    row = Images(experiment()).clean(encoded(Image.fromarray(pixels)), (8, 6, 3))

    assert row.dtype == np.uint8
    assert np.array_equal(row, pixels)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(b"", "empty", id="no bytes"),
        pytest.param(np.empty((0, 6, 3), np.uint8), "empty", id="an array without pixels"),
        pytest.param(b"GIF89a" + bytes(50), "not_an_image", id="another format"),
        pytest.param(b"hello, this is text", "not_an_image", id="text"),
        pytest.param(picture().astype(np.float32), "not_an_image", id="a float array"),
        pytest.param(encoded(Image.fromarray(picture()))[:120], "undecodable", id="truncated PNG"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "undecodable", id="a PNG's first bytes alone"),
        pytest.param(encoded(Image.fromarray(picture()), "JPEG")[:-40], "undecodable", id="truncated JPEG"),
        pytest.param(b"\xff\xd8\xff" + bytes(50), "undecodable", id="a JPEG's first bytes alone"),
        pytest.param(encoded(Image.fromarray(picture(7, 6))), "wrong_shape", id="another height"),
        pytest.param(encoded(Image.fromarray(picture(6, 8))), "wrong_shape", id="on its side"),
        pytest.param(picture(8, 6, 5), "wrong_shape", id="five channels"),
        pytest.param(png_header_of(60_000, 60_000), "too_many_pixels", id="decompression bomb"),
        pytest.param(png_header_of(12_000, 12_000), "too_many_pixels", id="half a bomb, of which Pillow only warns"),
    ],
)
def test_unusable_values_are_rejected_with_their_reason(value: bytes | np.ndarray, reason: str):
    images = Images(experiment({"height": 8, "width": 6, "resize": False}))

    with pytest.raises(Rejected) as caught:
        images.clean(value, (8, 6, 3))

    assert caught.value.reason == reason


def test_the_pixel_bound_comes_from_the_experiment():
    images = Images(experiment(serve={"max_pixels": 47}))

    with pytest.raises(Rejected, match="too_many_pixels"):
        images.decode(encoded(Image.fromarray(picture())), "image/png", COLOUR)


def test_another_size_is_scaled_only_when_the_experiment_says_so():
    body = encoded(Image.fromarray(picture(80, 60)), "JPEG")

    row = Images(experiment({"height": 8, "width": 6})).clean(body, (8, 6, 3))

    assert row.shape == (8, 6, 3)
    with pytest.raises(Rejected, match="wrong_shape"):
        Images(experiment()).clean(body, (8, 6, 3))


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.fromarray(picture()), id="RGB"),
        pytest.param(Image.fromarray(picture(channels=1)), id="grey"),
        pytest.param(Image.fromarray(picture(channels=4)), id="RGB with alpha"),
        pytest.param(Image.fromarray(picture()).convert("LA"), id="grey with alpha"),
        pytest.param(Image.fromarray(picture()).quantize(8), id="palette"),
        pytest.param(Image.fromarray(picture(channels=1)).convert("1"), id="one bit"),
        pytest.param(Image.fromarray(picture(channels=1).astype(np.uint16) * 257), id="16 bit"),
    ],
)
@pytest.mark.parametrize("encoding", [pytest.param(GREY, id="to grey"), pytest.param(COLOUR, id="to colour")])
def test_every_kind_of_png_becomes_the_encodings_shape(image: Image.Image, encoding: Encoding):
    row = Images(experiment()).decode(encoded(image), "image/png", encoding)

    assert row.shape == encoding.shape
    assert row.max() > 0


def test_sixteen_bits_are_scaled_and_not_cut_off():
    pixels = picture(channels=1)

    row = Images(experiment()).clean(encoded(Image.fromarray(pixels.astype(np.uint16) * 257)), (8, 6, 1))

    assert np.array_equal(row[..., 0], pixels)


def test_transparent_pixels_are_black():
    pixels = np.full((8, 6, 4), 200, np.uint8)
    pixels[:4, :, 3] = 0
    pixels[4:, :, 3] = 255

    row = Images(experiment()).clean(encoded(Image.fromarray(pixels)), (8, 6, 3))

    assert (row[:4] == 0).all()
    assert (row[4:] == 200).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_marked_as_lying_on_its_side_is_set_upright(kind: str):
    upright = np.zeros((8, 6, 3), np.uint8)
    upright[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    stored = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)

    row = Images(experiment()).clean(encoded(stored, kind, exif=exif), (8, 6, 3))

    assert row[:3].min() > 200
    assert row[5:].max() < 50


def test_the_shape_is_that_of_the_first_usable_image():
    values = [b"", b"text", encoded(Image.fromarray(picture(channels=1))), encoded(Image.fromarray(picture(9, 9)))]

    assert Images(experiment()).row_shape(values) == (8, 6, 1)
    assert Images(experiment({"height": 5, "width": 4, "channels": 1})).row_shape([]) == (5, 4, 1)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"", b"text"], id="nothing usable"),
        pytest.param([picture(3, 9)], id="too small"),
        pytest.param([np.zeros((8, 1025, 3), np.uint8)], id="too large"),
    ],
)
def test_no_usable_image_is_a_data_error(values: list):
    with pytest.raises(DataError, match="holds no"):
        Images(experiment()).row_shape(values)


def test_statistics_are_exact_and_do_not_depend_on_how_rows_were_grouped():
    rows = np.stack([picture(seed=seed) for seed in range(40)])
    images = Images(experiment())

    whole = images.statistics([images.partial_statistics(rows)])
    parts = images.statistics([images.partial_statistics(part) for part in np.array_split(rows, 7)[::-1]])

    assert whole == parts
    assert whole["mean"] == pytest.approx(rows.mean(axis=(0, 1, 2)))
    assert whole["std"] == pytest.approx(rows.std(axis=(0, 1, 2)))
    json.dumps(whole)


def test_a_constant_channel_has_a_deviation_that_can_be_divided_by():
    images = Images(experiment())

    statistics = images.statistics([images.partial_statistics(np.full((3, 8, 6, 1), 7, np.uint8))])

    assert statistics == {"mean": [7.0], "std": [1.0]}


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param({"image": base64.b64encode(encoded(Image.fromarray(picture()))).decode()}, id="base64"),
        pytest.param({"pixels": picture().tolist()}, id="pixels"),
    ],
)
def test_a_json_request_is_the_same_row_as_the_png(tree: dict):
    row = Images(experiment()).decode(json.dumps(tree).encode(), "application/json", COLOUR)

    assert np.array_equal(row, picture())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "not_an_image", id="empty"),
        pytest.param(b"{", "not_an_image", id="not JSON"),
        pytest.param(b"\xff\xfe", "not_an_image", id="not text"),
        pytest.param(b"[" * 100_000, "not_an_image", id="nested without end"),
        pytest.param(b"[]", "not_an_image", id="a list"),
        pytest.param(b'{"image": "***"}', "not_an_image", id="not base64"),
        pytest.param(b'{"image": ""}', "empty", id="empty base64"),
        pytest.param(b'{"pixels": [[NaN, 1]]}', "not_an_image", id="NaN"),
        pytest.param(b'{"pixels": [[0.5, 1]]}', "not_an_image", id="fractions"),
        pytest.param(b'{"pixels": [[true, false]]}', "not_an_image", id="booleans"),
        pytest.param(b'{"pixels": [[256, 1]]}', "not_an_image", id="over 255"),
        pytest.param(b'{"pixels": [[-1, 1]]}', "not_an_image", id="below 0"),
        pytest.param(b'{"pixels": [[1], [1, 2]]}', "wrong_shape", id="ragged"),
        pytest.param(b'{"pixels": [1, 2]}', "wrong_shape", id="a single row"),
        pytest.param(b'{"pixels": [[]]}', "empty", id="no pixels"),
        pytest.param(b'{"pixels": [["a"]]}', "not_an_image", id="text"),
        pytest.param(b'{"pixels": [[99999999999999999999999]]}', "not_an_image", id="a huge number"),
    ],
)
def test_json_of_another_form_is_rejected(body: bytes, reason: str):
    with pytest.raises(Rejected) as caught:
        Images(experiment()).decode(body, "application/json", COLOUR)

    assert caught.value.reason == reason


def test_the_answer_names_the_likeliest_label():
    answer = Images(experiment()).answer(np.array([0.25, 0.75], np.float32), COLOUR, Ask())

    assert answer == {"label": "b", "probabilities": {"a": 0.25, "b": 0.75}}


def test_serving_needs_no_torch():
    code = (
        "import sys; from cluster.config import Experiment; from tasks.task import load_task;"
        "load_task(Experiment.model_validate({'name': 't', 'data': {'source': {'kind': 'digits'}}}));"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_task_is_found_by_its_name():
    assert isinstance(load_task(experiment()), Images)
