"""feature_task: makes a function from a loader to an array a Prefect task that extracts once."""

from __future__ import annotations

import functools
import inspect
import string
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from pathlib import Path
from types import FunctionType
from typing import Any, Generic, ParamSpec

import torch
from prefect import Task
from prefect.context import TaskRunContext
from prefect.utilities.annotations import NotSet

from simet_cache.codec import FloatArray
from simet_cache.errors import KeyInputError
from simet_cache.featureset import FeatureSet
from simet_cache.policy import FeatureCachePolicy, refresh_requested
from simet_cache.records import Records, request_of
from simet_cache.request import FeatureRequest
from simet_cache.store import FeatureStore

P = ParamSpec("P")

_DECIDED = {
    "cache_expiration",
    "cache_key_fn",
    "cache_policy",
    "cache_result_in_memory",
    "persist_result",
    "result_serializer",
    "result_storage",
    "result_storage_key",
}
_SELF = "self"  # how a suffix names the object that a method is bound to, or a callable object itself
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def feature_task(
    function: None = None,
    /,
    *,
    cache_dir: str | Path | FeatureStore | None = None,
    suffix: str | None = None,
    loader: str | None = None,
    ignore: Collection[str] = (),
    **task_options: Any,
) -> Callable[[Callable[P, FloatArray]], Task[P, FeatureSet]]:
    """Make a function ``loader -> features`` a Prefect task that never extracts the same features twice.

    The task stores what the function returns as ``<md5>.pkl`` and returns the ``FeatureSet``. On the next run, in any
    process, it ends in state ``Cached``; with ``refresh_cache`` it extracts again and overwrites.

    Every parameter but the loader has to be in the suffix, or ignored: features of other parameters would be found
    under the same key. So does the object of a bound method, and a callable object, as ``{self}``.

    Args:
        function: Not to be given: the decorator is called with options first.
        cache_dir: The folder of the features, resolved now, or a ``FeatureStore``. Required.
        suffix: The extractor suffix, in which ``{name}`` stands for the value of a parameter, as in ``clip_{model}``.
            Values are texts, numbers, booleans, enumerations, torch's dtypes and devices, None, or objects with an
            attribute ``feature_identity``, a text that is another one for other features. By default the function's own
            parameter ``suffix`` where it has one, and else the function's name. Two functions with one suffix share
            their entries.
        loader: Name of the parameter that is the ``DataLoader``; by default ``loader`` where there is one, and else the
            first.
        ignore: Names of parameters that do not change the features, such as ``("progress",)``.
        task_options: For ``prefect.task``: name, retries, tags, refresh_cache and so on.

    Raises:
        TypeError: The function is async, has no parameter to be the loader, or has others that no suffix knows of; or
            an option is missing, or not the caller's to choose.
    """
    if function is not None or cache_dir is None:
        raise TypeError("feature_task has to know the folder of the features: write @feature_task(cache_dir='...')")
    _refuse(task_options)

    def decorate(function: Callable[P, FloatArray]) -> Task[P, FeatureSet]:
        naming = Naming.of(function, loader=loader, suffix=suffix, ignore=ignore)
        policy = _TaskPolicy(cache_dir, naming)
        signature = inspect.signature(function)

        def run(*args: P.args, **kwargs: P.kwargs) -> FeatureSet:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            request = _request_of_run_of(run) or policy.request(bound.arguments, force=refresh_requested())
            return request.get_or_compute(lambda: function(*args, **kwargs))

        # of an object that is called, the attributes are its state, and not a function's
        functools.update_wrapper(run, function, updated=("__dict__",) if isinstance(function, FunctionType) else ())
        options = {"name": naming.task, **task_options, "cache_policy": policy, "persist_result": True}
        return FeatureTask(run, **options)

    return decorate


class FeatureTask(Task[P, FeatureSet], Generic[P]):
    """A task of ``feature_task``: its options can be changed, but for those that keep its cache right."""

    def with_options(self, **options: Any) -> FeatureTask[P]:
        """A copy of the task with other options; see ``prefect.Task.with_options``.

        Raises:
            TypeError: An option is not the caller's to choose.
        """
        _refuse({name: value for name, value in options.items() if value is not NotSet and value is not None})
        changed: FeatureTask[P] = object.__new__(type(self))
        changed.__dict__.update(super().with_options(**options).__dict__)  # Prefect makes a plain Task
        return changed


def _refuse(options: Mapping[str, Any]) -> None:
    if reserved := _DECIDED & options.keys():
        raise TypeError(
            f"feature_task decides {', '.join(sorted(reserved))} itself, so that its results are those of the features"
            " in the store; to extract again, say refresh_cache=True"
        )


