"""Classifiers, Inception score and Monge distance beside their reference implementations on the same arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simet_cache.metrics import Summarised, evaluate, mind, roc_auc

Array = NDArray[Any]


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason=f"parity peer {name} is not installed", exc_type=ImportError)


@pytest.mark.parametrize("splits", [1, 4, 10])
def test_inception_score_agrees_with_torch_fidelity_on_the_same_shuffle(splits: int) -> None:
    torch, theirs = peer("torch"), peer("torch_fidelity.metric_isc")
    logits = np.random.default_rng(1).standard_normal((203, 40)) * 2
    shuffled = torch.from_numpy(logits[np.random.default_rng(5).permutation(len(logits))])
    expected = theirs.isc_features_to_metric(shuffled, splits=splits, shuffle=False)
    parameters = {"splits": splits, "seed": 5}
    found = evaluate(real=logits + 1, synth=logits, metrics={"inception_score": parameters})["inception_score"]
    assert found.value == pytest.approx(expected["inception_score_mean"], rel=1e-9)
    assert found.details["std"] == pytest.approx(expected["inception_score_std"], rel=1e-6, abs=1e-12)


def test_mind_agrees_with_torch_fidelity_along_the_same_directions() -> None:
    """Of torch-fidelity after 0.4; a value of it stands in tests/metrics/test_mind.py."""
    torch, theirs = peer("torch"), peer("torch_fidelity.metric_mind")
    rng = np.random.default_rng(3)
    real, synth = rng.standard_normal((80, 12)), rng.standard_normal((80, 12)) * 1.3 + 0.2
    expected = theirs.mind_features_to_metric(
        torch.from_numpy(synth), torch.from_numpy(real), mind_num_projections=64, rng_seed=9, cuda=False, verbose=False
    )
    drawn = torch.randn(64, 12, generator=torch.Generator().manual_seed(9)).double().numpy()
    found = mind.along(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), real=real, synth=synth)
    assert 3 * 12 * found.mean() == pytest.approx(expected["monge_inception_distance"], rel=1e-5)


def test_mind_agrees_with_scipy_along_a_direction() -> None:
    """Where all of one set is beyond the other, the squared distance follows from SciPy's first order one."""
    stats = peer("scipy.stats")
    rng = np.random.default_rng(4)
    real, synth = rng.uniform(0, 1, (30, 1)), rng.uniform(0, 1, (20, 1)) ** 2
    levels = (np.arange(60) + 0.5) / 60  # a grid that both step functions share
    quantiles = [np.quantile(rows[:, 0], levels, method="inverted_cdf") for rows in (real, synth)]
    first = np.abs(quantiles[0] - quantiles[1]).mean()
    assert first == pytest.approx(stats.wasserstein_distance(real[:, 0], synth[:, 0]), rel=1e-9)
    expected = ((quantiles[0] - quantiles[1]) ** 2).mean()
    np.testing.assert_allclose(mind.along(np.ones((1, 1)), real=real, synth=synth), expected, rtol=1e-9)


def test_areas_are_those_of_scikit_learn_for_its_own_pipeline() -> None:
    """Standardising, logistic regression and the area under the curve, fold by fold."""
    linear, metrics, pre = peer("sklearn.linear_model"), peer("sklearn.metrics"), peer("sklearn.preprocessing")
    rng = np.random.default_rng(5)
    real, synth = rng.standard_normal((60, 8)) * 3 + 1, rng.standard_normal((50, 8)) * 3 + 1.6
    told = roc_auc.join(
        real=Summarised(real, None), synth=Summarised(synth, None), folds=5, classifier="logistic", seed=0
    )
    rows, labels = np.vstack([real, synth]), np.repeat([1, 0], [60, 50])
    folds = np.concatenate([told.real.folds, told.synth.folds])
    expected = []
    for fold in range(5):
        learnt, scored = folds != fold, folds == fold
        scaler = pre.StandardScaler().fit(rows[learnt])
        model = linear.LogisticRegression(max_iter=300, tol=1e-6)
        model.fit(scaler.transform(rows[learnt]), labels[learnt])
        expected.append(metrics.roc_auc_score(labels[scored], model.decision_function(scaler.transform(rows[scored]))))
    np.testing.assert_allclose(told.real.means(), expected, atol=0.02)  # two close scores may change places
    assert told.real.means().mean() == pytest.approx(np.mean(expected), abs=0.005)


def test_probes_are_those_of_scikit_learn() -> None:
    linear, pre, pipeline = peer("sklearn.linear_model"), peer("sklearn.preprocessing"), peer("sklearn.pipeline")
    rng = np.random.default_rng(6)
    centres, labels = rng.standard_normal((5, 8)), np.arange(200) % 5
    real, synth = (centres[labels] + spread * rng.standard_normal((200, 8)) for spread in (0.9, 1.1))
    model = pipeline.make_pipeline(pre.StandardScaler(), linear.LogisticRegression(max_iter=300))
    found = evaluate(real=real, synth=synth, metrics=["tstr", "trts"], real_labels=labels, synth_labels=labels)
    assert found["tstr"].value == pytest.approx(model.fit(synth, labels).score(real, labels), abs=0.011)
    assert found["trts"].value == pytest.approx(model.fit(real, labels).score(synth, labels), abs=0.011)


def test_vendi_agrees_with_the_formula_of_its_reference() -> None:
    """``vendi.score_X`` of the vendi-score package: scikit-learn's normalisation, SciPy's eigenvalues of K/n."""
    pre, linalg = peer("sklearn.preprocessing"), peer("scipy.linalg")
    synth = np.abs(np.random.default_rng(7).standard_normal((70, 40)))
    unit = pre.normalize(synth)
    values = np.maximum(linalg.eigvalsh(unit @ unit.T / 70), 1e-300)
    expected = np.exp(-(values * np.log(values)).sum())
    assert evaluate(real=synth + 1, synth=synth, metrics=["vendi"])["vendi"].value == pytest.approx(expected, rel=1e-9)
