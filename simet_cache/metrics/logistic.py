"""Logistic regression as the metrics use it: scikit-learn's, on standardised rows, with its warnings as a flag."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics.metric import Labels
from simet_cache.metrics.standard import Single

STEPS = 300


def fitted(rows: Single, labels: Labels, times: NDArray[np.int64] | None = None) -> tuple[Any, bool]:
    """A fitted ``LogisticRegression`` (L2, C=1, L-BFGS: nothing is random), and whether it converged.

    Args:
        rows: Shape (n, D), standardised.
        labels: The class of each row, shape (n,); at least two classes.
        times: How often each row counts, shape (n,), 1 or more; once where it is None.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - takes a second
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    model = LogisticRegression(max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")  # labels of few rows are classes all the same
        model.fit(rows, labels, sample_weight=times)
    return model, bool(model.n_iter_.max() < STEPS)
