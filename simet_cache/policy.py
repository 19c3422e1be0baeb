"""FeatureCachePolicy: the documented key and the store, as Prefect sees them.

Prefect believes a record of a finished task as long as its ``key_storage`` can read it. Ours can only while the store
has the features: bytes gone or damaged, and the task runs again. Only this file and ``records`` import Prefect here.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE

from simet_cache.codec import FloatArray
from simet_cache.errors import KeyInputError
from simet_cache.featureset import FeatureSet
from simet_cache.key import feature_key
from simet_cache.loaders import expected_rows, loader_key, loader_source
from simet_cache.manifest import Source
from simet_cache.records import Records, Wanted, take_over
from simet_cache.sources import source_of
from simet_cache.store import FeatureStore

P = ParamSpec("P")


class FeatureCachePolicy(CachePolicy):
    """The cache key of a task is exactly the documented md5; its results live with the features, and die with them.

    For tasks that put features into ``FeatureStore(cache_dir)`` under that key and return their ``FeatureSet`` (or a
    small JSON value). An entry that no task has recorded, like a file of ``simet``, is handed on as its ``FeatureSet``.
    Where the inputs allow no key, nothing is cached, and a warning says why.

    Args:
        store: The features: a ``FeatureStore``, or its folder.
        loader: Name of the parameter that is a ``DataLoader``; it is used where the task has it, and otherwise:
        dataset: name of the parameter that is a map-style dataset, and
        batch_size: name of the parameter that is its batch size.
        suffix: Name of the parameter that is the extractor suffix.
    """

    def __init__(
        self,
        store: str | Path | FeatureStore,
        *,
        loader: str = "loader",
        dataset: str = "dataset",
        batch_size: str = "batch_size",
        suffix: str = "suffix",
    ) -> None:
        self._store = store if isinstance(store, FeatureStore) else None
        self.cache_dir = self._store.cache_dir if self._store else Path(store).expanduser().absolute()  # type: ignore[arg-type]
        super().__init__(key_storage=Records(cache_dir=str(self.cache_dir)))
        self.loader = loader
        self.dataset = dataset
        self.batch_size = batch_size
        self.suffix = suffix

    @property
    def store(self) -> FeatureStore:
        """The features. To decorate a function does not make a folder; to run it does."""
        if self._store is None:
            self._store = FeatureStore(self.cache_dir)
        return self._store

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002 - Prefect's interface
        **kwargs: Any,  # noqa: ARG002 - Prefect's interface
    ) -> str | None:
        """The documented md5 of the task's inputs, or None, with a warning, where they allow none."""
        try:
            wanted = self.wanted(inputs)
        except KeyInputError as error:
            if task_ctx is not None:
                get_run_logger(task_ctx).warning("This task has no cache key: %s", error)
            return None
        if task_ctx is not None:
            take_over(task_ctx, Records.of(self.store, wanted))
        return wanted.key

    def wanted(self, inputs: dict[str, Any]) -> Wanted:
        """What a task's inputs ask for: the documented md5, how many rows, and what they would be made from.

        A parameter that is a ``Source`` already is taken at its word: a fingerprint costs a look at every file.

        Raises:
            KeyInputError: The inputs allow no key.
        """
        if self.suffix not in inputs:
            raise KeyInputError(_no_parameter("suffix", self.suffix, inputs))
        suffix = inputs[self.suffix]
        content = self.store.fingerprint == "content"
        taken = next((value for value in inputs.values() if isinstance(value, Source)), None)
        if self.loader in inputs:
            loader = inputs[self.loader]
            key = loader_key(loader, suffix=suffix)
            return Wanted(key, expected_rows(loader), taken or loader_source(loader, suffix=suffix, content=content))
        if self.dataset not in inputs:
            raise KeyInputError(_no_parameter("loader", self.loader, inputs))
        if self.batch_size not in inputs:
            raise KeyInputError(_no_parameter("batch_size", self.batch_size, inputs))
        dataset, batch_size = inputs[self.dataset], inputs[self.batch_size]
        key = feature_key(dataset, suffix=suffix, batch_size=batch_size)
        return Wanted(
            key, len(dataset), taken or source_of(dataset, suffix=suffix, batch_size=batch_size, content=content)
        )

    def configure(self, *args: Any, **options: Any) -> FeatureCachePolicy:
        """A copy with another isolation level or lock manager; the place of the records is not to be chosen.

        Raises:
            TypeError: ``key_storage`` is given.
        """
        if args or options.get("key_storage") is not None:
            raise TypeError("FeatureCachePolicy keeps its records with the features; key_storage cannot be chosen")
        return super().configure(**options)

    def __add__(self, other: CachePolicy) -> CachePolicy:
        raise TypeError(
            "FeatureCachePolicy cannot be combined with another policy: its key would no longer be the documented md5"
        )


