"""Lower and upper bounds on metrics -> pass or fail."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simet_cache.config import RestraintConfig


@dataclass(frozen=True)
class Verdict:
    """One restraint on one dataset.

    Attributes:
        dataset: Its name.
        metric: The metric's name.
        value: What was measured; None where it could not be.
        lower_bound: The value must not be below it; None for no bound.
        upper_bound: The value must not be above it; None for no bound.
    """

    dataset: str
    metric: str
    value: float | None
    lower_bound: float | None
    upper_bound: float | None

    @property
    def passed(self) -> bool:
        """Whether the bounds hold; a bound itself is allowed. NaN and a value that is missing fail."""
        if self.value is None or math.isnan(self.value):
            return False
        above = self.lower_bound is None or self.value >= self.lower_bound
        return above and (self.upper_bound is None or self.value <= self.upper_bound)

    def __str__(self) -> str:
        found = "was not measured" if self.value is None else f"is {self.value:.6g}"
        bounds = {"lower_bound": self.lower_bound, "upper_bound": self.upper_bound}
        wanted = ", ".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound is not None)
        return f"{self.dataset}: {self.metric} {found} ({wanted})"


def judge(restraints: Mapping[str, RestraintConfig], values: Mapping[str, Mapping[str, float]]) -> list[Verdict]:
    """Every restraint on every dataset that it is about; none cuts the others short.

    Args:
        restraints: By metric.
        values: By dataset, then by metric. A dataset that could not be measured has none.
    """
    return [
        Verdict(dataset, metric, measured.get(metric), restraint.lower_bound, restraint.upper_bound)
        for dataset, measured in values.items()
        for metric, restraint in restraints.items()
        if restraint.applies_to(dataset)
    ]
