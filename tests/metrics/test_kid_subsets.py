"""The protocol of subsets against the definition, one subset at a time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import Summarised, kid, kid_subsets, tiles

Floats = NDArray[np.float64]


def by_definition(real: Floats, synth: Floats) -> float:
    def kernel(left: Floats, right: Floats) -> Floats:
        return np.asarray((left.astype(np.float64) @ right.T.astype(np.float64) / left.shape[1] + 1) ** 3)

    def within(rows: Floats) -> float:
        gram = kernel(rows, rows)
        return float((gram.sum() - np.trace(gram)) / (len(rows) * (len(rows) - 1)))

    return within(real) + within(synth) - 2 * float(kernel(real, synth).mean())


def draws(n: int, m: int, subsets: int, size: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    rng = np.random.default_rng(1)
    return [(rng.choice(n, size, replace=False), rng.choice(m, size, replace=False)) for _ in range(subsets)]


@pytest.mark.parametrize(("subsets", "size"), [(20, 30), (2, 5)], ids=["all rows at once", "each subset alone"])
@pytest.mark.parametrize("narrow", [False, True])
def test_each_subset_has_the_value_of_the_definition(
    subsets: int, size: int, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    real, synth = rng.standard_normal((70, 40)) + 2, rng.standard_normal((50, 40)) * 1.2 + 2.1
    drawn = draws(70, 50, subsets, size)
    monkeypatch.setattr(tiles, "TILE_ROWS", 16)
    monkeypatch.setattr(tiles, "TILE_COLUMNS", 32)
    monkeypatch.setattr(kid, "PATCH", (7, 9))
    if narrow:
        monkeypatch.setattr(tiles, "SMALL", 0)
        monkeypatch.setattr(kid, "SMALL", 0)
        monkeypatch.setattr(kid, "TOLERANCE", 1e9)
    found = kid_subsets.values_of(real, synth, drawn)
    expected = [by_definition(real[i], synth[j]) for i, j in drawn]
    np.testing.assert_allclose(found, expected, rtol=1e-6 if narrow else 1e-11)


def test_mean_and_standard_deviation_over_the_seeds_draws() -> None:
    rng = np.random.default_rng(2)
    real, synth = rng.standard_normal((60, 8)), rng.standard_normal((50, 8)) + 0.3
    sets = {"real": Summarised(real, None), "synth": Summarised(synth, None)}
    first, again, other = (kid_subsets.compare(**sets, subsets=30, subset_size=20, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.value != other.value
    assert first.warnings == ()
    assert first.value == pytest.approx(by_definition(real, synth), abs=4 * first.details["std"] / np.sqrt(30) + 0.05)
    assert first.details["std"] > 0


def test_subsets_of_all_rows_are_kid_with_a_warning() -> None:
    rng = np.random.default_rng(3)
    real, synth = rng.standard_normal((30, 8)), rng.standard_normal((30, 8)) + 0.3
    sets = {"real": Summarised(real, None), "synth": Summarised(synth, None)}
    found = kid_subsets.compare(**sets, subsets=5, subset_size=1000, seed=0)
    assert found.value == pytest.approx(by_definition(real, synth), rel=1e-12)
    assert found.details["std"] == pytest.approx(0, abs=1e-12)
    assert found.warnings == ("subset_size=1000 was lowered to 30: one set has no more rows",)


@pytest.mark.parametrize("features", [np.zeros((9, 3)), np.full((9, 1), 1e8), np.full((9, 2), 1e-30)])
def test_constant_sets_have_defined_values(features: Floats) -> None:
    sets = {"real": Summarised(features, None), "synth": Summarised(features, None)}
    assert kid_subsets.compare(**sets, subsets=9, subset_size=4, seed=0).value == pytest.approx(
        0, abs=1e-9 * by_definition(features, 0 * features) + 1e-12
    )


@pytest.mark.parametrize(
    ("name", "value"), [("subsets", 0), ("subset_size", 1), ("subset_size", 2.0), ("seed", -1), ("seed", True)]
)
def test_parameters_are_checked(name: str, value: object) -> None:
    with pytest.raises(MetricError, match=f"{name}: expected a whole number"):
        kid_subsets.check(**{"subsets": 100, "subset_size": 1000, "seed": 0, name: value})
