"""Metrics between feature sets as a Prefect task."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from simet_cache.config import EvaluationConfig
from simet_cache.errors import DamagedEntryError, MetricError
from simet_cache.featureset import FeatureSet
from simet_cache.metrics import MetricValue, Summaries, evaluate_each
from simet_cache.metrics.device import device_of
from simet_cache.report.results import DatasetResult
from simet_cache.store import FeatureStore


@task(task_run_name="measure {name}", cache_policy=NO_CACHE, persist_result=False)
def measure(
    *, name: str, real: DatasetResult, synth: DatasetResult, config: EvaluationConfig
) -> tuple[dict[str, MetricValue], dict[str, str]]:
    """Every metric of one dataset against the reference: the values, and why others have none."""
    del name  # names the run
    assert real.features is not None  # noqa: S101 - for the type checker: who has none is not measured
    assert synth.features is not None  # noqa: S101
    device, classes = _device(config), None if real.labels is None else tuple(real.labels)
    return evaluate_each(
        config.metrics,
        real=_reference(real.features, classes, device),
        synth=_opened(synth.features, "synth", synth.labels, device),
        intervals=config.intervals and config.intervals.asked(),
        per_class=config.per_class,
    )


def _device(config: EvaluationConfig) -> str:
    """Where features are extracted; the CPU where there is no such device, as features that are cached need none."""
    try:
        return device_of(config.extractor.device)
    except MetricError:
        return "cpu"


@lru_cache(maxsize=1)
def _reference(features: FeatureSet, labels: tuple[str, ...] | None, device: str) -> Summaries:
    """What concerns the reference alone is computed once for all the datasets it is compared with."""
    return _opened(features, "real", labels, device)


def _opened(features: FeatureSet, where: str, labels: object, device: str) -> Summaries:
    """Features from the store; damaged ones are moved out of the way, so that the next run extracts them anew."""
    try:
        return Summaries(features.load(), where=where, labels=labels, device=device)
    except FileNotFoundError as error:
        sentence = f"{features.path} was removed during this run; the next one extracts it again"
        raise DamagedEntryError(sentence) from error
    except DamagedEntryError as error:
        if FeatureStore(Path(features.path).parent).quarantine_if_damaged(features.key):
            raise DamagedEntryError(f"{error}; it was put aside, and the next run extracts it again") from error
        raise DamagedEntryError(f"{features.path} was replaced during this run, by another one; run again") from error
