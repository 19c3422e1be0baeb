"""One array <-> one pickle file: safe to load, and to be used without reading it first.

What is written here is an ordinary pickle, which ``pickle.load`` reads without this package, but of one fixed form::

    0      head   PROTO 5; a mark, pushed and popped; NumPy's function; BYTEARRAY8 with the length of the payload
    64     payload   the values: float16, float32 or float64, little-endian, in C order
    -73    tail   the dtype, the shape, and the call of the function

so that head, tail and size tell what a file holds, and the payload can be mapped into memory as it lies. Every other
pickle of an array, as ``simet`` or ``pickle.dump`` writes it, is read by the restricted unpickler.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import pickle
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import xxhash

from simet_cache.atomic import open_regular
from simet_cache.errors import DamagedEntryError, FeaturesError
from simet_cache.unpickler import unpickle

FloatArray = npt.NDArray[np.floating[Any]]
# else each mapping keeps the file open, and a process may open 1,024 as a rule
_UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
_BLOCK = 1 << 20  # what fits into a processor's cache is hashed there while it is on its way
_LONGEST_REST = 1 << 12  # bytes of a pickle of an array besides its values
_HUGE = 1 << 21  # what is written in one such aligned piece, the page cache keeps and maps as one page


@dataclass(frozen=True)
class Layout:
    """Where the values of a file that ``write`` wrote are.

    Attributes:
        shape: (N, D), neither of them zero.
        dtype: float16, float32 or float64, little-endian.
        offset: Where the values start, in bytes; they stand in C order.
    """

    shape: tuple[int, int]
    dtype: np.dtype[np.floating[Any]]
    offset: int

    @property
    def nbytes(self) -> int:
        """The length of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(array: FloatArray, file: IO[bytes]) -> str:
    """Write one array of shape (N, D) and dtype float16, float32 or float64, block by block.

    Returns:
        The digest of the content, as ``digest`` says it of the array.

    Raises:
        FeaturesError: It is no such array, or an empty one; nothing is written.
        OSError: The file cannot be written.
    """
    if not is_feature_array(array) or not array.size:
        raise FeaturesError(f"expected a 2-D float array with rows and columns to be written, found {describe(array)}")
    return write_blocks(_blocks(array), file, shape=array.shape, dtype=array.dtype)


def write_blocks(
    blocks: Iterable[memoryview], file: IO[bytes], *, shape: tuple[int, ...], dtype: np.dtype[np.floating[Any]]
) -> str:
    """Write one array whose values come in blocks, so that it need not be in memory.

    Args:
        blocks: The values in C order and little-endian, as ``blocks_of`` gives them.
        file: To write to.
        shape: (N, D), neither of them zero.
        dtype: float16, float32 or float64.

    Returns:
        The digest of the content, as ``digest`` says it of the array.

    Raises:
        FeaturesError: The blocks hold more or fewer bytes than that; what was written is no array.
        OSError: The file cannot be written.
    """
    rows, width = shape
    layout = Layout((rows, width), _little(dtype), _OFFSET)
    state = hasher(layout.dtype, layout.shape)
    unwritten, written = _head(layout), 0
    for block in blocks:
        state.update(block)
        file.write(unwritten + block if unwritten else block)  # in one piece: see _HUGE
        unwritten, written = b"", written + len(block)
    if written != layout.nbytes:
        raise FeaturesError(f"expected {layout.nbytes} bytes for an array of shape {layout.shape}, found {written}")
    file.write(_tail(layout))
    return state.hexdigest()