@dataclass(frozen=True)
class Naming:
    """How the suffix of a function's features is made from its parameters.

    Attributes:
        task: The name of the task.
        loader: The parameter that is the DataLoader.
        template: The suffix with ``{name}`` in it; None where the function's own parameter says it.
        state: The object that a method is bound to, or that is called; None for a function.
    """

    task: str
    loader: str
    template: str | None
    state: Any = None

    @classmethod
    def of(
        cls, function: Callable[..., Any], *, loader: str | None, suffix: str | None, ignore: Collection[str]
    ) -> Naming:
        """See ``feature_task``."""
        inner = function.func if isinstance(function, functools.partial) else function
        name = getattr(inner, "__name__", type(inner).__name__)
        _check_kind(function, inner, name)
        try:
            parameters = inspect.signature(function).parameters
        except ValueError as error:
            raise TypeError(f"{name} has no signature that can be read; wrap it in a function of a loader") from error
        loader = loader or _loader_of(parameters)
        if loader not in parameters or parameters[loader].kind in _VARIABLE:
            raise TypeError(f"{name} has no parameter {loader!r} to take the DataLoader")
        state = _state_of(inner)
        given = [*parameters, *([_SELF] if state is not None and _SELF not in parameters else [])]
        if isinstance(ignore, str) or (unknown := set(ignore) - set(given)):
            what = ignore if isinstance(ignore, str) else ", ".join(sorted(unknown))
            raise TypeError(f"expected in ignore= some of {name}'s parameters, ({', '.join(given)}), found {what}")
        template = suffix if suffix is not None else None if "suffix" in parameters else name
        named = {"suffix"} if template is None else _names_in(template)
        if others := [one for one in given if one not in {loader, *named, *ignore}]:
            advice = f"{template if template is not None else '{suffix}'}_{{{others[0]}}}"
            raise TypeError(
                f"{name} has parameters that its key would not know: {', '.join(others)}; say what identifies its"
                f" features, like feature_task(suffix='{advice}'), or ignore={tuple(others)!r} where they do not change"
                " them"
            )
        return cls(name, loader, template, state)

    def suffix(self, inputs: Mapping[str, Any]) -> str | None:
        """The suffix for some parameters; None where the function's own parameter says it.

        Raises:
            KeyInputError: A value of the template does not say what it is.
        """
        if self.template is None:
            return None
        try:
            return _Identities().vformat(self.template, (), {_SELF: self.state, **inputs})
        except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            raise KeyInputError(f"the suffix {self.template!r} cannot be filled in: {error!r}") from error


def _check_kind(function: Callable[..., Any], inner: Any, name: str) -> None:
    if isinstance(inner, classmethod | staticmethod):
        raise TypeError(f"write @{type(inner).__name__} above @feature_task, and not below it, for {name}")
    if not callable(inner):
        raise TypeError(f"feature_task takes a function, found {type(inner).__name__}")
    if isinstance(function, functools.partial) and function.args:
        raise TypeError(f"feature_task cannot name what a partial of {name} has got by position; give it by name")
    for call in (inner, type(inner).__call__):
        if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
            raise TypeError(f"{name} is async; feature_task takes an ordinary function")
        if inspect.isgeneratorfunction(call):
            raise TypeError(f"{name} yields; feature_task takes a function that returns all features at once")


def _state_of(inner: Any) -> Any:
    if inspect.isroutine(inner):
        owner = getattr(inner, "__self__", None)
        return None if inspect.isclass(owner) or inspect.ismodule(owner) else owner
    return None if inspect.isclass(inner) else inner


def _loader_of(parameters: Mapping[str, Any]) -> str:
    return "loader" if "loader" in parameters else next((one for one in parameters if one != _SELF), "loader")


def _names_in(template: str) -> set[str]:
    """The parameters that a template names, also within the formats of others."""
    names: set[str] = set()
    for _, field, spec, _ in string.Formatter().parse(template):
        if field is not None:
            names |= {field.partition(".")[0].partition("[")[0]} | _names_in(spec or "")
    return names


class _Identities(string.Formatter):
    """Fills in only what is the same text in every run, and another one for other features."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        value, first = super().get_field(field_name, args, kwargs)
        return _identity_of(value, field_name), first


def _identity_of(value: Any, name: str) -> Any:
    if value is None or isinstance(value, str | Real | Enum | torch.dtype | torch.device):
        return value
    identity = getattr(value, "feature_identity", None)
    if not isinstance(identity, str):
        raise KeyInputError(
            f"the suffix names {name!r} of type {type(value).__name__}, whose text says nothing about the features"
            " that it makes; expected a text, number, boolean or enumeration, or an object with an attribute"
            " feature_identity"
        )
    return identity


class _TaskPolicy(FeatureCachePolicy):
    """For a function whose suffix may be no parameter of its own."""

    def __init__(self, store: str | Path | FeatureStore, naming: Naming) -> None:
        super().__init__(store, loader=naming.loader)
        self.naming = naming

    def request(self, inputs: dict[str, Any], *, force: bool = False) -> FeatureRequest:
        """As above, with the suffix that was decided when the function was decorated."""
        suffix = self.naming.suffix(inputs)
        return super().request(inputs if suffix is None else {**inputs, self.suffix: suffix}, force=force)

    def _records(self, request: FeatureRequest, task: Task[..., Any], inputs: dict[str, Any]) -> Records:  # noqa: ARG002 - as above
        return Records.of(request)


def _request_of_run_of(function: Callable[..., Any]) -> FeatureRequest | None:
    """What the policy found out when it made the key of the running task, if that is the task of this function."""
    run = TaskRunContext.get()
    mine = run is not None and run.task.fn is function  # else it was called with .fn inside of another task
    return request_of(run) if mine else None
