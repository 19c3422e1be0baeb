"""Lower and upper bounds on metrics -> pass or fail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simet_cache.config.parts import MAX_COPIES
from simet_cache.extractors import named_in
from simet_cache.report.labels import label_of

if TYPE_CHECKING:
    from simet_cache.config import RestraintConfig
    from simet_cache.report.results import DatasetResult, Table


@dataclass(frozen=True)
class Verdict:
    """One restraint on one dataset, measured against one reference on the features of one extractor.

    Attributes:
        dataset: Its name.
        metric: The metric's name; ``max_copies`` for the number of rows that are copies of real ones.
        value: What was measured; None where it could not be.
        lower_bound: The value must not be below it; None for no bound.
        upper_bound: The value must not be above it; None for no bound.
        reference: The reference's name.
        extractor: The extractor's suffix.
    """

    dataset: str
    metric: str
    value: float | None
    lower_bound: float | None
    upper_bound: float | None
    reference: str
    extractor: str

    @property
    def label(self) -> str:
        """What people read in place of the metric's name."""
        return label_of(self.metric, self.extractor)

    @property
    def passed(self) -> bool:
        """Whether the bounds hold; a bound itself is allowed. NaN and a value that is missing fail."""
        if self.value is None or math.isnan(self.value):
            return False
        above = self.lower_bound is None or self.value >= self.lower_bound
        return above and (self.upper_bound is None or self.value <= self.upper_bound)

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self, subject: str = "") -> str:
        """In words.

        Args:
            subject: What to call the dataset; its name where nothing else is given, as there is one reference and one
                extractor. The report knows whether there are more.
        """
        if self.metric == MAX_COPIES:
            found = "were not counted" if self.value is None else f"are {self.value:g}"
            return f"{subject or self.dataset}: copies of real rows {found} ({MAX_COPIES} {self.upper_bound:g})"
        found = "was not measured" if self.value is None else f"is {self.value:.6g}"
        bounds = {"lower_bound": self.lower_bound, "upper_bound": self.upper_bound}
        wanted = ", ".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound is not None)
        return f"{subject or self.dataset}: {self.label} {found} ({wanted})"


def judge(restraints: Mapping[str, RestraintConfig], tables: Iterable[Table]) -> list[Verdict]:
    """Every restraint on every comparison that it is about and that was asked for; none cuts the others short.

    Args:
        restraints: By metric.
        tables: All that was measured. A dataset that could not be measured has no values, and breaks what is about it.
    """
    verdicts = []
    for table in tables:
        extractor = (table.extractor, named_in(table.extractor))
        for one in table.datasets:
            for metric, restraint in restraints.items():
                asked = any(name not in one.excluded for name in table.metrics if metric in (name, MAX_COPIES))
                if asked and restraint.applies_to(one.name, reference=table.reference.name, extractor=extractor):
                    value = _value(one, metric)
                    bounds = restraint.lower_bound, restraint.upper_bound
                    verdicts.append(Verdict(one.name, metric, value, *bounds, table.reference.name, table.extractor))
    return verdicts


def _value(one: DatasetResult, name: str) -> float | None:
    if name == MAX_COPIES:
        counted = (value.copies for value in one.values.values() if value.copies is not None)
        return next((copies.exact + copies.near for copies in counted), None)
    return one.values[name].value if name in one.values else None
