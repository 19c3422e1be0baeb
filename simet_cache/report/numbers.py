"""Values and intervals as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from simet_cache.metrics import Interval, MetricValue

UNBIASED = "fd_unbiased"  # the metric that takes the bias of few rows away
_LARGE, _SMALL = 1e6, 1e-4  # beyond these, numbers are written with an exponent


def written(value: MetricValue) -> tuple[str, str]:
    """A value and its interval, which is empty where there is none.

    A value alone has four significant digits. One with an interval has as many decimals as give the shorter arm of the
    interval two significant digits, and so have the ends; an arm below a tenth of the other counts as a tenth.
    """
    if value.interval is None:
        return f"{value.value:.4g}", ""
    low, high = value.interval.low, value.interval.high
    form = _form(value.value, value.interval)
    return f"{value.value:{form}}", f"[{low:{form}}, {high:{form}}]"


def _form(value: float, interval: Interval) -> str:
    arms = sorted((abs(value - interval.low), abs(interval.high - value)))
    finest = max(arms[0], arms[1] / 10)
    if finest == 0:
        return ".4g"
    largest = max(abs(value), abs(interval.low), abs(interval.high))
    digit = _place(finest) - 1  # the decimal place of the last digit
    if _SMALL <= largest < _LARGE:
        return f"z.{max(-digit, 0)}f"
    return f".{max(_place(largest) - digit, 0)}e"


def _place(number: float) -> int:
    return math.floor(math.log10(number))


def bias_of(value: MetricValue) -> float | None:
    """The estimated bias of a value where it exceeds half of its interval's width, or of the value without one.

    None of a set with copies of the reference, as the estimate is about independent rows.
    """
    if value.metric == UNBIASED or (value.copies is not None and value.copies.suspicious):
        return None
    bias = value.details.get("bias", 0.0)
    reach = (value.interval.high - value.interval.low) / 2 if value.interval else abs(value.value) / 2
    return bias if abs(bias) > reach else None


def aligned(column: Sequence[tuple[str, ...]]) -> list[str]:
    """Cells of one width: a number first, with its point below that of the others, then words below each other.

    Args:
        column: For each cell its number and as many words as the others have, some of them empty.
    """
    split = [re.match(r"(-?\d*)(.*)", number).groups() for number, *_ in column]  # type: ignore[union-attr]
    before, after = (max(map(len, parts), default=0) for parts in zip(*split, strict=True)) if split else (0, 0)
    widths = [max(map(len, words)) for words in zip(*(words for _, *words in column), strict=True)]
    return [
        f"{whole:>{before}}{rest:<{after}}"
        + "".join(f" {word:<{width}}" for word, width in zip(words, widths, strict=True) if width)
        for (whole, rest), (_, *words) in zip(split, column, strict=True)
    ]
