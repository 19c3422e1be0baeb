"""Which task has returned a value: its name, its code and the parameters that the feature key does not know.

Two tasks under one key may return different things, such as the number of rows and the number of columns. What a task
has returned is handed on to that task alone. A task that returns the key's FeatureSet needs no identity: whoever stores
features under a key, the features are what the key stands for.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import CellType, CodeType, FunctionType
from typing import Any

from simet_cache.featureset import FeatureSet
from simet_cache.manifest import Source
from simet_cache.store import FeatureStore


@dataclass(frozen=True)
class TaskIdentity:
    """One task with one set of parameters.

    Attributes:
        name: 16 hexadecimal digits.
        unknown: The parameters, or other parts, of which nobody can tell whether they are the same in the next run;
            where there are any, a value of this task is not kept.
    """

    name: str
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(cls, function: Callable[..., Any], parameters: Mapping[str, Any]) -> TaskIdentity:
        """Describe a task.

        Args:
            function: The function of the task.
            parameters: What it is called with, other than what is in the feature key already.
        """
        given = {name: _described(value) for name, value in parameters.items()}
        unknown = [name for name, text in given.items() if text is None]
        if not isinstance(function, FunctionType):
            unknown.append(f"the state of {type(function).__qualname__}")
        blob = json.dumps([_code_of(function), sorted(given.items())]).encode()
        return cls(hashlib.md5(blob, usedforsecurity=False).hexdigest()[:16], tuple(unknown))


def returns_feature_set(function: Callable[..., Any]) -> bool:
    """Whether a function is annotated to return a FeatureSet, and nothing else."""
    try:
        annotation = inspect.signature(function).return_annotation
    except (TypeError, ValueError):
        return False
    if isinstance(annotation, str):  # as in modules with postponed annotations
        return annotation.rpartition(".")[2] == FeatureSet.__name__
    return annotation is FeatureSet


def _described(value: Any) -> str | None:
    """A text that is the same for equal values in every process; None where there is none."""
    if value is None or isinstance(value, bool | int | float | str | bytes | PurePath | Enum):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, FeatureSet):
        return f"features {value.digest}"
    if isinstance(value, FeatureStore | Source):
        return "where features are kept, or what they are made from"  # which the key and the store know
    if isinstance(value, tuple | list):
        return _joined("list", [_described(item) for item in value])
    if isinstance(value, Mapping):
        return _joined("mapping", [_described(part) for item in value.items() for part in item])
    return None


def _joined(what: str, parts: list[str | None]) -> str | None:
    return None if None in parts else f"{what} {json.dumps(parts)}"


def _code_of(function: Any, around: tuple[Any, ...] = ()) -> Any:
    """What a function does, without the file and the lines that it stands in.

    Args:
        function: The function, or what is called like one.
        around: The functions that have caught it in their closures.
    """
    if isinstance(function, partial):
        bound = [_described(function.args), _described(function.keywords)]
        return [_code_of(function.func, around), bound]
    if not isinstance(function, FunctionType) or function in around:  # they may catch each other
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return f"{getattr(function, '__module__', '')}.{name}"
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    caught = [[name, _caught(cell, (*around, function))] for name, cell in cells]
    defaults = [_described(function.__defaults__), _described(function.__kwdefaults__)]
    return [function.__module__, function.__qualname__, _parts(function.__code__), defaults, caught]


def _caught(cell: CellType, around: tuple[Any, ...]) -> Any:
    """What a closure has caught, as far as it cannot change: so factories of tasks make different ones."""
    try:
        value = cell.cell_contents
    except ValueError:  # not assigned yet
        return None
    if callable(value):
        return _code_of(value, around)
    return None if isinstance(value, list | Mapping) else _described(value)  # those change as the program runs


def _parts(code: CodeType) -> list[Any]:
    return [code.co_code.hex(), [_constant(value) for value in code.co_consts], code.co_names, code.co_varnames]


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _parts(value)
    if isinstance(value, frozenset):
        return sorted(map(repr, value))  # whose own order is another one in each process
    return repr(value)
