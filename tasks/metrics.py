"""Metrics between feature sets as a Prefect task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from simet_cache.metrics import MetricValue, Summaries, evaluate
from simet_cache.store import FeatureSet


@task(task_run_name="measure {name}", cache_policy=NO_CACHE, persist_result=False)
def measure(
    *, name: str, real: FeatureSet, synth: FeatureSet, metrics: Mapping[str, Mapping[str, Any]]
) -> dict[str, MetricValue]:
    """Every metric of one dataset against the reference."""
    del name  # names the run
    return evaluate(real=_reference(real), synth=Summaries(synth, where="synth"), metrics=metrics)


@lru_cache(maxsize=1)
def _reference(features: FeatureSet) -> Summaries:
    """What concerns the reference alone is computed once for all the datasets it is compared with."""
    return Summaries(features, where="real")
