"""Images of any height x width with one or three channels: cleaning, encoding, network, decoding of requests.

The one path from bytes to an encoded row is used for training data and for requests, so both see the same
pixels: EXIF orientation applied, transparency laid on black, 16-bit scaled to 8, palette and CMYK turned into
colour, then grey or RGB as the shape asks. Only JPEG and PNG are decoded, and only after their size was
checked. Knows no files, no HTTP and no network layers (`tasks.cnn`).
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin

from cluster.config import Experiment
from cluster.errors import DataError, first_line
from tasks.task import Asked, Encoding, Rejected, Task, TensorSpec

if TYPE_CHECKING:
    import torch

DECODERS = {b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile, b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile}
MIN_SIDE = 4  # below this the networks have nothing left to pool
MAX_SIDE = 1024
MIN_STD = 1.0  # of 255; a constant channel must not be divided by zero
_SUMMED_VALUES = 1 << 22  # values widened to 64 bits at a time


class Images(Task):
    """An encoded row is uint8 [height, width, channels], 0 black to 255 white."""

    takes = "file"

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self._max_pixels = experiment.serve.max_pixels
        if experiment.model.network == "large":  # the narrow student is a large network too, and learns as slowly
            self.student_share = 2.0

    # Preprocessing

    def row_shape(self, values: Iterable[bytes | np.ndarray]) -> tuple[int, ...]:
        """(height, width, channels) of `data.image`, or of the first value that is a usable image."""
        image = self.experiment.data.image
        if image is not None:
            return image.height, image.width, image.channels
        last: Rejected | None = None
        for value in values:
            try:
                return self._native_shape(value)
            except Rejected as error:
                last = error
        raise DataError(
            "data.source",
            self.experiment.data.source.kind,
            f"holds no usable image (the last one: {last})" if last else "holds no image",
            f"name a source with JPEG or PNG images whose sides are {MIN_SIDE} to {MAX_SIDE} pixels",
        )

    def clean(self, value: bytes | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """One image as uint8 `shape`; other sizes are scaled when `data.image.resize` says so.

        Raises:
            Rejected: `empty`, `not_an_image`, `undecodable`, `too_many_pixels` or `wrong_shape`.
        """
        image = self.experiment.data.image
        return self._encode(value, shape, resize=image is not None and image.resize)

    def partial_statistics(self, rows: np.ndarray) -> dict[str, Any]:
        """Per channel sums of values and of their squares, exact integers, and the pixels they come from."""
        num_channels = rows.shape[-1]
        values = rows.reshape(-1, num_channels)
        sums, squares = np.zeros(num_channels, np.int64), np.zeros(num_channels, np.int64)
        step = max(1, _SUMMED_VALUES // num_channels)
        for start in range(0, len(values), step):
            wide = values[start : start + step].astype(np.int64)
            sums += wide.sum(axis=0)
            squares += (wide * wide).sum(axis=0)
        return {"pixels": len(values), "sum": sums.tolist(), "sum_of_squares": squares.tolist()}

    def statistics(self, partials: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`mean` and `std` per channel on the scale 0 to 255; `std` is at least 1."""
        num_pixels = sum(part["pixels"] for part in partials)
        if num_pixels == 0:
            raise DataError("data.source", self.experiment.data.source.kind, "has no training rows", "add images")
        sums = [sum(channel) for channel in zip(*(part["sum"] for part in partials), strict=True)]
        squares = [sum(channel) for channel in zip(*(part["sum_of_squares"] for part in partials), strict=True)]
        mean = [total / num_pixels for total in sums]
        # Integers to the last: E[x^2] - E[x]^2 in floats would lose digits on large data.
        variances = [(num_pixels * q - s * s) / num_pixels**2 for q, s in zip(squares, sums, strict=True)]
        return {"mean": mean, "std": [max(MIN_STD, variance**0.5) for variance in variances]}

    # Training

    def network(self, encoding: Encoding) -> torch.nn.Module:
        from tasks import backbone, cnn

        model = self.experiment.model
        build = cnn.build if model.network in ("small", "large") else backbone.build
        return build(model, encoding)

    def larger(self, network: torch.nn.Module, encoding: Encoding) -> dict[str, torch.nn.Module]:
        """Answers averaged over an image and its mirror image, and over these two at three places."""
        from tasks import cnn

        changes = self.experiment.train.augmentations
        if not (self.experiment.ladder.views and "flip" in changes and {"shift", "crop"} & {*changes}):
            return {}
        height, width, _ = encoding.shape
        return {
            "mirrored": cnn.Views(network, height, width, shifts=(0,)),
            "views": cnn.Views(network, height, width, shifts=(-1, 0, 1)),
        }

    def students(self, encoding: Encoding) -> dict[str, torch.nn.Module]:
        """One convolution; below larger networks also the small one, below the large one a narrow one too."""
        from tasks import cnn

        model = self.experiment.model
        tiny = cnn.build_tiny(encoding)
        if model.network == "small":
            return {"student": tiny}
        small = cnn.build(model.model_copy(update={"network": "small", "width": 1.0}), encoding)
        narrow = {"narrow-student": cnn.build_narrow(model, encoding)} if model.network == "large" else {}
        return {**narrow, "student": small, "tiny-student": tiny}

    def augment(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """uint8 [n, height, width, channels], changed as `train.augment` says."""
        from tasks import augment

        return augment.augmented(rows, self.experiment.train.augmentations, generator)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.cross_entropy(logits.float(), targets)

    # Serving

    def input_spec(self, encoding: Encoding) -> TensorSpec:
        return TensorSpec("image", "UINT8", (-1, *encoding.shape))

    def decode(self, body: bytes, content_type: str, encoding: Encoding) -> np.ndarray | Asked:
        """A request as uint8 `encoding.shape`; users send what they have, so any size is scaled to it.

        The body is a PNG or a JPEG, or with `application/json` either `{"image": "<base64 of one>"}` or
        `{"pixels": [[...], ...]}` with whole numbers 0 to 255 as [height][width] or [height][width][channels], each
        also with `"top_k"`.

        Raises:
            Rejected: as `clean`, and `not_an_image` for JSON of another form.
        """
        if content_type != "application/json":
            return self._encode(body, encoding.shape, resize=True)
        value, top_k = _from_json(body)
        row = self._encode(value, encoding.shape, resize=True)
        return row if top_k is None else Asked(row, {"top_k": top_k})

    def media_types(self) -> tuple[str, ...]:
        return "image/png", "image/jpeg", "application/json"

    def sample(self, row: np.ndarray, encoding: Encoding) -> tuple[str, bytes]:  # noqa: ARG002
        """The row as a PNG."""
        out = io.BytesIO()
        Image.fromarray(row[:, :, 0] if row.shape[2] == 1 else row).save(out, "PNG")
        return "sample.png", out.getvalue()

    # The one path

    def _encode(self, value: bytes | np.ndarray, shape: tuple[int, ...], *, resize: bool) -> np.ndarray:
        if isinstance(value, np.ndarray) and value.dtype == np.uint8 and shape in (value.shape, (*value.shape, 1)):
            return np.ascontiguousarray(value.reshape(shape))
        image = self._open(value)
        size, num_channels = (shape[1], shape[0]), shape[2]
        if not resize:
            _check_size(_upright_size(image), size)
        try:
            if _upright_size(image) != size:
                # A JPEG decoder can halve as it goes; twice the target leaves scaling enough to work with.
                image.draft(None, (2 * max(size),) * 2)
            image = _plain(ImageOps.exif_transpose(image), num_channels)
        except Exception as error:  # damaged files make Pillow raise OSError, SyntaxError, ValueError, zlib.error ...
            raise Rejected("undecodable", first_line(error)) from error
        if not resize:
            _check_size(image.size, size)  # again: EXIF behind a PNG's pixels is known only now
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.uint8).reshape(shape)

    def _native_shape(self, value: bytes | np.ndarray) -> tuple[int, int, int]:
        image = self._open(value)
        width, height = _upright_size(image)
        if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
            raise Rejected("wrong_shape", f"{height}x{width} has a side outside {MIN_SIDE} to {MAX_SIDE}")
        shape = height, width, 1 if image.mode in ("1", "L", "LA", "I", "I;16") else 3
        self._encode(value, shape, resize=False)
        return shape

    def _open(self, value: bytes | np.ndarray) -> Image.Image:
        """The image with its size known and within bounds, its pixels not decoded yet."""
        if len(value) == 0:
            raise Rejected("empty")
        if isinstance(value, np.ndarray):
            image = _from_array(value)
        else:
            decoder = next((decoder for magic, decoder in DECODERS.items() if value.startswith(magic)), None)
            if decoder is None:
                raise Rejected("not_an_image", "neither PNG nor JPEG")
            try:
                # Not Image.open: that warns or raises at a bound of its own, we check ours.
                image = decoder(io.BytesIO(value))
            except Exception as error:
                raise Rejected("undecodable", first_line(error)) from error
        num_pixels = image.width * image.height
        if num_pixels > self._max_pixels:
            raise Rejected("too_many_pixels", f"{image.width}x{image.height} is over {self._max_pixels} pixels")
        if num_pixels == 0:
            raise Rejected("empty")
        return image


