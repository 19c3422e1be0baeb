"""The results of an evaluation as data, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from simet_cache.extractors import frechet_label
from simet_cache.featureset import FeatureSet
from simet_cache.metrics import METRICS, Difference, MetricValue, difference_of
from simet_cache.restraints import Verdict


@dataclass(frozen=True)
class DatasetResult:
    """What became of one dataset.

    Attributes:
        name: As in the configuration.
        suffix: The extractor suffix of its key.
        features: The handle on its features; None where there are none.
        cached: Whether extraction was skipped.
        extraction_seconds: How long the extraction took, in this run or in the one that made the features; None where
            nobody wrote it down.
        images_per_second: Likewise.
        device: What it ran on, likewise.
        skipped: Images that could not be read and were left out, with the reason.
        error: Why it could not be measured; None where it was.
        values: By metric; empty for the reference, and where it could not be measured.
        failures: Why a metric has no value here, by metric.
        metrics_seconds: How long the metrics took.
        labels: The class of each row as text, shape (N,), where it matters; not part of the files.
    """

    name: str
    suffix: str
    features: FeatureSet | None = None
    cached: bool = False
    extraction_seconds: float | None = None
    images_per_second: float | None = None
    device: str | None = None
    skipped: tuple[dict[str, str], ...] = ()
    error: str | None = None
    values: Mapping[str, MetricValue] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    metrics_seconds: float | None = None
    labels: Any = field(default=None, compare=False, repr=False)

    @property
    def measured(self) -> bool:
        """Whether every metric has its value."""
        return self.error is None and not self.failures

    def plain_values(self) -> dict[str, float]:
        """The numbers alone, by metric."""
        return {name: value.value for name, value in self.values.items()}


@dataclass(frozen=True)
class EvaluationResults:
    """Everything that one evaluation found.

    Attributes:
        reference: The real set.
        datasets: The others, in the order of the configuration.
        verdicts: Every restraint on every dataset that it is about.
        config: The configuration as it was used, as JSON values.
        versions: Of Python and of the packages that values depend on.
        platform: The operating system and processor.
        started_at: ISO 8601, UTC.
        seconds: Wall time.
    """

    reference: DatasetResult
    datasets: tuple[DatasetResult, ...]
    verdicts: tuple[Verdict, ...]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    platform: str
    started_at: str
    seconds: float

    @property
    def passed(self) -> bool:
        """True when every dataset was measured and every restraint holds."""
        return all(one.measured for one in self.datasets) and all(one.passed for one in self.verdicts)

    @property
    def summary(self) -> str:
        """One sentence."""
        failed = [one.name for one in self.datasets if not one.measured]
        broken = [verdict for verdict in self.verdicts if not verdict.passed]
        parts = [f"{len(self.datasets) - len(failed)} of {len(self.datasets)} datasets measured"]
        if self.verdicts:
            parts.append(f"{len(self.verdicts) - len(broken)} of {len(self.verdicts)} restraints hold")
        return "; ".join(parts)

    def metric_names(self) -> list[str]:
        """The metrics asked for, in the order of the configuration."""
        return list(self.config["metrics"])

    def label(self, metric: str) -> str:
        """How a metric is called in results: ``fid`` is ``FID`` on Inception features only."""
        return frechet_label(self.reference.suffix) if metric == "fid" else metric

    def best(self, metric: str) -> set[str]:
        """The names of the datasets with the best value."""
        values = {one.name: one.values[metric].value for one in self.datasets if metric in one.values}
        if not values:
            return set()
        distances = {name: METRICS[metric].from_best(value) for name, value in values.items()}
        return {name for name, distance in distances.items() if distance == min(distances.values())}

    def differences(self, metric: str) -> dict[str, Difference]:
        """The best dataset less each other one, by the other's name: is the ranking separated?

        Empty where no intervals were asked for, or where the metric has none.
        """
        values = {one.name: one.values[metric] for one in self.datasets if metric in one.values}
        level = (self.config.get("intervals") or {}).get("level")
        if level is None or any(value.noise is None for value in values.values()):
            return {}
        first = next((name for name in values if name in self.best(metric)), None)
        return {
            name: difference_of(values[first], value, level=level)
            for name, value in values.items()
            if first is not None and name != first
        }

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "format": 1,
            "passed": self.passed,
            "summary": self.summary,
            "started_at": self.started_at,
            "seconds": round(self.seconds, 3),
            "reference": _dataset_json(self.reference),
            "datasets": [_dataset_json(one) for one in self.datasets],
            "rankings": {metric: self._ranking_json(metric) for metric in self.metric_names()},
            "labels": {metric: self.label(metric) for metric in self.metric_names()},
            "restraints": [{**asdict(verdict), "passed": verdict.passed} for verdict in self.verdicts],
            "config": dict(self.config),
            "versions": dict(self.versions),
            "platform": self.platform,
        }

    def _ranking_json(self, metric: str) -> dict[str, Any]:
        return {
            "best": sorted(self.best(metric)),
            "best_less_others": {
                name: {**asdict(one), "separated": one.better is not None}
                for name, one in self.differences(metric).items()
            },
        }


def _dataset_json(result: DatasetResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "suffix": result.suffix,
        "features": result.features.to_json() if result.features else None,
        "cached": result.cached,
        "extraction_seconds": result.extraction_seconds,
        "images_per_second": result.images_per_second,
        "device": result.device,
        "skipped": list(result.skipped),
        "error": result.error,
        "values": {name: _value_json(value) for name, value in result.values.items()},
        "failures": dict(result.failures),
        "metrics_seconds": result.metrics_seconds,
    }


def _value_json(value: MetricValue) -> dict[str, Any]:
    plain = {one.name: getattr(value, one.name) for one in fields(value) if one.name != "noise"}
    return {
        **plain,
        "parameters": dict(value.parameters),
        "details": dict(value.details),
        "interval": asdict(value.interval) if value.interval else None,
        "per_class": {label: _value_json(one) for label, one in value.per_class.items()},
    }
