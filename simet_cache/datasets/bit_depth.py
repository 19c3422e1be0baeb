"""Images of more than 8 bits for each pixel: which values are black and white is decided for a set, never for an image.

A file of 16 bits may hold values of 8, 12 or 16, and mostly does not say so. Divided by 257, as 16-bit values have to
be, 8-bit values all become black. So the set says it (``bit_depth: 8``, ``12`` or ``16``), or its largest value does,
where that leaves no doubt: up to 255 it is 8 bits, from 2048 to 4095 it is 12, from 32768 to 65535 it is 16.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simet_cache.datasets.passed_over import listed
from simet_cache.errors import BitDepthError, DatasetError

DEPTHS = (8, 12, 16)
_NAMES = 10  # in one line
RULE = "up to 255 is 8 bits, 2048 to 4095 is 12, 32768 to 65535 is 16"
_LARGEST = {8: 255, 12: 4095, 16: 65535}
_SURE_OF_16 = 32768
_REMEDY = "say bit_depth: 8, 12 or 16 for this set"

# Packed pixels of which Pillow keeps the high bytes alone, by what gives the low ones instead.
_OTHER_BYTE = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B" if sys.byteorder == "little" else "RGB;16L",
}
_HIGH_BYTES = (";16B", ";16L", ";16N")
_WITH_ALPHA = ("RGBA", "RGBa", "RGBX")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR_CONFIGURATION = 258, 262, 284  # tags of a TIFF
_SCALED_BY_HEADER = ("ppm", "ppm_plain")  # by their maxval, to 16 bits where they are gray


class BitDepth(NamedTuple):
    """How the deep images of a set are read.

    Attributes:
        bits: 8, 12 or 16: the largest value is white.
        auto: Whether that was decided by the set's largest value, and not by the configuration.
    """

    bits: int
    auto: bool

    @property
    def suffix(self) -> str:
        """What it adds to the extractor's suffix: nothing for 16, as such files have always been read."""
        return "" if self.bits == max(DEPTHS) else f"@{self.bits}bit"


class UndecidedError(BitDepthError):
    """An image is deep, and nobody has decided yet how those of its set are read."""


class Depth(NamedTuple):
    """What a header says about the depth of an image.

    Attributes:
        deep: Whether its pixels have more than 8 bits, so that what is white is to be decided.
        bits: How many bits its values have, where the header says so; else 0.
        exact: Whether all of its bits can be had, and not the high ones alone.
    """

    deep: bool = False
    bits: int = 0
    exact: bool = True


def depth_of(image: Image.Image) -> Depth:
    """The depth of an image that was opened, and not yet loaded."""
    codec, raw, largest = _packing(image)
    if codec in _SCALED_BY_HEADER and largest != _LARGEST[16]:
        return Depth()
    if image.mode.startswith("I"):
        return Depth(deep=True, bits=12 if raw == "I;12" else 0)
    if raw in _OTHER_BYTE:
        return Depth(deep=True, exact="transparency" not in image.info and not _planar(image))
    if raw.endswith(_HIGH_BYTES) or codec == "SGI16" or codec in _SCALED_BY_HEADER:
        return Depth(deep=True, exact=False)
    return Depth()


def read_wrongly(image: Image.Image) -> str:
    """Why Pillow would read other pixels than there are, and not notice; empty where it does not."""
    if _planar(image) and _packing(image)[0] == "raw" and max(_tag(image, _BITS_PER_SAMPLE), default=8) > 8:
        return "its colours lie in separate planes of 16 bits, which Pillow takes for 8 bits; convert it"
    if image.mode.startswith("I") and _tag(image, _PHOTOMETRIC) == (0,):
        return "its zero is white, which Pillow does not heed in images of more than 8 bits; convert it"
    return ""


def _planar(image: Image.Image) -> bool:
    """Whether a TIFF stores each colour by itself."""
    return _tag(image, _PLANAR_CONFIGURATION) == (2,)


def _tag(image: Image.Image, number: int) -> tuple[int, ...]:
    """What a TIFF says under a number; nothing where it does not, or is none."""
    value = getattr(image, "tag_v2", {}).get(number, ())
    return value if isinstance(value, tuple) else (value,)


