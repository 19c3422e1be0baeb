"""Results as an evaluation would find them, without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simet_cache.metrics import METRICS, Copies, Interval, MetricValue, ranking_of
from simet_cache.metrics.metric import Noise
from simet_cache.report.results import DatasetResult, EvaluationResults, Table
from simet_cache.restraints import Verdict
from simet_cache.store import FeatureSet

Results = Callable[..., EvaluationResults]

SUFFIX = "fid_inception"


def handle(letter: str, rows: int = 100) -> FeatureSet:
    return FeatureSet(letter * 32, f"cache/{letter}.pkl", (rows, 2048), "float32", letter * 32)


def value(
    metric: str,
    number: float,
    *,
    warnings: tuple[str, ...] = (),
    error: float | None = None,
    ends: tuple[float, float] | None = None,
    classes: Any = None,
    rows: int = 50,
    copies: tuple[int, int] | None = None,
    bias: float | None = None,
) -> MetricValue:
    """A value; with the standard ``error`` that sets of their own would give it, and with values of classes."""
    interval = noise = None
    if error is not None:
        low, high = ends or (number - 2 * error, number + 2.5 * error)
        interval = Interval(low, high, 0.95, "made up", error)
        noise = Noise(np.zeros(100), 100, error**2)
    return MetricValue(
        value=number,
        metric=metric,
        version=METRICS[metric].version,
        direction=METRICS[metric].direction,
        parameters=dict(METRICS[metric].parameters),
        n_real=100,
        n_synth=rows,
        width=2048,
        warnings=warnings,
        details={} if bias is None else {"bias": bias},
        interval=interval,
        copies=copies and Copies(*copies, rows),
        noise=noise,
        per_class={label: value(metric, of_class) for label, of_class in (classes or {}).items()},
    )


def more(number: Any) -> dict[str, Any]:
    return number if isinstance(number, dict) else {"number": number}


@pytest.fixture
def table() -> Callable[..., Table]:
    """Make a table of ``{dataset: {metric: number}}``.

    An error in place of the numbers fails the dataset, and one in place of a number the metric; a dict in place of a
    number holds more about the value.
    """

    def make(
        datasets: Mapping[str, Any],
        *,
        reference: str = "real",
        suffix: str = SUFFIX,
        skipped: tuple[dict[str, str], ...] = (),
        warnings: tuple[str, ...] = (),
        metrics: tuple[str, ...] = ("fid", "precision"),
        level: float = 0.95,
        steps: Mapping[str, int] | None = None,
        excluded: Mapping[str, tuple[str, ...]] | None = None,
        error: str | None = None,
    ) -> Table:
        found = tuple(
            DatasetResult(name, suffix, step=(steps or {}).get(name), error=numbers)
            if isinstance(numbers, str)
            else DatasetResult(
                name,
                suffix,
                step=(steps or {}).get(name),
                features=handle("b", 50),
                cached=name.endswith("cached"),
                extraction_seconds=1.5,
                images_per_second=33.3,
                skipped=skipped,
                values={
                    metric: value(metric, **({"warnings": warnings} | more(number)))
                    for metric, number in numbers.items()
                    if not isinstance(number, str)
                },
                failures={metric: reason for metric, reason in numbers.items() if isinstance(reason, str)},
                excluded=(excluded or {}).get(name, ()),
                metrics_seconds=0.25,
            )
            for name, numbers in datasets.items()
        )
        of_reference = DatasetResult(
            reference, suffix, features=handle("a"), cached=True, extraction_seconds=2.5, error=error
        )
        made = Table(of_reference, found, metrics)
        rankings = {
            name: ranking_of(made.values(name), metric=name, level=level, left_out=made.unmeasured(name))
            for name in metrics
        }
        return replace(made, rankings=rankings)

    return make


@pytest.fixture
def results(table: Callable[..., Table]) -> Results:
    """Make results of ``{dataset: {metric: number}}``: one table, as a plain configuration has; or of many tables."""

    def make(
        datasets: Mapping[str, Any] | None = None,
        *,
        tables: tuple[Table, ...] = (),
        verdicts: tuple[Verdict, ...] = (),
        **about: Any,
    ) -> EvaluationResults:
        return EvaluationResults(
            tables=tables or (table(datasets, **about),),
            verdicts=verdicts,
            config={"extractor": {"seed": 3}},
            versions={"torch": "2.9"},
            platform="Linux",
            started_at="2025-01-01T00:00:00+00:00",
            seconds=12.34567,
            plan={"hits": 1},
        )

    return make
