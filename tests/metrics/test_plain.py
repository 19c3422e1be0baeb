"""The definitions that noise is found by, against the metrics that are held to brute force elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from simet_cache.metrics import Summaries, evaluate, evaluate_each
from simet_cache.metrics.metric import Noise
from simet_cache.metrics.plain import VALUES, Distances
from tests.metrics.brute import HARD, Floats, hard_pair


def pair(rows: int = 90) -> tuple[Floats, Floats]:
    """Real rows, some of them twice, and synthetic rows, some of which are real ones."""
    rng = np.random.default_rng(1)
    real, other = rng.standard_normal((rows, 7)) + 5, 0.8 * rng.standard_normal((rows - 20, 7)) + 5.2
    real[:10] = real[10:20]
    return real, np.vstack([other, real[5:15], other[:3]])


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_they_find_what_the_metrics_find(scale: float, k: int, name: str) -> None:
    real, synth = (rows * scale for rows in pair())
    distances = Distances.of(real, synth)
    assert distances.exact_enough
    value = evaluate(real=real, synth=synth, metrics={name: {"k": k}}, device="cpu")[name]
    expected = value.details["uncalibrated"] if name == "clipped_coverage" else value.uncapped
    assert VALUES[name](distances, k).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["one outlier", "two far clusters"])
def test_sets_that_rounding_would_decide_are_told(name: str) -> None:
    assert not Distances.of(*hard_pair(HARD[name])).exact_enough


def test_parts_of_distances_are_the_distances_of_parts() -> None:
    real, synth = np.random.default_rng(2).standard_normal((2, 90, 5))
    rows, others = np.arange(0, len(real), 2), np.arange(1, len(synth), 3)
    whole, part = Distances.of(real, synth).part(rows, others), Distances.of(real[rows], synth[others])
    for name, value_of in VALUES.items():
        assert value_of(whole, 3) == value_of(part, 3), name


def test_one_row_far_out_leaves_the_others_their_intervals() -> None:
    rng = np.random.default_rng(0)
    real, synth = rng.standard_normal((2, 600, 4))
    far = np.vstack([real[:-1], np.full((1, 4), 1e9)])
    names = ["recall", "coverage", "clipped_density"]
    plain, found = (
        evaluate(real=rows, synth=synth, metrics=names, intervals=True, device="cpu") for rows in (real, far)
    )
    for name in names:
        errors = [values[name].interval.standard_error for values in (plain, found)]  # type: ignore[union-attr]
        assert errors[1] == pytest.approx(errors[0], rel=0.6)


def test_sets_against_one_reference_are_pairs_whatever_their_size() -> None:
    real = Summaries(np.random.default_rng(1).standard_normal((700, 3)), device="cpu")
    noises = []
    for rows in (500, 900, 5000):
        synth = Summaries(np.random.default_rng(rows).standard_normal((rows, 3)), device="cpu")
        values, _ = evaluate_each(list(VALUES), real=real, synth=synth, intervals=True)
        noises.append([value.noise for value in values.values()])
    for together in zip(*noises, strict=True):
        assert len({noise.count for noise in together if isinstance(noise, Noise)}) == 1