def blocks_of(source: Path | FloatArray, *, start: int = 0) -> Iterator[memoryview]:
    """The values of an array, or of a file, in C order and little-endian; a block lasts until the next one.

    A file is read and not mapped: see ``verify``. Whether it holds what it should is for the reader to tell.

    Args:
        source: The array, or the file.
        start: How many bytes of values are to be written before these. Blocks end where a file's pages do then.

    Raises:
        UnsafePickleError: The pickle names something that no array needs.
        DamagedEntryError: The file is no pickle of a 2-D float array, or is cut short.
        OSError: The file cannot be opened or read.
    """
    if isinstance(source, np.ndarray):
        yield from _blocks(source, start)
        return
    with open_regular(source) as file:
        layout = _recognise(file, source)
        if layout is None:
            yield from _blocks(_read_pickle(file, source), start)
            return
        file.seek(layout.offset)
        buffer = memoryview(bytearray(_HUGE))
        for part in _parts(layout.nbytes, start):
            block = buffer[: part.stop - part.start]
            if file.readinto(block) < len(block):
                raise DamagedEntryError(f"{source} was cut short while it was read")
            yield block


def read(path: Path) -> FloatArray:
    """Read one array of shape (N, D) and dtype float16, float32 or float64, without running anything.

    Returns:
        An ordinary array of its own: writable, not shared with anything.

    Raises:
        UnsafePickleError: The pickle names something that no array needs.
        DamagedEntryError: The file is no pickle of a 2-D float array, or is cut short.
        OSError: The file cannot be opened.
    """
    with open_regular(path) as file:
        layout = _recognise(file, path)
        if layout is None:
            return _read_pickle(file, path)
        array = np.empty(layout.shape, layout.dtype)
        file.seek(layout.offset)
        if file.readinto(_as_bytes(array)) < layout.nbytes:
            raise DamagedEntryError(f"{path} was cut short while it was read")
        return array


def open_mapped(path: Path) -> FloatArray:
    """Open one array of shape (N, D) for reading, without reading it where ``write`` wrote it.

    The values then come from the page cache, aligned to 64 bytes, and the file stays what it was when it was opened
    even if another one takes its place. Only a program that shortens the file itself would end this process.

    Returns:
        A read-only array.

    Raises:
        UnsafePickleError: The pickle names something that no array needs.
        DamagedEntryError: The file is no pickle of a 2-D float array with rows and columns, or is cut short.
        OSError: The file cannot be opened.
    """
    with open_regular(path) as file:
        layout = _recognise(file, path)
        if layout is not None:
            return _map(file, path, layout)
        array = _read_pickle(file, path)
    if not array.size:
        raise DamagedEntryError(f"{path} holds {describe(array)}, which is empty")
    array.flags.writeable = False
    return array


def inspect(path: Path) -> Layout | None:
    """Tell what a file holds from its head, tail and size alone, in microseconds.

    Returns:
        None where another program wrote the file, or an older version: then only reading it tells.

    Raises:
        DamagedEntryError: The file starts as ``write`` starts one, but was cut short or changed.
        OSError: The file cannot be opened.
    """
    with open_regular(path) as file:
        return _recognise(file, path)


def verify(path: Path) -> str:
    """The digest of what a file holds, read anew; in little memory where ``write`` wrote it.

    It reads rather than maps, which were faster: a disk that fails is then an error, not the end of the process.

    Raises:
        UnsafePickleError: The pickle names something that no array needs.
        DamagedEntryError: The file is no pickle of a 2-D float array, or is cut short.
        OSError: The file cannot be opened or read.
    """
    with open_regular(path) as file:
        layout = _recognise(file, path)
        if layout is None:
            return digest(_read_pickle(file, path))
        state = hasher(layout.dtype, layout.shape)
        file.seek(layout.offset)
        buffer = memoryview(bytearray(_BLOCK))
        left = layout.nbytes
        while left:
            length = file.readinto(buffer[: min(left, _BLOCK)])
            if not length:
                raise DamagedEntryError(f"{path} was cut short while it was read")
            state.update(buffer[:length])
            left -= length
        return state.hexdigest()


def digest(array: FloatArray) -> str:
    """The xxh3-128 of an array's dtype, shape and values, however it is laid out or pickled (32 hex digits)."""
    state = hasher(array.dtype, array.shape)
    for block in _blocks(array):
        state.update(block)
    return state.hexdigest()


