"""Which features an evaluation would find, and why not the others. Nothing is written to the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from simet_cache.config import EvaluationConfig, ExtractorConfig
from simet_cache.errors import SimetCacheError, UnsafePickleError
from simet_cache.plan import Planned, onlooker, plan
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
    """Every dataset of a configuration with each of its extractors, the references first.

    Datasets that the configuration has made or downloaded, like its digits, are made where they are missing.

    Raises:
        StoreError: The cache folder cannot be read.
    """
    with onlooker(config) as store:
        keys = store.keys()
        manifests = {key: known(store, key) for key in keys}
        return [
            _explained(one, extractor, config, store, manifests)
            for extractor in config.all_extractors
            for one in (*config.all_references, *config.datasets)
        ]


def _explained(
    one: Any,
    extractor: ExtractorConfig,
    config: EvaluationConfig,
    store: FeatureStore,
    manifests: Mapping[str, Mapping[str, Any]],
) -> Explained:
    try:
        planned = plan(one, extractor, config, store)
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
