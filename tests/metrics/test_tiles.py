"""Passes over the products of rows with rows: every pair once, and errors within what tiles state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.metrics import METRICS, Summaries, Summarised, evaluate, neighbours, passes, tiles

Floats = NDArray[np.float64]


class Recorder:
    """Notes what each pair's tile said, and how often it came."""

    def __init__(self, n: int, m: int, *, wide: bool = False) -> None:
        self.wide, self.kinds = wide, set()
        self.seen = np.zeros((n, m), dtype=int)
        self.lower, self.upper, self.products = (np.full((n, m), np.nan) for _ in range(3))

    def read(self, tile: tiles.Tile) -> None:
        self.kinds.add(tile.kind)
        row, column = (part.ravel() for part in np.indices(tile.products.shape))
        i, j = row + tile.rows.start, column + tile.columns.start
        np.add.at(self.seen, (i, j), 1)
        lower = tile.lower(row, column)
        self.lower[i, j], self.upper[i, j] = lower, lower + tile.slack(row, column)
        assert (tile.least_halves <= tile.halves).all()
        self.products[i, j] = tile.products.double().numpy().ravel()

    def results(self) -> list[Any]:
        return []


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_each_pair_comes_once(n: int, m: int, height: int, width: int, same: bool) -> None:
    rng = np.random.default_rng(0)
    left, right = tiles.opened(rng.standard_normal((n, 3)), rng.standard_normal((m, 3)), device="cpu")
    right = left if same else right
    recorder = Recorder(len(left), len(right))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ROWS", height)
        patch.setattr(tiles, "TILE_COLUMNS", width)
        tiles.read_all(left, right, [recorder])
    if same:
        either = recorder.seen + recorder.seen.T - np.diag(np.diag(recorder.seen))
        near = np.logical_and(recorder.seen, recorder.seen.T)
        assert (either[~near] == 1).all()
        assert (recorder.seen <= 1).all()
        assert not recorder.products[np.diag_indices(n)].any()
    else:
        assert (recorder.seen == 1).all()


