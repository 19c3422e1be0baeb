"""The same arrays through the neighbour metrics of this project and of the named references."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from simet_cache.metrics import MetricValue, evaluate
from tests.metrics.brute import among_others, squared

Array = NDArray[Any]
FOUR = ("precision", "recall", "density", "coverage")


def sets(n: int = 300, m: int = 260, width: int = 24) -> tuple[Array, Array]:
    rng = np.random.default_rng(11)
    mixing = rng.standard_normal((width, width)) / np.sqrt(width)
    real = np.maximum(rng.standard_normal((n, width)) @ mixing + 0.3, 0)
    synth = np.maximum(rng.standard_normal((m, width)) @ mixing * 1.1 + 0.4, 0)
    return real, synth


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason=f"parity peer {name} is not installed", exc_type=ImportError)


def ours(real: Array, synth: Array, k: int) -> dict[str, MetricValue]:
    return evaluate(real=real, synth=synth, metrics={name: {"k": k} for name in FOUR})


def prdc(real: Array, synth: Array, k: int) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        return {name: float(value) for name, value in peer("prdc").compute_prdc(real, synth, nearest_k=k).items()}


def counts(values: dict[str, float], real: Array, synth: Array, k: int) -> dict[str, int]:
    """How many rows, or pairs of a ball and a row, each value stands for."""
    of = {"precision": len(synth), "recall": len(real), "density": len(synth) * k, "coverage": len(real)}
    found = {name: value * of[name] for name, value in values.items()}
    assert all(count == pytest.approx(round(count), abs=1e-4) for count in found.values())
    return {name: round(count) for name, count in found.items()}


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_count_as_torch_fidelity(k: int) -> None:
    """It takes the generated set first."""
    torch, theirs = peer("torch"), peer("torch_fidelity.metric_prc")
    real, synth = sets()
    precision, recall = theirs.calculate_precision_recall_full(torch.from_numpy(synth), torch.from_numpy(real), k)
    values = ours(real, synth, k)
    found = {name: values[name].value for name in ("precision", "recall")}
    expected = {"precision": precision, "recall": recall}
    assert 0 < found["precision"] < 1
    assert found["precision"] != pytest.approx(found["recall"], abs=0.01)
    assert counts(found, real, synth, k) == counts(expected, real, synth, k)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_four_count_exactly_as_prdc(k: int, dtype: Any) -> None:
    real, synth = (rows.astype(dtype) for rows in sets())
    found = {name: value.value for name, value in ours(real, synth, k).items()}
    assert counts(found, real, synth, k) == counts(prdc(real, synth, k), real, synth, k)


def test_on_a_rim_prdc_says_outside_and_the_definition_inside() -> None:
    """Whole numbers on a line, so that every distance is exact: the k-th neighbour's distance is the rim."""
    real, synth = np.array([[0.0], [2.0], [6.0]]), np.array([[-2.0], [10.0], [30.0]])
    values = {name: value.value for name, value in ours(real, synth, 1).items()}
    assert values == pytest.approx({"precision": 2 / 3, "recall": 1.0, "density": 2 / 3, "coverage": 2 / 3})
    expected = prdc(real, synth, 1)
    assert expected == pytest.approx({"precision": 0.0, "recall": 1.0, "density": 0.0, "coverage": 0.0})
    inwards = np.array([[-2.0 + 1e-6], [10.0 - 1e-6], [30.0]])
    values = {name: value.value for name, value in ours(real, inwards, 1).items()}
    assert prdc(real, inwards, 1) == pytest.approx(values)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_clipped_metrics_are_those_of_the_papers_file(k: int) -> None:
    """Its steps, in float64: lists of k neighbours, and a calibration in steps of 1 / (M + 1)."""
    real, synth = sets()
    values = evaluate(real=real, synth=synth, metrics={"clipped_density": {"k": k}, "clipped_coverage": {"k": k}})

    to_others, to_synth = np.sqrt(among_others(real)), np.sqrt(squared(real, synth))
    listed = np.argsort(to_others, axis=1)[:, :k]
    distances = np.take_along_axis(to_others, listed, axis=1)
    radii = distances[:, -1]
    clipped = np.minimum(radii, np.median(radii))
    own = np.bincount(listed[distances <= clipped[:, None]], minlength=len(real))
    held = (to_synth <= clipped[:, None]).sum(axis=0)
    density = np.minimum(held / k, 1).mean() / np.minimum(own / k, 1).mean()
    assert 0 < density < 1
    assert values["clipped_density"].value == pytest.approx(density, rel=1e-12)

    uncalibrated = (np.sort(to_synth, axis=1)[:, :k] < radii[:, None]).mean()
    assert values["clipped_coverage"].details["uncalibrated"] == pytest.approx(uncalibrated, rel=1e-12)
    expected = np.zeros(len(synth) + 1)
    for good in range(k, len(synth) + 1):
        holding = np.arange(good + 1)
        expected[good] = np.minimum(holding / k, 1) @ stats.betabinom.pmf(holding, good, k, len(real) - k)
    coverage = np.searchsorted(expected, uncalibrated) / len(expected)
    assert 0 < coverage < 1
    assert values["clipped_coverage"].value == pytest.approx(coverage, abs=k / len(synth))


def test_authenticity_is_that_of_dgm_eval() -> None:
    """Its steps, in float64; it reports percent."""
    real, synth = sets()
    to_real = squared(real, synth)
    of_real = among_others(real).min(axis=0)
    expected = (of_real[to_real.argmin(axis=0)] < to_real.min(axis=0)).mean()
    assert 0 < expected < 1
    assert evaluate(real=real, synth=synth, metrics=["authenticity"])["authenticity"].value == expected
