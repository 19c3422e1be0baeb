"""FeatureCachePolicy: the documented key and the store, as Prefect sees them. The only file here that imports Prefect.

Prefect believes a record of a finished task as long as its ``key_storage`` can read it. Ours can only while the store
has the features: bytes gone or damaged, and the task runs again. On disk, beside the features::

    cache_dir/prefect/records/<md5>   Prefect's record: that a task with this key has finished
    cache_dir/prefect/results/<md5>   what it returned: a FeatureSet, or a small JSON value
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem, WritableFileSystem
from prefect.logging import get_run_logger
from prefect.results import ResultRecordMetadata  # type: ignore[attr-defined]  # public there, by its docs
from prefect.serializers import Serializer
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE
from pydantic import Field, PrivateAttr

from simet_cache.codec import FloatArray
from simet_cache.errors import KeyInputError, SimetCacheError
from simet_cache.key import feature_key
from simet_cache.loaders import expected_rows, loader_key
from simet_cache.store import FeatureSet, FeatureStore, write_atomically

P = ParamSpec("P")


class FeatureCachePolicy(CachePolicy):
    """The cache key of a task is exactly the documented md5; its results live with the features, and die with them.

    For tasks that put features into ``FeatureStore(cache_dir)`` under that key and return their ``FeatureSet`` (or a
    small JSON value). An entry that no task has recorded, like a file of ``simet``, is handed on as its ``FeatureSet``.
    Where the inputs allow no key, the task runs uncached, and a warning says why.

    Args:
        cache_dir: The folder of the features.
        loader: Name of the parameter that is a ``DataLoader``; it is used where the task has it, and otherwise:
        dataset: name of the parameter that is a map-style dataset, and
        batch_size: name of the parameter that is its batch size.
        suffix: Name of the parameter that is the extractor suffix.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        *,
        loader: str = "loader",
        dataset: str = "dataset",
        batch_size: str = "batch_size",
        suffix: str = "suffix",
    ) -> None:
        super().__init__(key_storage=_Records(cache_dir=str(Path(cache_dir).expanduser().absolute())))
        self.loader = loader
        self.dataset = dataset
        self.batch_size = batch_size
        self.suffix = suffix

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002 - Prefect's interface
        **kwargs: Any,  # noqa: ARG002 - Prefect's interface
    ) -> str | None:
        """The documented md5 of the task's inputs, or None, with a warning, where they allow none."""
        try:
            key, rows = self.key_and_rows(inputs)
        except KeyInputError as error:
            if task_ctx is not None:
                get_run_logger(task_ctx).warning("This task runs uncached: %s", error)
            return None
        records = self.key_storage
        if isinstance(records, _Records) and task_ctx is not None:
            records.expect(key, rows)
            # A policy can say where Prefect keeps its records, but not its results; the run's own result store can.
            store = task_ctx.result_store
            store.result_storage = _Results(basepath=str(records.results))
            store.serializer = FeatureResultSerializer()
            store.cache_result_in_memory = False
        return key

    def key_and_rows(self, inputs: dict[str, Any]) -> tuple[str, int | None]:
        """The documented md5 of a task's inputs, and how many rows its features have; None where nobody knows.

        Raises:
            KeyInputError: They allow no key.
        """
        if self.suffix not in inputs:
            raise KeyInputError(_no_parameter("suffix", self.suffix, inputs))
        suffix = inputs[self.suffix]
        if self.loader in inputs:
            loader = inputs[self.loader]
            return loader_key(loader, suffix=suffix), expected_rows(loader)
        if self.dataset not in inputs:
            raise KeyInputError(_no_parameter("loader", self.loader, inputs))
        if self.batch_size not in inputs:
            raise KeyInputError(_no_parameter("batch_size", self.batch_size, inputs))
        dataset = inputs[self.dataset]
        return feature_key(dataset, suffix=suffix, batch_size=inputs[self.batch_size]), len(dataset)

    def __add__(self, other: CachePolicy) -> CachePolicy:
        raise TypeError(
            "FeatureCachePolicy cannot be combined with another policy: its key would no longer be the documented md5"
        )


def feature_task(
    *, cache_dir: str | Path, suffix: str | None = None, loader: str | None = None, **task_options: Any
) -> Callable[[Callable[P, FloatArray]], Task[P, FeatureSet]]:
    """Make a function ``loader -> features`` a Prefect task that never extracts the same features twice.

    The task stores what the function returns as ``<md5>.pkl`` and returns the ``FeatureSet``. On the next run, in any
    process, it ends in state ``Cached``; with ``refresh_cache`` it extracts again and overwrites.

    Args:
        cache_dir: The folder of the features.
        suffix: The extractor suffix. By default the function's own parameter ``suffix`` where it has one, and else its
            name: so that two functions on one loader never share an entry.
        loader: Name of the parameter that is the ``DataLoader``; by default ``loader`` where there is one, and else the
            first.
        task_options: For ``prefect.task``: name, retries, tags, refresh_cache and so on.

    Raises:
        TypeError: The function has no parameter to be the loader, or an option is not the caller's to choose.
    """
    if reserved := {"cache_policy", "persist_result", "result_storage", "result_serializer"} & task_options.keys():
        raise TypeError(f"feature_task decides {', '.join(sorted(reserved))} itself")

    def decorate(function: Callable[P, FloatArray]) -> Task[P, FeatureSet]:
        signature = inspect.signature(function)
        loader_name = loader or ("loader" if "loader" in signature.parameters else next(iter(signature.parameters), ""))
        if loader_name not in signature.parameters:
            raise TypeError(f"{function.__name__} has no parameter {loader_name or 'loader'!r} to take the DataLoader")
        own_suffix = suffix is None and "suffix" in signature.parameters
        constant = None if own_suffix else suffix or function.__name__
        policy = _TaskPolicy(cache_dir, loader=loader_name, constant=constant)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> FeatureSet:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            key, rows = policy.key_and_rows(bound.arguments)
            return FeatureStore(cache_dir).get_or_compute(
                key, lambda: function(*args, **kwargs), rows=rows, force=refresh_requested()
            )

        options: Any = {"name": function.__name__, **task_options, "cache_policy": policy, "persist_result": True}
        return Task(run, **options)

    return decorate


