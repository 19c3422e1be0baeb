"""How much a warning matters: what is shown is cut to a few lines, and the least severe ones are left out first."""

from __future__ import annotations

from enum import IntEnum


class Severity(IntEnum):
    """The most severe first.

    Attributes:
        LEAKAGE: The set holds rows of the reference: its values say nothing about the model.
        INVALID: The value is biased, or not what its name says.
        NOISY: The value is what its name says, of few rows or with other parameters than were asked for.
        REMARK: Something else is missing; the value is as good as any.
    """

    LEAKAGE = 0
    INVALID = 1
    NOISY = 2
    REMARK = 3


_BY_PART = (
    ("possible leakage", Severity.LEAKAGE),
    ("biased ", Severity.INVALID),  # which may also say that sets are small
    ("so small sets give noisy values", Severity.NOISY),
    (" was lowered", Severity.NOISY),
    ("too few rows to hold some out", Severity.REMARK),
    ("no interval: ", Severity.REMARK),
    ("no value for class", Severity.REMARK),
)


def severity_of(warning: str) -> Severity:
    """The severity of a metric's warning: that of the first known part in it; unknown ones count as INVALID."""
    return next((severity for part, severity in _BY_PART if part in warning), Severity.INVALID)
