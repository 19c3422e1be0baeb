"""What our policies take from Prefect's engine: a result store of its own for each task run, and a key of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar, Protocol

from prefect.cache_policies import CachePolicy, CompoundCachePolicy
from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from pydantic import PrivateAttr

from simet_cache.records import FeatureResultSerializer, hand_to_prefect, private_folder


class KeepsResults(Protocol):
    """What belongs to a task run, and knows what the task returned."""

    @property
    def results(self) -> Path:
        """The folder of the results."""

    def place(self, path: str) -> str:
        """Where below that folder the result of a key is."""

    def keep_result(self, place: str, content: bytes) -> None:
        """Keep what the task has returned for later runs."""

    def result(self, path: str) -> bytes:
        """What the task of this record returned."""


class Results(LocalFileSystem):
    """Results of one task run: kept for later runs with its record, and for Prefect in a folder of its own.

    Files are never seen half written, as Prefect's own storage leaves them for a moment.
    """

    _block_type_name = "simet-cache results"
    _records: KeepsResults = PrivateAttr()

    @classmethod
    def of(cls, records: KeepsResults) -> Results:
        """The results that belong to a run's records."""
        results = cls(basepath=str(private_folder(records.results)))
        results._records = records
        return results

    def _resolve_path(self, path: str) -> Path:
        """Prefect asks with a key, or with what this has returned before."""
        return super()._resolve_path(path if not path or Path(path).is_absolute() else self._records.place(path))

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]
        """What this run's task returned.

        Raises:
            FileNotFoundError: It is the result of another task, or gone.
        """
        return self._records.result(path)

    async def aread_path(self, path: str) -> bytes:
        """The same for async tasks."""
        return self.read_path(path)

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Keep a result."""
        target = self._resolve_path(path)
        hand_to_prefect(target, content)
        self._records.keep_result(str(target.relative_to(self._resolve_path(""))), content)

    async def awrite_path(self, path: str, content: bytes) -> str:
        """The same for async tasks."""
        self.write_path(path, content)
        return path


class RunResultStore(ResultStore):
    """The result store of one task run. What is called inside of the run does not inherit it.

    Prefect gives a task or flow that is called inside of a task a copy of that task's result store. Ours is for one key
    of one task, and its folder may be one that others write to.
    """

    _around: ResultStore = PrivateAttr()

    @classmethod
    def of(cls, around: ResultStore, records: KeepsResults) -> RunResultStore:
        """Have one task run keep its record and its result with ours.

        Args:
            around: The result store that Prefect has given the run.
            records: What is readable only while what the task makes is there; a file system.
        """
        given = {name: getattr(around, name) for name in ResultStore.model_fields}
        ours = {
            "metadata_storage": records,
            "result_storage": Results.of(records),
            "serializer": FeatureResultSerializer(),
            "cache_result_in_memory": False,
        }
        store = cls.model_construct(**{**given, **ours})
        store._around = around  # noqa: SLF001 - its own
        return store

    def update_for_task(self, *args: Any, **options: Any) -> Any:
        """For a task that is called inside of this one."""
        return self._around.update_for_task(*args, **options)

    async def aupdate_for_task(self, *args: Any, **options: Any) -> Any:
        """The same for async tasks."""
        return await self._around.aupdate_for_task(*args, **options)

    def update_for_flow(self, *args: Any, **options: Any) -> Any:
        """For a flow that is called inside of this task."""
        return self._around.update_for_flow(*args, **options)

    async def aupdate_for_flow(self, *args: Any, **options: Any) -> Any:
        """The same for async flows."""
        return await self._around.aupdate_for_flow(*args, **options)

    def model_dump(self, *args: Any, **options: Any) -> Any:
        """For tasks that are sent to other processes out of this one."""
        return self._around.model_dump(*args, **options)


def bind_result_store(run: TaskRunContext, records: KeepsResults) -> None:
    """Have a task run keep its record and its result with ours.

    A policy can say where Prefect keeps its records, but not its results; the run's own result store can.

    Args:
        run: The task run whose key is being made.
        records: See ``RunResultStore.of``.
    """
    run.result_store = RunResultStore.of(run.result_store, records)


class PolicyOfOneKey(CachePolicy):
    """A policy whose key is exact, and so no part of a compound key: it refuses on both sides of ``+`` and ``-``."""

    _alone: ClassVar[str]  # why, as a clause

    def refuse_company(self, task_ctx: TaskRunContext | None) -> None:
        """Refuse to be one of several policies of a task, however they were put together.

        Raises:
            TypeError: It is one of several.
        """
        if task_ctx is not None and isinstance(task_ctx.task.cache_policy, CompoundCachePolicy):
            raise TypeError(self._sentence())

    @property
    def key_storage(self) -> None:
        """None: each run is given its own. Prefect's ``+`` looks here before it makes a compound policy."""
        caller = sys._getframe(1).f_code  # noqa: SLF001 - ``A + policy`` asks the policy nothing else
        if caller.co_name == "__add__":
            raise TypeError(self._sentence())

    @key_storage.setter
    def key_storage(self, value: Any) -> None:
        if value is not None:
            raise TypeError(f"{type(self).__name__} keeps its records with the features; key_storage cannot be chosen")

    def __add__(self, other: CachePolicy) -> CachePolicy:
        raise TypeError(self._sentence())

    def __sub__(self, other: str) -> CachePolicy:
        raise TypeError(self._sentence())

    def _sentence(self) -> str:
        return f"{type(self).__name__} cannot be combined with another policy, nor leave out inputs: {self._alone}"
