"""The Frechet distance of the same arrays, here and in the named reference implementations.

Where a peer is itself unsound, a computation with 50 digits, or in float64 without any eigenvalue, decides, and the
test shows the peer's error beside ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from simet_cache.metrics import evaluate

Array = NDArray[Any]
Distance = Callable[[Array, Array], float]


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason=f"parity peer {name} is not installed", exc_type=ImportError)


def ours(real: Array, synth: Array) -> float:
    return evaluate(real=real, synth=synth, metrics=["fid"], device="cpu")["fid"].value


def torch_fidelity(real: Array, synth: Array) -> float:
    torch, theirs = peer("torch"), peer("torch_fidelity.metric_fid")
    statistics = [theirs.fid_features_to_statistics(torch.from_numpy(features)) for features in (synth, real)]
    return float(theirs.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])


def clean_fid(real: Array, synth: Array) -> float:
    theirs = peer("cleanfid.fid")
    statistics = [(features.mean(axis=0), np.cov(features, rowvar=False)) for features in (synth, real)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `disp` argument is deprecated", DeprecationWarning)
        return float(theirs.frechet_distance(*statistics[0], *statistics[1]))


def torchmetrics(real: Array, synth: Array) -> float:
    torch, theirs = peer("torch"), peer("torchmetrics.image.fid")
    extractor = torch.nn.Identity()
    extractor.num_features = real.shape[1]
    metric = theirs.FrechetInceptionDistance(feature=extractor).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(synth), real=False)
    return float(metric.compute())


PEERS = [torch_fidelity, clean_fid, torchmetrics]


def fifty_digits(real: Array, synth: Array) -> float:
    """By the definition: the trace term is the sum of the singular values of Fr Fs', where S = F'F."""
    with mpmath.workdps(50):
        (mean_r, factor_r), (mean_s, factor_s) = _gaussian(real), _gaussian(synth)
        cross = factor_r * factor_s.T
        square = cross * cross.T if cross.rows < cross.cols else cross.T * cross
        shared = sum(mpmath.sqrt(value) for value in mpmath.eigsy(square, eigvals_only=True) if value > 0)
        shift = sum((left - right) ** 2 for left, right in zip(mean_r, mean_s, strict=True))
        return float(shift + sum(v**2 for v in factor_r) + sum(v**2 for v in factor_s) - 2 * shared)


def _gaussian(features: Array) -> tuple[list[Any], Any]:
    rows = mpmath.matrix(features.tolist())
    mean = [sum(rows[i, j] for i in range(rows.rows)) / rows.rows for j in range(rows.cols)]
    for i in range(rows.rows):
        for j in range(rows.cols):
            rows[i, j] -= mean[j]
    return mean, rows / mpmath.sqrt(rows.rows - 1)


def singular_values(real: Array, synth: Array) -> float:
    """The same in float64, for more rows than 50 digits have time for. No covariance, so no eigenvalue near zero."""
    factors = [(rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1) for rows in (real, synth)]
    shared = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    shift = real.mean(axis=0) - synth.mean(axis=0)
    return float(shift @ shift + sum((factor**2).sum() for factor in factors) - 2 * shared)


def error(found: float, exact: float) -> float:
    return abs(found - exact) / exact


def rectified(n: int, m: int, width: int) -> tuple[Array, Array]:
    """Correlated, non-negative and often zero, as the features of Inception are."""
    rng = np.random.default_rng(11)
    mixing = rng.standard_normal((width, width)) / np.sqrt(width)
    real = np.maximum(rng.standard_normal((n, width)) @ mixing + 0.3, 0)
    return real, np.maximum(rng.standard_normal((m, width)) @ mixing * 1.1 + 0.4, 0)


def stretched(n: int, m: int, width: int) -> tuple[Array, Array]:
    """Strongly correlated: standard deviations from 1 to 0.001 along hidden axes."""
    rng = np.random.default_rng(12)
    axes = np.linalg.qr(rng.standard_normal((width, width)))[0] * np.logspace(0, -3, width)[:, None]
    return rng.standard_normal((n, width)) @ axes, rng.standard_normal((m, width)) @ (axes * 1.3) + 0.1


KINDS = {
    "rectified": rectified(300, 300, 24),
    "fewer synthetic rows": rectified(400, 150, 64),
    "far from zero": tuple(rows + 20 for rows in rectified(300, 260, 24)),
    "stretched": stretched(500, 400, 32),
    "read as float32": tuple(rows.astype(np.float32) for rows in rectified(300, 260, 24)),
}


@pytest.mark.parametrize("theirs", PEERS)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_where_rows_outnumber_features(theirs: Distance, kind: str) -> None:
    """The peers are given float64, in which each of them is sound here."""
    real, synth = KINDS[kind]
    expected = theirs(real.astype(np.float64), synth.astype(np.float64))
    assert ours(real, synth) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("width", [1, 12])
@pytest.mark.parametrize("kind", ["rectified", "stretched", "far from zero"])
def test_agrees_with_fifty_digits(kind: str, width: int) -> None:
    real, synth = (rows[:40, :width] for rows in KINDS[kind])
    assert error(ours(real, synth), fifty_digits(real, synth)) < 1e-9


@pytest.mark.parametrize("theirs", PEERS)
def test_near_sets_with_fewer_rows_than_features(theirs: Distance) -> None:
    """The peers root eigenvalues of a non-symmetric product that is mostly null space: what rounding leaves there,
    about 1e-16 of the largest, becomes 1e-8 by the root, as many times as there are features too many."""
    real, _ = rectified(14, 14, 32)
    synth = real + 1e-3 * np.random.default_rng(3).standard_normal(real.shape)
    exact = fifty_digits(real, synth)
    assert error(theirs(real, synth), exact) > 1e-3
    assert error(ours(real, synth), exact) < 1e-6


@pytest.mark.parametrize("n", [31, 32, 33, 34])
def test_about_as_many_rows_as_features(n: int) -> None:
    """Where the way to compute changes, and where the covariance is singular by one row."""
    real, synth = rectified(n, 34, 32)
    assert ours(real, synth) == pytest.approx(singular_values(real, synth), rel=1e-9)
    assert ours(synth, real) == pytest.approx(singular_values(real, synth), rel=1e-9)


@pytest.mark.parametrize("theirs", [torch_fidelity, clean_fid])
def test_float32_far_from_zero(theirs: Distance) -> None:
    """Both peers take the mean in the features' own precision."""
    real, synth = ((rows + 1000).astype(np.float32) for rows in rectified(300, 260, 12))
    exact = singular_values(real.astype(np.float64), synth.astype(np.float64))
    assert error(theirs(real, synth), exact) > 1e-5
    assert error(ours(real, synth), exact) < 1e-6


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 1e6), (1e-6, 1.0)])
def test_spread_far_below_the_mean(scale: float, offset: float) -> None:
    """torchmetrics adds up products of rows that are not centred, and takes the mean's off at the end."""
    real, synth = (rows * scale + offset for rows in rectified(40, 36, 8))
    exact = fifty_digits(real, synth)
    assert error(torchmetrics(real, synth), exact) > 1e-5
    assert error(ours(real, synth), exact) < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e9, 1e30])
