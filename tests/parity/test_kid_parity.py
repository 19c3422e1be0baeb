"""The kernel distance of the same arrays, here and in the named reference implementations.

Every peer averages over subsets; one subset of all rows is the U-statistic over all samples. Where a peer is itself
unsound, a computation with 50 digits decides, and the test shows the peer's error beside ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from simet_cache.metrics import evaluate, kid_subsets

Array = NDArray[Any]
Distance = Callable[[Array, Array], float]


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason=f"parity peer {name} is not installed", exc_type=ImportError)


def ours(real: Array, synth: Array) -> float:
    return evaluate(real=real, synth=synth, metrics=["kid"], device="cpu")["kid"].value


def torch_fidelity(real: Array, synth: Array) -> float:
    torch, theirs = peer("torch"), peer("torch_fidelity.metric_kid")
    rows = torch.from_numpy(synth), torch.from_numpy(real)
    found = theirs.kid_features_to_metric(*rows, kid_subsets=1, kid_subset_size=len(real), verbose=False)
    return float(found["kernel_inception_distance_mean"])


def clean_fid(real: Array, synth: Array) -> float:
    return float(peer("cleanfid.fid").kernel_distance(real, synth, num_subsets=1, max_subset_size=len(real)))


def torchmetrics(real: Array, synth: Array) -> float:
    torch, theirs = peer("torch"), peer("torchmetrics.image.kid")
    return float(theirs.poly_mmd(torch.from_numpy(real), torch.from_numpy(synth)))


PEERS = [torch_fidelity, clean_fid, torchmetrics]


def fifty_digits(real: Array, synth: Array) -> float:
    """By the definition: means of (x.y / D + 1)^3 over pairs of different rows, and over pairs across the sets."""
    with mpmath.workdps(50):
        left, right = mpmath.matrix(real.tolist()), mpmath.matrix(synth.tolist())
        own = sum(_pairs(rows, rows, own=True) / rows.rows / (rows.rows - 1) for rows in (left, right))
        return float(own - 2 * _pairs(left, right) / left.rows / right.rows)


def _pairs(left: Any, right: Any, *, own: bool = False) -> Any:
    products = left * right.T
    return sum(
        (products[i, j] / left.cols + 1) ** 3
        for i in range(left.rows)
        for j in range(right.rows)
        if not (own and i == j)
    )


def error(found: float, exact: float) -> float:
    return abs(found - exact) / abs(exact)


def rectified(n: int, width: int) -> tuple[Array, Array]:
    """Correlated, non-negative and often zero, as the features of Inception are."""
    rng = np.random.default_rng(11)
    mixing = rng.standard_normal((width, width)) / np.sqrt(width)
    real = np.maximum(rng.standard_normal((n, width)) @ mixing + 0.3, 0)
    return real, np.maximum(rng.standard_normal((n, width)) @ mixing * 1.1 + 0.4, 0)


KINDS = {
    "rectified": rectified(260, 24),
    "fewer rows than features": rectified(40, 128),
    "far from zero": tuple(rows + 20 for rows in rectified(260, 24)),
    "centred": tuple(rows - 0.5 for rows in rectified(260, 24)),
    "large": tuple(rows * 100 for rows in rectified(200, 16)),
    "two rows": rectified(2, 8),
    "one feature": rectified(50, 1),
    "more rows than a tile": rectified(1100, 4),
}


@pytest.mark.parametrize("theirs", PEERS)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_on_all_rows(theirs: Distance, kind: str) -> None:
    real, synth = KINDS[kind]
    assert ours(real, synth) == pytest.approx(theirs(real, synth), rel=1e-6)


@pytest.mark.parametrize("theirs", PEERS)
def test_rows_read_as_float32_count_as_in_float64(theirs: Distance) -> None:
    real, synth = (rows.astype(np.float32) for rows in KINDS["rectified"])
    expected = theirs(real.astype(np.float64), synth.astype(np.float64))
    assert ours(real, synth) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e9])
def test_agrees_with_fifty_digits(scale: float) -> None:
    """Of different sizes too, which no peer takes at once."""
    real, synth = rectified(40, 8)
    real, synth = real * scale, (synth * scale)[:31] + scale
    assert error(ours(real, synth), fifty_digits(real, synth)) < 1e-6


@pytest.mark.parametrize("theirs", PEERS)
def test_float32_far_from_zero(theirs: Distance) -> None:
    """The peers cube the products in the features' own precision, where 1e18 has an error of 1e11."""
    real, synth = ((rows + 1000).astype(np.float32) for rows in rectified(40, 8))
    exact = fifty_digits(real, synth)
    assert error(theirs(real, synth), exact) > 1e-3
    assert error(ours(real, synth), exact) < 1e-6


@pytest.mark.parametrize("theirs", PEERS)
def test_float32_near_each_other(theirs: Distance) -> None:
    """What is left of three sums of float32 kernel values that nearly cancel."""
    real, synth = (rows.astype(np.float32) for rows in rectified(300, 24))
    synth = real + np.float32(1e-3) * synth
    real, synth = real[:150], synth[150:]
    wide = real.astype(np.float64), synth.astype(np.float64)
    exact = torch_fidelity(*wide)
    assert error(theirs(real, synth), exact) > 1e-6
    assert error(ours(real, synth), exact) < 1e-6


@pytest.mark.parametrize(("rows", "subsets", "size"), [(300, 3, 40), (300, 60, 100), (300, 2, 260), (4500, 30, 1000)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_subsets_agree_with_torch_fidelity_on_its_own_draws(rows: int, subsets: int, size: int, dtype: Any) -> None:
    """Few subsets are computed each alone and many off one kernel; the peer is given float64, and draws synth first."""
    torch, theirs = peer("torch"), peer("torch_fidelity.metric_kid")
    real, synth = (features.astype(dtype) for features in rectified(rows, 16))
    synth = synth[:-40]
    found = theirs.kid_features_to_metric(
        *(torch.from_numpy(features.astype(np.float64)) for features in (synth, real)),
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=7,
        verbose=False,
    )
    rng = np.random.RandomState(7)
    drawn = [[rng.choice(len(of), size, replace=False) for of in (synth, real)] for _ in range(subsets)]
    values = kid_subsets.values_of(real, synth, [(of_real, of_synth) for of_synth, of_real in drawn])
    assert values.mean() == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-6)
    assert values.std() == pytest.approx(found["kernel_inception_distance_std"], rel=1e-6)
