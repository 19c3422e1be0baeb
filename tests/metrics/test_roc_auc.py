"""Out-of-fold area under the curve: unbiased, reproducible, and free of global state."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import MetricValue, Summarised, evaluate, mlp, roc_auc, standard

Floats = NDArray[np.float64]


def measured(real: Floats, synth: Floats, **parameters: object) -> MetricValue:
    return evaluate(real=real, synth=synth, metrics={"roc_auc": parameters})["roc_auc"]


def logistic(real: Floats, synth: Floats, **parameters: object) -> float:
    return measured(real, synth, classifier="logistic", **parameters).value


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "FEWEST_STEPS", 30)


def by_pairs(real: Floats, synth: Floats) -> float:
    return float(((real[:, None] > synth) + 0.5 * (real[:, None] == synth)).mean())


def test_placements_are_shares_of_pairs_and_ties_count_half() -> None:
    rng = np.random.default_rng(1)
    real, synth = rng.integers(0, 5, 30).astype(float), rng.integers(0, 4, 20).astype(float)
    ours, theirs = roc_auc._placements(real, synth)
    np.testing.assert_allclose(ours, [by_pairs(each, synth) for each in real[:, None]], atol=1e-12)
    np.testing.assert_allclose(theirs, [by_pairs(real, each) for each in synth[:, None]], atol=1e-12)
    assert ours.mean() == pytest.approx(by_pairs(real, synth)) == pytest.approx(theirs.mean())


def test_real_is_one() -> None:
    """Scores are higher for real rows: a classifier that always errs would be below 0.5."""
    found = roc_auc._placements(np.array([3.0, 2.0]), np.array([1.0, 0.0]))
    assert [list(each) for each in found] == [[1, 1], [1, 1]]


@pytest.mark.parametrize("classifier", roc_auc.CLASSIFIERS)
def test_sets_apart_are_told_apart(classifier: str, quick: None) -> None:
    rng = np.random.default_rng(2)
    real, synth = rng.standard_normal((60, 4)), rng.standard_normal((50, 4)) + 9
    assert measured(real, synth, classifier=classifier).value == 1.0
    assert 0.6 < measured(real, real[:50] * 0.9 + 0.8, classifier=classifier).value < 0.97


def test_the_network_sees_what_no_line_separates(quick: None) -> None:
    rng = np.random.default_rng(3)
    real, synth = rng.standard_normal((150, 3)), 4 * rng.standard_normal((150, 3))
    assert measured(real, synth).value > 0.85
    assert 0.3 < logistic(real, synth) < 0.7


@pytest.mark.parametrize(("classifier", "repetitions"), [("logistic", 150), ("mlp", 12)])
def test_two_samples_of_one_distribution_score_a_half_on_average(
    classifier: str, repetitions: int, quick: None
) -> None:
    rng = np.random.default_rng(4)
    values = [
        measured(rng.standard_normal((30, 3)), rng.standard_normal((40, 3)), classifier=classifier, folds=3).value
        for _ in range(repetitions)
    ]
    assert abs(np.mean(values) - 0.5) < 4 * np.std(values) / np.sqrt(repetitions)


@pytest.mark.parametrize("classifier", roc_auc.CLASSIFIERS)
def test_the_seed_decides_in_every_thread_and_nothing_global_does(classifier: str, quick: None) -> None:
    rng = np.random.default_rng(5)
    real, synth = rng.standard_normal((40, 4)), rng.standard_normal((30, 4)) + 0.3
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = measured(real, synth, classifier=classifier).value
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(7)
    with ThreadPoolExecutor(2) as pool:
        again = list(pool.map(lambda _: measured(real, synth, classifier=classifier).value, range(2)))
    with torch.inference_mode():
        again.append(measured(real, synth, classifier=classifier).value)
    assert again == [first] * 3
    assert measured(real, synth, classifier=classifier, seed=1).value != first


def test_a_scored_fold_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the classifier and the standardisation are given does not change with the rows that are scored."""
    rng = np.random.default_rng(6)
    real, synth = rng.standard_normal((20, 3)), rng.standard_normal((20, 3)) + 1
    learnt: list[bytes] = []

    def spy(rows: standard.Single, *_: object, **__: object) -> tuple[Floats, bool]:
        learnt.append(rows.tobytes())
        return np.zeros(len(real) // 5 + len(synth) // 5), True

    monkeypatch.setattr(roc_auc, "_scores", spy)
    sides = {"real": Summarised(real, None), "synth": Summarised(synth, None)}
    folds = roc_auc.join(**sides, folds=5, classifier="mlp", seed=0).real.folds
    before, learnt[:] = list(learnt), []
    real[folds == 2] += 100
    roc_auc.join(**sides, folds=5, classifier="mlp", seed=0)
    assert [a == b for a, b in zip(before, learnt, strict=True)] == [False, False, True, False, False]


def test_folds_are_even_and_the_mean_is_over_them() -> None:
    rng = np.random.default_rng(7)
    sides = {name: Summarised(rng.standard_normal((n, 3)), None) for name, n in (("real", 23), ("synth", 11))}
    told = roc_auc.join(**sides, folds=4, classifier="logistic", seed=0)
    assert sorted(np.bincount(told.real.folds)) == [5, 6, 6, 6]
    assert sorted(np.bincount(told.synth.folds)) == [2, 3, 3, 3]
    np.testing.assert_allclose(told.real.means(), told.synth.means(), atol=1e-12)
    assert roc_auc.compare(**sides, joint=told, folds=4).value == pytest.approx(told.real.means().mean())


def test_standardising_makes_scale_and_offset_of_a_feature_irrelevant() -> None:
    rng = np.random.default_rng(8)
    real, synth = rng.standard_normal((50, 3)), rng.standard_normal((40, 3)) + 0.7
    plain = logistic(real, synth)
    for scale, offset in ((1e-30, 0), (1e30, 0), (1, 1e8), ([1e3, 1, 1e-3], [7, 0, -1])):
        assert logistic(real * scale + offset, synth * scale + offset) == pytest.approx(plain, abs=0.02)


@pytest.mark.parametrize("classifier", roc_auc.CLASSIFIERS)
@pytest.mark.parametrize("width", [1, 3])
def test_constant_features_cannot_be_told(classifier: str, width: int, quick: None) -> None:
    assert measured(np.full((12, width), 0.1), np.full((9, width), 0.1), classifier=classifier).value == 0.5
    assert measured(np.full((12, width), 0.1), np.full((9, width), 0.3), classifier=classifier).value == 1.0


def test_a_row_far_out_does_no_harm(quick: None) -> None:
    rng = np.random.default_rng(9)
    real, synth = rng.standard_normal((20, 3)), rng.standard_normal((20, 3))
    real[3], real[:, 2], synth[:, 2] = 1e40, 0, 0
    synth[5, 2] = 1e40
    assert 0 <= measured(real, synth).value <= 1


def test_as_many_rows_as_folds_are_enough_and_fewer_are_refused() -> None:
    real = np.arange(10.0)[:, None]
    assert 0 <= logistic(real[:2], real[4:6], folds=2) <= 1
    assert logistic(real[:5], real[5:]) == 1.0
    with pytest.raises(MetricError, match="synth: expected at least 5 rows for 5 folds, found 4; lower folds"):
        logistic(real, real[:4])


def test_a_classifier_that_does_not_converge_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from simet_cache.metrics import logistic as fitting

    rng = np.random.default_rng(10)
    real, synth = rng.standard_normal((30, 5)), rng.standard_normal((30, 5)) + 1
    assert measured(real, synth, classifier="logistic").warnings == ()
    monkeypatch.setattr(fitting, "STEPS", 2)
    (warning,) = measured(real, synth, classifier="logistic").warnings
    assert warning == "the classifier had not converged in 5 of 5 folds"


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.75, 1.3), (0.5, 0.9, 2.2)])
def test_noise_is_the_variance_of_repetitions_or_more(shift: float, low: float, high: float) -> None:
    rng = np.random.default_rng(11)
    values, noises = [], []
    for _ in range(120):
        sides = {
            "real": Summarised(rng.standard_normal((80, 4)), None),
            "synth": Summarised(rng.standard_normal((60, 4)) + shift, None),
        }
        told = roc_auc.join(**sides, folds=5, classifier="logistic", seed=0)
        values.append(roc_auc.compare(**sides, joint=told, folds=5).value)
        noises.append(roc_auc.noise(**sides, joint=told))
    assert low < np.mean([noise.variance for noise in noises]) / np.var(values) < high
    assert noises[0].shared.shape == (80,)
    assert abs(noises[0].shared.mean()) < 1e-12