class _TaskPolicy(FeatureCachePolicy):
    """For a function whose suffix may be no parameter of its own."""

    def __init__(self, cache_dir: str | Path, *, loader: str, constant: str | None) -> None:
        super().__init__(cache_dir, loader=loader)
        self.constant = constant

    def key_and_rows(self, inputs: dict[str, Any]) -> tuple[str, int | None]:
        """As above, with the suffix that was decided when the function was decorated."""
        return super().key_and_rows(inputs if self.constant is None else {**inputs, self.suffix: self.constant})


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


class FeatureResultSerializer(Serializer):  # Prefect registers no parametrised ones
    """Results as JSON that names no classes, so that reading one can run nothing."""

    type: str = Field(default="simet-cache", frozen=True)

    def dumps(self, obj: Any) -> bytes:
        """A ``FeatureSet``, a JSON value, or the exception that a task ended with.

        Raises:
            TypeError: Anything else, like the feature matrix itself.
        """
        if isinstance(obj, FeatureSet):
            return json.dumps({"feature_set": obj.to_json()}).encode()
        if isinstance(obj, BaseException):
            return json.dumps({"error": f"{type(obj).__name__}: {obj}"}).encode()
        try:
            blob = json.dumps({"value": obj})
            faithful = json.loads(blob)["value"] == obj
        except (TypeError, ValueError):
            faithful = False
        if not faithful:
            raise TypeError(
                f"a task under FeatureCachePolicy returns a FeatureSet or a JSON value, found {type(obj).__name__};"
                " put features into the store and return their handle, or use feature_task, which does"
            )
        return blob.encode()

    def loads(self, blob: bytes) -> Any:
        """What ``dumps`` was given; an exception comes back as a ``SimetCacheError`` that says the same."""
        data = json.loads(blob)
        if not isinstance(data, dict):
            raise TypeError(f"expected a JSON object, found {type(data).__name__}")
        if "error" in data:
            return SimetCacheError(data["error"])
        return FeatureSet.from_json(data["feature_set"]) if "feature_set" in data else data["value"]


class _Records(WritableFileSystem):
    """Prefect's records of finished tasks, readable only while the store has the features."""

    _block_type_name = "simet-cache records"

    cache_dir: str
    _expected_rows: dict[str, int | None] = PrivateAttr(default_factory=dict)

    @property
    def records(self) -> Path:
        return Path(self.cache_dir) / "prefect" / "records"

    @property
    def results(self) -> Path:
        return Path(self.cache_dir) / "prefect" / "results"

    def expect(self, key: str, rows: int | None) -> None:
        """Other numbers of rows under this key do not count."""
        self._expected_rows[key] = rows

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]
        """The record of a key.

        Raises:
            FileNotFoundError: The features are gone, or the record's result is; Prefect takes that as a miss.
        """
        found = FeatureStore(self.cache_dir).find(path, rows=self._expected_rows.get(path))
        if found is None:
            raise FileNotFoundError(f"no features for key {path} in {self.cache_dir}")
        record, result = self.records / path, self.results / path
        metadata = self._metadata(record)
        if metadata is None:  # no task has recorded this entry: it is adopted
            metadata = ResultRecordMetadata()
            _write(result, FeatureResultSerializer().dumps(found))
            _write(record, self._rebased(metadata, result))
        elif isinstance(_small_result(result), FeatureSet):  # replaced or moved since: the store's word counts
            _write(result, FeatureResultSerializer().dumps(found))
        return self._rebased(metadata, result)

    async def aread_path(self, path: str) -> bytes:
        """The same for async tasks."""
        return self.read_path(path)

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Keep a record."""
        _write(self.records / path, content)

    async def awrite_path(self, path: str, content: bytes) -> None:
        """The same for async tasks."""
        self.write_path(path, content)

    @staticmethod
    def _metadata(record: Path) -> ResultRecordMetadata | None:
        """Only the expiration is believed: a record may name a serializer that runs code."""
        try:
            data = json.loads(record.read_bytes())
            return ResultRecordMetadata.model_validate({"expiration": data.get("expiration")})
        except (OSError, ValueError, AttributeError):
            return None

    @staticmethod
    def _rebased(metadata: ResultRecordMetadata, result: Path) -> bytes:
        """With our serializer, and the result where it is now: the folder may have been moved since."""
        update = {"storage_key": str(result), "serializer": FeatureResultSerializer()}
        return metadata.model_copy(update=update).dump_bytes()


class _Results(LocalFileSystem):
    """Results of tasks as files that are never seen half written, as Prefect's own storage leaves them for a moment."""

    _block_type_name = "simet-cache results"

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Keep a result."""
        _write(self._resolve_path(path), content)

    async def awrite_path(self, path: str, content: bytes) -> str:
        """The same for async tasks."""
        self.write_path(path, content)
        return path


def _small_result(file: Path) -> Any:
    """What a task returned.

    Raises:
        FileNotFoundError: It is gone, or damaged: there is nothing to hand on.
    """
    try:
        return FeatureResultSerializer().loads(file.read_bytes())
    except (ValueError, KeyError, TypeError) as error:
        raise FileNotFoundError(f"{file} is damaged: {error}") from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))