def _from_array(value: np.ndarray) -> Image.Image:
    """uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] (the last one transparency)."""
    if value.size == 0:
        raise Rejected("empty")
    if value.dtype != np.uint8:
        raise Rejected("not_an_image", f"an array of {value.dtype}, expected uint8")
    if value.ndim == 3 and value.shape[2] == 1:
        value = value[:, :, 0]
    if value.ndim != 2 and not (value.ndim == 3 and value.shape[2] in (3, 4)):
        raise Rejected("wrong_shape", f"an array of shape {value.shape}")
    return Image.fromarray(np.ascontiguousarray(value))


def _from_json(body: bytes) -> tuple[bytes | np.ndarray, object]:
    """The image, and how many of the likeliest labels are asked for, if that is said."""
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Rejected("not_an_image", f"the body is not JSON ({first_line(error)})") from error
    if isinstance(tree, dict) and isinstance(tree.get("image"), str):
        try:
            return base64.b64decode(tree["image"], validate=True), tree.get("top_k")
        except (binascii.Error, ValueError) as error:
            raise Rejected("not_an_image", f"`image` is not base64 ({error})") from error
    if not (isinstance(tree, dict) and isinstance(tree.get("pixels"), list)):
        raise Rejected("not_an_image", "expected `image` (base64 of a PNG or JPEG) or `pixels` (nested whole numbers)")
    try:
        pixels = np.array(tree["pixels"])
    except (ValueError, OverflowError) as error:
        raise Rejected("wrong_shape", "the rows of `pixels` differ in length") from error
    if pixels.size == 0:
        raise Rejected("empty")
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise Rejected("not_an_image", "`pixels` must be whole numbers from 0 to 255")
    return pixels.astype(np.uint8), tree.get("top_k")


def _check_size(got: tuple[int, int], expected: tuple[int, int]) -> None:
    if got != expected:
        raise Rejected("wrong_shape", f"{got[1]}x{got[0]} (height x width), expected {expected[1]}x{expected[0]}")


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) as a viewer shows it: EXIF orientations 5 to 8 lie on their side."""
    if isinstance(image, PngImagePlugin.PngImageFile) and "exif" not in image.info:
        return image.size  # asking would decode the pixels to look for EXIF behind them
    try:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception as error:
        raise Rejected("undecodable", f"EXIF: {first_line(error)}") from error
    return (image.height, image.width) if turned else image.size


def _plain(image: Image.Image, num_channels: int) -> Image.Image:
    """8 bits, `num_channels` channels, no transparency."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        # On black: where nothing was drawn there is no light.
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("L" if num_channels == 1 else "RGB")
