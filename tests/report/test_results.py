"""Results as data: what passes, what is best, how things are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from simet_cache.metrics import Ranking
from simet_cache.report.results import DatasetResult, EvaluationResults, Table
from simet_cache.restraints import Verdict

Results = Callable[..., EvaluationResults]
Tables = Callable[..., Table]

HOLDS = Verdict("a", "fid", 1.0, None, 2.0, "real", "fid_inception")
BROKEN = Verdict("a", "fid", 3.0, None, 2.0, "real", "fid_inception")


@pytest.mark.parametrize(
    ("datasets", "verdicts", "passed", "summary"),
    [
        ({"a": {"fid": 1.0}}, (), True, "1 of 1 datasets measured"),
        ({"a": {"fid": 1.0}}, (HOLDS,), True, "1 of 1 datasets measured; 1 of 1 restraints hold"),
        ({"a": {"fid": 1.0}}, (HOLDS, BROKEN), False, "1 of 1 datasets measured; 1 of 2 restraints hold"),
        ({"a": {"fid": 1.0}, "b": "no image"}, (), False, "1 of 2 datasets measured"),
        ({"a": "no image"}, (HOLDS,), False, "0 of 1 datasets measured; 1 of 1 restraints hold"),
    ],
)
def test_only_all_measured_and_all_held_passes(
    results: Results, datasets: dict[str, object], verdicts: tuple[Verdict, ...], passed: bool, summary: str
) -> None:
    found = results(datasets, verdicts=verdicts)
    assert found.passed is passed
    assert found.summary == summary
    assert found.to_json()["passed"] is passed


def standings(found: Table, metric: str) -> dict[str, str]:
    """Those that stand out, by dataset."""
    named = {one.name: found.standing(one.name, metric) for one in found.datasets}
    return {name: standing for name, standing in named.items() if standing}


def test_the_first_is_the_lowest_or_the_highest_and_ties_share_it(table: Tables) -> None:
    found = table(
        {
            "a": {"fid": 2.0, "precision": 0.5},
            "b": {"fid": 1.0, "precision": 0.9},
            "c": {"fid": 1.0, "precision": 0.1},
            "d": "no image",
        }
    )
    assert standings(found, "fid") == {"b": "first", "c": "first"}
    assert standings(found, "precision") == {"b": "first"}
    assert standings(table({"a": "no image"}), "fid") == {}


def test_only_who_is_separated_from_all_others_is_the_best(table: Tables) -> None:
    near, far = ({"number": number, "error": 0.1} for number in (1.2, 3.0))
    mine = {"number": 1.0, "error": 0.1}
    assert standings(table({"far": {"fid": far}, "mine": {"fid": mine}}), "fid") == {"mine": "best"}
    assert standings(table({"far": {"fid": far}, "mine": {"fid": mine}, "near": {"fid": near}}), "fid") == {
        "mine": "first"
    }


@pytest.mark.parametrize("metric", ["vendi", "authenticity"])
def test_by_some_metrics_nobody_is_the_best(table: Tables, metric: str) -> None:
    numbers = {name: {metric: {"number": number, "error": 0.01}} for name, number in (("a", 0.9), ("b", 0.1))}
    assert standings(table(numbers, metrics=(metric,)), metric) == {}


def test_one_alone_and_one_of_copies_do_not_stand_out(table: Tables) -> None:
    one = {"number": 1.0, "error": 0.1}
    assert standings(table({"a": {"fid": one}}), "fid") == {}
    copied = {"number": 0.0, "error": 0.1, "copies": (50, 0)}
    assert standings(table({"a": {"fid": one}, "copied": {"fid": copied}}), "fid") == {}


def test_the_first_of_a_classifier_is_the_one_it_cannot_tell(table: Tables) -> None:
    found = table({"a": {"roc_auc": 0.9}, "b": {"roc_auc": 0.55}, "c": {"roc_auc": 0.4}}, metrics=("roc_auc",))
    assert standings(found, "roc_auc") == {"b": "first"}


def test_a_metric_that_failed_leaves_the_dataset_unmeasured(results: Results) -> None:
    found = results({"a": {"fid": 1.0, "precision": "one row"}})
    assert (found.passed, found.summary) == (False, "0 of 1 datasets measured")


@pytest.mark.parametrize(
    ("suffix", "label"),
    [("fid_inception", "FID"), ("inception_v3", "FD (inception_v3)"), ("resnet18_random0", "FD (resnet18_random0)")],
)
def test_only_fid_has_another_label(results: Results, suffix: str, label: str) -> None:
    found = results({"a": {"fid": 1.0}}, suffix=suffix)
    assert found.tables[0].label("fid") == label
    assert found.tables[0].label("precision") == "precision"
    assert found.to_json()["tables"][0]["labels"] == {"fid": label, "precision": "precision"}


def test_a_set_without_features_in_json(results: Results) -> None:
    (one,) = results({"a": "no image in a"}).to_json()["tables"][0]["datasets"]
    assert (one["features"], one["values"], one["error"]) == (None, {}, "no image in a")


def test_numbers_alone(table: Tables) -> None:
    (one,) = table({"a": {"fid": 1.0, "precision": 0.5}}).datasets
    assert one.plain_values() == {"fid": 1.0, "precision": 0.5}
    assert replace(one, values={}).plain_values() == {}


def test_of_several_tables_comparisons_are_counted(results: Results, table: Tables) -> None:
    tables = (
        table({"a": {"fid": 1.0}, "b": "no image"}),
        table({"a": {"fid": 1.0}}, reference="other"),
    )
    found = results(tables=tables, verdicts=(HOLDS,))
    assert found.summary == "2 of 3 comparisons measured; 1 of 1 restraints hold"
    assert not found.passed
    assert results(tables=tables[1:] * 2).passed


def test_values_are_compared_within_a_table_alone(results: Results, table: Tables) -> None:
    tables = (table({"a": {"fid": 1.0}, "b": {"fid": 2.0}}), table({"a": {"fid": 4.0}, "b": {"fid": 3.0}}))
    assert [standings(one, "fid") for one in tables] == [{"a": "first"}, {"b": "first"}]
    written = results(tables=tables).to_json()["tables"]
    assert [one["rankings"]["fid"]["first"] for one in written] == [["a"], ["b"]]


def test_an_extractor_is_called_by_its_suffix_whatever_the_reference_adds(table: Tables) -> None:
    assert table({}, suffix="fid_inception@CIFAR10-test").extractor == "fid_inception"


def test_steps_and_what_was_not_asked_for_are_told(results: Results) -> None:
    found = results({"a": {"fid": 1.0}}, steps={"a": 0}, excluded={"a": ("precision",)})
    (one,) = found.to_json()["tables"][0]["datasets"]
    assert (one["step"], one["excluded"]) == (0, ["precision"])
    assert found.passed


def test_a_table_finds_who_stands_out_once(table: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand sets, each cell asks."""
    found = table({"a": {"fid": 1.0, "kid": 1.0}, "b": {"fid": 2.0, "kid": 1.0}}, metrics=("fid", "kid"))
    calls: list[str] = []
    first = Ranking.first
    monkeypatch.setattr(Ranking, "first", property(lambda self: calls.append(self.metric) or first.__get__(self)))
    for _ in range(3):
        assert standings(found, "fid") == {"a": "first"}
        assert standings(found, "kid") == {"a": "first", "b": "first"}
    assert calls == ["fid", "kid"]
    assert standings(found, "unknown") == {}


def test_metrics_of_a_failure_make_a_set_unmeasured() -> None:
    assert DatasetResult("a", "x").measured
    assert not DatasetResult("a", "x", failures={"fid": "one row"}).measured
