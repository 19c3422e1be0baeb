"""Reads an arbitrary pickle of one array without running anything that the pickle names.

Only the handful of names that pickled NumPy arrays consist of are known, and they stand for functions of this file.
Nor can a file that names nothing harm: it takes few steps, fills no container, and has no more memory than a few times
its own size.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from simet_cache.errors import DamagedEntryError, UnsafePickleError

_LONG = 1 << 16
_STEPS = 1000  # NumPy's own pickles, of any protocol, take less than a hundred
_SHOWN = 300
_PythonUnpickler: Any = pickle._Unpickler  # noqa: SLF001 - no opcode of the public one, in C, can be replaced


def unpickle(file: io.BufferedReader, path: Path) -> object:
    """Read what a file holds from where it stands to its end: one pickle, and nothing behind it.

    Args:
        file: A regular file, open for reading.
        path: What messages call it.

    Returns:
        Where the pickle is one of an array: an array, which may be read-only. Otherwise something harmless.

    Raises:
        UnsafePickleError: The pickle names something that no array needs.
        DamagedEntryError: The file is no pickle, is cut short, or goes on behind it.
    """
    try:
        value = _ArrayUnpickler(file, path).load()
    except (UnsafePickleError, OSError, MemoryError):
        raise
    except Exception as error:  # the unpickler raises whatever a damaged stream makes it raise
        raise DamagedEntryError(
            f"{path} is no readable pickle of an array: {type(error).__name__}: {_shown(str(error))}"
        ) from error
    if file.read(1):
        raise DamagedEntryError(f"{path} goes on after the end of its pickle")
    return value.value if isinstance(value, _Array) else value


class _ArrayUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Knows no names but those of arrays, makes no instances, and fills no container.

    With all of pickle's opcodes a file needs no name to end the process: by hashing a deeply nested tuple, by restoring
    one array twice, by a memo of 32 GiB, or by calling again and again with what it has once declared.
    """

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        bounded = _Bounded(file)
        super().__init__(bounded)
        self._path = path
        self._encodable = bounded.left
        self.dispatch = _Steps(self.dispatch)  # type: ignore[misc]  # of this file's own, since it counts

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        try:
            return _ALLOWED[module, name]
        except KeyError:
            self._refuse(f"{_shown(module)}.{_shown(name)}")

    def get_extension(self, code: int) -> NoReturn:
        self._refuse(f"what another program registered as extension {code}")

    def _refuse(self, what: str) -> NoReturn:
        raise UnsafePickleError(
            f"{self._path} asks for {what}, which no array needs; it was not loaded and is left where it is."
            " Delete it if you do not know who wrote it"
        )

    def _encode(self, text: str, encoding: str) -> bytes:
        """How protocol 2 carries bytes; other codecs could inflate a small file without bound.

        So could a long text that is remembered and encoded again and again, but an honest file has a byte or more for
        each one that is encoded from it.
        """
        if encoding != "latin1":
            self._refuse(f"the codec {_shown(encoding)}" if isinstance(encoding, str) else "a codec")
        if not isinstance(text, str):
            raise pickle.UnpicklingError(f"{type(text).__name__} as text")
        self._encodable -= len(text)
        if self._encodable < 0:
            raise pickle.UnpicklingError("more bytes are encoded than the file has")
        return text.encode("latin1")

    def _instantiate(self, *_: object) -> NoReturn:
        """What INST and OBJ end in."""
        raise pickle.UnpicklingError("an object that no array consists of")

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.stack[-1](*_as_tuple(arguments))

    def _load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Dtype | _Array):
            raise pickle.UnpicklingError(f"a state for {type(self.stack[-1]).__name__}")
        self.stack[-1].restore(*_as_tuple(state))

    def _load_bytearray(self) -> None:
        """Without pickle's own detour, which takes the memory before it looks whether the file has as much."""
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    def _drop_line(self) -> None:
        """A float in digits: no array has one, and Python quotes at length what is wrong with it."""
        self.readline()
        self.stack.append(None)

    def _drop_items(self) -> None:
        """What would go into a container: no array has one, and hashing the items could recurse without bound."""
        self.load_tuple()
        self.stack.pop()

    def _drop_two(self) -> None:
        del self.stack[-2:]

    def _load_dict(self) -> None:
        self._drop_items()
        self.stack.append({})

    def _load_frozenset(self) -> None:
        self._drop_items()
        self.stack.append(frozenset())

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **_PythonUnpickler.dispatch,
        pickle.REDUCE[0]: _load_reduce,
        pickle.BUILD[0]: _load_build,
        pickle.NEWOBJ[0]: _instantiate,
        pickle.NEWOBJ_EX[0]: _instantiate,
        pickle.READONLY_BUFFER[0]: _instantiate,
        pickle.BYTEARRAY8[0]: _load_bytearray,
        pickle.FLOAT[0]: _drop_line,
        pickle.APPEND[0]: _PythonUnpickler.load_pop,
        pickle.APPENDS[0]: _drop_items,
        pickle.ADDITEMS[0]: _drop_items,
        pickle.SETITEM[0]: _drop_two,
        pickle.SETITEMS[0]: _drop_items,
        pickle.DICT[0]: _load_dict,
        pickle.FROZENSET[0]: _load_frozenset,
    }


