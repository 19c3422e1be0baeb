"""A request ends what is under way: extractions between images, waiting for locks, and every long loop of a metric."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simet_cache import locks, stopping
from simet_cache.errors import StoppedError
from simet_cache.metrics import cmmd, mlp
from simet_cache.metrics.rows import blocks, slices
from simet_cache.metrics.tiles import opened, read_all
from simet_cache.store import FeatureStore

KEY = "0" * 32


@pytest.fixture(autouse=True)
def run() -> Iterator[None]:
    with stopping.listening():
        yield


def test_without_a_request_everything_goes_on() -> None:
    stopping.check()
    assert not stopping.requested()


def test_a_request_ends_it_until_the_run_is_over() -> None:
    stopping.request()
    assert stopping.requested()
    for _ in range(2):
        with pytest.raises(StoppedError, match="the next run goes on from there"):
            stopping.check()


def test_a_request_does_not_outlive_its_run() -> None:
    with ThreadPoolExecutor(1) as pool:  # the fixture's run has not begun there, and must not matter
        pool.submit(stopping.check).result()
    stopping._listeners = 0
    try:
        stopping.request()
        with stopping.listening():
            stopping.check()
            stopping.request()
            with stopping.listening():  # a second one at the same time is stopped with the first
                assert stopping.requested()
            assert stopping.requested(), "the first is still under way"
        stopping.check()
    finally:
        stopping._listeners = 1


def test_a_signal_handler_may_ask_for_it() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: stopping.request())
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stopping.requested()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("patience", [0.01, 60])
def test_who_waits_for_a_key_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
    """Before and after it was said for whom it waits."""
    monkeypatch.setattr(locks, "_PATIENCE", patience)
    store, waiting = FeatureStore(tmp_path), threading.Event()
    find = store.find
    monkeypatch.setattr(store, "find", lambda *a, **b: (find(*a, **b), waiting.set())[0])
    with store.lock(KEY), ThreadPoolExecutor(1) as pool:
        future = pool.submit(store.get_or_compute, KEY, lambda: np.ones((2, 2), np.float32))
        waiting.wait()
        assert not future.done()
        stopping.request()
        with pytest.raises(StoppedError):
            future.result(timeout=30)
    with stopping.listening():
        assert not store.path(KEY).exists()


# Metrics


class Asks:
    """A reader that asks for the end when it has seen some tiles."""

    wide = False

    def __init__(self) -> None:
        self.seen = 0

    def read(self, tile: Any) -> None:
        self.seen += 1
        stopping.request()

    def results(self) -> list[Any]:
        return []


def test_a_pass_stops_at_the_next_tile() -> None:
    rng = np.random.default_rng(0)
    left, right = opened(rng.normal(size=(3000, 4)), rng.normal(size=(3000, 4)), device="cpu")
    reader = Asks()
    with pytest.raises(StoppedError):
        read_all(left, right, [reader])
    assert reader.seen == 1


def test_training_stops_at_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    monkeypatch.setattr(mlp, "_logits", lambda weights, rows, _: (steps.append(1), stopping.request(), 0)[2])
    monkeypatch.setattr(mlp, "binary_cross_entropy_with_logits", lambda *_: 0)
    monkeypatch.setattr("torch.autograd.backward", lambda _: None)
    rows = np.ones((2000, 3), np.float32)
    with pytest.raises(StoppedError):
        mlp.scores(rows, labels=np.ones(2000, np.float32), scored=rows, seed=0, device="cpu")
    assert len(steps) == 1


@pytest.mark.parametrize(
    "work",
    [
        lambda rows: list(slices(10, 3)),
        lambda rows: list(blocks(rows)),
        lambda rows: cmmd.summarise(rows, sigma=10.0, normalise=True),
    ],
)
def test_loops_over_rows_stop(work: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3))
    work(rows)
    stopping.request()
    with pytest.raises(StoppedError):
        work(rows)
