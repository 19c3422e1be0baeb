"""Prefect's records and results of tasks, kept with the features and believed only as far as the store agrees.

On disk, beside the features::

    cache_dir/prefect/records/<md5>   Prefect's record: that a task with this key has finished
    cache_dir/prefect/results/<md5>   what it returned: a FeatureSet, or a small JSON value
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem, WritableFileSystem
from prefect.results import ResultRecordMetadata  # type: ignore[attr-defined]  # public there, by its docs
from prefect.serializers import Serializer
from pydantic import Field, PrivateAttr

from simet_cache import folders
from simet_cache.atomic import read_regular, write_atomically
from simet_cache.errors import SimetCacheError, StoreError
from simet_cache.featureset import FeatureSet
from simet_cache.manifest import Source
from simet_cache.store import FeatureStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a task run asks the store for.

    Attributes:
        key: The documented md5.
        rows: How many rows; None where nobody knows.
        source: What the features would be made from now.
    """

    key: str
    rows: int | None
    source: Source


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


class Records(WritableFileSystem):
    """Prefect's records of finished tasks, readable only while the store has the features.

    Each task run has a copy that knows what it wants; what the run has found to exist, it can also read.
    """

    _block_type_name = "simet-cache records"

    cache_dir: str
    _store: FeatureStore = PrivateAttr()
    _wanted: Wanted | None = PrivateAttr(default=None)
    _hit: tuple[bytes, bytes] | None = PrivateAttr(default=None)  # record and result

    @classmethod
    def of(cls, store: FeatureStore, wanted: Wanted | None = None) -> Records:
        """The records beside a store's features."""
        records = cls(cache_dir=str(store.cache_dir))
        records._store, records._wanted = store, wanted
        return records

    @property
    def wanted(self) -> Wanted | None:
        """What this task run wants."""
        return self._wanted

    @property
    def records(self) -> Path:
        """The folder of the records."""
        return Path(self.cache_dir) / "prefect" / "records"

    @property
    def results(self) -> Path:
        """The folder of the results."""
        return Path(self.cache_dir) / "prefect" / "results"

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]
        """The record of a key.

        Raises:
            FileNotFoundError: The features are gone, or the record's result is; Prefect takes that as a miss.
        """
        if self._wanted is None or path != self._wanted.key:  # of a task that is called inside of this one
            return read_regular(self.records / path)
        if self._hit is None:
            self._hit = self._look_up(self._wanted)
        return self._hit[0]

    async def aread_path(self, path: str) -> bytes:
        """The same for async tasks."""
        return self.read_path(path)

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Keep a record, with the digest of the features that the result is about."""
        if self._wanted and path == self._wanted.key and (found := self._store.find(path)):
            content = json.dumps({**json.loads(content), "digest": found.digest}).encode()
            if self._returned(path) in (None, found.digest):  # and not what another run has put there since
                with contextlib.suppress(StoreError):  # a task that called ``put`` alone did not say it
                    self._store.say_source(path, self._wanted.source)
        self._hit = None
        keep(self.records / path, content)

    def _returned(self, key: str) -> str | None:
        """The digest of the features that the task has returned; Prefect writes its result before its record."""
        with contextlib.suppress(OSError, StoreError, ValueError, KeyError, TypeError):
            value = FeatureResultSerializer().loads(read_regular(self.results / key))
            return value.digest if isinstance(value, FeatureSet) else None
        return None

    async def awrite_path(self, path: str, content: bytes) -> None:
        """The same for async tasks."""
        self.write_path(path, content)

    def result(self, path: str) -> bytes:
        """What the task of a record returned."""
        name = Path(path).name
        mine = self._wanted is not None and name == self._wanted.key
        return self._hit[1] if self._hit and mine else read_regular(self.results / name)

    def _look_up(self, wanted: Wanted) -> tuple[bytes, bytes]:
        key = wanted.key
        found = self._store.find(key, rows=wanted.rows, source=wanted.source)
        if found is None:
            raise FileNotFoundError(f"no features for key {key} in {self.cache_dir}")
        handle = FeatureResultSerializer().dumps(found)
        recorded = self._recorded(key)
        if recorded is None:  # by no task: the entry is adopted
            record = self._rebased(key, None)
            keep(self.results / key, handle)
            keep(self.records / key, record)
            return record, handle
        try:
            blob = read_regular(self.results / key)
            value = FeatureResultSerializer().loads(blob)
        except (StoreError, ValueError, KeyError, TypeError) as error:
            raise FileNotFoundError(f"the result of key {key} is damaged: {error}") from error
        if isinstance(value, FeatureSet):  # replaced or moved since, perhaps: the store's word counts
            if blob != handle:
                keep(self.results / key, handle)
            return self._rebased(key, recorded.get("expiration")), handle
        if isinstance(value, BaseException) or recorded.get("digest") != found.digest:
            raise FileNotFoundError(f"the result of key {key} is an error, or about features that were replaced")
        return self._rebased(key, recorded.get("expiration")), blob

    def _recorded(self, key: str) -> dict[str, Any] | None:
        """A record as plain values, of which few are believed: it may name a serializer that runs code."""
        try:
            data = json.loads(read_regular(self.records / key))
            ResultRecordMetadata.model_validate({"expiration": data.get("expiration")})
        except (OSError, StoreError, ValueError, AttributeError):
            return None
        return dict(data)

    def _rebased(self, key: str, expiration: Any) -> bytes:
        """With our serializer, and the result where it is now: the folder may have been moved since."""
        result = str(self.results / key)
        return ResultRecordMetadata(
            storage_key=result, expiration=expiration, serializer=FeatureResultSerializer()
        ).dump_bytes()


class KeepsResults(Protocol):
    """What belongs to a task run, and knows what the task returned."""

    @property
    def results(self) -> Path:
        """The folder of the results."""

    def result(self, path: str) -> bytes:
        """What the task of a record returned."""


class Results(LocalFileSystem):
    """Results of tasks as files that are never seen half written, as Prefect's own storage leaves them for a moment."""

    _block_type_name = "simet-cache results"
    _records: KeepsResults = PrivateAttr()

    @classmethod
    def of(cls, records: KeepsResults) -> Results:
        """The results that belong to a run's records."""
        results = cls(basepath=str(records.results))
        results._records = records
        return results

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]
        """What a task returned."""
        return self._records.result(path)

    async def aread_path(self, path: str) -> bytes:
        """The same for async tasks."""
        return self.read_path(path)

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Keep a result."""
        keep(self._resolve_path(path), content)

    async def awrite_path(self, path: str, content: bytes) -> str:
        """The same for async tasks."""
        self.write_path(path, content)
        return path


def take_over(run: TaskRunContext, records: Any) -> None:
    """Have a task run keep its record and its result with ours.

    A policy can say where Prefect keeps its records, but not its results; the run's own result store can.

    Args:
        run: The task run whose key is being made.
        records: What is readable only while what the task makes is there, with ``result`` and ``results``.
    """
    store = run.result_store
    store.metadata_storage = records
    store.result_storage = Results.of(records)
    store.serializer = FeatureResultSerializer()
    store.cache_result_in_memory = False


def keep(path: Path, content: bytes) -> None:
    """Keep a record or result, ``cache_dir/prefect/<folder>/<name>``.

    Where it cannot be kept, as in a folder that is only to be read, nothing is lost: features are found without.
    """
    folder, cache_dir = path.parent, path.parents[2]
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with folders.opened(cache_dir, str(folder.relative_to(cache_dir)), make=True) as opened:
            write_atomically(path, lambda file: file.write(content), folder=opened)
    except OSError as error:
        log.info("cannot keep Prefect's record %s: %s", path, error)


def _forget_prefects_threads() -> None:
    """In a forked child they do not exist; waiting for them at its end, Prefect's hooks make it exit with code 1.

    A DataLoader takes that for the crash of a worker, and fails.
    """
    hooks: list[Any] = getattr(threading, "_threading_atexits", [])
    hooks[:] = [hook for hook in hooks if not _module_of(hook).startswith("prefect.")]


def _module_of(hook: Any) -> str:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return getattr(hook, "__module__", None) or ""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_prefects_threads)
