"""Rankings: what is said of the best of many sets holds jointly, and among comparable sets alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simet_cache.errors import MetricError
from simet_cache.metrics import Copies, MetricValue, Summaries, difference, rank, ranking_of
from simet_cache.metrics.metric import Noise
from simet_cache.metrics.ranking import joint_level


def sets(seed: int, count: int, rows: int = 300, width: int = 4, shift: float = 0.0) -> dict[str, Any]:
    """So many sets of one source, of which the first is as it should be and the others are moved by ``shift``."""
    rng = np.random.default_rng([8, seed])
    return {f"set {n}": rng.standard_normal((rows, width)) + shift * (n > 0) for n in range(count)}


def real(seed: int, rows: int = 300, width: int = 4) -> Any:
    return np.random.default_rng([9, seed]).standard_normal((rows, width))


def of(value: float, own: float = 1.0, **changed: Any) -> MetricValue:
    given = dict(metric="kid", version=2, direction="lower", parameters={}, n_real=9, n_synth=9, width=2)
    given["noise"] = Noise(np.empty(0), count=1, own=own)
    return MetricValue(value=value, **{**given, **changed})


def ranked(level: float = 0.95, metric: str = "kid", **values: MetricValue) -> Any:
    return ranking_of(values, metric=metric, level=level)


@pytest.mark.parametrize(("sets_", "reach"), [(2, 1.9600), (3, 2.3437), (20, 3.5438), (100, 4.3025)])
def test_each_difference_has_the_quantile_of_the_studentized_range(sets_: int, reach: float) -> None:
    """3.314, 5.012 and 6.085 over the root of 2: tables of Tukey's q at 0.05 and infinite degrees of freedom."""
    from scipy import stats

    assert stats.norm.isf((1 - joint_level(0.95, sets_)) / 2) == pytest.approx(reach, abs=2e-3)


def test_two_sets_are_compared_as_a_plain_difference() -> None:
    pair = sets(1, 2, shift=0.4)
    found = rank(real=real(1), synths=pair, metrics=["kid"])["kid"]
    plain = difference(real=real(1), first=pair["set 0"], second=pair["set 1"], metrics=["kid"])["kid"]
    assert found.differences["set 1"].interval == plain.interval
    assert (found.order, found.separated, found.best) == (("set 0", "set 1"), ("set 1",), "set 0")


@pytest.mark.parametrize("metric", ["kid", "fid", "fd_unbiased", "fd_infinity"])
def test_of_twenty_equal_sets_hardly_any_is_called_separated(metric: str) -> None:
    """At 95% for each pair, at least one would be in 38 to 72% of all tries."""
    tries = 40
    wrong = sum(
        bool(rank(real=real(seed), synths=sets(seed, 20), metrics=[metric])[metric].separated) for seed in range(tries)
    )
    assert wrong <= 6  # of 40 at 95%: more than 6 once in 70


def test_long_tails_of_what_is_left_without_its_bias_are_counted() -> None:
    """Of 60 rankings of equal sets with three features; 9 had a best set with normal quantiles."""
    wrong = 0
    for seed in range(60):
        rng = np.random.default_rng([5, seed])
        reference, *others = (rng.standard_t(3, (200, 3)) for _ in range(21))
        found = rank(real=reference, synths={str(n): one for n, one in enumerate(others)}, metrics=["fd_unbiased"])
        wrong += bool(found["fd_unbiased"].separated)
    assert wrong <= 6


def test_a_set_that_is_clearly_better_is_the_best() -> None:
    found = rank(real=real(2), synths=sets(2, 6, rows=600, shift=1.0), metrics=["fid", "precision"])
    assert found["fid"].best == "set 0"
    assert set(found["fid"].separated) == {f"set {n}" for n in range(1, 6)}
    assert (found["fid"].open, found["fid"].left_out, found["fid"].remark) == ({}, {}, "")


def test_what_is_open_says_why() -> None:
    found = ranked(a=of(0.0, own=0.01), b=of(0.1, own=0.01), c=of(9.0, own=0.01))
    assert (found.order, found.separated, found.best) == (("a", "b", "c"), ("c",), None)
    assert found.open == {"b": "the interval of the difference holds 0, at 95% for all 3 sets together"}
    assert found.first == {"a"}


def test_a_best_set_without_interval_leaves_the_ranking_open() -> None:
    found = ranked(a=of(0.0, noise="too few rows"), b=of(9.0, own=0.01))
    assert found.open == {"b": "a has no interval: no intervals were asked for; set intervals: true"}
    found = ranked(a=of(0.0, noise=None, warnings=("no interval: too few rows",)), b=of(9.0, own=0.01))
    assert found.open == {"b": "a has no interval: too few rows"}
    assert found.best is None


