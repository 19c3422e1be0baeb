"""Copies of real rows: exact ones are counted exactly, near ones beyond what samples of one source have in common."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.models import resnet18

from simet_cache.metrics import Copies, Summaries, evaluate
from simet_cache.metrics.duplicates import copies_of
from tests.metrics.brute import HARD, hard_pair

Array = NDArray[Any]
Maker = Callable[[np.random.Generator, int], Array]


def counted(real: Array, synth: Array) -> Copies:
    return copies_of(real=Summaries(real, device="cpu"), synth=Summaries(synth, device="cpu"))


def blurred(rng: np.random.Generator, rows: Array, width: float = 0.1) -> Array:
    return np.asarray(rows + width * rng.standard_normal(rows.shape))


def with_twins(rng: np.random.Generator, rows: int, width: int = 64, share: float = 0.05) -> Array:
    """Rows of which some are nearly equal to another one, as in collections of photographs."""
    found = rng.standard_normal((rows, width))
    twins = rng.random(rows) < share
    found[twins] = blurred(rng, found[rng.integers(0, rows, twins.sum())])
    return found


# Exact copies


@pytest.mark.parametrize("name", HARD)
def test_exact_copies_are_those_that_equal_a_real_row(name: str) -> None:
    real, synth = hard_pair(HARD[name])
    known = {row.tobytes() for row in real + 0.0}
    assert counted(real, synth).exact == sum(row.tobytes() in known for row in synth + 0.0)


def test_a_set_that_is_the_reference_is_all_copies() -> None:
    real = np.random.default_rng(0).standard_normal((300, 8))
    found = evaluate(real=real, synth=real.copy(), metrics=["fid"], device="cpu")["fid"]
    assert found.copies == Copies(exact=300, near=0, rows=300)
    assert found.copies.suspicious
    assert "possible leakage: 300 of 300 synthetic rows equal a real one" in found.warnings


# Near copies


@pytest.mark.parametrize("width", [8, 64, 2048])
def test_near_copies_are_counted(width: int) -> None:
    rng = np.random.default_rng(width)
    real, fresh = rng.standard_normal((400, width)), rng.standard_normal((250, width))
    synth = np.vstack([fresh, blurred(rng, real[:50], 0.05), real[50:60]]).astype(np.float32)
    found = evaluate(real=real.astype(np.float32), synth=synth, metrics=["precision"], device="cpu")["precision"]
    assert found.copies is not None
    assert (found.copies.exact, found.copies.rows) == (10, 310)
    assert 47 <= found.copies.near <= 50
    assert [warning.partition(" (")[0] for warning in found.warnings if "leakage" in warning] == [
        "possible leakage: 10 of 310 synthetic rows equal a real one",
        f"possible leakage: {found.copies.near} of 310 synthetic rows are nearly equal to a real one",
    ]


def test_few_near_copies_are_found_in_large_sets() -> None:
    rng = np.random.default_rng(1)
    real, fresh = rng.standard_normal((9000, 64)), rng.standard_normal((2900, 64))
    assert 95 <= counted(real, np.vstack([fresh, blurred(rng, real[::90])])).near <= 100


def test_one_real_row_that_is_copied_over_and_over() -> None:
    rng = np.random.default_rng(2)
    real = rng.standard_normal((2000, 32))
    assert counted(real, blurred(rng, np.repeat(real[:3], 100, axis=0))).near == 300


def test_natural_twins_are_taken_off() -> None:
    rng = np.random.default_rng(3)
    rows = with_twins(rng, 4000)
    assert counted(rows[:2000], rows[2000:]).near == 0
    assert counted(rows[:2000], np.vstack([rows[2000:], blurred(rng, rows[:200])])).near == pytest.approx(200, abs=40)


@cache
def photographs() -> tuple[list[Image.Image], list[Image.Image]]:
    """Crops of two photographs, as real images and as new ones."""
    folder = Path(sklearn.datasets.__file__).parent / "images"
    photos = [Image.open(folder / name).convert("RGB") for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(0)

    def crop() -> Image.Image:
        photo, side = photos[rng.integers(2)], int(rng.integers(64, 200))
        left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
        return photo.crop((left, top, left + side, top + side)).resize((64, 64))

    return [crop() for _ in range(250)], [crop() for _ in range(80)]


@cache
def features_of_photographs() -> tuple[Array, Array]:
    real, fresh = photographs()
    return features(real), features(fresh)


@cache
def random_network() -> torch.nn.Module:
    torch.manual_seed(0)
    network = resnet18(weights=None)
    network.fc = torch.nn.Identity()
    return network.eval()


def features(images: list[Image.Image]) -> Array:
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        found = random_network()(torch.from_numpy(pixels / 127.5 - 1.0))
    return np.asarray(found.numpy())


def compressed(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


@pytest.mark.parametrize("quality", [95, 85, 75])
def test_images_that_were_compressed_again(quality: int) -> None:
    real, fresh = features_of_photographs()
    leaked = features([compressed(image, quality) for image in photographs()[0][:80]])
    assert counted(real, fresh).near == 0
    found = counted(real, np.vstack([fresh, leaked]))
    assert found.exact == 0
    assert 60 <= found.near <= 80


# Samples of one source have none

SOURCES: dict[str, Maker] = {
    "1 feature": lambda rng, n: rng.standard_normal((n, 1)),
    "2 features": lambda rng, n: rng.standard_normal((n, 2)),
    "8 features": lambda rng, n: rng.standard_normal((n, 8)),
    "64 features": lambda rng, n: rng.standard_normal((n, 64)),
    "2048 features": lambda rng, n: rng.standard_normal((n, 2048)),
    "heavy tails": lambda rng, n: rng.standard_t(1.5, (n, 8)),
    "twins": with_twins,
    "many of a kind": lambda rng, n: blurred(rng, rng.standard_normal((n // 4, 64))[rng.integers(0, n // 4, n)]),
    "rows of zeros": lambda rng, n: np.maximum(rng.standard_normal((n, 16)), 0) * (rng.random((n, 1)) < 0.5),
    "one-hot": lambda rng, n: np.eye(64)[rng.integers(0, 64, n)],
    "lattice": lambda rng, n: rng.integers(0, 5, (n, 4)).astype(np.float64),
    "constant": lambda _, n: np.ones((n, 4)),
    "modes of unequal width": lambda rng, n: (
        blurred(rng, 9.0 * np.eye(10)[rng.integers(0, 10, n)], 1.0) * np.where(rng.random((n, 1)) < 0.3, 0.01, 1.0)
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SOURCES)
def test_two_samples_of_one_source_have_no_near_copies(name: str, seed: int) -> None:
    rows = SOURCES[name](np.random.default_rng(seed), 1400)
    order = np.random.default_rng(100 + seed).permutation(len(rows))
    assert counted(rows[order[:800]], rows[order[800:]]).near == 0


def test_a_model_that_stays_where_real_rows_are_much_alike_copies_none() -> None:
    """A tenth of the real rows vary in two features alone, where one in four is a near copy by chance."""
    rng = np.random.default_rng(4)
    flat = np.hstack([rng.standard_normal((900, 2)), np.zeros((900, 62))])
    real = np.vstack([20.0 + rng.standard_normal((2000, 64)), flat[:300]])
    assert counted(real, flat[300:]).near == 0


# What must not matter


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    real = with_twins(rng, 3000, width=40)
    synth = np.vstack([with_twins(rng, 800, width=40), blurred(rng, real[:300]), real[300:320]])
    found = counted(real, synth)
    assert found.near > 100
    for _ in range(3):
        assert counted(rng.permutation(real), rng.permutation(synth)) == found


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_unit_of_features_does_not_matter(scale: float, dtype: Any) -> None:
    rng = np.random.default_rng(6)
    real = rng.standard_normal((500, 48))
    synth = np.vstack([rng.standard_normal((200, 48)), blurred(rng, real[:60])])
    assert counted((real * scale).astype(dtype), (synth * scale).astype(dtype)) == Copies(exact=0, near=60, rows=260)


def test_a_large_mean_and_an_outlier_do_not_matter() -> None:
    rng = np.random.default_rng(7)
    real = np.vstack([rng.standard_normal((500, 48)), np.full((1, 48), 1e9)])
    synth = np.vstack([rng.standard_normal((200, 48)), blurred(rng, real[:60]), np.full((1, 48), -1e12)])
    assert counted(real + 1e6, synth + 1e6).near == 60


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_tiny_sets_are_counted(rows: int) -> None:
    real = np.random.default_rng(8).standard_normal((rows, 4))
    assert counted(real, real + 1e-6) == Copies(exact=0, near=0, rows=rows)
    assert counted(real, real) == Copies(exact=rows, near=0, rows=rows)


# In values


def test_copies_of_each_class_are_counted_among_its_rows() -> None:
    rng = np.random.default_rng(9)
    real, synth = rng.standard_normal((200, 16)), rng.standard_normal((80, 16))
    synth[:5] = real[:5]  # of class 0 on both sides
    synth[79] = real[6]  # of class 1, and a copy of a row of class 0
    found = evaluate(
        real=real,
        synth=synth,
        metrics=["fid"],
        per_class=True,
        real_labels=np.arange(200) // 100,
        synth_labels=np.arange(80) // 40,
        device="cpu",
    )["fid"]
    assert found.copies == Copies(exact=6, near=0, rows=80)
    assert {label: one.copies for label, one in found.per_class.items()} == {
        "0": Copies(exact=5, near=0, rows=40),
        "1": Copies(exact=0, near=0, rows=40),
    }


def test_blocks_for_intervals_are_not_searched_for_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def spied(**sets: Summaries) -> Copies:
        calls.append({side: len(rows) for side, rows in sets.items()})
        return copies_of(**sets)

    monkeypatch.setattr(import_module("simet_cache.metrics.evaluate"), "copies_of", spied)
    rng = np.random.default_rng(10)
    real, synth = rng.standard_normal((600, 4)), rng.standard_normal((500, 4))
    found = evaluate(real=real, synth=synth, metrics=["precision", "fid"], intervals=True, device="cpu")
    assert found["precision"].interval is not None
    assert calls == [{"real": 600, "synth": 500}]


def test_rows_that_the_real_set_has_many_times_are_equal_by_nature() -> None:
    """Blank images, or features of few values: counted as equal, and no reason to leave a set out of rankings."""
    rng = np.random.default_rng(31)
    real, synth = rng.standard_normal((2, 500, 8))
    real[:25], synth[:25] = 1.0, 1.0
    found = evaluate(real=real, synth=synth, metrics=["fid"])["fid"].copies
    assert found == Copies(exact=25, near=0, rows=500, common=25)
    assert not found.suspicious
    synth[25:50] = real[25:50]
    found = evaluate(real=real, synth=synth, metrics=["fid"])["fid"].copies
    assert (found.exact, found.common, found.suspicious) == (50, 25, True)
