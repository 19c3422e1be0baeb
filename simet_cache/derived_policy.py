"""DerivedCachePolicy: what tasks derive from features, as Prefect sees it.

Whether a task has to run is told by the files of ``derived`` alone: it is ``Cached`` where all that it would make is
there and sound, and runs where anything is missing. No record of Prefect's is kept, or believed; what such a task
returns is kept below Prefect's own storage, for whoever reads the state of its run later.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from prefect.context import TaskRunContext
from prefect.filesystems import WritableFileSystem
from prefect.logging import get_run_logger
from prefect.results import ResultRecordMetadata  # type: ignore[attr-defined]  # public there, by its docs
from pydantic import PrivateAttr

from simet_cache.comparisons import summary_recipes
from simet_cache.derived import Derived, Kind, results_folder
from simet_cache.engine import PolicyOfOneKey, bind_result_store
from simet_cache.errors import MetricError
from simet_cache.metrics import resolve
from simet_cache.records import FeatureResultSerializer, hand_to_prefect, private_folder

NOTHING_FAILED: dict[str, Any] = {}


class DerivedRecords(WritableFileSystem):
    """Stands where Prefect looks for its record of a task: one is there as long as all that the task makes is."""

    _block_type_name = "simet-cache derived records"

    cache_dir: str
    _key: str = PrivateAttr(default="")
    _needed: tuple[tuple[Kind, str], ...] = PrivateAttr(default=())

    @classmethod
    def of(cls, cache_dir: Path, key: str, needed: tuple[tuple[Kind, str], ...]) -> DerivedRecords:
        """For the run of one task."""
        records = cls(cache_dir=str(cache_dir))
        records._key, records._needed = key, needed
        return records

    @property
    def results(self) -> Path:
        """The folder of the results."""
        return results_folder(Path(self.cache_dir))

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]
        """The record of a key.

        Raises:
            FileNotFoundError: Something is missing, or damaged; Prefect takes that as a miss.
        """
        derived = Derived(self.cache_dir)
        if path != self._key or not all(derived.is_sound(kind, key) for kind, key in self._needed):
            raise FileNotFoundError(f"not all that belongs to {path} is in {self.cache_dir}")
        result = private_folder(self.results) / path
        hand_to_prefect(result, self.result(path))  # in place of what is kept of a run that failed in part
        return ResultRecordMetadata(
            storage_key=str(result), expiration=None, serializer=FeatureResultSerializer()
        ).dump_bytes()

    async def aread_path(self, path: str) -> bytes:
        """The same for async tasks."""
        return self.read_path(path)

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Keep nothing: what the task has made says it all."""

    async def awrite_path(self, path: str, content: bytes) -> None:
        """The same for async tasks."""

    def place(self, path: str) -> str:
        """Where below the folder of the results that of a key is."""
        return path

    def keep_result(self, place: str, content: bytes) -> None:
        """Keep nothing: a task that is cached has returned that nothing failed."""

    def result(self, path: str) -> bytes:
        """What the task of this record returns: that nothing failed.

        Raises:
            FileNotFoundError: This is the result of another task.
        """
        if Path(path).name != self._key:
            raise FileNotFoundError(f"{path} is not the result of this task")
        return FeatureResultSerializer().dumps(NOTHING_FAILED)


class DerivedCachePolicy(PolicyOfOneKey):
    """A task is cached as long as all values, or summaries, that it makes are there and sound.

    For two kinds of tasks, which are told apart by their parameters:

    - ``group``, a sequence of ``Comparison``: the task makes all of their values;
    - ``rows``, a ``Rows``; ``side`` and ``metrics``: the task makes the summaries of that set.

    They keep what they make in ``Derived(cache_dir)`` and return what failed, as a JSON object: an empty one where
    nothing did, and so where they are cached. What failed is not there, so that such a task runs again.

    Args:
        cache_dir: The cache folder.
    """

    _alone = "the files alone tell what is there"

    def __init__(self, cache_dir: str | Path) -> None:
        self.cache_dir = Path(cache_dir).expanduser().absolute()
        super().__init__()

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002 - Prefect's interface
        **kwargs: Any,  # noqa: ARG002 - Prefect's interface
    ) -> str | None:
        """An md5 over the keys of everything that the task makes; None where that is nothing, or cannot be told."""
        self.refuse_company(task_ctx)
        try:
            needed = tuple(sorted(set(_needed(inputs))))
        except MetricError as error:
            if task_ctx is not None:
                get_run_logger(task_ctx).warning("This task has no cache key: %s", error)
            return None
        if not needed:
            return None
        key = hashlib.md5("\n".join(map(" ".join, needed)).encode(), usedforsecurity=False).hexdigest()
        if task_ctx is not None:
            bind_result_store(task_ctx, DerivedRecords.of(self.cache_dir, key, needed))
        return key


def _needed(inputs: dict[str, Any]) -> list[tuple[Kind, str]]:
    if "group" in inputs:
        return [("values", key) for comparison in inputs["group"] for key in comparison.keys.values()]
    recipes = summary_recipes(inputs["rows"].features, inputs["side"], resolve(inputs["metrics"]))
    return [("summaries", recipe.key) for recipe in recipes.values()]
