"""JSON and arrays in one file, from which nothing can run, and which shows when any byte of it has changed.

The layout is that of safetensors, which other programs read too::

    0      the length of the head in bytes: 8 bytes, little-endian
    8      the head: JSON; dtype, shape and place of each array, and texts about them in ``__metadata__``
    ...    the arrays, one after another, little-endian, in C order

The first of the texts is the digest of the head, with zeros in its own place; ``digests`` has those of the arrays. So
the head can be trusted without the arrays, and each array without the others; and nothing is allocated that the file
is too short for.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_hexdigest

from simet_cache.bounded import JSON_BYTES, json_value
from simet_cache.errors import DamagedEntryError

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "U64": "<u8",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_START = b'{"__metadata__": {"check": "'
_ZEROS = b"0" * 32
_LONGEST = JSON_BYTES  # bytes of a head
_MOST_AXES, _MOST_VALUES = 32, 1 << 59  # of an array; an empty one may not have longer axes either
_AT_ONCE = 1 << 14  # bytes that are read first: most heads are shorter

Array = NDArray[Any]


@dataclass(frozen=True)
class Place:
    """Where one array is.

    Attributes:
        dtype: Of the array.
        shape: Of the array.
        start: Its first byte in the file.
        digest: The xxh3-128 of its bytes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    digest: str

    @property
    def stop(self) -> int:
        """The first byte after it."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Head:
    """What a file says of itself.

    Attributes:
        texts: What it is about, by name.
        places: Of its arrays, in order.
    """

    texts: Mapping[str, str]
    places: tuple[Place, ...]


def write(file: IO[bytes], texts: Mapping[str, str], arrays: Sequence[Array]) -> None:
    """Write texts and arrays.

    Args:
        file: To write to.
        texts: What the arrays are about; not ``check`` and ``digests``.
        arrays: Of a dtype of ``DTYPES`` and any shape; each is written in C order.

    Raises:
        TypeError: An array has another dtype.
        OSError: The file cannot be written.
    """
    arrays = [np.asarray(array, order="C") for array in arrays]
    if unknown := {str(array.dtype) for array in arrays} - {str(dtype) for dtype in _NAMES}:
        raise TypeError(f"expected arrays of dtypes that can be kept, found {', '.join(sorted(unknown))}")
    blobs = [array.reshape(-1).view(np.uint8).data if array.size else b"" for array in arrays]
    ends = np.cumsum([0, *(array.nbytes for array in arrays)]).tolist()
    digests = " ".join(xxh3_128_hexdigest(blob) for blob in blobs)
    head: dict[str, Any] = {"__metadata__": {"check": _ZEROS.decode(), **texts, "digests": digests}}
    for number, (array, offsets) in enumerate(zip(arrays, pairwise(ends), strict=True)):
        head[str(number)] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": list(offsets),
        }
    blob = json.dumps(head).encode()
    blob += b" " * (-len(blob) % 8)
    check = xxh3_128_hexdigest(blob).encode()
    file.write(len(blob).to_bytes(8, "little") + _START + check + blob[len(_START) + len(check) :])
    for part in blobs:
        file.write(part)


def read_head(file: IO[bytes], path: Path) -> Head:
    """Read what a file says of itself, and make sure that it is as long as it says.

    Args:
        file: Opened for reading, at its beginning.
        path: For messages.

    Raises:
        DamagedEntryError: It was cut, or changed, or is no such file.
        OSError: It cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    blob = file.read(_AT_ONCE)
    length = int.from_bytes(blob[:8], "little")
    if not 0 < length <= min(_LONGEST, size - 8):
        raise DamagedEntryError(f"{path} is damaged: it ends too early, or is none of our files")
    blob = blob[8 : 8 + length] + file.read(max(length + 8 - len(blob), 0))
    first, last = len(_START), len(_START) + len(_ZEROS)
    if not blob.startswith(_START) or blob[first:last] != _digest_without(blob, first, last):
        raise DamagedEntryError(f"{path} is damaged: its head is not what was written")
    try:
        head = _parsed(json_value(blob), 8 + length)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedEntryError(f"{path} is none of our files: {error!r}") from error
    if (head.places[-1].stop if head.places else 8 + length) != size:
        raise DamagedEntryError(f"{path} is damaged: it has {size} bytes, not as many as its arrays take")
    return head


def _digest_without(blob: bytes, first: int, last: int) -> bytes:
    return xxh3_128_hexdigest(blob[:first] + _ZEROS + blob[last:]).encode()


def _parsed(data: Any, start: int) -> Head:
    texts = data.pop("__metadata__")
    digests: list[str] = texts["digests"].split()
    places: list[Place] = []
    if not all(isinstance(text, str) for text in texts.values()) or len(digests) != len(data):
        raise ValueError("expected texts, and a digest for each array")
    for number, digest in enumerate(digests):
        said = data[str(number)]
        shape = tuple(said["shape"])
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError(f"expected a shape, found {shape}")
        if len(shape) > _MOST_AXES or math.prod(length or 1 for length in shape) >= _MOST_VALUES:
            raise ValueError(f"expected a shape that an array can have, found {len(shape)} axes")
        place = Place(np.dtype(DTYPES[said["dtype"]]), shape, places[-1].stop if places else start, digest)
        if [start + offset for offset in said["data_offsets"]] != [place.start, place.stop]:
            raise ValueError("expected arrays one after another")
        places.append(place)
    return Head(texts, tuple(places))


def read_array(file: IO[bytes], place: Place, path: Path) -> Array:
    """Read one array, which is writable and shared with nothing.

    Raises:
        DamagedEntryError: Its bytes are not those that were written.
        OSError: It cannot be read.
    """
    array = np.empty(place.shape, place.dtype)
    if array.size:
        file.seek(place.start)
        into = array.reshape(-1).view(np.uint8).data
        if file.readinto(into) < array.nbytes:  # type: ignore[attr-defined]  # a file has it
            raise DamagedEntryError(f"{path} was cut short while it was read")
    if xxh3_128_hexdigest(array.reshape(-1).view(np.uint8).data if array.size else b"") != place.digest:
        raise DamagedEntryError(f"{path} is damaged: an array is not what was written")
    return array