MADE: dict[str, tuple[float, float, type[np.floating[Any]]]] = {
    "plain": (0, 1, np.float32),
    "mean 1000": (1000, 1, np.float32),
    "mean 1e8": (1e8, 1, np.float64),
    "float16": (1, 1, np.float16),
    "1e-30": (0, 1e-30, np.float64),
    "1e-38, float32": (0, 1e-38, np.float32),
    "1e39": (0, 1e39, np.float64),
}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("mean", "scale", "kind"), MADE.values(), ids=MADE)
def test_distances_are_within_the_stated_error(
    mean: float, scale: float, kind: type, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SMALL", 0)
    rng = np.random.default_rng(1)
    rows = [(rng.standard_normal((count, 400)) * scale + mean).astype(kind) for count in (30, 40)]
    left, right = tiles.opened(*rows, device="cpu")
    recorder = Recorder(30, 40, wide=wide)
    tiles.read_all(left, right, [recorder])
    assert recorder.kinds == {torch.float64 if wide else torch.float32}
    difference = rows[0][:, None].astype(np.float64) - rows[1][None]
    exact = (difference * difference).sum(axis=-1) * left.scale**2
    assert (recorder.lower <= exact).all()
    assert (exact <= recorder.upper).all()
    lengths = left.squared[:, None] + right.squared
    assert (recorder.upper - recorder.lower <= (1e-12 if wide else 3e-4) * lengths).all()  # and of some use


def test_rounding_goes_one_way() -> None:
    values = np.random.default_rng(2).standard_normal(1000) * 10.0 ** np.arange(-50, 50).repeat(10)
    assert (tiles.rounded(values, torch.float32) <= values).all()
    assert (tiles.rounded(values, torch.float32, up=True) >= values).all()


def test_short_passes_are_float64_and_long_ones_float32() -> None:
    rng = np.random.default_rng(3)
    for n, kind in ((1000, torch.float64), (1100, torch.float32)):
        (rows,) = tiles.opened(rng.standard_normal((n, 2048), dtype=np.float32), device="cpu")
        recorder = Recorder(n, n)
        recorder.read = lambda tile, kinds=recorder.kinds: kinds.add(tile.kind)  # type: ignore[method-assign]
        tiles.read_all(rows, rows, [recorder])
        assert recorder.kinds == {kind}


def test_what_has_a_reader_is_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    whole = passes.read_all
    monkeypatch.setattr(
        passes, "read_all", lambda left, right, readers: (passed.append(len(readers)), whole(left, right, readers))[1]
    )
    rng = np.random.default_rng(4)
    real, synth = rng.standard_normal((80, 5)), rng.standard_normal((70, 5)) + 0.3
    metrics = ["fid", "kid", "precision", "recall", "density", "coverage"]
    together = evaluate(real=real, synth=synth, metrics=metrics)
    assert len(passed) == 3  # each set with itself, and both
    apart = {name: evaluate(real=real, synth=synth, metrics=[name])[name] for name in metrics}
    assert together == apart
    assert list(together) == metrics

    passed.clear()
    sets = {"real": Summaries(real), "synth": Summaries(synth)}
    evaluate(**sets, metrics=metrics)
    evaluate(**sets, metrics=metrics)
    assert len(passed) == 4  # summaries once


@pytest.mark.parametrize("function", passes.READERS, ids=[function.__qualname__ for function in passes.READERS])
def test_alone_and_in_a_pass_a_function_says_the_same(function: Any) -> None:
    rng = np.random.default_rng(5)
    features, other = rng.standard_normal((60, 5)), rng.standard_normal((50, 5))
    if function.__name__ in ("radii", "summarise"):
        wanted = [(function, {"k": 3}), (np.shape, {}), (function, {"k": 5})]
        first, second, third = passes.summaries_of(features, wanted, device="cpu")
        alone = [function(features, **passes.named(function, {"k": k})) for k in (3, 5)]
    else:
        sides = (Summarised(rows, neighbours.radii(rows, k=3)) for rows in (features, other))
        real, synth = sides
        call = (function, real, synth, {"k": 3})
        first, second, third = passes.joints_of(
            [call, (lambda *, real, synth: len(real.features), real, synth, {}), call]
        )
        alone = [function(real=real, synth=synth, **passes.named(function, {"k": 3}))] * 2
    assert second in (60, (60, 5))
    np.testing.assert_equal([flat(first), flat(third)], [flat(result) for result in alone])


def flat(result: Any) -> Any:
    """A dataclass of arrays, and of such dataclasses, as a dict."""
    return {name: flat(value) for name, value in vars(result).items()} if hasattr(result, "__dict__") else result


def test_tf32_is_as_it_was_after_a_pass() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    inside: list[bool] = []
    rows = tiles.opened(np.zeros((3, 2)), device="cpu")[0]
    recorder = Recorder(3, 3)
    recorder.read = lambda _: inside.append(torch.backends.cuda.matmul.allow_tf32)  # type: ignore[method-assign]
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        tiles.read_all(rows, rows, [recorder])
        assert inside == [False]
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("values", [1, 1000], ids=["collapsed", "spread"])
def test_no_list_grows_with_the_square_of_the_rows(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "LISTED", 1000)
    monkeypatch.setattr(tiles, "TILE_ROWS", 128)
    monkeypatch.setattr(tiles, "TILE_COLUMNS", 256)
    n, k, longest = 1500, 3, 0
    features = np.random.default_rng(6).integers(0, values, (n, 4)).astype(np.float32)
    (rows,) = tiles.opened(features, device="cpu")
    reader = neighbours.RadiiReader(rows, [{"k": k}])
    take = reader.candidates._take

    def taken(*given: Any, **named: Any) -> None:
        nonlocal longest
        take(*given, **named)
        longest = max(longest, sum(map(len, reader.candidates.kept)))

    monkeypatch.setattr(reader.candidates, "_take", taken)
    tiles.read_all(rows, rows, [reader])
    assert k * n <= longest < 4 * k * n


def test_every_metric_that_could_be_read_in_a_pass_has_a_reader() -> None:
    makers = {maker for metric in METRICS.values() for maker in (metric.summarise, metric.join) if maker}
    assert {maker for maker in makers if maker.__module__.endswith(("neighbours", ".kid"))} <= set(passes.READERS)
