"""Logistic regression as the metrics use it: scikit-learn's, on standardised rows, with its warnings as a flag."""

from __future__ import annotations

import warnings
from typing import Any

from simet_cache.metrics.metric import Labels
from simet_cache.metrics.standard import Single

STEPS = 300


def fitted(rows: Single, labels: Labels) -> tuple[Any, bool]:
    """A fitted ``LogisticRegression`` (L2, C=1, L-BFGS: nothing is random), and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - takes a second
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    model = LogisticRegression(max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")  # labels of few rows are classes all the same
        model.fit(rows, labels)
    return model, bool(model.n_iter_.max() < STEPS)
