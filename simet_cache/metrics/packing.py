"""What metrics make, as JSON values and arrays, and back: no file names a class that is not in this table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics.clipped import Scored
from simet_cache.metrics.cmmd import Means
from simet_cache.metrics.fd_unbiased import Halves
from simet_cache.metrics.fid import Gaussian
from simet_cache.metrics.kid import Within
from simet_cache.metrics.metric import Copies, Interval, MetricValue, Noise
from simet_cache.metrics.neighbours import Radii
from simet_cache.metrics.vendi import Spectrum

KINDS: dict[str, type[Any]] = {
    "gaussian": Gaussian,
    "halves": Halves,
    "within": Within,
    "radii": Radii,
    "scored": Scored,
    "means": Means,
    "spectrum": Spectrum,
    "value": MetricValue,
    "interval": Interval,
    "copies": Copies,
    "noise": Noise,
}
_NAMES = {kind: name for name, kind in KINDS.items()}
_FIELDS = {kind: frozenset(one.name for one in fields(kind)) for kind in KINDS.values()}
_OPTIONAL = {  # what files of earlier versions may lack
    kind: frozenset(one.name for one in fields(kind) if (one.default, one.default_factory) != (MISSING, MISSING))
    for kind in KINDS.values()
}
NUMBERS = "fiub"  # kinds of dtypes

Array = NDArray[Any]


def pack(value: Any) -> tuple[Any, list[Array]]:
    """A value as JSON, in which arrays are numbers, and those arrays.

    Args:
        value: Of a class of ``KINDS``; or an array, a number, a text, None, or a tuple, list or mapping of such.

    Raises:
        TypeError: It holds something else.
    """
    arrays: list[Array] = []
    return _packed(value, arrays), arrays


def _packed(value: Any, arrays: list[Array]) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in NUMBERS:
        return _packed_array(value, arrays)
    if type(value) in _NAMES:
        parts = {one.name: _packed(getattr(value, one.name), arrays) for one in fields(value)}
        return {"kind": _NAMES[type(value)], "fields": parts}
    return _packed_container(value, arrays)


def _packed_container(value: Any, arrays: list[Array]) -> Any:
    if isinstance(value, tuple | list):
        items = [_packed(one, arrays) for one in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping) and all(type(name) is str for name in value):
        return {"mapping": {name: _packed(one, arrays) for name, one in value.items()}}
    raise TypeError(f"expected what metrics are made of, found {type(value).__qualname__}")


def _packed_array(value: np.generic | Array, arrays: list[Array]) -> dict[str, Any]:
    """With the order in memory: linear algebra takes other ways, and rounds otherwise, in the other one."""
    array = np.asarray(value)
    turned = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
    arrays.append(array.T if turned else array)
    return {"scalar" if isinstance(value, np.generic) else "turned" if turned else "array": len(arrays) - 1}


def unpack(tree: Any, array_of: Callable[[int], Array], *, noise: bool = True) -> Any:
    """The reverse of ``pack``.

    Args:
        tree: The JSON value.
        array_of: The array of a number; called for those that are needed.
        noise: Whether values get their noise, or None in its place.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: It was not made by ``pack``.
    """
    if isinstance(tree, list):
        return [unpack(one, array_of, noise=noise) for one in tree]
    if not isinstance(tree, dict):
        return tree
    if "kind" in tree:
        return _of_kind(KINDS[tree["kind"]], tree["fields"], array_of, noise=noise)
    ((what, held),) = tree.items()
    if what in ("tuple", "mapping"):
        parts = held if what == "tuple" else held.values()
        made = [unpack(one, array_of, noise=noise) for one in parts]
        return tuple(made) if what == "tuple" else dict(zip(held, made, strict=True))
    if what == "float":
        return float(held)
    array = array_of(held)
    return {"array": lambda: array, "turned": lambda: array.T, "scalar": lambda: array[()]}[what]()


def to_json(value: Any) -> dict[str, Any]:
    """A value of ``pack`` with its arrays as lists: for what has few of them."""
    tree, arrays = pack(value)
    return {"tree": tree, "arrays": [{"dtype": str(array.dtype), "values": array.tolist()} for array in arrays]}


def from_json(held: Mapping[str, Any]) -> Any:
    """The reverse of ``to_json``."""
    arrays = held["arrays"]
    return unpack(held["tree"], lambda number: np.array(arrays[number]["values"], arrays[number]["dtype"]))


def _of_kind(kind: type[Any], held: Mapping[str, Any], array_of: Callable[[int], Array], *, noise: bool) -> Any:
    if not _FIELDS[kind] - _OPTIONAL[kind] <= held.keys() <= _FIELDS[kind]:
        raise ValueError(f"expected the fields of {kind.__name__}, found {', '.join(held)}")
    without = {"noise"} if kind is MetricValue and not noise else set()
    return kind(**{name: None if name in without else unpack(one, array_of, noise=noise) for name, one in held.items()})
