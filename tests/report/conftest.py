"""Results as an evaluation would find them, without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from simet_cache.metrics import METRICS, MetricValue
from simet_cache.report.results import DatasetResult, EvaluationResults
from simet_cache.restraints import Verdict
from simet_cache.store import FeatureSet

Results = Callable[..., EvaluationResults]

SUFFIX = "inception_v3"


def handle(letter: str, rows: int = 100) -> FeatureSet:
    return FeatureSet(letter * 32, f"cache/{letter}.pkl", (rows, 2048), "float32", letter * 32)


def value(metric: str, number: float, warnings: tuple[str, ...] = ()) -> MetricValue:
    return MetricValue(
        value=number,
        metric=metric,
        version=METRICS[metric].version,
        direction=METRICS[metric].direction,
        parameters=dict(METRICS[metric].parameters),
        n_real=100,
        n_synth=50,
        width=2048,
        warnings=warnings,
    )


@pytest.fixture
def results() -> Results:
    """Make results of ``{dataset: {metric: number}}``; an error in place of the numbers fails the dataset."""

    def make(
        datasets: Mapping[str, Any],
        *,
        verdicts: tuple[Verdict, ...] = (),
        reference: str = "real",
        suffix: str = SUFFIX,
        skipped: tuple[dict[str, str], ...] = (),
        warnings: tuple[str, ...] = (),
        metrics: tuple[str, ...] = ("fid", "precision"),
    ) -> EvaluationResults:
        found = tuple(
            DatasetResult(name, suffix, error=numbers)
            if isinstance(numbers, str)
            else DatasetResult(
                name,
                suffix,
                features=handle("b", 50),
                cached=name.endswith("cached"),
                extraction_seconds=1.5,
                images_per_second=33.3,
                skipped=skipped,
                values={metric: value(metric, number, warnings) for metric, number in numbers.items()},
                metrics_seconds=0.25,
            )
            for name, numbers in datasets.items()
        )
        return EvaluationResults(
            reference=DatasetResult(reference, suffix, features=handle("a"), cached=True, extraction_seconds=2.5),
            datasets=found,
            verdicts=verdicts,
            config={"metrics": {metric: {} for metric in metrics}, "extractor": {"seed": 3}},
            versions={"torch": "2.9"},
            platform="Linux",
            started_at="2025-01-01T00:00:00+00:00",
            seconds=12.34567,
        )

    return make
