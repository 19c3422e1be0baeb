"""The results of an evaluation as data, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, TypeAlias

from simet_cache.datasets.bit_depth import BitDepth
from simet_cache.datasets.passed_over import PassedOver
from simet_cache.datasets.survey import Survey
from simet_cache.featureset import FeatureSet
from simet_cache.metrics import Copies, MetricValue, Ranking
from simet_cache.report.labels import label_of
from simet_cache.restraints import Verdict

FORMAT = 3  # of results.json; 1 was one table without a frame around it, 2 had rankings that did not hold jointly

Standing: TypeAlias = Literal["best", "first", ""]


@dataclass(frozen=True)
class DatasetResult:
    """What became of one dataset.

    Attributes:
        name: As in the configuration.
        suffix: The extractor suffix of its key.
        step: Of the training that made it, where the configuration knows it.
        parts: What else the configuration tells it by, like the name of the run: columns of the results.
        features: The handle on its features; None where there are none.
        cached: Whether extraction was skipped.
        extraction_seconds: How long the extraction took, in this run or in the one that made the features; None where
            nobody wrote it down.
        images_per_second: Likewise.
        device: What it ran on, likewise.
        skipped: Images that could not be read and were left out, with the reason.
        passed_over: What lies in its folder and does not count as an image.
        looks: What its files look like, where it is a folder.
        bit_depth: How its images of more than 8 bits for each pixel were read, where there are any.
        bad_images: Images that cannot be read, with the reason, where that is why there are no features.
        error: Why it could not be measured; None where it was.
        values: By metric; empty for the reference, and where it could not be measured.
        failures: Why a metric has no value here, by metric.
        excluded: The metrics of its table that were not asked for here.
        metrics_seconds: How long the metrics took.
    """

    name: str
    suffix: str
    step: int | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    features: FeatureSet | None = None
    cached: bool = False
    extraction_seconds: float | None = None
    images_per_second: float | None = None
    device: str | None = None
    skipped: tuple[dict[str, str], ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    looks: Survey | None = None
    bit_depth: BitDepth | None = None
    bad_images: tuple[dict[str, str], ...] = ()
    error: str | None = None
    values: Mapping[str, MetricValue] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    metrics_seconds: float | None = None

    @property
    def measured(self) -> bool:
        """Whether every metric has its value."""
        return self.error is None and not self.failures

    @property
    def copies(self) -> Copies | None:
        """Its rows that are copies of real ones; None where nobody looked for them."""
        return next((value.copies for value in self.values.values() if value.copies is not None), None)

    def plain_values(self) -> dict[str, float]:
        """The numbers alone, by metric."""
        return {name: value.value for name, value in self.values.items()}


@dataclass(frozen=True)
class Table:
    """What was measured against one reference on the features of one extractor: only such values are comparable.

    Attributes:
        reference: The real set.
        datasets: The others, in the order of the configuration.
        metrics: Those asked for, in the order of the configuration.
        rankings: Of the datasets by each metric.
    """

    reference: DatasetResult
    datasets: tuple[DatasetResult, ...]
    metrics: tuple[str, ...]
    rankings: Mapping[str, Ranking] = field(default_factory=dict)

    @property
    def extractor(self) -> str:
        """The extractor's suffix, without what the reference adds to it in its key."""
        return self.reference.suffix.partition("@")[0]

    def label(self, metric: str) -> str:
        """What people read in place of a metric's name: ``fid`` is ``FID`` or ``FD (<suffix>)``."""
        return label_of(metric, self.reference.suffix)

    def standing(self, dataset: str, metric: str) -> Standing:
        """Whether a dataset is the best by more than chance, or first by its value alone."""
        return self._standings.get(metric, {}).get(dataset, "")

    @cached_property
    def _standings(self) -> dict[str, dict[str, Standing]]:
        return {metric: _standings(ranking) for metric, ranking in self.rankings.items()}

    def values(self, metric: str) -> dict[str, MetricValue]:
        """The values of one metric, by dataset."""
        return {one.name: one.values[metric] for one in self.datasets if metric in one.values}

    def unmeasured(self, metric: str) -> dict[str, str]:
        """Why datasets have no value of a metric that was asked for, by dataset."""
        return {
            one.name: reason
            for one in self.datasets
            if metric not in one.excluded and (reason := one.failures.get(metric) or one.error)
        }


def _standings(ranking: Ranking) -> dict[str, Standing]:
    return {name: "best" if name == ranking.best else "first" for name in ranking.first}