def feature_task(
    *, cache_dir: str | Path | FeatureStore, suffix: str | None = None, loader: str | None = None, **task_options: Any
) -> Callable[[Callable[P, FloatArray]], Task[P, FeatureSet]]:
    """Make a function ``loader -> features`` a Prefect task that never extracts the same features twice.

    The task stores what the function returns as ``<md5>.pkl`` and returns the ``FeatureSet``. On the next run, in any
    process, it ends in state ``Cached``; with ``refresh_cache`` it extracts again and overwrites.

    Args:
        cache_dir: The folder of the features, or a ``FeatureStore``.
        suffix: The extractor suffix, in which ``{name}`` stands for the value of a parameter, as in ``clip_{model}``.
            By default the function's own parameter ``suffix`` where it has one, and else the function's name. Two
            functions with one suffix share their entries.
        loader: Name of the parameter that is the ``DataLoader``; by default ``loader`` where there is one, and else the
            first.
        task_options: For ``prefect.task``: name, retries, tags, refresh_cache and so on.

    Raises:
        TypeError: The function is async, has no parameter to be the loader, or has others that no suffix knows of; or
            an option is not the caller's to choose.
    """
    if reserved := _DECIDED & task_options.keys():
        raise TypeError(f"feature_task decides {', '.join(sorted(reserved))} itself")

    def decorate(function: Callable[P, FloatArray]) -> Task[P, FeatureSet]:
        signature = inspect.signature(function)
        loader_name, template = _loader_and_suffix(function, loader, suffix)
        policy = _TaskPolicy(cache_dir, loader=loader_name, template=template)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> FeatureSet:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            wanted = _wanted_by_run_of(run) or policy.wanted(bound.arguments)
            return policy.store.get_or_compute(
                wanted.key,
                lambda: function(*args, **kwargs),
                rows=wanted.rows,
                source=wanted.source,
                force=refresh_requested(),
            )

        options: Any = {"name": function.__name__, **task_options, "cache_policy": policy, "persist_result": True}
        return Task(run, **options)

    return decorate


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


def _loader_and_suffix(function: Callable[..., Any], loader: str | None, suffix: str | None) -> tuple[str, str | None]:
    """Which parameter is the loader, and the suffix; None where the function's own parameter says it."""
    name, parameters = function.__name__, inspect.signature(function).parameters
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{name} is async; feature_task takes an ordinary function")
    loader = loader or ("loader" if "loader" in parameters else next(iter(parameters), "loader"))
    if loader not in parameters:
        raise TypeError(f"{name} has no parameter {loader!r} to take the DataLoader")
    if suffix is not None:
        return loader, suffix
    if "suffix" in parameters:
        return loader, None
    if others := [other for other in parameters if other != loader]:
        raise TypeError(
            f"{name} has parameters that its key would not know: {', '.join(others)}; say what identifies its features,"
            f" like feature_task(suffix='{name}_{{{others[0]}}}')"
        )
    return loader, name


class _TaskPolicy(FeatureCachePolicy):
    """For a function whose suffix may be no parameter of its own."""

    def __init__(self, store: str | Path | FeatureStore, *, loader: str, template: str | None) -> None:
        super().__init__(store, loader=loader)
        self.template = template

    def wanted(self, inputs: dict[str, Any]) -> Wanted:
        """As above, with the suffix that was decided when the function was decorated."""
        if self.template is None:
            return super().wanted(inputs)
        try:
            suffix = self.template.format_map(inputs)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise KeyInputError(f"the suffix {self.template!r} cannot be filled in: {error!r}") from error
        if re.search(r" at 0x[0-9a-f]+", suffix):
            raise KeyInputError(f"the suffix {suffix!r} is another one in every run; say what identifies the features")
        return super().wanted({**inputs, self.suffix: suffix})


def _wanted_by_run_of(function: Callable[..., Any]) -> Wanted | None:
    """What the policy found out when it made the key of the running task, if that is the task of this function."""
    context = TaskRunContext.get()
    mine = context is not None and context.task.fn is function  # else it was called with .fn inside of another task
    records = context.result_store.metadata_storage if context and mine else None
    return records.wanted if isinstance(records, Records) else None


def refresh_requested() -> bool:
    """Whether the running task was told not to use cached results: by ``refresh_cache``, or by Prefect's setting."""
    context = TaskRunContext.get()
    if context is None or context.task.refresh_cache is None:
        return bool(PREFECT_TASKS_REFRESH_CACHE.value())
    return context.task.refresh_cache


def _no_parameter(role: str, name: str, inputs: dict[str, Any]) -> str:
    return (
        f"the task has no parameter {name!r} (it has {', '.join(map(repr, inputs)) or 'none'});"
        f" tell FeatureCachePolicy its name with {role}='...'"
    )
