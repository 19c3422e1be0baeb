"""Which features an evaluation would find, and why not the others. Nothing is written to the cache."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from simet_cache.config import EvaluationConfig
from simet_cache.errors import SimetCacheError, UnsafePickleError
from simet_cache.featureset import FeatureSet
from simet_cache.manifest import Source
from simet_cache.plan import Planned, plan
from simet_cache.store import FeatureStore
from simet_cache.upkeep import known, mapping


@dataclass(frozen=True)
class Nearest:
    """The entry whose key has the most in common with one that is missing.

    Attributes:
        key: Its documented md5.
        differences: Of each component that differs its name, its value there, and its value here.
    """

    key: str
    differences: Sequence[tuple[str, Any, Any]]

    def __str__(self) -> str:
        words = ", ".join(f"{name}: {there!r} there, {here!r} here" for name, there, here in self.differences)
        return f"{self.key} differs in {words}" if words else f"{self.key} has the same components"


@dataclass(frozen=True)
class Explained:
    """What an evaluation would find of one dataset.

    Attributes:
        name: The dataset's.
        status: ``hit``, ``miss``, ``stale``, ``damaged``, ``unsafe``, ``unreadable``, or ``error`` without a key.
        reason: Why it is no hit.
        key: The documented md5; empty where there is none.
        components: Of the key, in clear.
        nearest: Of a miss, the entry that is nearest to it.
    """

    name: str
    status: str
    reason: str = ""
    key: str = ""
    components: Mapping[str, Any] = field(default_factory=dict)
    nearest: Nearest | None = None


def explain(config: EvaluationConfig) -> list[Explained]:
    """Every dataset of a configuration, the reference first.

    Datasets that the configuration has made or downloaded, like its digits, are made where they are missing.

    Raises:
        StoreError: The cache folder cannot be read.
    """
    with _onlooker(config) as store:
        keys = store.keys()
        manifests = {key: known(store, key) for key in keys}
        return [_explained(one, config, store, manifests) for one in (config.reference, *config.datasets)]


def _explained(
    one: Any, config: EvaluationConfig, store: FeatureStore, manifests: Mapping[str, Mapping[str, Any]]
) -> Explained:
    try:
        planned = plan(one, config, store)
    except SimetCacheError as error:
        return Explained(one.name, "error", str(error))
    status, reason = _status(planned, store, full=config.verify == "full")
    components = planned.source.components
    near = nearest(components, manifests) if status == "miss" else None
    return Explained(one.name, status, reason, planned.key, components, near)


def _status(planned: Planned, store: FeatureStore, *, full: bool) -> tuple[str, str]:
    try:
        seen = store.look(planned.key, rows=len(planned.dataset), source=planned.source, full=full)
    except SimetCacheError as error:
        return ("unsafe" if isinstance(error, UnsafePickleError) else "unreadable"), str(error)
    return seen.status, seen.reason


def nearest(components: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]) -> Nearest | None:
    """The entry whose key has the most in common with one that is missing.

    Args:
        components: Of the key that is missing.
        manifests: Of all entries, by key.

    Returns:
        None where no entry is of the same dataset, nor of the same extractor.
    """
    found = [
        Nearest(key, tuple((name, theirs[name], here) for name, here in components.items() if theirs[name] != here))
        for key, said in manifests.items()
        if (theirs := mapping(said, "components")).keys() == components.keys()
        and any(theirs[name] == components[name] for name in ("dataset", "suffix"))
    ]
    return min(found, key=lambda one: (len(one.differences), one.key), default=None)


class _Onlooker(FeatureStore):
    """Finds as the store does, and leaves everything as it is: no touch, no adoption, no quarantine."""

    def find(self, key: str, *, rows: int | None = None, source: Source | None = None) -> FeatureSet | None:
        seen = self.look(key, rows=rows, source=source)
        other_rows = seen.features and rows not in (None, seen.features.shape[0])
        if seen.status == "stale" and (self.on_stale != "reuse" or other_rows):
            return None
        return seen.features


@contextmanager
def _onlooker(config: EvaluationConfig) -> Iterator[FeatureStore]:
    """The cache of an evaluation, which is not made where it is missing: then it is an empty folder elsewhere."""
    if config.cache_dir.is_dir():
        yield _Onlooker(config.cache_dir, on_stale=config.on_stale, verify=config.verify)
    else:
        with tempfile.TemporaryDirectory() as empty:
            yield _Onlooker(empty, on_stale=config.on_stale, verify=config.verify)