@dataclass(frozen=True)
class EvaluationResults:
    """Everything that one evaluation found.

    Attributes:
        tables: One for each reference and extractor; one alone unless the configuration has several of them.
        verdicts: Every restraint on every comparison that it is about.
        config: The configuration as it was used, as JSON values.
        versions: Of Python and of the packages that values depend on.
        platform: The operating system and processor.
        started_at: ISO 8601, UTC.
        seconds: Wall time.
        plan: What was there before, and what was to be done, as JSON values.
        run: The name of its folder.
        error: Why it ended before it had measured what it was to measure; None where it did not.
    """

    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    platform: str
    started_at: str
    seconds: float
    plan: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    error: str | None = None

    @property
    def passed(self) -> bool:
        """True when everything was measured and every restraint holds."""
        if self.error is not None:
            return False
        measured = all(one.measured for table in self.tables for one in table.datasets)
        return measured and all(one.passed for one in self.verdicts)

    @property
    def summary(self) -> str:
        """One sentence; of several tables it counts comparisons, as each dataset is in more than one."""
        if self.error is not None:
            return f"nothing was measured: {self.error}"
        measured = [one.measured for table in self.tables for one in table.datasets]
        what = "comparisons" if len(self.tables) > 1 else "datasets"
        parts = [f"{sum(measured)} of {len(measured)} {what} measured"]
        if self.verdicts:
            held = sum(verdict.passed for verdict in self.verdicts)
            parts.append(f"{held} of {len(self.verdicts)} restraints hold")
        return "; ".join(parts)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of all parts that datasets are told by, each once."""
        return tuple(dict.fromkeys(name for table in self.tables for one in table.datasets for name in one.parts))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "format": FORMAT,
            "passed": self.passed,
            "summary": self.summary,
            "error": self.error,
            "run": self.run,
            "started_at": self.started_at,
            "seconds": round(self.seconds, 3),
            "tables": [_table_json(table) for table in self.tables],
            "restraints": [
                {**vars(verdict), "label": verdict.label, "passed": verdict.passed} for verdict in self.verdicts
            ],
            "plan": dict(self.plan),
            "config": dict(self.config),
            "versions": dict(self.versions),
            "platform": self.platform,
        }


def _table_json(table: Table) -> dict[str, Any]:
    return {
        "reference": _dataset_json(table.reference),
        "extractor": table.extractor,
        "datasets": [_dataset_json(one) for one in table.datasets],
        "rankings": {metric: _ranking_json(ranking) for metric, ranking in table.rankings.items()},
        "labels": {metric: table.label(metric) for metric in table.metrics},
    }


def _ranking_json(ranking: Ranking) -> dict[str, Any]:
    first = ranking.first
    return {
        "order": list(ranking.order),
        "first": [name for name in ranking.order if name in first],
        "best": ranking.best,
        "separated": list(ranking.separated),
        "open": dict(ranking.open),
        "left_out": dict(ranking.left_out),
        "remark": ranking.remark,
        "level": ranking.level,
        "differences": {
            name: {**vars(one), "interval": dict(vars(one.interval))} for name, one in ranking.differences.items()
        },
    }


def _dataset_json(result: DatasetResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "suffix": result.suffix,
        "step": result.step,
        "parts": dict(result.parts),
        "features": result.features.to_json() if result.features else None,
        "cached": result.cached,
        "extraction_seconds": result.extraction_seconds,
        "images_per_second": result.images_per_second,
        "device": result.device,
        "skipped": list(result.skipped),
        "passed_over": [one.to_json() for one in result.passed_over],
        "looks": result.looks.to_json() if result.looks else None,
        "bit_depth": result.bit_depth._asdict() if result.bit_depth else None,
        "bad_images": list(result.bad_images),
        "error": result.error,
        "values": {name: _value_json(value, result.suffix) for name, value in result.values.items()},
        "failures": dict(result.failures),
        "excluded": list(result.excluded),
        "metrics_seconds": result.metrics_seconds,
    }


_OF_VALUE = tuple(one.name for one in fields(MetricValue) if one.name != "noise")


def _value_json(value: MetricValue, suffix: str) -> dict[str, Any]:
    return {
        **{name: getattr(value, name) for name in _OF_VALUE},
        "label": label_of(value.metric, suffix),
        "parameters": dict(value.parameters),
        "details": dict(value.details),
        "interval": dict(vars(value.interval)) if value.interval else None,
        "copies": dict(vars(value.copies)) if value.copies else None,
        "per_class": {label: _value_json(one, suffix) for label, one in value.per_class.items()},
    }
