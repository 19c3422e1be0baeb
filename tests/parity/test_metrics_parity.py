"""The same arrays through this project and through the named reference implementations."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simet_cache.metrics import evaluate

Array = NDArray[Any]


def sets(n: int = 300, m: int = 260, width: int = 24) -> tuple[Array, Array]:
    rng = np.random.default_rng(11)
    mixing = rng.standard_normal((width, width)) / np.sqrt(width)
    real = np.maximum(rng.standard_normal((n, width)) @ mixing + 0.3, 0)
    synth = np.maximum(rng.standard_normal((m, width)) @ mixing * 1.1 + 0.4, 0)
    return real, synth


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason=f"parity peer {name} is not installed", exc_type=ImportError)


def test_fid_agrees_with_torch_fidelity() -> None:
    """Rows outnumber features: with fewer, the peer's non-symmetric eigenvalues are unsound, and no peer decides."""
    torch, theirs = peer("torch"), peer("torch_fidelity.metric_fid")
    real, synth = sets()
    statistics = [theirs.fid_features_to_statistics(torch.from_numpy(features)) for features in (synth, real)]
    expected = theirs.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert evaluate(real=real, synth=synth, metrics=["fid"])["fid"].value == pytest.approx(expected, rel=1e-6)


def test_kid_agrees_with_torch_fidelity_on_one_subset_of_all_rows() -> None:
    torch, theirs = peer("torch"), peer("torch_fidelity.metric_kid")
    real, synth = sets(n=260, m=260)
    found = theirs.kid_features_to_metric(
        torch.from_numpy(synth), torch.from_numpy(real), kid_subsets=1, kid_subset_size=260, verbose=False
    )
    value = evaluate(real=real, synth=synth, metrics=["kid"])["kid"].value
    assert value == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_count_as_torch_fidelity(k: int) -> None:
    torch, theirs = peer("torch"), peer("torch_fidelity.metric_prc")
    real, synth = sets()
    precision, recall = theirs.calculate_precision_recall_full(torch.from_numpy(synth), torch.from_numpy(real), k)
    values = evaluate(real=real, synth=synth, metrics={"precision": {"k": k}, "recall": {"k": k}})
    assert round(values["precision"].value * len(synth)) == round(precision * len(synth))
    assert round(values["recall"].value * len(real)) == round(recall * len(real))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_count_exactly_as_prdc(k: int) -> None:
    """Without ties: on a rim, prdc says outside and this project, as the paper, inside."""
    theirs = peer("prdc")
    real, synth = sets()
    with contextlib.redirect_stdout(io.StringIO()):
        expected = theirs.compute_prdc(real, synth, nearest_k=k)
    values = evaluate(real=real, synth=synth, metrics={"precision": {"k": k}, "recall": {"k": k}})
    assert 0 < values["precision"].value < 1
    for name in ("precision", "recall"):
        assert math.isclose(values[name].value, float(expected[name]), rel_tol=0, abs_tol=1e-12)