def most_bytes(shape: tuple[int, int], dtype: str) -> int:
    """The most bytes that any pickle of such features takes: protocol 0 writes a zero as a backslash and five letters.

    Raises:
        DamagedEntryError: There are no such features.
    """
    size = {"float16": 2, "float32": 4, "float64": 8}.get(dtype, 0)
    if not size or min(shape) <= 0:
        raise DamagedEntryError(f"expected features of float16, float32 or float64, found shape {shape} and {dtype!r}")
    return 6 * shape[0] * shape[1] * size + _LONGEST_REST


def is_feature_array(value: object) -> bool:
    """True for a NumPy array of shape (N, D) and dtype float16, float32 or float64."""
    return type(value) is np.ndarray and value.ndim == 2 and value.dtype.kind == "f" and value.dtype.itemsize <= 8


def describe(value: object) -> str:
    """A value in a few words, for messages: type, and shape and dtype where it has them."""
    kind = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{kind} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return kind


# Files


def _read_pickle(file: io.BufferedReader, path: Path) -> FloatArray:
    """A pickle of any layout, by the restricted unpickler; the values in this machine's order of bytes."""
    value = unpickle(file, path)
    if not is_feature_array(value):
        raise DamagedEntryError(f"{path} holds {describe(value)}, not a 2-D float array")
    array: FloatArray = value  # type: ignore[assignment]  # that is what was asked
    array = array if array.flags.writeable else array.copy()
    return array if array.dtype.isnative else array.byteswap(inplace=True).view(array.dtype.newbyteorder())


def _map(file: io.BufferedReader, path: Path, layout: Layout) -> FloatArray:
    try:
        mapping = mmap.mmap(file.fileno(), layout.offset + layout.nbytes, access=mmap.ACCESS_READ, **_UNTRACKED)
    except ValueError as error:  # it had that length a moment ago
        raise DamagedEntryError(f"{path} was cut short while it was opened") from error
    return np.frombuffer(mapping, layout.dtype, math.prod(layout.shape), layout.offset).reshape(layout.shape)


# Content


def _little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What values are written and hashed as, so that the machine that made them makes no difference."""
    return dtype.newbyteorder("<")


def hasher(dtype: np.dtype[Any], shape: tuple[int, ...]) -> xxhash.xxh3_128:
    """What makes the digest of an array with this dtype and shape, given its values as ``blocks_of`` gives them."""
    return xxhash.xxh3_128(f"{_little(dtype).str}{shape}".encode())


def _as_bytes(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array that stands in C order, as they lie."""
    return array.reshape(-1).view(np.uint8).data


def _parts(length: int, start: int) -> Iterator[slice]:
    """Of so many bytes, those that are one piece each in a file in which ``start`` bytes of values come before."""
    at = 0
    while at < length:
        end = min(at + _HUGE - (_OFFSET + start + at) % _HUGE, length)
        yield slice(at, end)
        at = end


def _blocks(array: npt.NDArray[Any], start: int = 0) -> Iterator[memoryview]:
    """The values in C order and little-endian, in blocks of bytes that last until the next one.

    An array that lies otherwise is never copied whole, however long its rows are.
    """
    dtype = _little(array.dtype)
    if array.flags.c_contiguous and array.dtype == dtype:
        content = _as_bytes(array)
        for part in _parts(len(content), start):
            yield content[part]
        return
    with np.nditer(  # type: ignore[call-overload]  # NumPy 2.4 misspells contig in its types
        array,
        flags=["buffered", "external_loop"],
        op_flags=["readonly", "contig"],
        op_dtypes=dtype,
        casting="equiv",
        order="C",
        buffersize=_BLOCK // dtype.itemsize,
    ) as blocks:
        for block in blocks:
            yield _as_bytes(block)


# The fixed form