def test_scale_alone_costs_nothing(scale: float) -> None:
    real, synth = rectified(40, 36, 8)
    assert error(ours(real * scale, synth * scale), fifty_digits(real, synth) * scale**2) < 1e-9


def test_nothing_is_added_to_the_covariances() -> None:
    """simet adds 1e-6 to both and cuts eigenvalues off: with many features and few rows, that swallows the distance."""
    real, synth = (rows * 0.002 for rows in rectified(60, 50, 256))
    exact = singular_values(real, synth)
    covariances = [np.cov(rows, rowvar=False) + 1e-6 * np.eye(256) for rows in (real, synth)]
    shift = real.mean(axis=0) - synth.mean(axis=0)
    added = float(shift @ shift + np.trace(sum(covariances)) - 2 * _root_trace(*covariances))
    assert error(added, exact) > 0.1
    assert error(ours(real, synth), exact) < 1e-9


def _root_trace(left: Array, right: Array) -> float:
    values, axes = np.linalg.eigh(left)
    root = axes * np.sqrt(np.maximum(values, 0)) @ axes.T
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(root @ right @ root), 0)).sum())


def test_as_wide_as_inception_with_few_rows() -> None:
    """Of the size at which simet said 0 where 1.506 was right."""
    real, synth = rectified(200, 160, 2048)
    exact = singular_values(real, synth)
    assert error(ours(real.astype(np.float32), synth.astype(np.float32)), exact) < 1e-6
    assert error(ours(real, synth), exact) < 1e-9
