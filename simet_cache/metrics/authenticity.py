"""Authenticity: how much of a synthetic set keeps its distance from the images that a model was trained on.

Source: Alaa et al. 2022, "How Faithful is your Synthetic Data?", https://arxiv.org/abs/2102.08921, in the form of
``authpct.py`` in the repository layer6ai-labs/dgm-eval (which reports percent): a synthetic row is authentic when it is
farther from its nearest training row than that row is from its own nearest other training row. Rows at equal distances
are not farther; where several training rows are nearest, the first of them decides.
"""

from __future__ import annotations

from simet_cache.metrics.metric import Outcome, Summarised
from simet_cache.metrics.neighbours import Nearest, Radii
from simet_cache.metrics.precision_recall import cautions


def compare(*, real: Summarised[Radii], synth: Summarised[None], joint: Nearest, k: int) -> Outcome:
    """Share of the synthetic rows that are no near copies of a real one, 0 to 1; higher is better.

    It says something about copying only where ``real`` is the training set itself. The definition has ``k`` 1; a larger
    one asks for more distance, that of a training row from its k-th nearest other one.
    """
    del synth
    reach = real.summary
    return Outcome(float((joint.squared > reach.squared[joint.index]).mean()), cautions("real", reach, k))