def _text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode("ascii")


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + pickle.STACK_GLOBAL


def _long(value: int) -> bytes:
    """An integer of fixed width."""
    return pickle.LONG1 + b"\x08" + value.to_bytes(8, "little")


# The mark also fills the head to 64 bytes: payloads are aligned as NumPy's and BLAS's widest loads like it.
_MARK = pickle.PROTO + b"\x05" + pickle.SHORT_BINBYTES + b"\x0e" + b"simet-cache v1" + pickle.POP
_BEFORE_LENGTH = _MARK + _global("numpy._core.numeric", "_frombuffer") + pickle.MARK + pickle.BYTEARRAY8
_OFFSET = len(_BEFORE_LENGTH) + 8
_BEFORE_DTYPE = _global("numpy", "dtype") + pickle.SHORT_BINUNICODE + b"\x02"
_BEFORE_SHAPE = (
    b"".join(  # what numpy.dtype is called with besides its name, and the state of one that is little-endian
        [
            *(pickle.NEWFALSE, pickle.NEWTRUE, pickle.TUPLE3, pickle.REDUCE),
            *(pickle.MARK, pickle.BININT1, b"\x03", _text("<"), pickle.NONE, pickle.NONE, pickle.NONE),
            *(pickle.BININT, b"\xff\xff\xff\xff", pickle.BININT, b"\xff\xff\xff\xff", pickle.BININT1, b"\x00"),
            *(pickle.TUPLE, pickle.BUILD),
        ]
    )
)
_AFTER_SHAPE = pickle.TUPLE2 + _text("C") + pickle.TUPLE + pickle.REDUCE + pickle.STOP
_DTYPES = {code.encode(): np.dtype(f"<{code}") for code in ("f2", "f4", "f8")}


def _head(layout: Layout) -> bytes:
    return _BEFORE_LENGTH + layout.nbytes.to_bytes(8, "little")


def _tail(layout: Layout) -> bytes:
    dtype = _BEFORE_DTYPE + layout.dtype.str[1:].encode() + _BEFORE_SHAPE
    return dtype + _long(layout.shape[0]) + _long(layout.shape[1]) + _AFTER_SHAPE


_DTYPE_AT = len(_BEFORE_DTYPE)
_ROWS_AT = _DTYPE_AT + 2 + len(_BEFORE_SHAPE) + 2
_WIDTH_AT = _ROWS_AT + 8 + 2
_TAIL_SIZE = _WIDTH_AT + 8 + len(_AFTER_SHAPE)


def _recognise(file: io.BufferedReader, path: Path) -> Layout | None:
    """What ``inspect`` says of an open file. Where it stands is not changed."""
    handle = file.fileno()
    head = os.pread(handle, _OFFSET, 0)
    if head[: len(_MARK)] != _MARK[: len(head)]:
        return None
    size = os.fstat(handle).st_size
    tail = os.pread(handle, _TAIL_SIZE, max(size - _TAIL_SIZE, 0))
    layout = _declared(tail)
    if layout is None or (head, tail) != (_head(layout), _tail(layout)) or size != _size(layout):
        raise DamagedEntryError(
            f"{path} starts as a file of simet-cache, but its head, its tail and its {size} bytes do not fit together:"
            " it was cut short or changed"
        )
    return layout


def _size(layout: Layout) -> int:
    return _OFFSET + layout.nbytes + _TAIL_SIZE


def _declared(tail: bytes) -> Layout | None:
    """What a tail says, whether or not the rest of it is as it must be; None where no file could hold as much."""
    dtype = _DTYPES.get(tail[_DTYPE_AT : _DTYPE_AT + 2])
    rows, width = (int.from_bytes(tail[at : at + 8], "little") for at in (_ROWS_AT, _WIDTH_AT))
    if dtype is None or not 0 < rows * width < 1 << 60:
        return None
    return Layout((rows, width), dtype, _OFFSET)
