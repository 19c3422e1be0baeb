"""How far the values of nearest neighbours move with the rows that are looked up in balls, while the balls stay.

These rows are independent, so that the variance is that of a mean. ``blocks`` adds what the balls contribute.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics.clipped import Scored
from simet_cache.metrics.metric import Noise, Summarised
from simet_cache.metrics.neighbours import Balls, Counts, Nearest, Radii

FEWEST_DECIDING = 50  # real rows among the nearest, counted as draws of equal chance


def precision(*, real: Summarised[Radii], synth: Summarised[None], joint: Balls) -> Noise:
    """Variance of precision over synthetic rows, given the real balls."""
    del real, synth
    return _of_mean(cast("Counts", joint.real).held > 0)


def recall(*, real: Summarised[None], synth: Summarised[Radii], joint: Balls) -> Noise:
    """Variance of recall over real rows, given the synthetic balls."""
    del real, synth
    return _of_mean(cast("Counts", joint.synth).held > 0)


def density(*, real: Summarised[Radii], synth: Summarised[None], joint: Balls) -> Noise:
    """Variance of density over synthetic rows, given the real balls."""
    del synth
    return _of_mean(cast("Counts", joint.real).held / real.summary.k)


def authenticity(*, real: Summarised[Radii], synth: Summarised[None], joint: Nearest) -> Noise | str:
    """Variance of authenticity over synthetic rows, given the real rows and their distances.

    Where a few real rows are nearest to most synthetic ones (hubs, in many dimensions), the value is that of these few:
    how it moves with them cannot be told from parts of the set.
    """
    del synth
    times = np.bincount(joint.index).astype(np.float64)
    deciding = times.sum() ** 2 / (times**2).sum()
    if deciding < FEWEST_DECIDING:
        return f"about {deciding:.0f} real rows are nearest to nearly all synthetic ones; it needs {FEWEST_DECIDING}"
    return _of_mean(joint.squared > real.summary.squared[joint.index])


def clipped_density(*, real: Summarised[Scored], synth: Summarised[None], joint: Counts) -> Noise:
    """Variance of clipped density over synthetic rows, given the real balls and their ideal."""
    del synth
    reach = real.summary
    return _of_mean(np.minimum(joint.held, reach.k) / (reach.k * reach.ideal))


def _of_mean(scores: NDArray[Any]) -> Noise:
    return Noise(np.empty(0), count=1, own=float(scores.var()) / len(scores))
