"""One array <-> one pickle file that is safe to load.

A file is an ordinary pickle of one NumPy array, as ``pickle.load`` reads it and as ``simet`` writes it. Reading never
unpickles freely: only the handful of names that NumPy arrays need are allowed, and they stand for our own functions.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import xxhash

from simet_cache.errors import DamagedEntryError, UnsafePickleError

FloatArray = npt.NDArray[np.floating[Any]]


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
        except UnsafePickleError:
            raise
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - the unpickler raises whatever a damaged stream makes it raise
            raise DamagedEntryError(f"{path} is no readable pickle of an array: {type(error).__name__}: {error}") from error
        if file.read(1):
            raise DamagedEntryError(f"{path} goes on after the end of its pickle")
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


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows no names but those in ``_ALLOWED``."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafePickleError(
                f"{self._path} asks for {module}.{name}, which no array needs; it was not loaded and is left where it is."
                " Delete it if you do not know who wrote it"
            ) from None


def _encode_latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 carries bytes; other codecs could inflate a small file without bound."""
    if encoding != "latin1":
        raise ValueError(f"unexpected codec {encoding!r}")
    return codecs.encode(text, encoding)


def _allowed() -> dict[tuple[str, str], Callable[..., Any] | type]:
    """The names that pickled arrays of NumPy 1 and 2, protocols 2 to 5, are made of."""
    from numpy._core import multiarray, numeric  # the place of these two since NumPy 2

    names: dict[tuple[str, str], Callable[..., Any] | type] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode_latin1,
    }
    for package in ("numpy.core", "numpy._core"):
        names[f"{package}.multiarray", "_reconstruct"] = multiarray._reconstruct
        names[f"{package}.numeric", "_frombuffer"] = numeric._frombuffer
    return names


_ALLOWED = _allowed()
