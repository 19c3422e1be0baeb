"""What the files of a set look like: formats, sizes, JPEG qualities, and how deep their pixels are.

Two sets that differ in these differ in their features whatever they show. All of it is read from the files' heads; of
images of more than 8 bits some are read whole, for their largest value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from simet_cache.datasets.bit_depth import BitDepth, decided
from simet_cache.datasets.images import MAX_PIXELS, read_header, read_largest_value
from simet_cache.errors import ImageReadError
from simet_cache.retrying import errno_can_pass

VERSION = 1  # of what is looked at: surveys of another version are made anew
MOST_READ = 256  # deep images, evenly spaced in the order of the set
_BRIGHT = 32768  # nothing else is decided by a value above this
_THREADS = 8
_BATCH = 64


@dataclass(frozen=True)
class Survey:
    """What the files of a set look like. What cannot be read is left out.

    Attributes:
        images: How many files have been looked at.
        formats: How many there are of each, the most frequent first.
        size: Width and height where all images have the same; else None.
        side: Median over the images of the square root of width times height, in pixels.
        quality: Median over the JPEGs of the quality they were saved with; None where there are none.
        deep: How many have more than 8 bits for each pixel.
        stated: How many of these say that they have 12.
        inexact: Of how many of these Pillow reads the high bytes alone.
        largest: The largest value in those deep images that were read; None where there are none.
        whole: Whether every file could be asked; else a file server may answer differently in a moment.
    """

    images: int = 0
    formats: Mapping[str, int] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    side: int = 0
    quality: int | None = None
    deep: int = 0
    stated: int = 0
    inexact: int = 0
    largest: int | None = None
    whole: bool = True

    def bit_depth(self, asked: int | str, *, name: str) -> BitDepth | None:
        """How the deep images of the set are read; None where there are none.

        Args:
            asked: 8, 12 or 16; or ``auto``, for what the largest value says.
            name: Of the set, for messages.

        Raises:
            DatasetError: Nobody said it, and the largest value leaves it open.
        """
        if not self.deep:
            return None
        if isinstance(asked, int):
            return BitDepth(asked, auto=False)
        bits = decided(
            name=name,
            largest=self.largest or 0,
            deep=self.deep,
            stated=self.stated,
            exact=not self.inexact,
        )
        return BitDepth(bits, auto=True)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"version": VERSION, **asdict(self), "size": list(self.size) if self.size else None}

    @classmethod
    def from_json(cls, data: object) -> Survey | None:
        """The reverse of ``to_json``; None of anything else, or of another version."""
        if not isinstance(data, dict) or data.get("version") != VERSION:
            return None
        data = {name: value for name, value in data.items() if name != "version"}
        if data.keys() != asdict(cls()).keys():
            return None
        size, formats = data.pop("size"), data.pop("formats")
        well = (
            isinstance(formats, dict)
            and all(isinstance(name, str) and _is_number(count) for name, count in formats.items())
            and (size is None or (isinstance(size, list) and len(size) == 2 and all(map(_is_number, size))))
            and all(data[name] is None or _is_number(data[name]) for name in ("quality", "largest"))
            and all(_is_number(data[name]) for name in ("images", "side", "deep", "stated", "inexact"))
            and data["whole"] is True
        )
        return cls(formats=formats, size=tuple(size) if size else None, **data) if well else None


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def survey(paths: Sequence[str], *, max_pixels: int = MAX_PIXELS) -> Survey:
    """Look at image files, in a few threads.

    Args:
        paths: In the order of the set.
        max_pixels: Images of more cannot be read.
    """
    pool = ThreadPoolExecutor(_THREADS)
    try:
        heads = _Heads()
        batches = (paths[at : at + _BATCH] for at in range(0, len(paths), _BATCH))
        for found in pool.map(lambda batch: _heads_of(batch, max_pixels), batches):
            heads.add(found)
        largest, read = _largest(heads.deep, max_pixels, pool)
    finally:  # also where somebody presses Ctrl-C
        pool.shutdown(cancel_futures=True)
    return heads.survey(largest, read=read)


class _Heads:
    """Counts of what heads say: there may be millions of files."""

    def __init__(self) -> None:
        self.deep: list[str] = []
        self._formats: Counter[str] = Counter()
        self._sizes: set[tuple[int, int]] = set()
        self._sides: Counter[int] = Counter()
        self._qualities: Counter[int] = Counter()
        self._stated = self._inexact = 0
        self._whole = True

    def add(self, other: _Heads) -> None:
        self.deep += other.deep
        self._formats.update(other._formats)
        self._sizes = {*[*self._sizes, *other._sizes][:2]} if len(self._sizes) < 2 else self._sizes
        self._sides.update(other._sides)
        self._qualities.update(other._qualities)
        self._stated += other._stated
        self._inexact += other._inexact
        self._whole &= other._whole

    def look_at(self, path: str, max_pixels: int) -> None:
        try:
            head = read_header(path, max_pixels=max_pixels)
        except ImageReadError as error:
            self._whole &= not errno_can_pass(error.errno)
            return
        self._formats[head.format] += 1
        if len(self._sizes) < 2:  # more of them tell no more
            self._sizes.add(head.size)
        self._sides[round(math.sqrt(head.size[0] * head.size[1]))] += 1
        if head.quality is not None:
            self._qualities[head.quality] += 1
        if head.depth.deep:
            self.deep.append(path)
            self._stated += head.depth.bits > 0
            self._inexact += not head.depth.exact

    def survey(self, largest: int | None, *, read: bool) -> Survey:
        (size,) = self._sizes if len(self._sizes) == 1 else (None,)
        return Survey(
            images=self._formats.total(),
            formats=dict(sorted(self._formats.items(), key=lambda one: (-one[1], one[0]))),
            size=size,
            side=_median(self._sides) or 0,
            quality=_median(self._qualities),
            deep=len(self.deep),
            stated=self._stated,
            inexact=self._inexact,
            largest=largest,
            whole=self._whole and read,
        )


def _heads_of(paths: Sequence[str], max_pixels: int) -> _Heads:
    heads = _Heads()
    for path in paths:
        heads.look_at(path, max_pixels)
    return heads


def _median(counted: Counter[int]) -> int | None:
    """The lower one of two."""
    half = (counted.total() + 1) // 2
    for value in sorted(counted):
        half -= counted[value]
        if half <= 0:
            return value
    return None


def _largest(deep: Sequence[str], max_pixels: int, pool: ThreadPoolExecutor) -> tuple[int | None, bool]:
    """The largest value in some of the deep images; no further ones are read once it cannot matter any more.

    Returns:
        It, and whether every image could be asked.
    """
    largest: int | None = None
    whole = True
    for found in pool.map(lambda path: _largest_of(path, max_pixels), _evenly(deep, MOST_READ)):
        if isinstance(found, ImageReadError):  # which will be said when it is its turn
            whole &= not errno_can_pass(found.errno)
            continue
        largest = max(found, largest or 0)
        if largest >= _BRIGHT:
            return largest, True
    return largest, whole


def _largest_of(path: str, max_pixels: int) -> int | ImageReadError:
    try:
        return read_largest_value(path, max_pixels=max_pixels)
    except ImageReadError as error:
        return error


def _evenly(paths: Sequence[str], most: int) -> Iterator[str]:
    """All paths, or so many at equal distances, the first and the last among them."""
    if len(paths) <= most:
        yield from paths
    else:
        yield from (paths[round(number * (len(paths) - 1) / (most - 1))] for number in range(most))
