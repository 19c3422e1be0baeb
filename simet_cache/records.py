"""Prefect's records and results of tasks, kept with the features and believed only as far as the store agrees.

On disk, beside the features::

    cache_dir/prefect/records/<md5>              Prefect's record: that a task has stored the features of this key
    cache_dir/prefect/results/<md5>              what it returned: their FeatureSet
    cache_dir/prefect/values/<md5>/<id>.record   the same for one task that may return something else,
    cache_dir/prefect/values/<md5>/<id>.result   and that: a small JSON value

Of a record, few fields are believed, and never how its result is to be read: results are JSON that names no classes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from prefect.context import TaskRunContext
from prefect.filesystems import WritableFileSystem
from prefect.results import ResultRecordMetadata  # type: ignore[attr-defined]  # public there, by its docs
from prefect.serializers import Serializer
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from pydantic import Field, PrivateAttr

from simet_cache import folders
from simet_cache.atomic import read_regular, write_atomically
from simet_cache.bounded import json_value
from simet_cache.errors import SimetCacheError, StoreError
from simet_cache.featureset import FeatureSet
from simet_cache.request import FeatureRequest, tells_running_request
from simet_cache.task_identity import TaskIdentity

log = logging.getLogger(__name__)


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
        data = json_value(blob)
        if not isinstance(data, dict):
            raise TypeError(f"expected a JSON object, found {type(data).__name__}")
        if "error" in data:
            return SimetCacheError(data["error"])
        return FeatureSet.from_json(data["feature_set"]) if "feature_set" in data else data["value"]


ANY_TASK = TaskIdentity("0" * 16)


class Records(WritableFileSystem):
    """Prefect's records of finished tasks, readable only while the store has the features.

    Each task run has a copy that knows its request and its task. It reads and keeps that task's record under that key,
    and none besides; what the run has found to exist, it can also read.
    """

    _block_type_name = "simet-cache records"

    cache_dir: str
    _request: FeatureRequest | None = PrivateAttr(default=None)
    _task: TaskIdentity = PrivateAttr(default=ANY_TASK)
    _promised: bool = PrivateAttr(default=True)
    _hit: tuple[bytes, bytes] | None = PrivateAttr(default=None)  # record and result

    @classmethod
    def of(cls, request: FeatureRequest, task: TaskIdentity = ANY_TASK, *, promised: bool = True) -> Records:
        """The records of one task run.

        Args:
            request: What the task asks the store for.
            task: Which task it is; it does not matter where a task cannot but keep its promise.
            promised: Whether the task says that it returns that. Then it shares its record with others of that kind,
                and features that no task has recorded are its result too; until it returns something else.
        """
        records = cls(cache_dir=str(request.store.cache_dir))
        records._request, records._task, records._promised = request, task, promised
        return records

    @property
    def request(self) -> FeatureRequest:
        """What this task run asks the store for.

        Raises:
            FileNotFoundError: These are the records of no run.
        """
        if self._request is None:
            raise FileNotFoundError(f"no task has asked for records in {self.cache_dir}")
        return self._request

    @property
    def results(self) -> Path:
        """The folder of Prefect's files."""
        return Path(self.cache_dir) / "prefect"

    def place(self, path: str) -> str:
        """Where below that folder the result of a key is."""
        if self._request is None or path != self._request.key:
            return f"results/{path}"  # of a run that failed: under a name of its own
        return f"results/{path}" if self._promised else self._own(".result")

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]
        """The record of a key.

        Raises:
            FileNotFoundError: The features are gone, or the record's result is, or this is about another key or task;
                Prefect takes that as a miss.
        """
        if self._request is None or path != self._request.key:
            raise FileNotFoundError(f"the record of {path} is not that of this task")
        if self._hit is None:
            self._hit = self._look_up()
        return self._hit[0]

    async def aread_path(self, path: str) -> bytes:
        """The same for async tasks."""
        return self.read_path(path)

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Keep a record of what the task has returned, if it can be handed on to this task later.

        Args:
            path: The place of the result; Prefect writes that before its record.
            content: Prefect's record.
        """
        request = self._request
        if request is None or path != self.place(request.key):
            return
        self._hit = None
        found = request.store.find(request.key)
        with contextlib.suppress(OSError):  # a folder that is only to be read, or a file of others
            result = self._result_bytes()
            if found is not None:
                self._record(found, result, json.loads(content))

    def _record(self, found: FeatureSet, result: bytes, record: dict[str, Any]) -> None:
        value = self._parsed(result)
        if not isinstance(value, FeatureSet) or value.digest == found.digest:  # else another run has put others since
            with contextlib.suppress(StoreError):  # a task that called ``put`` alone did not say it
                self.request.store.say_source(found.key, self.request.provenance)
        if reason := self._not_to_be_kept(value):
            level = logging.INFO if isinstance(value, FeatureSet) else logging.WARNING
            log.log(level, "%s; it is not kept, and the task runs again next time", reason)
            if self._promised:
                self._keep(self.results / self._own(".record"), json.dumps({"broke its promise": reason}).encode())
            return
        record |= {"digest": found.digest, "result": _digest(result)}
        self._keep(self._record_path, json.dumps(record).encode())

    def _not_to_be_kept(self, value: Any) -> str:
        """Reason not to hand a result on, as a clause; empty where it may be."""
        kind, key = type(value).__name__, self.request.key
        if isinstance(value, FeatureSet):
            return "" if value.key == key else f"this task is about key {key}, and returned the features of {value.key}"
        if self._promised:
            return f"expected a FeatureSet from this task, as it is annotated, found {kind}"
        if self._task.unknown:
            unknown = ", ".join(self._task.unknown)
            return (
                f"this task returned {kind}, which may depend on what cannot be told apart from run to run ({unknown})"
            )
        return ""

    async def awrite_path(self, path: str, content: bytes) -> None:
        """The same for async tasks."""
        self.write_path(path, content)

    def keep_result(self, place: str, content: bytes) -> None:
        """Keep what the task of this record has returned; not how it has failed."""
        if self._request is not None and place == self.place(self._request.key):
            self._keep(self.results / place, content)

    def result(self, path: str) -> bytes:
        """What the task of this record returned.

        Raises:
            FileNotFoundError: This is the result of another task, or gone.
        """
        if Path(path).name != self._result_path.name:
            raise FileNotFoundError(f"{path} is not the result of this task")
        return self._hit[1] if self._hit else self._result_bytes()

    @property
    def _result_path(self) -> Path:
        return self.results / self.place(self.request.key)

    @property
    def _record_path(self) -> Path:
        return self.results / (f"records/{self.request.key}" if self._promised else self._own(".record"))

    def _own(self, suffix: str) -> str:
        """The place of a file of this task alone."""
        return f"values/{self.request.key}/{self._task.name}{suffix}"

    def _look_up(self) -> tuple[bytes, bytes]:
        """The record and the result for this task, of features that are there and fit its request."""
        request = self.request
        found = request.store.find(request.key, rows=request.rows, source=request.provenance)
        if found is None:
            raise FileNotFoundError(f"no features for key {request.key} in {self.cache_dir}")
        return self._promised_of(found) if self._promised else self._returned_of(found)

    def _promised_of(self, found: FeatureSet) -> tuple[bytes, bytes]:
        """For a task that returns the FeatureSet of its key, as others may have."""
        if (self.results / self._own(".record")).exists():
            raise FileNotFoundError(f"this task has returned something else than the features of key {found.key}")
        if self._recorded() is None or not self._is_of_key(self._read_result()):
            return self._adopted(found)  # from no task, or from one before records knew their tasks
        return self._refreshed(found, None)

    def _returned_of(self, found: FeatureSet) -> tuple[bytes, bytes]:
        """For a task that does not say what it returns: what itself has returned."""
        recorded = self._recorded()
        if recorded is None:
            raise FileNotFoundError(f"this task has recorded nothing for key {found.key}")
        value, blob = self._read_result(), self._result_bytes()
        if self._is_of_key(value):
            return self._refreshed(found, recorded.get("expiration"))
        if isinstance(value, BaseException | FeatureSet) or self._task.unknown:
            raise FileNotFoundError(f"the result of key {found.key} is none that can be handed on")
        if (recorded.get("digest"), recorded.get("result")) != (found.digest, _digest(blob)):
            raise FileNotFoundError(f"the result of key {found.key} is about features that were replaced")
        return self._rebased(recorded.get("expiration"), blob)

    def _read_result(self) -> Any:
        return self._parsed(self._result_bytes())

    def _parsed(self, result: bytes) -> Any:
        try:
            return FeatureResultSerializer().loads(result)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FileNotFoundError(f"the result {self._result_path} is damaged: {error}") from error

    def _result_bytes(self) -> bytes:
        try:
            return read_regular(self._result_path)
        except StoreError as error:
            raise FileNotFoundError(str(error)) from error

    def _is_of_key(self, value: Any) -> bool:
        return isinstance(value, FeatureSet) and value.key == self.request.key

    def _refreshed(self, found: FeatureSet, expiration: Any) -> tuple[bytes, bytes]:
        """The features may have been replaced or moved since: the store's word counts."""
        handle = FeatureResultSerializer().dumps(found)
        if self._result_bytes() != handle:
            self._keep(self._result_path, handle)
        return self._rebased(expiration, handle)

    def _adopted(self, found: FeatureSet) -> tuple[bytes, bytes]:
        record, handle = self._rebased(None, FeatureResultSerializer().dumps(found))
        self._keep(self._result_path, handle)
        self._keep(self._record_path, record)
        return record, handle

    def _recorded(self) -> dict[str, Any] | None:
        """A record as plain values, of which few are believed: it may name a serializer that runs code."""
        try:
            data = json_value(read_regular(self._record_path))
            ResultRecordMetadata.model_validate({"expiration": data.get("expiration")})
        except (OSError, StoreError, ValueError, AttributeError):
            return None
        return dict(data)

    def _keep(self, path: Path, content: bytes) -> None:
        """In a folder that is only to be read it cannot be kept, and nothing is lost: features are found without."""
        cache_dir = Path(self.cache_dir)
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with folders.opened(cache_dir, str(path.parent.relative_to(cache_dir)), make=True) as folder:
                write_atomically(path, lambda file: file.write(content), folder=folder)
        except OSError as error:
            log.info("cannot keep Prefect's record %s: %s", path, error)

    def _rebased(self, expiration: Any, result: bytes) -> tuple[bytes, bytes]:
        """A record with our serializer, and the result where Prefect may read it."""
        path = private_folder(self.results) / self.place(self.request.key)
        hand_to_prefect(path, result)
        record = ResultRecordMetadata(
            storage_key=str(path), expiration=expiration, serializer=FeatureResultSerializer()
        ).dump_bytes()
        return record, result


def _digest(blob: bytes) -> str:
    return hashlib.md5(blob, usedforsecurity=False).hexdigest()


def request_of(run: TaskRunContext | None) -> FeatureRequest | None:
    """What the policy found out when it made the key of a task run; None where it made none."""
    records = run.result_store.metadata_storage if run is not None else None
    return records._request if isinstance(records, Records) else None  # noqa: SLF001 - of this file


@tells_running_request
def request_of_running_task() -> FeatureRequest | None:
    """The same for the task that is running here."""
    return request_of(TaskRunContext.get())


def private_folder(folder: Path) -> Path:
    """Where Prefect itself finds the results that belong to a folder of records: below its own storage.

    Whoever reads a run's state from the server has Prefect read the result's file, in whatever way that file says,
    pickles too. So it is a file of this user, and not one in a cache folder that others may write to.
    """
    name = hashlib.md5(str(folder).encode(), usedforsecurity=False).hexdigest()
    return Path(PREFECT_LOCAL_STORAGE_PATH.value()) / "simet-cache" / name


def hand_to_prefect(path: Path, content: bytes) -> None:
    """Keep a result where Prefect itself reads it."""
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(content), durable=False)
    except OSError as error:
        log.info("cannot keep the result %s: %s", path, error)


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
