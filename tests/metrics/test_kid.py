"""Kernel distance against its definition written as a double sum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.metrics import evaluate, kid

Floats = NDArray[np.float64]


def value(real: Floats, synth: Floats) -> float:
    return evaluate(real=real, synth=synth, metrics=["kid"])["kid"].value


def by_definition(real: Floats, synth: Floats) -> float:
    def kernel(left: Floats, right: Floats) -> Floats:
        return np.asarray((left @ right.T / left.shape[1] + 1) ** 3)

    def within(rows: Floats) -> float:
        gram = kernel(rows, rows)
        return float((gram.sum() - np.trace(gram)) / (len(rows) * (len(rows) - 1)))

    return within(real) + within(synth) - 2 * float(kernel(real, synth).mean())


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 25), st.integers(2, 25), st.integers(1, 9), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_tiles_of_any_size_give_the_definition(n: int, m: int, width: int, tile: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synth = rng.standard_normal((n, width)), rng.standard_normal((m, width)) + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kid, "TILE", tile)
        assert value(real, synth) == pytest.approx(by_definition(real, synth), rel=1e-9, abs=1e-11)


def test_equal_distributions_have_expectation_zero() -> None:
    rng = np.random.default_rng(1)
    values = [value(rng.standard_normal((60, 8)), rng.standard_normal((40, 8))) for _ in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


def test_rotation_and_row_order_change_nothing() -> None:
    rng = np.random.default_rng(2)
    real, synth = rng.standard_normal((50, 6)), rng.standard_normal((30, 6)) + 1
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    assert value(rng.permutation(real) @ turn, rng.permutation(synth) @ turn) == pytest.approx(value(real, synth))


def test_it_grows_with_the_shift() -> None:
    rng = np.random.default_rng(3)
    real, synth = rng.standard_normal((200, 6)), rng.standard_normal((200, 6))
    values = [value(real, synth + shift) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values)


def test_constant_features_have_defined_values() -> None:
    real, synth = np.full((5, 3), 1.0), np.full((4, 3), 2.0)
    assert value(real, real) == pytest.approx(0.0, abs=1e-12)
    assert value(real, synth) == pytest.approx(2.0**3 + 5.0**3 - 2 * 3.0**3)
