"""Improved precision and recall: shares of one set inside the other set's k-nearest-neighbour balls.

Source: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models",
https://arxiv.org/abs/1904.06991. As in ``prdc``, a ball's own centre is not counted among its neighbours; the rim
belongs to the ball, as in the paper (``prdc`` leaves it out).
"""

from __future__ import annotations

import numpy as np

from simet_cache.metrics.metric import Outcome, Summarised
from simet_cache.metrics.neighbours import Radii, holding, radii
from simet_cache.metrics.rows import Features

summarise = radii


def compare_precision(*, real: Summarised[Radii], synth: Summarised[None], k: int) -> Outcome:
    """Share of the synthetic rows inside any real ball, 0 to 1; higher is better: what was made looks real."""
    return Outcome(_share_held(real, synth.features), _warnings("real", real.summary, k))


def compare_recall(*, real: Summarised[None], synth: Summarised[Radii], k: int) -> Outcome:
    """Share of the real rows inside any synthetic ball, 0 to 1; higher is better: what is real can be made."""
    return Outcome(_share_held(synth, real.features), _warnings("synth", synth.summary, k))


def _share_held(balls: Summarised[Radii], points: Features) -> float:
    held = np.zeros(len(points), dtype=np.bool_)
    for _, columns, tile in holding(balls=balls, points=points):
        held[columns] |= tile.any(axis=0)
    return float(held.mean())


def _warnings(side: str, reach: Radii, k: int) -> tuple[str, ...]:
    if reach.k == k:
        return ()
    return (f"k={k} was lowered to {reach.k}: {side} has only {len(reach.squared)} rows",)
