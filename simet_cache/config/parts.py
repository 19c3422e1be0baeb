"""Smaller parts of a configuration: bounds, intervals, and what runs the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from simet_cache.config.model import Model, Number, Whole, matches, raise_problems
from simet_cache.metrics import Intervals

MAX_COPIES = "max_copies"  # the restraint that is about no metric


class RestraintConfig(Model):
    """What a metric must hold: everywhere, or where the names match all of the patterns that are given."""

    lower_bound: Number | None = Field(default=None, allow_inf_nan=False)
    upper_bound: Number | None = Field(default=None, allow_inf_nan=False)
    datasets: list[str] | None = Field(default=None, min_length=1)
    references: list[str] | None = Field(default=None, min_length=1)
    extractors: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _bounds(self) -> RestraintConfig:
        if self.lower_bound is None and self.upper_bound is None:
            raise ValueError("expected lower_bound, upper_bound or both")
        if None not in (self.lower_bound, self.upper_bound) and self.lower_bound > self.upper_bound:  # type: ignore[operator]
            raise ValueError(f"lower_bound {self.lower_bound} is above upper_bound {self.upper_bound}")
        return self

    def applies_to(self, dataset: str, *, reference: str, extractor: Sequence[str]) -> bool:
        """Whether a comparison is meant.

        Args:
            dataset: Its name.
            reference: The name of what it is measured against.
            extractor: What the extractor is called: its suffix and its name.
        """
        return (
            matches(self.datasets, dataset)
            and matches(self.references, reference)
            and matches(self.extractors, *extractor)
        )


class IntervalsConfig(Model):
    """Confidence intervals: how often they are to hold the truth, and the seed of what is drawn to make them."""

    level: Number = Field(default=0.95, gt=0, lt=1)
    seed: Whole = Field(default=0, ge=0)

    def asked(self) -> Intervals:
        """As the metrics know them."""
        return Intervals(self.level, self.seed)


Runner = Literal["threads", "dask", "ray"]


class TaskRunnerConfig(Model):
    """What runs the tasks: threads of this process, or the workers of a Dask or Ray cluster.

    Without an ``address`` a cluster is started on this machine, and ends with the run.
    """

    kind: Runner = "threads"
    address: str | None = Field(default=None, min_length=1)
    workers: Whole | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _reachable(self) -> TaskRunnerConfig:
        if self.kind == "threads" and self.address is not None:
            raise_problems([(("address",), "only a cluster has one: name its kind, dask or ray, or leave it out")])
        return self
