"""How well a variance is known: degrees of freedom of sums of estimated variances, for Student's quantiles.

Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components",
https://doi.org/10.2307/3002019.
"""

from __future__ import annotations

import numpy as np

from simet_cache.metrics.rows import Floats


def of_sum(*parts: tuple[float, float], total: float | None = None) -> float:
    """Degrees of freedom of a sum of variances, each given with its own; or of a total that was found from them."""
    total = sum(variance for variance, _ in parts) if total is None else total
    if total <= 0:
        return np.inf
    uncertain = sum((variance / total) ** 2 / freedom for variance, freedom in parts)
    return 1 / uncertain if uncertain > 0 else np.inf


def of_rows(rows: int, kurtosis: float) -> float:
    """Those of the variance of so many values, which few large ones decide where the kurtosis is high.

    Never more than those of Gaussian values, and half of what the kurtosis says: a mean that is low because the rows
    that would raise it were not drawn has a small variance, too.
    """
    return rows / max(kurtosis - 1, 2.0)


def kurtosis_of(values: Floats, weights: Floats | None = None) -> float:
    """Kurtosis, 3 for Gaussian values; 0 where all are equal.

    Args:
        values: Shape (n,).
        weights: How many values each stands for, shape (n,).
    """
    centred = values - np.average(values, weights=weights)
    centred /= float(abs(centred).max()) or 1.0  # fourth powers may be more than a float holds
    square = float(np.average(centred**2, weights=weights))
    return float(np.average(centred**4, weights=weights)) / square**2 if square > 0 else 0.0
