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
from types import CellType, CodeType, FunctionType, ModuleType
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
        code = _Code()
        blob = json.dumps([code.of(function), sorted(given.items())]).encode()
        unknown += [name for name in code.unknown if name not in unknown]
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


class _Code:
    """What functions do, without the files and the lines that they stand in.

    Attributes:
        unknown: What they have caught of which nobody can tell whether it is the same in the next run.
    """

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def of(self, function: Any, around: tuple[Any, ...] = ()) -> Any:
        """Describe a function, or what is called like one, as JSON values.

        Args:
            function: The function; what wraps one, like a task of Prefect's, is described by what it wraps.
            around: The functions that have caught it in their closures.
        """
        if isinstance(function, partial):
            bound = [self._value("arguments of a partial", part) for part in (function.args, function.keywords)]
            return [self.of(function.func, around), bound]
        if not isinstance(function, FunctionType):
            function = getattr(function, "__wrapped__", function)
        if not isinstance(function, FunctionType) or function in around:  # they may catch each other
            name = getattr(function, "__qualname__", type(function).__qualname__)
            return f"{getattr(function, '__module__', '')}.{name}"
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        caught = [[name, self._caught(name, cell, (*around, function))] for name, cell in cells]
        defaults = [_described(function.__defaults__), _described(function.__kwdefaults__)]
        if around and None in defaults:  # those of the task itself are parameters of its run, which are looked at
            self.unknown.append(f"the defaults of {function.__name__}")
        return [function.__module__, function.__qualname__, _parts(function.__code__), defaults, caught]

    def _caught(self, name: str, cell: CellType, around: tuple[Any, ...]) -> Any:
        """What a closure has caught: so factories of tasks make different ones."""
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            return None
        if isinstance(value, ModuleType):
            return value.__name__
        if not isinstance(value, partial) and not hasattr(value, "__name__"):
            return self._value(name, value)
        owner = getattr(value, "__self__", None)  # of a method: an object, whose state may be anything
        if owner is not None and not isinstance(owner, ModuleType | type):
            return [self.of(value, around), self._value(name, owner)]
        return self.of(value, around)

    def _value(self, name: str, value: Any) -> str | None:
        described = _described(value)
        if described is None and name not in self.unknown:
            self.unknown.append(name)
        return described


def _parts(code: CodeType) -> list[Any]:
    return [code.co_code.hex(), [_constant(value) for value in code.co_consts], code.co_names, code.co_varnames]


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _parts(value)
    if isinstance(value, frozenset):
        return sorted(map(repr, value))  # whose own order is another one in each process
    return repr(value)