class _Steps(dict[int, Callable[[Any], None]]):
    """The functions of the opcodes, handed out so many times and no more.

    An opcode is a byte, and the object that it makes is 200 bytes: without an end, a file fills a memory of 200 times
    its size, nests as deep as it is long, and keeps a processor busy for as long as its author likes.
    """

    left = _STEPS

    def __getitem__(self, opcode: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(f"more than {_STEPS} steps, which no array needs")
        return super().__getitem__(opcode)

    def __missing__(self, opcode: int) -> NoReturn:
        raise pickle.UnpicklingError(f"the unknown opcode {opcode:#04x}")


class _Bounded:
    """A file that is never asked for more than is left, however much a pickle declares; long parts are bytearrays."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.left = os.fstat(file.fileno()).st_size - file.tell()

    def readline(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the file ends within a line")
        self.left -= len(line)
        return line

    def read(self, length: int) -> bytes | bytearray:
        if length > self.left:
            raise EOFError(f"the file ends early: {length} bytes are due where {max(self.left, 0)} are left")
        self.left -= length
        if length < _LONG:
            return self._file.read(length)
        data = bytearray(length)  # writable, so that the array that stands on it need not be copied
        self._file.readinto(data)  # where it falls short, the next opcode is missing
        return data


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            raise ValueError("a dtype that is no plain one")
        self.value = np.dtype(name)

    def restore(self, _version: int, order: object, *_: object) -> None:
        if order not in ("<", ">", "|"):
            raise ValueError("a byte order that is none")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for what ``_reconstruct`` makes: an array that its state is yet to come for."""

    value: npt.NDArray[Any] | None = None

    def __init__(self, *_: object) -> None:
        pass

    def restore(self, _version: int, shape: object, dtype: object, fortran: object, data: object) -> None:
        self.value = _frombuffer(data, dtype, shape, "F" if fortran else "C")


def _frombuffer(buffer: object, dtype: object, shape: object, order: object) -> npt.NDArray[Any]:
    """An array that stands on the buffer, never on a copy; NumPy gets to see no other types than it expects."""
    if not isinstance(buffer, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError(f"values in {type(buffer).__name__}, described by {type(dtype).__name__}")
    if not all(type(length) is int and length >= 0 for length in _as_tuple(shape)):
        raise pickle.UnpicklingError("a shape that is none")
    if order not in ("C", "F"):
        raise pickle.UnpicklingError("an order of elements that is none")
    return np.frombuffer(buffer, dtype.value).reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]  # looked at above


def _as_tuple(value: object) -> tuple[Any, ...]:
    """Refuses what else could be unpacked: of bytes, each would become an object of its own."""
    if type(value) is not tuple:
        raise pickle.UnpicklingError(f"{type(value).__name__} where a tuple belongs")
    return value


def _shown(text: str) -> str:
    """What comes from a file, for a message: not too long, and nothing that a terminal obeys."""
    return ascii(text[:_SHOWN])[1:-1]


# The names that pickled arrays of NumPy 1 and 2, protocols 0 to 5, are made of. A class is only an argument: memmap is
# what ``numpy.load(..., mmap_mode="r")`` gives, and what is pickled of it, or of a matrix, is an array like any other.
_ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "ndarray"): "numpy.ndarray",
    ("numpy", "memmap"): "numpy.memmap",
    ("numpy", "matrix"): "numpy.matrix",
    ("numpy.core.memmap", "memmap"): "numpy.memmap",
    ("numpy.matrixlib.defmatrix", "matrix"): "numpy.matrix",
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}
_PLAIN = re.compile(r"[a-zA-Z][0-9]{0,4}")
