"""Linear algebra: torch's way against NumPy's, and the bounds that decide which way is taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from simet_cache.metrics import fid, spectra

Floats = NDArray[np.float64]
TORCH = "cpu:0"  # to torch the CPU, to this module a device that is not NumPy's


def drawn(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape)


def read_only(features: NDArray[np.float32]) -> NDArray[np.float32]:
    features.flags.writeable = False
    return features


def upper(matrix: Floats) -> Floats:
    return np.triu(matrix)


TRIANGLE = np.triu(drawn(9, 9)) + 9 * np.eye(9)
SQUARE = TRIANGLE.T @ TRIANGLE

FUNCTIONS: dict[str, Callable[[str], Floats | None]] = {
    "cholesky_factor": lambda device: spectra.cholesky_factor(np.asfortranarray(upper(SQUARE)), device=device),
    "eigenvalues": lambda device: spectra.eigenvalues(upper(SQUARE), device=device),
    "eigenvectors": lambda device: np.abs(spectra.eigenvectors(upper(SQUARE), device=device)[1]),
    "gram of rows": lambda device: upper(spectra.gram(drawn(5, 9), device=device)),
    "gram of columns": lambda device: upper(spectra.gram(drawn(9, 5), device=device)),
    "gram of a view": lambda device: upper(spectra.gram(drawn(9, 5).T, device=device)),
    "inverse": lambda device: spectra.inverse(TRIANGLE, device=device),
    "product": lambda device: spectra.product(drawn(5, 9), TRIANGLE.T, device=device),
    "singular_values": lambda device: spectra.singular_values(drawn(7, 9), device=device),
    "times_triangle": lambda device: spectra.times_triangle(drawn(4, 9), TRIANGLE, device=device),
    "triangle": lambda device: np.abs(spectra.triangle(drawn(20, 9), device=device)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_finds_what_numpy_finds(name: str) -> None:
    by_torch, by_numpy = FUNCTIONS[name](TORCH), FUNCTIONS[name]("cpu")
    assert by_torch is not None
    assert by_numpy is not None
    assert by_torch.dtype == by_numpy.dtype == np.float64
    np.testing.assert_allclose(by_torch, by_numpy, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("device", ["cpu", TORCH])
def test_moments_are_those_of_the_centred_rows(dtype: type, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "BLOCK_ELEMENTS", 40)
    features, centre = read_only(drawn(100, 7).astype(dtype))[::-2], drawn(7, seed=1)
    total, products = spectra.moments(features, centre, device=device)
    rows = features.astype(np.float64) - centre
    np.testing.assert_allclose(total, rows.sum(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(upper(products), upper(rows.T @ rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rows", "scale"), [(60, 1.0), (60, 1e-9), (8, 1.0)])
def test_the_distance_and_its_noise_are_the_same_by_torch(rows: int, scale: float) -> None:
    """By Cholesky, by QR and by the rows themselves."""
    real, synth = drawn(rows, 9), 2 * drawn(rows + 1, 9, seed=1)
    real[:, :3] *= scale
    pairs = [
        fid.Pair(fid.summarise(real, device=device), fid.summarise(synth, device=device), device)
        for device in ("cpu", TORCH)
    ]
    assert pairs[1].distance == pytest.approx(pairs[0].distance, rel=1e-12)
    sides = [fid.sides_of(pair, real, synth, seed=0) for pair in pairs]
    for by_numpy, by_torch in zip(*sides, strict=True):
        np.testing.assert_allclose(by_torch.influence, by_numpy.influence, rtol=1e-9, atol=1e-11)
        assert by_torch.excess == pytest.approx(by_numpy.excess, rel=1e-9)


@pytest.mark.parametrize("device", ["cpu", TORCH])
@pytest.mark.parametrize(
    "least", [pytest.param(0.0, id="zero"), pytest.param(-1e-3, id="negative"), pytest.param(1e-14, id="in the noise")]
)
def test_there_is_no_cholesky_factor_of_what_is_nearly_singular(least: float, device: str) -> None:
    turn, _ = np.linalg.qr(drawn(6, 6))
    matrix = (turn * [1, 1, 1, 1, 1, least]) @ turn.T
    assert spectra.cholesky_factor(matrix, device=device) is None
    assert spectra.cholesky_factor(np.zeros((3, 3)), device=device) is None


@pytest.mark.parametrize("least", [1e-2, 1e-4, 1e-6])
def test_the_bound_on_the_roots_holds(least: float) -> None:
    for seed in range(20):
        left, _ = np.linalg.qr(drawn(30, 30, seed=seed))
        right, _ = np.linalg.qr(drawn(30, 30, seed=seed + 100))
        true = np.logspace(np.log10(least), 0, 30)
        values, bound = spectra.roots(
            spectra.eigenvalues(spectra.gram((left * true) @ right, device="cpu"), device="cpu")
        )
        assert abs(values.sum() - true.sum()) <= bound <= 1e-6


def test_the_roots_of_singular_squares_are_not_trusted() -> None:
    assert spectra.roots(np.array([0.0, 1.0]))[1] == np.inf
    values, bound = spectra.roots(np.array([-1e-20, 4.0]))
    assert bound == np.inf
    assert values.tolist() == [0.0, 2.0]
