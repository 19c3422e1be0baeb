"""FeatureCachePolicy: the documented key and the store, as Prefect sees them.

Prefect believes a record of a finished task as long as its result store can read it. Ours can only while the store has
the features: bytes gone or damaged, and the task runs again. Only this file, ``derived_policy``, ``records`` and
``engine`` import Prefect here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Task
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE

from simet_cache.engine import PolicyOfOneKey, bind_result_store
from simet_cache.errors import KeyInputError
from simet_cache.key import feature_key
from simet_cache.loaders import expected_rows, loader_key, loader_source
from simet_cache.manifest import Source
from simet_cache.records import Records, request_of
from simet_cache.request import FeatureRequest
from simet_cache.sources import source_of
from simet_cache.store import FeatureStore
from simet_cache.task_identity import TaskIdentity, returns_feature_set


class FeatureCachePolicy(PolicyOfOneKey):
    """The cache key of a task is exactly the documented md5; its results live with the features, and die with them.

    For tasks that put features into ``FeatureStore(cache_dir)`` under that key and return their ``FeatureSet``, or a
    small JSON value. A task's body gets its features by ``current_request().get_or_compute(compute)``. The value that a
    task returns is handed on to that task alone, called with the same parameters. Annotate a task with
    ``-> FeatureSet`` where it returns that of its key: then features that no task has recorded, like a file of
    ``simet``, are its result too, and parameters that the key does not know do not matter. Where the inputs allow no
    key, nothing is cached, and a warning says why.

    Args:
        store: The features: a ``FeatureStore``, or its folder; a relative one is resolved now.
        loader: Name of the parameter that is a ``DataLoader``; it is used where the task has it, and otherwise:
        dataset: name of the parameter that is a map-style dataset, and
        batch_size: name of the parameter that is its batch size.
        suffix: Name of the parameter that is the extractor suffix.
    """

    _alone = "its key would no longer be the documented md5"

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
        super().__init__()
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
        """The documented md5 of the task's inputs, or None, with a warning, where they allow none.

        Raises:
            TypeError: The task has other policies beside this one.
        """
        self.refuse_company(task_ctx)
        try:
            request = self.request(inputs, force=task_ctx is not None and _refreshes(task_ctx.task))
        except KeyInputError as error:
            if task_ctx is not None:
                get_run_logger(task_ctx).warning("This task has no cache key: %s", error)
            return None
        if task_ctx is not None:
            bind_result_store(task_ctx, self._records(request, task_ctx.task, inputs))
        return request.key

    def request(self, inputs: dict[str, Any], *, force: bool = False) -> FeatureRequest:
        """What a task's inputs ask for: the documented md5, how many rows, and what they would be made from.

        A parameter that is a ``Source`` already is taken at its word: a fingerprint costs a look at every file.

        Args:
            inputs: The task's parameters by name.
            force: Whether the features are to be made even where they exist.

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
            key, rows = loader_key(loader, suffix=suffix), expected_rows(loader)
            source = taken or loader_source(loader, suffix=suffix, content=content)
            return FeatureRequest(self.store, key, rows, source, force, loader.dataset)
        if self.dataset not in inputs:
            raise KeyInputError(_no_parameter("loader", self.loader, inputs))
        if self.batch_size not in inputs:
            raise KeyInputError(_no_parameter("batch_size", self.batch_size, inputs))
        dataset, batch_size = inputs[self.dataset], inputs[self.batch_size]
        key = feature_key(dataset, suffix=suffix, batch_size=batch_size)
        source = taken or source_of(dataset, suffix=suffix, batch_size=batch_size, content=content)
        return FeatureRequest(self.store, key, len(dataset), source, force, dataset)

    def _records(self, request: FeatureRequest, task: Task[..., Any], inputs: dict[str, Any]) -> Records:
        in_key = {self.suffix, *([self.loader] if self.loader in inputs else [self.dataset, self.batch_size])}
        others = {name: value for name, value in inputs.items() if name not in in_key}
        promised = task.cache_expiration is None and returns_feature_set(task.fn)
        return Records.of(request, TaskIdentity.of(task.fn, others), promised=promised)


def current_request() -> FeatureRequest:
    """What the running task, which is under ``FeatureCachePolicy``, asks the store for.

    ``current_request().get_or_compute(compute)`` is how the body of such a task gets its features: made again exactly
    where the policy finds that they have to be, because there are none, or images or rows are others, or
    ``refresh_cache`` says so.

    Returns:
        Key, rows, provenance, force and store of this task run. Threads that the task starts do not know which task is
        running: hand the request to them.

    Raises:
        KeyInputError: The task's inputs allow no key, or no task under the policy is running here.
    """
    run = TaskRunContext.get()
    if found := request_of(run):
        return found
    policy = getattr(run.task, "_user_cache_policy", None) if run is not None else None
    if run is None or not isinstance(policy, FeatureCachePolicy):
        raise KeyInputError(
            "no task under FeatureCachePolicy is running here; call current_request() in the body of such a task, and"
            " not in a thread that it starts"
        )
    return policy.request(run.parameters, force=_refreshes(run.task))  # caching is switched off, or there is no key


def refresh_requested() -> bool:
    """Whether the running task was told not to use cached results: by ``refresh_cache``, or by Prefect's setting."""
    run = TaskRunContext.get()
    return _refreshes(run.task if run is not None else None)


def _refreshes(task: Task[..., Any] | None) -> bool:
    if task is None or task.refresh_cache is None:
        return bool(PREFECT_TASKS_REFRESH_CACHE.value())
    return task.refresh_cache


def _no_parameter(role: str, name: str, inputs: dict[str, Any]) -> str:
    return (
        f"the task has no parameter {name!r} (it has {', '.join(map(repr, inputs)) or 'none'});"
        f" tell FeatureCachePolicy its name with {role}='...'"
    )