def _packing(image: Image.Image) -> tuple[str, str, int]:
    """The codec, how pixels are packed, and the codec's last number, of the first tile of an image."""
    tile = next(iter(getattr(image, "tile", ())), None)
    if tile is None:
        return "", "", 0
    args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    raw = args[0] if args and isinstance(args[0], str) else ""
    return tile[0], raw, args[-1] if isinstance(args[-1], int) else 0


def largest_value(image: Image.Image, low: Image.Image | None) -> int:
    """The largest value of a deep image; of one whose low bytes nobody has, the least that it can be.

    Args:
        image: As Pillow reads it.
        low: The same with the low bytes, as `low_bytes` opens it.
    """
    if image.mode.startswith("I"):
        return int(np.asarray(image).max())
    if low is not None:
        return int(deep_colours(image, low).max())
    bands = np.asarray(image)
    return int((bands[..., :3] if image.mode in _WITH_ALPHA else bands).max()) << 8


def low_bytes(file: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
    """Open a file of 16-bit colours so that the low byte of each value is read in place of the high one."""
    file.seek(0)
    image = Image.open(file, formats=formats)
    image.tile = [_with_other_byte(tile) for tile in image.tile]
    return image


def _with_other_byte(tile: Any) -> Any:
    codec, extents, offset, args = tile
    if isinstance(args, tuple):
        return tile.__class__(codec, extents, offset, (_OTHER_BYTE[args[0]], *args[1:]))
    return tile.__class__(codec, extents, offset, _OTHER_BYTE[args])


def deep_colours(high: Image.Image, low: Image.Image) -> NDArray[np.uint16]:
    """Values of 16 bits, shape (H, W, 3), from their high bytes and their low ones."""
    values = np.asarray(high).astype(np.uint16)
    values <<= 8
    values |= np.asarray(low)
    return values


def to_8_bit(values: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Scale values from 0 to the largest that so many bits have, and round to the nearest.

    Raises:
        BitDepthError: A value is larger.
    """
    largest = int(values.max())
    if largest > _LARGEST[bits]:
        raise BitDepthError(
            "",
            f"expected values up to {_LARGEST[bits]}, which is what {bits} bits have, found {largest}; another"
            " bit_depth is right for this set",
        )
    if bits == max(DEPTHS):
        return ((values + 128) // 257).astype(np.uint8)
    white = _LARGEST[bits]
    return ((values.astype(np.int64) * 510 + white) // (2 * white)).astype(np.uint8)


def decided(*, name: str, largest: int, deep: int, stated: int, exact: bool) -> int:
    """The bits of a set's deep images, by the largest value among those that were looked at.

    Args:
        name: Of the set, for messages.
        largest: The largest value.
        deep: How many images are deep.
        stated: How many of them say that they have 12 bits.
        exact: Whether the low bits of all of them can be had.

    Raises:
        DatasetError: It could be one or the other, or cannot be had from these files.
    """
    if largest >= _SURE_OF_16 and not stated:
        return 16
    what = f"{name}: {deep} images have more than 8 bits for each pixel, with values up to {largest}"
    if not exact:
        raise DatasetError(
            f"{what}, of which Pillow reads no more than the high byte (colours with transparency, or of this format);"
            " convert these images to 8 bits, or say bit_depth: 16 if they are as dark as that"
        )
    if stated:
        if stated < deep or largest > _LARGEST[12]:
            raise DatasetError(f"{what}, and {stated} of them say that they have 12 bits; {_REMEDY}")
        return 12
    if largest <= _LARGEST[8]:
        return 8
    if _LARGEST[12] < 2 * largest and largest <= _LARGEST[12]:
        return 12
    raise DatasetError(f"{what}, which leaves open what is white ({RULE}); {_REMEDY}, or convert the images to 8 bits")


def in_one_line(sets: Iterable[tuple[str, BitDepth | None]]) -> str:
    """How deep images are read where nobody said it, for a person; nothing where there are none."""
    by_bits: dict[int, dict[str, None]] = {}
    for name, depth in sets:
        if depth is not None and depth.auto:
            by_bits.setdefault(depth.bits, {})[name] = None
    if not by_bits:
        return ""
    read = "; ".join(f"as {bits} bits in {listed(names, _NAMES)}" for bits, names in sorted(by_bits.items()))
    return f"images of more than 8 bits are read by the largest value in their set ({RULE}): {read}; bit_depth sets it"
