"""What is said beside the numbers of a sweep: where it belongs, once, and in few lines however many sets there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from simet_cache.datasets.passed_over import PassedOver
from simet_cache.metrics import METRICS, Summaries, evaluate
from simet_cache.report.notes import notes
from simet_cache.report.results import EvaluationResults, Table
from simet_cache.report.severity import Severity, severity_of
from simet_cache.restraints import Verdict

Results = Callable[..., EvaluationResults]
Tables = Callable[..., Table]

UNASKED = "no intervals were asked for, so that rankings say which value is first and no more; intervals: true does"
ON_RESNET = {"suffix": "resnet18_random0"}


def broken(dataset: str, number: float | None = 3.0, *, metric: str = "fid", **where: str) -> Verdict:
    place = {"reference": "real", "extractor": "fid_inception"} | where
    return Verdict(dataset, metric, number, None, 2.0, **place)


def many(count: int, numbers: object = None) -> dict[str, object]:
    return {f"s{number}": numbers or {"fid": 1.0} for number in range(count)}


@pytest.mark.parametrize(
    ("others", "place"),
    [
        ({}, ""),
        ({"reference": "other"}, " against other"),
        (ON_RESNET, " on resnet18_random0"),
        ({"reference": "other", **ON_RESNET}, " against other on resnet18_random0"),
    ],
)
def test_a_set_is_named_with_what_tells_its_table_from_others(
    results: Results, table: Tables, others: dict[str, str], place: str
) -> None:
    near = {"number": 1.1, "error": 0.1}
    other = table(
        {"a": {"fid": near, "precision": "one row"}, "b": {"fid": {"number": 1.0, "error": 0.1, "warnings": ("few",)}}},
        level=0.95,
        **others,
    )
    tables = (other, table({"a": {"fid": 1.0}})) if others else (other,)
    verdict = broken("a", reference=other.reference.name, extractor=other.extractor)
    fid = other.label("fid")
    assert notes(results(tables=tables, verdicts=(verdict,))) == [
        f"a{place}: no precision: one row",
        f"restraint broken: a{place}: {fid} is 3 (upper_bound 2)",
        f"{fid}: few (b{place})",
        f"{fid}{place}: b is first, but not separated from a at 95%",
    ]


def test_a_set_without_features_failed_by_itself_whatever_the_references(results: Results, table: Tables) -> None:
    tables = tuple(
        table({"a": "no image in a"}, reference=reference, **extractor)
        for reference in ("real", "other")
        for extractor in ({}, ON_RESNET)
    )
    assert notes(results(tables=tables)) == [
        "a on fid_inception, a on resnet18_random0 were not measured: no image in a",
    ]


def test_a_reference_that_fails_is_all_that_is_said_of_its_table(results: Results, table: Tables) -> None:
    error = "the reference has no features"
    tables = (
        table({"a": error, "b": error}, error="cannot read image x.png: empty"),
        table({"a": {"fid": 3.0}}, reference="other"),
    )
    verdicts = (broken("a", None), broken("a", reference="other"))
    assert notes(results(tables=tables, verdicts=verdicts)) == [
        "real, the reference, has no features: cannot read image x.png: empty",
        "restraint broken: a against other: FID is 3 (upper_bound 2)",
    ]


def test_one_error_of_many_sets_is_one_line(results: Results) -> None:
    assert notes(results(many(105, "the disk is full"))) == [
        "s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 and 95 more were not measured: the disk is full"
    ]
    (line,) = notes(results(many(11, "the disk is full")))
    assert line.startswith("s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10 were")  # no "and 1 more"


def test_many_errors_are_cut(results: Results) -> None:
    lines = notes(results({f"s{number}": f"cannot read image {number}.png: empty" for number in range(50)}))
    assert len(lines) == 12
    assert lines[9:] == [
        "s9 was not measured: cannot read image 9.png: empty",
        "and 40 more reasons why datasets were not measured; results.json has them all",
        "on_bad_image: skip leaves out images that cannot be read, and lists them in the results",
    ]


def test_many_broken_restraints_are_cut_and_counted_and_those_with_a_value_come_first(results: Results) -> None:
    verdicts = tuple(broken(f"s{n}", None if n < 10 else 3.0, metric="kid" if n > 90 else "fid") for n in range(100))
    lines = notes(results(many(100), verdicts=verdicts))
    assert len(lines) == 12
    assert lines[0] == "restraint broken: s10: FID is 3 (upper_bound 2)"
    assert lines[-2:] == ["and 90 more restraints broken (FID 81, kid 9)", UNASKED]


def test_warnings_of_many_sets_name_a_few(results: Results) -> None:
    lines = notes(results(many(105), warnings=("few rows",)))
    assert lines == ["FID: few rows (s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 and 95 more)", UNASKED]


def test_many_warnings_are_cut_and_the_most_frequent_come_first(results: Results) -> None:
    numbers = {f"s{n}": {"fid": {"number": 1.0, "warnings": (f"rows: {min(n, 20)}",)}} for n in range(30)}
    lines = notes(results(numbers))
    assert len(lines) == 12
    assert lines[0].startswith("FID: rows: 20 (s20, s21,")
    assert lines[-2:] == ["and 11 more warnings; results.json has them all", UNASKED]


def test_images_skipped_are_told_once_for_all_references(results: Results, table: Tables) -> None:
    skipped = ({"path": "x.png", "reason": "empty"},)
    tables = tuple(table({"a": {"fid": 1.0}}, reference=name, skipped=skipped) for name in ("real", "other"))
    assert notes(results(tables=tables)) == ["a: images skipped: 1, first x.png: empty"]
    lines = notes(results(many(30), skipped=skipped))
    assert len(lines) == 12
    assert lines[-2:] == ["and 20 more sets have images skipped", UNASKED]


def test_an_open_ranking_names_the_nearest(results: Results) -> None:
    numbers = {f"s{n}": {"fid": {"number": 2.0 - n / 100, "error": 0.9}} for n in range(30)}
    (line,) = notes(results(numbers, metrics=("fid",), level=0.95))
    assert line == (
        "FID: s29 is first, but not separated from s28, s27, s26, s25, s24, s23, s22, s21, s20, s19 and 19 more at 95%"
        " for all 30 sets together"
    )


def test_classes_of_many_sets_are_cut(results: Results) -> None:
    one = {"fid": {"number": 1.0, "classes": {"cat": 1.0, "dog": 2.0}}}
    lines = notes(results(many(30, one)))
    assert len(lines) == 12
    assert lines[0] == UNASKED
    assert lines[-1] == "and 20 more datasets and metrics per class; results.csv has them all"


def test_what_was_passed_over_is_one_line_however_many_sets_there_are(results: Results, table: Tables) -> None:
    made = table(many(30))
    hidden, other = PassedOver("hidden", 1, ".x"), PassedOver("not named like an image", 7, "a.txt")
    sets = tuple(replace(one, passed_over=(hidden, other)) for one in made.datasets)
    tables = (replace(made, datasets=sets), replace(table(many(30), **ON_RESNET), datasets=sets))
    found = replace(results(tables=tables), plan={"beside_globs": [{"glob": "s/*", "paths": ["s/last", "s/log"]}]})
    (line,) = [line for line in notes(found) if "passed over" in line]
    assert line.startswith(
        "passed over: beside s/*: last, log; s0: 1 hidden (.x), 7 not named like an image (first a.txt); s1: 1 hidden"
    )
    assert line.endswith("; and 21 more; results.json has them by set")


def test_leakage_is_told_before_all_else_of_every_set(results: Results) -> None:
    """Also of those whose other metric failed, and beside a hundred restraints that are broken."""
    datasets = many(100) | {
        f"copy-{n}": {"fid": {"number": 0.0, "copies": (40, 2)}, "precision": "one row"} for n in range(12)
    }
    datasets["near"] = {"fid": {"number": 0.1, "rows": 1000, "copies": (1, 2)}}
    verdicts = tuple(broken(f"s{number}") for number in range(100))
    first, second, *others = notes(results(datasets, verdicts=verdicts))
    copied = ", ".join(f"copy-{n} (42 of 50 rows, 2 of them near copies)" for n in range(12))
    assert first == f"possible leakage: copies of real rows, so that no ranking has these sets: {copied}"
    assert second == "possible leakage: a few copies of real rows: near (3 of 1000 rows, 2 of them near copies)"
    assert not any("leakage" in line for line in others)


def test_a_few_copies_in_many_sets_are_one_line_that_is_cut(results: Results) -> None:
    line, *_ = notes(results(many(30, {"fid": {"number": 1.0, "rows": 1000, "copies": (1, 0)}})))
    assert line.startswith("possible leakage: a few copies of real rows: s0 (1 of 1000 rows), s1")
    assert line.endswith(" and 20 more")


def test_the_most_severe_warnings_come_first_and_leakage_is_never_cut(results: Results) -> None:
    """However seldom they are, and where nobody has counted copies but in words."""
    small = "synth has only 50 rows: so small sets give noisy values"
    warnings = [
        *(f"no interval: reason {n}" for n in range(20)),
        *(f"{small} {n}" for n in range(20)),
        "biased upward: synth has 50 rows for 2048 features; compare it at equal row counts only",
        *(f"possible leakage: {n} of 50 synthetic rows equal a real one" for n in range(1, 15)),
    ]
    datasets = {f"s{n}": {"fid": {"number": 1.0, "warnings": (warning,)}} for n, warning in enumerate(warnings)}
    lines = notes(results(datasets, metrics=("fid",)))
    assert [line.split(" of ")[0] for line in lines[:14]] == [f"FID: possible leakage: {n}" for n in range(1, 15)]
    assert lines[14].startswith("FID: biased upward")
    assert all(small in line for line in lines[15:24])
    assert lines[24] == "and 31 more warnings; results.json has them all"


def test_metrics_with_the_same_open_ranking_share_a_line_and_tables_do_not(results: Results, table: Tables) -> None:
    near = {
        name: {
            metric: {"number": number, "error": 0.1, "warnings": ("no interval: few",) if bare else ()}
            | ({"error": None} if bare else {})
            for metric in ("fid", "kid")
        }
        for name, number, bare in (("a", 1.0, False), ("b", 1.1, False), ("c", 9.0, True))
    }
    tables = tuple(table(near, metrics=("fid", "kid"), reference=name) for name in ("real", "other"))
    said = "a is first, but not separated from b at 95% for all 3 sets together, and c has no interval"
    assert notes(results(tables=tables)) == [
        "no interval: few (c against real, c against other)",
        f"FID, kid against real: {said}",
        f"FID, kid against other: {said}",
    ]


def test_a_first_set_without_an_interval_says_so(results: Results) -> None:
    bare = {"number": 1.0, "warnings": ("no interval: few",)}
    found = results({"a": {"fid": bare}, "b": {"fid": {"number": 2.0, "error": 0.1}}}, metrics=("fid",))
    assert notes(found) == ["FID: no interval: few (a)", "FID: a is first, but it has no interval"]


@pytest.mark.parametrize(("level", "said"), [(0.95, "95%"), (0.999, "99.9%"), (0.5, "50%")])
def test_a_level_is_told_as_it_is(results: Results, level: float, said: str) -> None:
    near = {name: {"fid": {"number": number, "error": 9.0}} for name, number in (("a", 1.0), ("b", 1.1))}
    assert notes(results(near, metrics=("fid",), level=level)) == [
        f"FID: a is first, but not separated from b at {said}"
    ]


def test_the_value_without_its_bias_is_that_of_the_metric_for_it(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that was measured, and else what the estimate leaves."""
    name = "fd_unbiased"
    if name not in METRICS:
        monkeypatch.setitem(METRICS, name, METRICS["fid"])  # type: ignore[misc]
    biased = {"number": 12.153, "error": 0.8, "bias": 10.94}
    found = results({"a": {"fid": biased, name: {"number": 1.34, "error": 0.8, "bias": 10.94}}}, metrics=("fid", name))
    assert notes(found) == ["FID biased by few rows: a 12.15, of which at least about 10.9 is bias (fd_unbiased: 1.34)"]


@pytest.mark.parametrize("metric", METRICS)
def test_what_metrics_say_of_small_sets_is_known_to_be_more_or_less_severe(metric: str) -> None:
    """A sentence that no rule knows counts as INVALID; here all of those that are so are meant to be."""
    rng = np.random.default_rng(0)
    labels = ["a", "b"] * 6
    sets = {side: Summaries(rng.normal(size=(12, 20)), labels=labels, where=side) for side in ("real", "synth")}
    warnings = evaluate(**sets, metrics=[metric], intervals=True)[metric].warnings
    for warning in warnings:
        if severity_of(warning) is Severity.INVALID:
            assert "biased " in warning or warning.startswith(
                ("known to ", "the probe", "subsets of", "synth has too few")
            )
