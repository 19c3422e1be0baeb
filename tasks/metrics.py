"""Metrics between feature sets as a Prefect task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from simet_cache.errors import DamagedEntryError
from simet_cache.featureset import FeatureSet
from simet_cache.metrics import MetricValue, Summaries, evaluate
from simet_cache.store import FeatureStore


@task(task_run_name="measure {name}", cache_policy=NO_CACHE, persist_result=False)
def measure(
    *, name: str, real: FeatureSet, synth: FeatureSet, metrics: Mapping[str, Mapping[str, Any]]
) -> dict[str, MetricValue]:
    """Every metric of one dataset against the reference."""
    del name  # names the run
    return evaluate(real=_reference(real), synth=_opened(synth, "synth"), metrics=metrics)


@lru_cache(maxsize=1)
def _reference(features: FeatureSet) -> Summaries:
    """What concerns the reference alone is computed once for all the datasets it is compared with."""
    return _opened(features, "real")


def _opened(features: FeatureSet, where: str) -> Summaries:
    """Features from the store; damaged ones are moved out of the way, so that the next run extracts them anew."""
    try:
        return Summaries(features.load(), where=where)
    except FileNotFoundError as error:
        sentence = f"{features.path} was removed during this run; the next one extracts it again"
        raise DamagedEntryError(sentence) from error
    except DamagedEntryError as error:
        if FeatureStore(Path(features.path).parent).quarantine_if_damaged(features.key):
            raise DamagedEntryError(f"{error}; it was put aside, and the next run extracts it again") from error
        raise DamagedEntryError(f"{features.path} was replaced during this run, by another one; run again") from error
