"""Feature matrices as the metrics read them: checked once, then in float64 blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from xxhash import xxh3_128_intdigest

from simet_cache import stopping
from simet_cache.errors import MetricError

Features: TypeAlias = NDArray[Any]  # (N, D), real floating point, finite
Floats: TypeAlias = NDArray[np.float64]

LARGEST = 1e40  # above every float32; below it no metric's intermediate (kernels are cubic) overflows float64
SMALLEST = 1e-60  # below it the products of a set's values underflow
BLOCK_ELEMENTS = 2**22  # 32 MiB of float64
CACHED_ELEMENTS = 2**17  # 1 MiB of float64
SHOWN_ROWS = 5
CONVERSIONS = {  # by the kind of a dtype: what makes numbers of it without a loss that nobody chose
    "c": "take .real and .imag, or one of them",
    "V": "make one column of each field, with numpy.lib.recfunctions.structured_to_unstructured",
    "M": "say what number a time is to be",
    "m": "divide by a unit, such as numpy.timedelta64(1, 's')",
    "O": "every value must be a number, and none be missing, before .astype('float32')",
}


def as_features(source: object, *, where: str = "features") -> Features:
    """Check a feature matrix and return it as a floating point array.

    Floating point input up to float64 is returned as it is (no copy; any strides, read-only or memory-mapped);
    integers and wider floats become float64. A masked array without masked values counts as the plain array in it.

    Args:
        source: Array-like of shape (N, D), or an object whose ``load()`` returns one.
        where: What the matrix is called in error messages, such as ``"real"``.

    Returns:
        Array of shape (N, D) with N, D >= 1, of a floating point dtype, every value finite.

    Raises:
        MetricError: The array is not 2-D, empty, not numeric, or holds masked values, NaN, infinity or a value above
            1e40, or nothing but values below 1e-60 that are not all 0.
    """
    load = getattr(source, "load", None)
    array = as_array(load() if callable(load) else source, where=where, expected="a 2-D array")
    if array.dtype.names:
        raise _not_numbers(array, where)
    if array.ndim != 2:
        raise MetricError(
            f"{where}: expected a 2-D array (rows, features), found shape {array.shape}; flatten each sample to one row"
        )
    if array.size == 0:
        raise MetricError(
            f"{where}: expected at least one row and one feature, found shape {array.shape}; "
            "check that the extraction produced rows"
        )
    if array.dtype.kind in "iu" or array.dtype.type is np.longdouble:
        array = array.astype(np.float64)
    if array.dtype.kind != "f":
        raise _not_numbers(array, where)
    _check_values(array, where)
    return array


def as_array(source: object, *, where: str, expected: str) -> NDArray[Any]:
    """An array-like as a plain array, where that loses nothing of it.

    Args:
        source: What NumPy reads as an array; sparse matrices are not.
        where: What it is called in error messages.
        expected: What was asked for, such as ``a 2-D array``.

    Raises:
        MetricError: NumPy cannot read it, or some of its values are masked.
    """
    kind = type(source).__name__
    try:
        array = np.asanyarray(source)  # keeps masks, also of what turns itself into a masked array
    except (TypeError, ValueError, RuntimeError) as error:
        raise MetricError(
            f"{where}: expected something NumPy reads as {expected}, found {kind} ({error}); "
            "pass a NumPy array on the CPU"
        ) from error
    if array.ndim == 0 and array.dtype == object and source is not None:
        hint = "call .toarray() on it" if hasattr(source, "toarray") else "pass a NumPy array"
        raise MetricError(f"{where}: expected something NumPy reads as {expected}, found {kind}; {hint}")
    parts = source if isinstance(source, list | tuple) else [array]
    masked = sum(np.count_nonzero(np.ma.getmaskarray(one)) for one in parts if isinstance(one, np.ma.MaskedArray))
    if masked:
        raise MetricError(
            f"{where}: expected values that are all known, found {masked} masked; "
            "fill them in, with .filled(...), or leave their rows out"
        )
    return np.asarray(array)


def _not_numbers(array: NDArray[Any], where: str) -> MetricError:
    hint = CONVERSIONS.get(array.dtype.kind, "convert it, for instance with .astype('float32')")
    return MetricError(f"{where}: expected a floating point (or integer) array, found dtype {array.dtype}; {hint}")


def _check_values(array: Features, where: str) -> None:
    ends = np.array([(float(part.min()), float(part.max())) for part in _cached_parts(array)])
    if (ends[:, 0] >= -LARGEST).all() and (ends[:, 1] <= LARGEST).all():  # NaN passes neither comparison
        if 0 < np.abs(ends).max() < SMALLEST:
            raise MetricError(
                f"{where}: expected values above {SMALLEST:g}, found {np.abs(ends).max():.3g} at most;"
                " rescale the features"
            )
        return
    usable = np.concatenate([(np.abs(block) <= LARGEST).all(axis=1) for block in blocks(array)])
    bad = np.flatnonzero(~usable)
    shown = ", ".join(str(row) for row in bad[:SHOWN_ROWS])
    rows = f"{bad.size} of {len(array)} rows (first: {shown})"
    if np.isfinite(array[bad]).all():
        raise MetricError(
            f"{where}: expected values up to {LARGEST:g}, found larger ones in {rows}; rescale the features"
        )
    raise MetricError(f"{where}: expected finite values, found NaN or infinity in {rows}; drop or recompute these rows")


def slices(count: int, step: int) -> Iterator[slice]:
    """Consecutive slices of at most ``step`` that cover ``range(count)``: every long loop of a metric is over some.

    Raises:
        StoppedError: Between two of them, the run was asked to stop.
    """
    for start in range(0, count, step):
        stopping.check()
        yield slice(start, min(start + step, count))


def cached_rows(features: Features) -> int:
    """How many rows of ``features`` are so few that what is made of them elementwise stays in the processor's cache."""
    return max(1, CACHED_ELEMENTS // int(features.shape[1]))


def _cached_parts(features: Features) -> Iterator[Features]:
    return (features[part] for part in slices(len(features), cached_rows(features)))


def block_rows(features: Features) -> int:
    """How many rows of ``features`` make one float64 block."""
    return max(1, BLOCK_ELEMENTS // int(features.shape[1]))


def blocks(features: Features, rows: int | None = None) -> Iterator[Floats]:
    """Yield ``features`` in order as C-contiguous float64 blocks of at most ``rows`` rows."""
    for part in slices(len(features), rows or block_rows(features)):
        yield np.ascontiguousarray(features[part], dtype=np.float64)


def row_digests(features: Features, dtype: DTypeLike) -> Iterator[int]:
    """Yield a number of 128 bits for each row, equal for rows that are equal in ``dtype``."""
    for part in slices(len(features), block_rows(features)):
        block = np.ascontiguousarray(features[part], dtype=dtype) + 0.0  # or else -0 and 0 would differ
        yield from map(xxh3_128_intdigest, block)


def mean(features: Features) -> Floats:
    """Mean row, shape (D,).

    Sums differences from the first row, so that a large common offset costs no digits and a constant feature has
    exactly its constant as its mean.
    """
    first = features[0].astype(np.float64)
    return np.asarray(first + mean_from(features, first))


def mean_from(features: Features, origin: Floats) -> Floats:
    """Mean row less ``origin``, shape (D,)."""
    total = np.zeros_like(origin)
    for part in _cached_parts(features):
        total += np.subtract(part, origin, dtype=np.float64).sum(axis=0)
    return np.asarray(total / len(features))
