"""No metric, interval or ranking depends on the order in which rows were saved.

Sets are saved class by class, or the classes in turn; whatever is taken by position then is of some classes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from simet_cache.metrics import METRICS, MetricValue, Summaries, evaluate

ROWS, WIDTH, CLASSES = 1500, 6, 10


def rank_within(labels: Any) -> Any:
    """Of each row, how many of its class stand before it."""
    return np.argsort(np.argsort(labels, kind="stable")) % (ROWS // CLASSES)


ORDERS: dict[str, Callable[[np.random.Generator, Any], Any]] = {
    "class by class": lambda _, labels: np.argsort(labels, kind="stable"),
    "classes in turn": lambda _, labels: np.lexsort((labels, rank_within(labels))),
    "shuffled": lambda rng, labels: rng.permutation(len(labels)),
}
# what draws rows by a seed: folds, subsets, halves, parts. Its values may move as far as other draws move them.
DRAWN = {"fd_unbiased", "fd_infinity", "kid_subsets", "inception_score", "roc_auc", "tstr", "trts"}
QUICK: dict[str, dict[str, Any]] = {
    "roc_auc": {"classifier": "logistic"},
    "mind": {"directions": 16},
    "kid_subsets": {"subsets": 20, "subset_size": 300},
}


def sets(seed: int) -> tuple[Any, Any]:
    """Ten equally frequent classes of unequal place, every second one wide, shuffled; the second set is wider."""
    rng = np.random.default_rng([7, seed])
    labels = rng.permutation(np.arange(ROWS) % CLASSES)
    spread = (1 + 0.3 * seed) * np.where(labels % 2, 2.0, 0.2)[:, None]
    return spread * rng.standard_normal((ROWS, WIDTH)) + 0.3 * labels[:, None], labels


def measured(name: str, order: str) -> MetricValue:
    sides = []
    for seed in (0, 1):
        rows, labels = sets(seed)
        place = ORDERS[order](np.random.default_rng(seed), labels)
        assert sorted(place) == list(range(ROWS))
        sides.append(Summaries(rows[place], labels=labels[place], device="cpu"))
    return evaluate(real=sides[0], synth=sides[1], metrics={name: QUICK.get(name)}, intervals=True)[name]


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_rows_changes_nothing_beyond_what_draws_do(name: str) -> None:
    found = [measured(name, order) for order in ORDERS]
    errors = [value.interval.standard_error for value in found if value.interval]
    assert len(errors) in (0, len(found))
    spread = max(value.value for value in found) - min(value.value for value in found)
    if name not in DRAWN:
        assert spread <= 1e-9 * abs(found[0].value)
    elif errors:
        assert spread <= 4 * min(errors)
    if errors:  # those of ten parts have nine degrees of freedom: one in a hundred is off by more than this factor
        assert max(errors) <= 2.2 * min(errors)
