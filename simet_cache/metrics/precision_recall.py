"""Improved precision and recall: shares of one set inside the other set's k-nearest-neighbour balls.

Source: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models",
https://arxiv.org/abs/1904.06991. As in ``prdc``, a ball's own centre is not counted among its neighbours; the rim
belongs to the ball, as in the paper (``prdc`` leaves it out).
"""

from __future__ import annotations

from typing import cast

from simet_cache.metrics.metric import Outcome, Summarised
from simet_cache.metrics.neighbours import Balls, Counts, Radii


def compare_precision(*, real: Summarised[Radii], synth: Summarised[None], joint: Balls, k: int) -> Outcome:
    """Share of the synthetic rows inside any real ball, 0 to 1; higher is better: what was made looks real."""
    del synth
    return Outcome(float((cast("Counts", joint.real).held > 0).mean()), cautions("real", real.summary, k))


def compare_recall(*, real: Summarised[None], synth: Summarised[Radii], joint: Balls, k: int) -> Outcome:
    """Share of the real rows inside any synthetic ball, 0 to 1; higher is better: what is real can be made."""
    del real
    return Outcome(float((cast("Counts", joint.synth).held > 0).mean()), cautions("synth", synth.summary, k))


def cautions(side: str, reach: Radii, k: int) -> tuple[str, ...]:
    """Warnings about the balls of one set: too few rows for the neighbour asked for, or duplicates without a radius."""
    rows, flat = len(reach.squared), int((reach.squared == 0).sum())
    found = []
    if reach.k != k:
        found.append(f"k={k} was lowered to {reach.k}: {side} has only {rows} rows")
    if flat:
        found.append(f"{flat} of {rows} {side} rows have {reach.k} or more duplicates: their balls have radius 0")
    return tuple(found)