def test_one_without_interval_leaves_the_best_open_and_not_the_others() -> None:
    found = ranked(a=of(0.0, own=0.01), b=of(1.0, noise=None), c=of(9.0, own=0.01))
    assert (found.separated, found.best) == (("c",), None)
    assert found.open["b"].startswith("b has no interval")


def test_copies_take_no_part() -> None:
    found = ranked(
        a=of(0.0, copies=Copies(9, 0, 9)), b=of(1.0, own=0.01), c=of(9.0, own=0.01, copies=Copies(1, 0, 999))
    )
    assert found.left_out == {"a": "9 of its 9 rows are copies of real ones"}
    assert (found.order, found.best) == (("b", "c"), "b")


def test_unequal_counts_are_left_out_where_they_matter() -> None:
    values = {"a": of(0.0, n_synth=66), "b": of(1.0), "c": of(2.0)}
    fid = {name: of(v.value, own=0.01, metric="fid", n_synth=v.n_synth) for name, v in values.items()}
    found = ranked(metric="fid", **fid)
    assert found.left_out == {"a": "66 rows, others 9: the metric depends on the number of rows"}
    assert found.best == "b"
    assert ranked(**values).left_out == {}


@pytest.mark.parametrize("metric", ["fd_unbiased", "fd_infinity"])
def test_no_set_is_separated_by_its_row_count_alone(metric: str) -> None:
    """With 2 rows for each feature, corrections of 200 and of 1,000 rows leave 0 and -3, or 11 and 14."""
    rng = np.random.default_rng(12)
    drawn = {"few": rng.standard_normal((200, 100)), "many": rng.standard_normal((1000, 100))}
    found = rank(real=rng.standard_normal((200, 100)), synths=drawn, metrics=[metric])[metric]
    assert (found.separated, found.best) == ((), None)
    assert len(found.left_out) == 1


def test_nothing_is_best_where_more_is_not_better() -> None:
    vendi = {name: of(value, metric="vendi", direction="higher") for name, value in (("a", 1.0), ("b", 99.0))}
    found = ranked(metric="vendi", **vendi)
    assert (found.order, found.first, found.best) == (("b", "a"), frozenset(), None)
    assert found.remark == "noise is the most diverse set"


def test_density_above_one_is_no_better_than_one() -> None:
    def density(value: float) -> MetricValue:
        return of(value, own=1e-4, metric="density", direction="higher", parameters={"k": 5})

    found = ranked(metric="density", a=density(1.01), b=density(99.0), c=density(0.5))
    assert found.first == {"a", "b"}
    assert set(found.separated) == {"c"}
    assert list(found.open) == [name for name in found.order if name != "c"][1:]


def test_one_set_alone_is_neither_first_nor_best() -> None:
    found = ranked(a=of(0.0))
    assert (found.order, found.first, found.best) == (("a",), frozenset(), None)


def test_sets_that_cannot_be_measured_are_left_out_with_the_reason() -> None:
    synths = sets(3, 3) | {"few": np.ones((1, 4))}
    found = rank(real=real(3), synths=synths, metrics=["kid", "precision"])
    assert found["kid"].left_out["few"].startswith("synth: expected at least 2 rows")
    assert len(found["kid"].order) == 3


def test_names_and_levels_that_make_no_sense_are_refused() -> None:
    with pytest.raises(MetricError, match="synths: expected a mapping of names to sets, found a list"):
        rank(real=real(4), synths=[*sets(4, 2).values()], metrics=["fid"])  # type: ignore[arg-type]
    with pytest.raises(MetricError, match="Unknown metric 'fidd'"):
        rank(real=real(4), synths=sets(4, 2), metrics=["fidd"])
    with pytest.raises(MetricError, match="expected a level between 0 and 1"):
        rank(real=real(4), synths=sets(4, 2), metrics=["fid"], level=2)


def test_metrics_of_labels_read_them_from_summaries() -> None:
    rng = np.random.default_rng(10)
    labels = np.arange(600) % 2
    rows = [Summaries(rng.standard_normal((600, 3)) + labels[:, None], labels=labels) for _ in range(2)]
    found = rank(
        real=rng.standard_normal((600, 3)) + labels[:, None],
        real_labels=labels,
        synths={"a": rows[0], "b": rows[1]},
        metrics=["tstr"],
    )["tstr"]
    assert len(found.order) == 2


@pytest.mark.slow
def test_few_far_rows_separate_no_equal_sets() -> None:
    """Of 150 log-normal rows a handful have most of the variance: whoever lacks them looks better, and surer of it."""
    wrong = 0
    for seed in range(40):
        rng = np.random.default_rng([seed, 5])
        sets = [np.exp(rng.standard_normal((150, 3))) for _ in range(21)]
        synths = {str(number): rows for number, rows in enumerate(sets[1:])}
        wrong += bool(rank(real=sets[0], synths=synths, metrics=["fd_unbiased"], device="cpu")["fd_unbiased"].separated)
    assert wrong <= 4, wrong
