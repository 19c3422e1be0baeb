"""One array <-> one pickle file that is safe to load.

A file is an ordinary pickle of one NumPy array, as ``pickle.load`` reads it and as ``simet`` writes it. Reading never
unpickles freely: only the handful of names that NumPy arrays need are allowed, and they stand for our own functions.
"""

from __future__ import annotations

import codecs
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import xxhash

from simet_cache.errors import DamagedEntryError, UnsafePickleError

FloatArray = npt.NDArray[np.floating[Any]]
_LONG = 1 << 16
_PythonUnpickler: Any = pickle._Unpickler  # noqa: SLF001 - no opcode of the public one, in C, can be replaced


def write(array: FloatArray, file: IO[bytes]) -> None:
    """Pickle one array with the highest protocol."""
    pickle.dump(np.ascontiguousarray(array), file, protocol=pickle.HIGHEST_PROTOCOL)


def read(path: Path) -> FloatArray:
    """Read one array of shape (N, D) and dtype float16, float32 or float64, without running anything.

    Returns:
        An ordinary array of its own: writable, not shared with anything.

    Raises:
        UnsafePickleError: The pickle names something that no array needs.
        DamagedEntryError: The file is no pickle of a 2-D float array, or is cut short.
        OSError: The file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            value = _ArrayUnpickler(file, path).load()
        except (UnsafePickleError, OSError, MemoryError):
            raise
        except Exception as error:  # the unpickler raises whatever a damaged stream makes it raise
            raise DamagedEntryError(
                f"{path} is no readable pickle of an array: {type(error).__name__}: {error}"
            ) from error
        if file.read(1):
            raise DamagedEntryError(f"{path} goes on after the end of its pickle")
    if isinstance(value, _Array):
        value = value.value
    if not is_feature_array(value):
        raise DamagedEntryError(f"{path} holds {describe(value)}, not a 2-D float array")
    array: FloatArray = value
    return array if array.flags.writeable else array.copy()


def is_feature_array(value: object) -> bool:
    """True for a NumPy array of shape (N, D) and dtype float16, float32 or float64."""
    return type(value) is np.ndarray and value.ndim == 2 and value.dtype.kind == "f" and value.dtype.itemsize <= 8


def describe(value: object) -> str:
    """A value in a few words, for messages: type, and shape and dtype where it has them."""
    kind = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{kind} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return kind


def digest(array: FloatArray) -> str:
    """The xxh3-128 of an array's dtype, shape and values, however it is laid out or pickled (32 hex digits)."""
    state = xxhash.xxh3_128(f"{array.dtype.str}{array.shape}".encode())
    state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


class _ArrayUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Knows no names but those of arrays, which stand for our own functions, and fills no container.

    With all of pickle's opcodes a file needs no name to end the process: by hashing a deeply nested tuple, by restoring
    one array twice, or by a memo of 32 GiB.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(_Bounded(file))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        try:
            return _ALLOWED[module, name]
        except KeyError:
            self._refuse(f"{module}.{name}")

    def get_extension(self, code: int) -> NoReturn:
        self._refuse(f"what another program registered as extension {code}")

    def _refuse(self, what: str) -> NoReturn:
        raise UnsafePickleError(
            f"{self._path} asks for {what}, which no array needs; it was not loaded and is left where it is."
            " Delete it if you do not know who wrote it"
        )

    def _encode(self, text: str, encoding: str) -> bytes:
        """How protocol 2 carries bytes; other codecs could inflate a small file without bound."""
        if encoding != "latin1":
            self._refuse(f"the codec {encoding}" if isinstance(encoding, str) else "a codec")
        return codecs.encode(text, encoding)

    def _load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Dtype | _Array):
            raise pickle.UnpicklingError(f"a state for {type(self.stack[-1]).__name__}")
        self.stack[-1].restore(*state)

    def _load_bytearray(self) -> None:
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

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
        pickle.BUILD[0]: _load_build,
        pickle.BYTEARRAY8[0]: _load_bytearray,
        pickle.APPEND[0]: _PythonUnpickler.load_pop,
        pickle.APPENDS[0]: _drop_items,
        pickle.ADDITEMS[0]: _drop_items,
        pickle.SETITEM[0]: _drop_two,
        pickle.SETITEMS[0]: _drop_items,
        pickle.DICT[0]: _load_dict,
        pickle.FROZENSET[0]: _load_frozenset,
    }


class _Bounded:
    """A file that is never asked for more than it has, however much a pickle declares; long parts are bytearrays."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def readline(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the file ends within a name")
        return line

    def read(self, length: int) -> bytes | bytearray:
        if length > self._size:
            raise EOFError(f"{length} bytes are declared in a file of {self._size}")
        if length < _LONG:
            return self._file.read(length)
        data = bytearray(length)
        self._file.readinto(data)  # type: ignore[attr-defined]  # where it falls short, the next opcode is missing
        return data


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise ValueError("a dtype that is no plain one")
        self.value = np.dtype(name)

    def restore(self, _version: int, order: Literal["<", ">", "|"], *_: object) -> None:
        if order not in ("<", ">", "|"):
            raise ValueError("a byte order that is none")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for what ``_reconstruct`` makes: an array that its state is yet to come for."""

    value: npt.NDArray[Any] | None = None

    def __init__(self, *_: object) -> None:
        pass

    def restore(self, _version: int, shape: tuple[int, ...], dtype: _Dtype, fortran: bool, data: bytes) -> None:
        self.value = _frombuffer(data, dtype, shape, "F" if fortran else "C")


def _frombuffer(buffer: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> npt.NDArray[Any]:
    return np.frombuffer(buffer, dtype.value).reshape(shape, order=order)


# The names that pickled arrays of NumPy 1 and 2, protocols 2 to 5, are made of; the class itself is only an argument.
_ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "ndarray"): "numpy.ndarray",
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}
_DTYPE = re.compile(r"[a-zA-Z]\d{0,4}")
