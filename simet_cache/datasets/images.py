"""One image file as 8-bit RGB pixels, the way a person looking at it sees them.

Pillow's ``convert("RGB")`` alone ignores the EXIF orientation, shows colours that transparency hides, and clips
16-bit gray to white. Each of these moves features without an error, so they are settled here, for every dataset.
"""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from simet_cache.datasets.bit_depth import (
    Depth,
    UndecidedError,
    deep_colours,
    depth_of,
    largest_value,
    low_bytes,
    read_wrongly,
    to_8_bit,
)
from simet_cache.datasets.png_pixels import without_metadata
from simet_cache.datasets.suffixes import FROM_PYPI, SIGNATURE, missing_decoder
from simet_cache.errors import BitDepthError, ImageReadError

# What Pillow registers but cannot, or had better not, decode by itself.
REFUSED_FORMATS = {
    "EPS": "starts Ghostscript",
    "WMF": "drawn by Windows alone",
    "BUFR": "a stub: recognised, without a decoder",
    "GRIB": "a stub: recognised, without a decoder",
    "HDF5": "a stub: recognised, without a decoder",
    "MPEG": "a film: recognised, without a decoder",
}

_FLOATS = "float pixels have no known range; convert them to 8 bit first"
MAX_PIXELS = 178_956_970  # twice Image.MAX_IMAGE_PIXELS, above which Pillow refuses an image by itself

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A big image is no news, and Pillow still raises above twice its limit. Set once, because a filter set around each
# image is not safe between threads and makes every other warning of the program appear again.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Names of the formats that this Pillow decodes by itself, in the order in which it tries them."""
    Image.init()
    return tuple(name for name in Image.ID if name not in REFUSED_FORMATS)


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file tell.

    Attributes:
        format: As Pillow calls it; that of an MPO is JPEG.
        size: Width and height in pixels.
        depth: Whether its pixels have more than 8 bits.
        quality: Of a JPEG, from 1 to 100, by its first quantisation table; else None.
    """

    format: str
    size: tuple[int, int]
    depth: Depth
    quality: int | None = None


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, bit_depth: int | None = 16) -> Image.Image:
    """Read the first frame of an image file as 8-bit RGB.

    The format is taken from the content, so a PostScript file named ``.png`` is refused, not run.

    Args:
        path: The file.
        max_pixels: An image of more is refused: a small file can hold so many that they fill the memory.
        bit_depth: How many bits the values of an image have that is stored with more than 8: those of all images in its
            set. None refuses such an image.

    Raises:
        BitDepthError: A value has more bits than that.
        ImageReadError: The file is missing, forbidden, empty, damaged, too big to be honest, or not an image.
    """
    try:
        with open(path, "rb") as file:
            return decode_image(file, path, max_pixels=max_pixels, bit_depth=bit_depth)
    except (OSError, ValueError) as error:
        raise ImageReadError(path, _reason(error), errno=getattr(error, "errno", None)) from error


def check_header(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> None:
    """See from the head of an image file whether `read_image` would refuse it; what is damaged further on is not seen.

    Raises:
        ImageReadError: It would.
    """
    read_header(path, max_pixels=max_pixels)


def read_header(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the head of an image file.

    Raises:
        ImageReadError: `read_image` would refuse it, as far as its head tells.
    """
    try:
        with open(path, "rb") as file, _errors_named(file, path):
            image = _opened(file, max_pixels)
            named = "JPEG" if image.format == "MPO" else str(image.format)
            return Header(named, image.size, depth_of(image), _quality(image))
    except (OSError, ValueError) as error:
        raise ImageReadError(path, _reason(error), errno=getattr(error, "errno", None)) from error