def test_moments_of_parts_add_up() -> None:
    rng = np.random.default_rng(12)
    features = rng.standard_normal((50, 3)) * [1, 1e-6, 1] + [0, 1e3, 0]
    features[:, 2] = 0.1
    parts = [standard.Moments.of(features, rows) for rows in np.array_split(np.arange(50), [1, 20])]
    found = standard.total(parts)
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.scale, [*features[:, :2].std(axis=0), 1], rtol=1e-6)


@pytest.mark.parametrize(
    "parameters", [{"folds": 1}, {"folds": 2.0}, {"seed": -1}, {"seed": True}, {"classifier": "forest"}]
)
def test_parameters_out_of_range_are_refused(parameters) -> None:
    with pytest.raises(MetricError, match="expected"):
        measured(np.eye(30), np.eye(30), **parameters)


@pytest.mark.parametrize("classifier", ["mlp", "logistic"])
def test_rows_that_stand_in_both_sets_cannot_be_told(classifier: str, quick: None) -> None:
    """If copies lay in other folds, they would be learnt from with the other label: below 0.1 for equal sets."""
    rng = np.random.default_rng(31)
    real, new = rng.standard_normal((120, 20)), rng.standard_normal((80, 20))
    assert measured(real, rng.permutation(real), classifier=classifier).value == 0.5
    half = np.vstack([real[:60], new[:60]])
    assert measured(real, half, classifier=classifier).value > 0.42


def test_no_fold_becomes_empty_for_copies() -> None:
    rng = np.random.default_rng(32)
    real = rng.standard_normal((40, 3))
    assert 0 <= logistic(real, np.repeat(real[:1], 20, axis=0)) <= 1
