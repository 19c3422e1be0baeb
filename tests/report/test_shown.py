"""Of a thousand sets a person is shown those that matter, and told how many there are besides."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from simet_cache.report.results import EvaluationResults, Table
from simet_cache.report.shown import FEWEST_ROWS, MOST_ROWS, MOST_TABLES, parts
from simet_cache.restraints import Verdict

Results = Callable[..., EvaluationResults]
Tables = Callable[..., Table]


def names(results: EvaluationResults, number: int = 0) -> list[str]:
    return [one.name for one in parts(results)[0][number].datasets]


def sweep(count: int = 1000, **special: object) -> dict[str, object]:
    """Sets whose fid rises, the best first, and whose precision is the same but for the last."""
    found = {f"s{n}": {"fid": 1.0 + n, "precision": float(n == count - 1)} for n in range(count)}
    return {**found, **special}


def test_few_are_all_shown(results: Results) -> None:
    found = results(sweep(MOST_ROWS))
    assert names(found) == list(sweep(MOST_ROWS))
    assert parts(found)[0][0].left_out == ""


def test_of_many_the_best_the_broken_and_the_failed_are_shown_in_their_order(results: Results) -> None:
    verdicts = tuple(
        Verdict(name, "fid", 3.0, None, bound, "real", "fid_inception")
        for name, bound in (("s700", 2.0), ("s800", 4.0))
    )
    found = results(sweep(s500="no image", s600={"fid": "one row"}), verdicts=verdicts)
    shown = names(found)
    assert len(shown) == MOST_ROWS
    assert shown[-4:] == ["s500", "s600", "s700", "s999"]
    assert shown[:-4] == [f"s{n}" for n in range(MOST_ROWS - 4)]  # the best by fid
    assert parts(found)[0][0].left_out == (
        "50 of 1000 datasets: the first by each metric, what broke a restraint, what holds copies of real rows, what"
        " failed, then the first by FID; results.csv has the other 950, too"
    )


def test_the_best_is_shown_however_many_failed_and_the_rest_is_counted(results: Results) -> None:
    failing = {f"s{n}": "no image" for n in range(100, 900)}
    verdicts = tuple(Verdict(f"s{n}", "fid", 3.0, None, 2.0, "real", "fid_inception") for n in range(30, 130))
    found = results(sweep(**failing), verdicts=verdicts)
    shown = names(found)
    assert len(shown) == MOST_ROWS
    assert {"s0", "s999"} <= set(shown)
    assert sum(name in failing for name in shown) == 0  # 70 that broke a restraint by their value come first
    assert parts(found)[0][0].left_out.endswith("results.csv has the other 950 (22 broke a restraint, 800 failed), too")


def test_sets_with_copies_of_real_rows_are_shown_and_have_no_place_among_the_best(results: Results) -> None:
    copied = {"fid": {"number": 500.0, "copies": (50, 0)}, "precision": 0.5}
    best = {"fid": {"number": 0.0, "copies": (1, 0)}, "precision": 0.5}
    shown = names(results(sweep(s700=copied, s800=best)))
    assert shown[-3:] == ["s700", "s800", "s999"]
    assert shown[:-3] == [f"s{n}" for n in range(MOST_ROWS - 3)]


def test_ties_do_not_crowd_the_others_out_of_sight(results: Results) -> None:
    found = results({f"s{n}": {"fid": 1.0} for n in range(100)} | {"failed": "no image"})
    assert len(names(found)) == MOST_ROWS
    assert "failed" in names(found)


@pytest.mark.parametrize(("tables", "rows"), [(1, 50), (4, 50), (8, 25), (20, 10), (40, 10)])
def test_the_more_tables_the_fewer_rows_of_each(results: Results, table: Tables, tables: int, rows: int) -> None:
    found = results(tables=tuple(table(sweep(60), reference=f"r{n}") for n in range(tables)))
    shown, hidden = parts(found)
    assert {len(part.datasets) for part in shown} == {rows}
    assert (len(shown), hidden) == (min(tables, MOST_TABLES), max(tables - MOST_TABLES, 0))
    assert rows >= FEWEST_ROWS


def test_tables_in_which_something_is_wrong_are_never_those_left_out(results: Results, table: Tables) -> None:
    tables = [table(sweep(3), reference=f"r{n}") for n in range(60)]
    tables[50] = table(sweep(3, s1="no image"), reference="r50")
    verdict = Verdict("s1", "fid", 3.0, None, 2.0, "r55", "fid_inception")
    shown, hidden = parts(results(tables=tuple(tables), verdicts=(verdict,)))
    assert [part.table.reference.name for part in shown] == [*(f"r{n}" for n in range(18)), "r50", "r55"]
    assert hidden == 40


def test_verdicts_belong_to_their_table(results: Results, table: Tables) -> None:
    tables = (table(sweep(3)), table(sweep(3), suffix="resnet18_random0"))
    verdict = Verdict("s1", "fid", 3.0, None, 2.0, "real", "resnet18_random0")
    first, second = parts(results(tables=tables, verdicts=(verdict,)))[0]
    assert (dict(first.verdicts), dict(second.verdicts)) == ({}, {"s1": [verdict]})


def test_a_sweep_of_which_nothing_is_left_to_show(results: Results) -> None:
    assert names(results({f"s{n}": "no image" for n in range(100)})) == [f"s{n}" for n in range(MOST_ROWS)]


def test_the_rest_of_the_rows_are_the_best_by_the_first_metric_wherever_they_stand(results: Results) -> None:
    found = results({f"s{n}": {"fid": 1000.0 - n} for n in range(1000)}, metrics=("fid",))
    assert names(found) == [f"s{n}" for n in range(950, 1000)]