def read_largest_value(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> int:
    """The largest value in an image that is stored with more than 8 bits for each pixel; see `largest_value`.

    Raises:
        ImageReadError: It cannot be read.
    """
    try:
        with open(path, "rb") as file, _errors_named(file, path):
            image = _opened(file, max_pixels)
            colours = depth_of(image).exact and not image.mode.startswith("I")
            image.load()
            return largest_value(image, low_bytes(without_metadata(file), readable_formats()) if colours else None)
    except (OSError, ValueError) as error:
        raise ImageReadError(path, _reason(error), errno=getattr(error, "errno", None)) from error


# The luminance table of the JPEG standard (annex K.1), which most programs scale by a quality: all its values together,
# and the smallest, which is the last one to be cut at 255.
_STANDARD_SUM, _STANDARD_LEAST = 3688, 10


def _quality(image: Image.Image) -> int | None:
    """The quality that a JPEG was saved with, as libjpeg counts it; about that where a program has its own tables."""
    tables: dict[int, list[int]] = getattr(image, "quantization", None) or {}
    if 0 not in tables:
        return None
    cut = max(tables[0]) >= 255
    scale = 100 * (min(tables[0]) / _STANDARD_LEAST if cut else sum(tables[0]) / _STANDARD_SUM)
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return min(100, max(1, round(quality)))


def decode_image(
    file: BinaryIO, name: str | Path, *, max_pixels: int = MAX_PIXELS, bit_depth: int | None = 16
) -> Image.Image:
    """`read_image` for an open, seekable file; ``name`` stands for it in errors."""
    with _errors_named(file, name):
        image = _opened(file, max_pixels)
        depth = depth_of(image)
        if not depth.deep:
            return to_rgb(image)
        if bit_depth is None:
            raise UndecidedError("", "it has more than 8 bits for each pixel, and nobody has said how many count")
        if bit_depth == 16 or image.mode.startswith("I"):
            return to_rgb(image, bit_depth=bit_depth)
        if not depth.exact:
            raise BitDepthError(
                "", f"of its values Pillow reads no more than the high bytes, and bit_depth is {bit_depth}; convert it"
            )
        image.load()
        values = deep_colours(image, low_bytes(without_metadata(file), readable_formats()))
        return _upright(Image.fromarray(to_8_bit(values, bit_depth)), image)


@contextlib.contextmanager
def _errors_named(file: BinaryIO, name: str | Path) -> Iterator[None]:
    """Whatever Pillow raises as an `ImageReadError`."""
    try:
        yield
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(SIGNATURE)
        reason = missing_decoder(start) or ("not an image that Pillow can decode" if start else "the file is empty")
        raise ImageReadError(name, reason) from None
    except ImageReadError as error:
        raise type(error)(name, error.reason) from None
    except Exception as error:  # damaged bytes make the decoders raise almost anything
        without = re.fullmatch(r"(?:decoder|encoder) (\w+) not available", str(error))
        reason = f"this Pillow has no decoder {without[1]}; {FROM_PYPI}" if without else _reason(error)
        raise ImageReadError(name, reason, errno=getattr(error, "errno", None)) from error


def _opened(file: BinaryIO, max_pixels: int) -> Image.Image:
    """An image whose header says that it can be decoded; its pixels are not read yet."""
    _let_pillow_open(max_pixels)
    try:
        image = Image.open(without_metadata(file), formats=readable_formats())
    except Image.DecompressionBombError as error:  # of another limit that the process has, or inside of the format
        raise ImageReadError("", f"{str(error).rstrip('.')}; where it is honest, raise max_pixels") from error
    width, height = image.size
    if width * height > max_pixels:
        reason = (
            f"{width} x {height} pixels are more than the {max_pixels:,} of max_pixels"
            " (it could be a decompression bomb); raise max_pixels where it is honest"
        )
        raise ImageReadError("", reason)
    if image.mode == "F":
        raise ImageReadError("", _FLOATS)
    if wrong := read_wrongly(image):
        raise ImageReadError("", wrong)
    return image


def _let_pillow_open(max_pixels: int) -> None:
    """Raise Pillow's own limit, which is the process's, where ours is above it; it is never lowered.

    Other threads may read by another limit, which is checked for each image.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and 2 * limit < max_pixels and max_pixels > MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)


def to_rgb(image: Image.Image, *, bit_depth: int = 16) -> Image.Image:
    """Bring an image to mode RGB, 8 bit: upright, on white, deep gray scaled to 8 bit.

    Args:
        image: Of any mode.
        bit_depth: How many bits the values of deep gray have (modes I, I;16, I;16B): the largest is white.

    Returns:
        The image itself where nothing has to change, else a new one. No colour profile is applied.

    Raises:
        BitDepthError: A value has more bits than ``bit_depth``.
        ImageReadError: Its pixels have no known range (floats, or integers beyond 16 bit).
        OSError: Pillow had not read the pixels yet, and cannot.
    """
    image.load()
    return _upright(_flatten(image, bit_depth), image)


def _upright(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Pixels the way the image that they are of says that it lies."""
    turn = _turn(image)
    if turn is None:
        return rgb
    upright = rgb.transpose(turn)
    upright.info.clear()  # or its EXIF data would turn it once more
    return upright


def _flatten(image: Image.Image, bit_depth: int) -> Image.Image:
    if image.mode == "F":
        raise _refusal(image, _FLOATS)
    if image.mode.startswith("I"):
        return _scale_to_8_bit(image, bit_depth)
    if image.has_transparency_data:
        return _put_on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale_to_8_bit(image: Image.Image, bit_depth: int) -> Image.Image:
    """Scale deep gray (modes I, I;16, I;16B): of 16 bits by 1/257, rounded, so that 8 bits stored as 16 come back."""
    gray = np.asarray(image).astype(np.int64)
    low, high = int(gray.min()), int(gray.max())
    if low < 0 or high > 65535:
        raise _refusal(image, f"expected gray from 0 to 65535, found {low} to {high}; convert to 8 or 16 bit first")
    scaled = to_8_bit(gray, bit_depth)
    if "transparency" in image.info:
        scaled[gray == image.info["transparency"]] = 255
    return Image.fromarray(scaled).convert("RGB")


def _put_on_white(image: Image.Image) -> Image.Image:
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba)
    return white


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the image upright, by its EXIF data; None where they are absent or damaged, as viewers do."""
    with contextlib.suppress(Exception):  # damaged EXIF data raise almost anything
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _refusal(image: Image.Image, reason: str) -> ImageReadError:
    return ImageReadError(getattr(image, "filename", "") or "(in memory)", reason)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
