"""Results as data: what passes, what is best, how things are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from simet_cache.report.results import EvaluationResults
from simet_cache.restraints import Verdict

Results = Callable[..., EvaluationResults]

HOLDS = Verdict("a", "fid", 1.0, None, 2.0)
BROKEN = Verdict("a", "fid", 3.0, None, 2.0)


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


def test_the_best_is_the_lowest_or_the_highest_and_ties_share_it(results: Results) -> None:
    found = results(
        {
            "a": {"fid": 2.0, "precision": 0.5},
            "b": {"fid": 1.0, "precision": 0.9},
            "c": {"fid": 1.0, "precision": 0.1},
            "d": "no image",
        }
    )
    assert found.best("fid") == {"b", "c"}
    assert found.best("precision") == {"b"}
    assert results({"a": "no image"}).best("fid") == set()


def test_the_best_of_a_classifier_is_the_one_it_cannot_tell(results: Results) -> None:
    found = results({"a": {"roc_auc": 0.9}, "b": {"roc_auc": 0.55}, "c": {"roc_auc": 0.4}}, metrics=("roc_auc",))
    assert found.best("roc_auc") == {"b"}


def test_a_metric_that_failed_leaves_the_dataset_unmeasured(results: Results) -> None:
    found = results({"a": {"fid": 1.0, "precision": "one row"}})
    assert (found.passed, found.summary) == (False, "0 of 1 datasets measured")


def test_a_ranking_is_separated_where_the_difference_is_larger_than_its_noise(results: Results) -> None:
    sets = {"a": (1.0, 0.1), "near": (1.2, 0.1), "far": (2.0, 0.1)}
    found = results({name: {"fid": {"number": n, "error": e}} for name, (n, e) in sets.items()}, level=0.95)
    differences = found.differences("fid")
    assert {name: one.better for name, one in differences.items()} == {"near": None, "far": "first"}
    assert differences["far"].value == -1.0
    assert results({"a": {"fid": 1.0}, "b": {"fid": 2.0}}, level=0.95).differences("fid") == {}
    assert results({"a": {"fid": {"number": 1.0, "error": 0.1}}}).differences("fid") == {}


@pytest.mark.parametrize(
    ("suffix", "label"),
    [("inception_v3", "FID"), ("fid_inception", "FID"), ("resnet18_random0", "FD (resnet18_random0)")],
)
def test_only_fid_has_another_label(results: Results, suffix: str, label: str) -> None:
    found = results({"a": {"fid": 1.0}}, suffix=suffix)
    assert found.label("fid") == label
    assert found.label("precision") == "precision"
    assert found.to_json()["labels"] == {"fid": label, "precision": "precision"}


def test_metrics_come_in_the_order_of_the_configuration(results: Results) -> None:
    assert results({"a": {}}, metrics=("recall", "fid", "kid")).metric_names() == ["recall", "fid", "kid"]


def test_a_set_without_features_in_json(results: Results) -> None:
    (one,) = results({"a": "no image in a"}).to_json()["datasets"]
    assert (one["features"], one["values"], one["error"]) == (None, {}, "no image in a")


def test_numbers_alone(results: Results) -> None:
    (one,) = results({"a": {"fid": 1.0, "precision": 0.5}}).datasets
    assert one.plain_values() == {"fid": 1.0, "precision": 0.5}
    assert replace(one, values={}).plain_values() == {}
