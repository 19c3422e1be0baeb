"""Frechet distances on features like real ones, from a fifth to twenty times as many rows as features.

The rows have a power-law spectrum, are skewed as features behind an activation are, and have features that never vary.
What the distance of the distributions is, a large sample tells.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.coverage import THREADS

REPETITIONS = 200
WIDTH = 112
DEAD = 4
ROWS = (24, 40, 112, 224, 560, 2240)
LARGE = 100_000
LEVEL = 0.95
METRICS = ("fid", "fd_unbiased", "fd_infinity")
SETTINGS = {  # the spectrum's exponent; how much wider the last feature is in the synthetic set, and its shift
    "alike, 1/i": (1.0, 1.0, 0.0),
    "alike, 1/i^1.5": (1.5, 1.0, 0.0),
    "differing, 1/i": (1.0, 1.6, 0.5),
    "differing, 1/i^1.5": (1.5, 1.6, 0.5),
}

Found = dict[str, tuple[float, ...]]


def source(rng: np.random.Generator, rows: int, exponent: float, wider: float, shift: float) -> Any:
    scales = np.arange(1.0, WIDTH + 1) ** (-exponent / 2)
    features = rng.standard_normal((rows, WIDTH)) * scales * np.sqrt(np.linspace(1.0, wider, WIDTH))
    features = np.where(features > 0, features, 0.3 * features)
    features[:, 0] += shift
    features[:, -DEAD:] = 0.5
    return features.astype(np.float32)


def measure(setting: tuple[float, float, float], rows: int, repetition: int) -> Found:
    """Of each metric: the value, its interval and standard error, its stated bias, and whether two are called apart."""
    from simet_cache.metrics import Summaries, difference_of, evaluate

    exponent, wider, shift = setting
    rng = np.random.default_rng([rows, repetition])
    real = Summaries(source(rng, rows, exponent, 1.0, 0.0), device="cpu")
    first, second = (
        evaluate(
            real=real,
            synth=source(rng, rows, exponent, wider, shift),
            metrics=METRICS,
            intervals={"level": LEVEL, "seed": repetition},
        )
        for _ in range(2)
    )
    found: Found = {}
    for name, value in first.items():
        if value.interval is not None:
            apart = difference_of(value, second[name], level=LEVEL).better is not None
            ends = value.interval.low, value.interval.high, value.interval.standard_error
            found[name] = (value.value, *ends, value.details.get("bias", 0.0), apart)
    return found


def truth(setting: tuple[float, float, float]) -> float:
    from simet_cache.metrics import evaluate

    exponent, wider, shift = setting
    rng = np.random.default_rng(0)
    sets = source(rng, LARGE, exponent, 1.0, 0.0), source(rng, LARGE, exponent, wider, shift)
    return evaluate(real=sets[0], synth=sets[1], metrics=["fd_unbiased"])["fd_unbiased"].value


def row(name: str, rows: int, metric: str, true: float, found: list[Found]) -> str:
    values = [each[metric] for each in found if metric in each]
    if not values:
        return ""
    value, low, high, error, bias, apart = np.array(values).T
    held = ((low <= value.mean()) & (value.mean() <= high)).mean()
    cells = (
        name,
        f"{rows}",
        f"`{metric}`",
        f"{true:.3f}",
        f"{value.mean():.3f}",
        f"{value.mean() - true:.3f}" + (f" ({bias.mean():.3f})" if metric == "fid" else ""),
        f"{100 * held:.1f}",
        f"{error.mean() / value.std():.2f}",
        f"{100 * apart.mean():.1f}",
    )
    return f"| {' | '.join(cells)} |"


def run() -> str:
    os.environ |= THREADS
    context = multiprocessing.get_context("spawn")
    header = (
        "spectrum",
        "rows",
        "metric",
        "truth",
        "mean",
        "bias (stated)",
        "held, %",
        "error over spread",
        "apart, %",
    )
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for name, setting in SETTINGS.items():
            true = pool.submit(truth, setting).result()
            for rows in ROWS:
                found = list(pool.map(partial(measure, setting, rows), range(REPETITIONS), chunksize=10))
                lines += filter(None, (row(name, rows, metric, true, found) for metric in METRICS))
    said = (
        f"{REPETITIONS} repetitions in {WIDTH} features, {DEAD} of them dead, with equally many rows in both sets. "
        "Held: intervals that held the expectation at these rows. Error over spread: the mean standard error over the "
        "standard deviation of the values. Apart: two sets of one source that a paired difference called separated. "
        "The bias is the mean less the truth, and in brackets what `fid` says of it. No row: no interval is offered."
    )
    return "\n\n".join((said, "\n".join(lines)))
