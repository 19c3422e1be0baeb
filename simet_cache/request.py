"""FeatureRequest: what a running task asks the store for; a bare call of the store inside of that task takes it too.

The key does not know the images, nor how many rows a loader gives, nor whether the features are to be made again. A
``FeatureCachePolicy`` has found all that out before the body of its task runs. A call of the store with the same key
inside of the body, which says none of it, would otherwise return features that the policy has just refused.

Prefect is not imported here: whoever knows which task is running registers with ``tells_running_request``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from simet_cache.atomic import version_of
from simet_cache.codec import FloatArray
from simet_cache.errors import KeyInputError
from simet_cache.featureset import FeatureSet
from simet_cache.manifest import Source

if TYPE_CHECKING:
    from simet_cache.store import FeatureStore


FileVersion: TypeAlias = tuple[int, int, int]


def file_version(path: Path) -> FileVersion | None:
    """Which file is there, as ``atomic.version_of`` tells; None where there is none."""
    try:
        return version_of(path.stat())
    except OSError:
        return None


@dataclass(frozen=True)
class FeatureRequest:
    """What a task run asks the store for.

    Attributes:
        store: Where the features are kept.
        key: The documented md5.
        rows: How many rows the features must have; None where nobody knows.
        provenance: What the features would be made from now.
        force: Whether to make them even where they exist, as ``refresh_cache`` asks for.
        dataset: What the features are made from; None where nobody knows.
        replaced: Which file was there when the features were asked for: where they are to be made again, that one does
            not count. None where there was none.
    """

    store: FeatureStore
    key: str
    rows: int | None
    provenance: Source
    force: bool = False
    dataset: Any = field(default=None, compare=False, repr=False)
    replaced: FileVersion | None = field(default=None, compare=False, repr=False, init=False)

    def __post_init__(self) -> None:
        if self.force:
            object.__setattr__(self, "replaced", file_version(self.store.path(self.key)))

    def get_or_compute(
        self, compute: Callable[[], FloatArray], *, details: Callable[[], Mapping[str, Any]] = dict
    ) -> FeatureSet:
        """Return the handle on the features; compute and store them where there are none that fit the request.

        Args:
            compute: Makes the features, shape (N, D), float16, float32 or float64, finite.
            details: Called after ``compute``: what else the manifest shall say, as JSON values.

        Raises:
            DatasetError: Images changed while they were read; nothing is stored.
            FeaturesError: ``compute`` returned something else; nothing is stored.
            StaleEntryError: There is a stale entry, and the store's ``on_stale`` is ``error``.
            StoreError: An entry cannot be read.
        """
        from simet_cache.sources import read_unchanged  # noqa: PLC0415 - the store needs no torch

        def computed() -> FloatArray:
            return compute() if self.dataset is None else read_unchanged(self.dataset, self.provenance, compute)

        return self.store.get_or_compute(
            self.key, computed, rows=self.rows, force=self.force, source=self.provenance, details=details
        )


_TELLERS: list[Callable[[], FeatureRequest | None]] = []


def tells_running_request(find: Callable[[], FeatureRequest | None]) -> Callable[[], FeatureRequest | None]:
    """Register a function that returns the request of the task that is running here, or None."""
    _TELLERS.append(find)
    return find


def running_request() -> FeatureRequest | None:
    """Return the request of the task that is running in this thread, or None."""
    return next((request for find in _TELLERS if (request := find()) is not None), None)


@dataclass(frozen=True)
class Terms:
    """What a call of the store knows beside its key.

    Attributes:
        rows: How many rows are expected; None takes any number.
        source: What the features would be made from now; None where the caller did not say.
        force: Whether to make them even where they exist.
        replaced: Which file was there before that; None where there was none.
    """

    rows: int | None
    source: Source | None
    force: bool = False
    replaced: FileVersion | None = None

    def refuse(self, path: Path) -> bool:
        """Whether the features in a file are those that are to be made again."""
        return self.force and self.replaced == file_version(path)


def looked_up(store: FeatureStore, key: str, terms: Terms) -> Terms:
    """Return the terms of a look-up, completed by those of the running task where it asks for the same features."""
    running = running_request()
    if running is None or running.key != key or running.store.cache_dir != store.cache_dir:
        return terms
    return _completed(terms, running)


def asked_for(store: FeatureStore, key: str, terms: Terms) -> Terms:
    """The same for features that are to be made where they are missing.

    Raises:
        KeyInputError: The call and the running task contradict each other: one key in two folders; or another key, and
            nothing that would show that its features are stale.
    """
    running = running_request()
    if running is None:
        return terms
    same_folder = running.store.cache_dir == store.cache_dir
    advice = "ask with simet_cache.current_request().get_or_compute(compute)"
    if running.key == key and not same_folder:
        raise KeyInputError(
            f"the running task keeps the features of key {key} in {running.store.cache_dir}, and its body asks for them"
            f" in {store.cache_dir}; {advice}"
        )
    if running.key != key and same_folder and terms.source is None:
        raise KeyInputError(
            f"the running task is about key {running.key}, and its body asks for key {key} without saying what those"
            f" features are made from, so that stale ones would not be noticed; {advice}, or pass source="
        )
    return _completed(terms, running) if running.key == key else terms


def _completed(terms: Terms, running: FeatureRequest) -> Terms:
    return Terms(
        running.rows if terms.rows is None else terms.rows,
        terms.source or running.provenance,
        terms.force or running.force,
        running.replaced,
    )
