"""A feature set together with what has already been computed about it alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simet_cache.metrics.metric import Metric, Parameters, Side, Summarised, named
from simet_cache.metrics.rows import as_features


class Summaries:
    """Checks one feature set once and computes each of its summaries once.

    Pass it to ``evaluate`` in place of an array to compare one reference with many sets::

        reference = Summaries(real)
        values = [evaluate(real=reference, synth=synth, metrics=["fid"]) for synth in candidates]

    Attributes:
        features: The checked rows, shape (N, D). They must not change afterwards.
        memo: Summaries by ``Metric.summary_key``; may be filled from elsewhere, and kept elsewhere.
    """

    def __init__(self, source: object, *, where: str = "features", memo: Mapping[str, Any] | None = None) -> None:
        """Check the rows.

        Args:
            source: Array-like of shape (N, D), or an object whose ``load()`` returns one.
            where: What the set is called in error messages.
            memo: Summaries of the same rows that are already known.

        Raises:
            MetricError: The rows cannot be used.
        """
        self.features = as_features(source, where=where)
        self.memo: dict[str, Any] = dict(memo or {})

    def __len__(self) -> int:
        """Rows in the set."""
        return len(self.features)

    @property
    def width(self) -> int:
        """Features in a row."""
        return int(self.features.shape[1])

    def summary(self, metric: Metric, parameters: Parameters) -> Any:
        """What ``metric.summarise`` makes of this set, computed the first time only."""
        key = metric.summary_key(parameters)
        if key not in self.memo:
            self.memo[key] = metric.summarise(self.features, **named(metric.summarise, parameters))
        return self.memo[key]

    def standing_as(self, side: Side, metric: Metric, parameters: Parameters) -> Summarised[Any]:
        """This set as ``metric.compare`` wants it on one side."""
        summary = self.summary(metric, parameters) if side in metric.sides else None
        return Summarised(self.features, summary)
