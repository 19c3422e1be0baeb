"""Density and coverage: how many real balls hold a synthetic row, and how many hold any.

Source: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models",
https://arxiv.org/abs/2002.09797, and its package ``prdc``. The balls are those of precision: the k nearest other real
rows reach up to the rim, and the rim belongs to the ball (``prdc`` leaves it out).
"""

from __future__ import annotations

import math
from typing import cast

from simet_cache.metrics.metric import Outcome, Summarised
from simet_cache.metrics.neighbours import Balls, Counts, Radii
from simet_cache.metrics.precision_recall import cautions


def compare_density(*, real: Summarised[Radii], synth: Summarised[None], joint: Balls, k: int) -> Outcome:
    """Real balls that hold a synthetic row, on the mean, divided by k; from 0, about 1 for two samples of one source.

    Higher is better: what was made lies where real rows lie densely. It is above 1 where the synthetic rows crowd in
    the middle of the real ones, which in many dimensions is inside of most balls.
    """
    del synth
    reach = real.summary
    return Outcome(float(cast("Counts", joint.real).held.mean()) / reach.k, cautions("real", reach, k))


def compare_coverage(*, real: Summarised[Radii], synth: Summarised[None], joint: Balls, k: int) -> Outcome:
    """Share of the real balls that hold a synthetic row, 0 to 1; higher is better: what is real can be made.

    ``details["expected"]`` is the mean over two samples of one source: below 1, and far below where few rows were made.
    """
    reach = real.summary
    expected = expected_coverage(n_real=len(real.features), n_synth=len(synth.features), k=reach.k)
    return Outcome(
        float((cast("Counts", joint.real).holding > 0).mean()), cautions("real", reach, k), {"expected": expected}
    )


def expected_coverage(*, n_real: int, n_synth: int, k: int) -> float:
    """Mean coverage over two samples of one continuous distribution.

    A ball is empty when the k nearest to its centre of all the other rows, real and synthetic, are real ones.
    """
    return 1.0 - math.prod((n_real - i) / (n_real + n_synth - i) for i in range(1, k + 1))
