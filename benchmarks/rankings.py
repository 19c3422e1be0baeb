"""How often a ranking of equal sets claims that the best one is separated from another, simulated.

All sets and the reference are drawn from one source, so that every such claim is wrong; at 95% one ranking in twenty
may make one, or more. What pairs at 95% each would have claimed stands beside it.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from benchmarks.coverage import QUICK, THREADS

REPETITIONS = 40
SETS = (2, 5, 20)
MANY = 100  # sets, by metrics that take hundredths of a second
QUICK_ONES = ("fid", "fd_unbiased", "fd_infinity", "kid", "cmmd", "mind", "inception_score")
ROWS, WIDTH = 500, 16
LEVEL = 0.95
ALLOWED = 0.13  # of 40 rankings at 95%: more once in seventy

Wrong = dict[str, dict[int, tuple[bool, bool]]]  # by metric and number of sets: jointly, and pair by pair


def source(rng: np.random.Generator) -> Any:
    """Rows as features are: not negative, clustered, with a power-law spectrum; the cluster is the label."""
    from simet_cache.metrics import Summaries

    labels = rng.integers(4, size=ROWS)
    scales = np.arange(1.0, WIDTH + 1) ** -0.5
    centres = np.random.default_rng(0).standard_normal((4, WIDTH)) * scales
    rows = np.maximum(1.0 + centres[labels] + 0.7 * rng.standard_normal((ROWS, WIDTH)) * scales, 0.0)
    return Summaries(rows.astype(np.float32), labels=labels, device="cpu")


def measure(repetition: int) -> Wrong:
    from simet_cache.metrics import METRICS, Interval, MetricValue, difference_of, evaluate_each, ranking_of

    rng = np.random.default_rng([1, repetition])
    real = source(rng)
    offered = {name: QUICK.get(name) for name, metric in METRICS.items() if metric.noise or metric.blocks}
    values: dict[str, dict[str, MetricValue]] = {name: {} for name in offered}
    for number in range(MANY):
        asked = offered if number < max(SETS) else {name: offered[name] for name in QUICK_ONES}
        found, _ = evaluate_each(asked, real=real, synth=source(rng), intervals={"level": LEVEL, "seed": repetition})
        for name, value in found.items():
            values[name][str(number)] = value
    wrong: Wrong = {}
    for name, of_sets in values.items():
        if not all(isinstance(value.interval, Interval) for value in of_sets.values()) or METRICS[name].no_best:
            continue
        wrong[name] = {}
        for count in (*SETS, MANY) if name in QUICK_ONES else SETS:
            some = dict(list(of_sets.items())[:count])
            ranking = ranking_of(some, metric=name, level=LEVEL)
            best, *others = ranking.order
            pairs = (difference_of(some[best], some[other], level=LEVEL) for other in others)
            wrong[name][count] = bool(ranking.separated), any(pair.better is not None for pair in pairs)
    return wrong


def table(found: list[Wrong]) -> tuple[str, list[str]]:
    counts = (*SETS, MANY)
    lines = [f"| | {' | '.join(f'{count} sets' for count in counts)} |", "|---" * (len(counts) + 1) + "|"]
    above = []
    for name in found[0]:
        cells = []
        for count in counts:
            if count not in found[0][name]:
                cells.append("-")
                continue
            joint, apart = (np.mean([each[name][count][which] for each in found]) for which in (0, 1))
            cells.append(f"{joint:.0%} ({apart:.0%})")
            if joint > ALLOWED:
                above.append(f"`{name}` ({count})")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines), above


def run() -> str:
    os.environ |= THREADS
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        found = list(pool.map(measure, range(REPETITIONS)))
    rows, above = table(found)
    return "\n\n".join(
        (
            f"Share of {REPETITIONS} rankings of equal sets of {ROWS} rows in {WIDTH} features that called the best "
            f"one separated from another; in brackets what pairs at {LEVEL:.0%} each would have. "
            f"Bar: at most {ALLOWED:.0%} (5% and its error).",
            rows,
            f"Above the bar: {', '.join(above) or 'none'}.",
        )
    )
