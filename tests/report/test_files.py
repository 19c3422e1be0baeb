"""results.json and results.csv: everything that was promised, and readable by the usual programs."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from simet_cache.config.patterns import RESERVED
from simet_cache.datasets.passed_over import PassedOver
from simet_cache.errors import StoreError
from simet_cache.escaping import for_csv
from simet_cache.metrics import Copies
from simet_cache.report.files import as_csv, prepare_folder, write_files
from simet_cache.report.results import EvaluationResults, Table
from simet_cache.restraints import Verdict

Results = Callable[..., EvaluationResults]
Tables = Callable[..., Table]

BROKEN = Verdict("mine", "fid", 3.0, None, 2.0, "real", "fid_inception")
HELD = Verdict("mine", "precision", 0.5, 0.1, None, "real", "fid_inception")


def written(results: EvaluationResults, folder: Path) -> tuple[dict[str, object], list[dict[str, str]]]:
    write_files(results, folder)
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return json.loads((folder / "results.json").read_text(encoding="utf-8")), rows


def test_the_json_holds_every_promised_field(results: Results, tmp_path: Path) -> None:
    skipped = ({"path": "x.png", "reason": "empty"},)
    found = results(
        {"mine": {"fid": 3.0, "precision": 0.5}, "other": "no image"},
        verdicts=(BROKEN, HELD),
        skipped=skipped,
        warnings=("few rows",),
    )
    data, _ = written(found, tmp_path / "new" / "folder")
    assert data == found.to_json() | {"restraints": data["restraints"], "tables": data["tables"]}
    assert data["format"] == 3
    assert data["passed"] is False
    assert data["summary"] == "1 of 2 datasets measured; 1 of 2 restraints hold"
    assert data["started_at"] == "2025-01-01T00:00:00+00:00"
    assert data["seconds"] == 12.346
    assert data["versions"] == {"torch": "2.9"}
    assert data["config"] == {"extractor": {"seed": 3}}
    assert data["plan"] == {"hits": 1}
    (table,) = data["tables"]
    assert table["extractor"] == "fid_inception"
    assert table["labels"] == {"fid": "FID", "precision": "precision"}
    assert data["restraints"] == [
        {
            "dataset": "mine",
            "metric": "fid",
            "value": 3.0,
            "lower_bound": None,
            "upper_bound": 2.0,
            "reference": "real",
            "extractor": "fid_inception",
            "label": "FID",
            "passed": False,
        },
        {
            "dataset": "mine",
            "metric": "precision",
            "value": 0.5,
            "lower_bound": 0.1,
            "upper_bound": None,
            "reference": "real",
            "extractor": "fid_inception",
            "label": "precision",
            "passed": True,
        },
    ]
    reference, (mine, other) = table["reference"], table["datasets"]
    assert (reference["name"], reference["suffix"], reference["cached"]) == ("real", "fid_inception", True)
    assert reference["features"]["key"] == "a" * 32
    assert (mine["name"], mine["suffix"], mine["cached"], mine["error"]) == ("mine", "fid_inception", False, None)
    assert (mine["extraction_seconds"], mine["images_per_second"], mine["metrics_seconds"]) == (1.5, 33.3, 0.25)
    assert mine["skipped"] == [{"path": "x.png", "reason": "empty"}]
    assert mine["features"] == {
        "key": "b" * 32,
        "path": "cache/b.pkl",
        "shape": [50, 2048],
        "dtype": "float32",
        "digest": "b" * 32,
        "row_order": "unknown",
    }
    precision = mine["values"]["precision"]
    assert precision | {"version": 0} == {
        "value": 0.5,
        "metric": "precision",
        "label": "precision",
        "version": 0,
        "direction": "higher",
        "parameters": {"k": 3},
        "n_real": 100,
        "n_synth": 50,
        "width": 2048,
        "warnings": ["few rows"],
        "details": {},
        "interval": None,
        "per_class": {},
        "copies": None,
    }
    assert precision["version"] >= 1
    assert (other["error"], other["values"], other["features"]) == ("no image", {}, None)
    assert mine["failures"] == {}
    assert table["rankings"]["fid"] == {
        "order": ["mine"],
        "first": [],  # there is no other to compare it with
        "best": None,
        "separated": [],
        "open": {},
        "left_out": {"other": "no image"},
        "remark": "",
        "level": 0.95,
        "differences": {},
    }


def test_the_csv_has_a_row_for_each_value_and_one_for_each_failure(results: Results, tmp_path: Path) -> None:
    _, rows = written(
        results(
            {"mine": {"fid": 3.0, "precision": 0.1 + 0.2}, "other": "no image", "cached": {"fid": 5.0}},
            verdicts=(BROKEN,),
            warnings=("few rows", "and more"),
        ),
        tmp_path,
    )
    assert [(row["dataset"], row["metric"]) for row in rows] == [
        ("mine", "fid"),
        ("mine", "precision"),
        ("other", ""),
        ("cached", "fid"),
    ]
    fid, precision, failed, cached = rows
    assert fid | {"version": ""} == {
        "reference": "real",
        "extractor": "fid_inception",
        "dataset": "mine",
        "step": "",
        "metric": "fid",
        "label": "FID",
        "class": "",
        "value": "3.0",
        "low": "",
        "high": "",
        "direction": "lower",
        "best": "first",
        "passed": "False",
        "n_real": "100",
        "n_synth": "50",
        "copies_exact": "",
        "copies_near": "",
        "width": "2048",
        "version": "",
        "parameters": "{}",
        "level": "",
        "method": "",
        "details": "",
        "suffix": "fid_inception",
        "key": "b" * 32,
        "reference_key": "a" * 32,
        "cached": "False",
        "warnings": "few rows; and more",
        "error": "",
    }
    assert float(precision["value"]) == 0.1 + 0.2  # to the last bit
    assert json.loads(precision["parameters"]) == {"k": 3}
    assert precision["passed"] == ""  # no restraint is about it
    assert (failed["error"], failed["key"], failed["value"]) == ("no image", "", "")
    assert (cached["cached"], cached["best"]) == ("True", "")


def test_copies_and_what_is_said_of_them_are_in_both_files(results: Results, tmp_path: Path) -> None:
    found = results({"mine": {"fid": 3.0}, "other": "no image"})
    (table,) = found.tables
    mine, other = table.datasets
    mine = replace(mine, values={"fid": replace(mine.values["fid"], copies=Copies(exact=2, near=1, rows=50))})
    verdicts = tuple(
        Verdict(name, "max_copies", value, None, 0.0, "real", "fid_inception")
        for name, value in (("mine", 3), ("other", None))
    )
    found = replace(found, tables=(replace(table, datasets=(mine, other)),), verdicts=verdicts)
    data, rows = written(found, tmp_path)
    assert data["tables"][0]["datasets"][0]["values"]["fid"]["copies"] == {
        "exact": 2,
        "near": 1,
        "rows": 50,
        "common": 0,
    }
    assert [(one["metric"], one["value"], one["passed"]) for one in data["restraints"]] == [
        ("max_copies", 3, False),
        ("max_copies", None, False),
    ]
    columns = ("dataset", "metric", "label", "value", "passed")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("mine", "fid", "FID", "3.0", ""),
        ("mine", "max_copies", "copies", "3", "False"),
        ("other", "", "", "", ""),
    ]


def test_intervals_classes_and_failures_are_in_both_files(results: Results, tmp_path: Path) -> None:
    found = results(
        {
            "mine": {"fid": {"number": 3.0, "error": 0.5, "classes": {"cat": 2.0, "dog": 4.0}}, "precision": "no rows"},
            "other": {"fid": {"number": 9.0, "error": 0.5}, "precision": 0.5},
        },
        level=0.95,
    )
    data, rows = written(found, tmp_path)
    mine = data["tables"][0]["datasets"][0]
    assert mine["values"]["fid"]["interval"] == {
        "low": 2.0,
        "high": 4.25,
        "level": 0.95,
        "method": "made up",
        "standard_error": 0.5,
    }
    assert {label: one["value"] for label, one in mine["values"]["fid"]["per_class"].items()} == {"cat": 2, "dog": 4}
    assert "noise" not in mine["values"]["fid"]
    assert mine["failures"] == {"precision": "no rows"}
    assert data["passed"] is False
    ranking = data["tables"][0]["rankings"]["fid"]
    assert (ranking["order"], ranking["first"], ranking["best"]) == (["mine", "other"], ["mine"], "mine")
    assert (ranking["separated"], ranking["open"], ranking["level"]) == (["other"], {}, 0.95)
    difference = ranking["differences"]["other"]
    assert difference["value"] == -6.0
    assert difference["interval"]["low"] < -6 < difference["interval"]["high"] < 0
    assert [row["best"] for row in rows if row["metric"] == "fid"] == ["best", "", "", ""]
    assert data["tables"][0]["rankings"]["precision"]["left_out"] == {"mine": "no rows"}
    assert [(row["dataset"], row["metric"], row["class"], row["value"], row["error"]) for row in rows] == [
        ("mine", "precision", "", "", "no rows"),
        ("mine", "fid", "", "3.0", ""),
        ("mine", "fid", "cat", "2.0", ""),
        ("mine", "fid", "dog", "4.0", ""),
        ("other", "fid", "", "9.0", ""),
        ("other", "precision", "", "0.5", ""),
    ]
    assert [rows[1][name] for name in ("low", "high", "level", "method")] == ["2.0", "4.25", "0.95", "made up"]


def test_copies_and_what_rankings_leave_open_are_in_both_files(results: Results, tmp_path: Path) -> None:
    copied = {"number": 0.0, "error": 0.1, "copies": (40, 2)}
    found = results(
        {
            "near": {"fid": {"number": 1.2, "error": 0.1}},
            "copied": {"fid": copied},
            "mine": {"fid": {"number": 1.0, "error": 0.1, "copies": (0, 0)}},
            "few": {"fid": {"number": 0.5, "error": 0.1, "rows": 20}},
        },
        metrics=("fid",),
    )
    data, rows = written(found, tmp_path)
    ranking = data["tables"][0]["rankings"]["fid"]
    assert (ranking["order"], ranking["first"], ranking["best"]) == (["mine", "near"], ["mine"], None)
    assert ranking["open"] == {"near": "the interval of the difference holds 0, at 95% for all 2 sets together"}
    assert ranking["left_out"] == {
        "copied": "42 of its 50 rows are copies of real ones",
        "few": "20 rows, others 50: the metric depends on the number of rows",
    }
    values = [one["values"]["fid"] for one in data["tables"][0]["datasets"]]
    assert [value["copies"] for value in values] == [
        None,
        {"exact": 40, "near": 2, "rows": 50, "common": 0},
        {"exact": 0, "near": 0, "rows": 50, "common": 0},
        None,
    ]
    assert [(row["best"], row["copies_exact"], row["copies_near"]) for row in rows] == [
        ("", "", ""),
        ("", "40", "2"),
        ("first", "0", "0"),
        ("", "", ""),
    ]


def test_a_sweep_has_its_references_extractors_and_steps_in_both_files(
    results: Results, table: Tables, tmp_path: Path
) -> None:
    tables = (
        table({"mine": {"fid": 3.0}, "other": "no image"}, metrics=("fid",), steps={"mine": 1000, "other": 2000}),
        table({"mine": {"fid": 5.0}}, metrics=("fid",), reference="b", suffix="fid_inception@CIFAR10"),
    )
    verdict = Verdict("mine", "fid", 5.0, None, 4.0, "b", "fid_inception")
    data, rows = written(results(tables=tables, verdicts=(verdict,)), tmp_path)
    columns = ("reference", "extractor", "dataset", "step", "suffix", "value", "best", "passed", "error")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("real", "fid_inception", "mine", "1000", "fid_inception", "3.0", "", "", ""),
        ("real", "fid_inception", "other", "2000", "fid_inception", "", "", "", "no image"),
        ("b", "fid_inception", "mine", "", "fid_inception@CIFAR10", "5.0", "", "False", ""),
    ]
    assert [(one["reference"]["name"], one["extractor"]) for one in data["tables"]] == [
        ("real", "fid_inception"),
        ("b", "fid_inception"),
    ]
    assert [one["step"] for one in data["tables"][0]["datasets"]] == [1000, 2000]
    assert (data["restraints"][0]["reference"], data["restraints"][0]["extractor"]) == ("b", "fid_inception")


@pytest.mark.parametrize(
    "name", ["comma, quote \" and 'more'", "two\nlines", "größe-模型", os.fsdecode(b"bad-\xff-utf8"), "=1+1", "a;b\tc"]
)
def test_any_name_of_a_folder_can_be_written_and_read_again(results: Results, tmp_path: Path, name: str) -> None:
    found = results({name: {"fid": 1.0}, "failed": f"cannot read {name}\nat all"})
    data, rows = written(found, tmp_path)
    assert data["tables"][0]["datasets"][0]["name"] == name
    assert data["tables"][0]["datasets"][1]["error"] == f"cannot read {name}\nat all"
    assert len(rows) == 2
    assert rows[0]["dataset"] == for_csv(name)
    assert rows[0]["value"] == "1.0"


def test_names_in_json_stay_readable(results: Results, tmp_path: Path) -> None:
    write_files(results({"größe": {"fid": 1.0}}), tmp_path)
    assert '"größe"' in (tmp_path / "results.json").read_text(encoding="utf-8")


def test_results_without_a_reference(results: Results) -> None:
    found = results({"mine": "the reference has no features"})
    object.__setattr__(found.tables[0].reference, "features", None)
    (row,) = csv.DictReader(io.StringIO(as_csv(found)))
    assert row["reference_key"] == ""


def test_older_results_are_replaced_and_nothing_else_is_left(results: Results, tmp_path: Path) -> None:
    write_files(results({"old": {"fid": 1.0}}), tmp_path)
    data, _ = written(results({"new": {"fid": 1.0}}), tmp_path)
    assert data["tables"][0]["datasets"][0]["name"] == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]


def test_a_folder_that_cannot_be_written(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for act in (prepare_folder, lambda folder: write_files(results({"a": {"fid": 1.0}}), folder)):
        with pytest.raises(StoreError, match=r"cannot write results to .*file: File exists"):
            act(tmp_path / "file")
        with pytest.raises(StoreError, match=r"cannot write results to .*below: Not a directory"):
            act(tmp_path / "file" / "below")


def test_a_file_that_cannot_be_replaced(results: Results, tmp_path: Path) -> None:
    (tmp_path / "results.csv").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*results.csv: Is a directory"):
        write_files(results({"a": {"fid": 1.0}}), tmp_path)


def test_preparing_leaves_nothing(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_parts_are_columns_that_no_other_column_is_called_like(results: Results, table: Tables, tmp_path: Path) -> None:
    made = table({"a": {"fid": 1.0}, "b": {"fid": 2.0}})
    first, second = made.datasets
    parts = {"run": "x", "seed": "3"}
    found = results(tables=(replace(made, datasets=(replace(first, parts=parts, step=5), second)),))
    data, rows = written(found, tmp_path)
    assert [one["parts"] for one in data["tables"][0]["datasets"]] == [parts, {}]
    assert [(row["run"], row["seed"], row["step"]) for row in rows] == [("x", "3", "5"), ("", "", "")]
    columns = list(rows[0])
    assert columns[: columns.index("step") + 1] == ["reference", "extractor", "dataset", "run", "seed", "step"]
    assert {*columns} - {"run", "seed", "step"} <= RESERVED


def test_what_was_passed_over_and_what_is_bad_is_listed_for_each_set(
    results: Results, table: Tables, tmp_path: Path
) -> None:
    made = table({"a": {"fid": 1.0}, "b": "cannot read images: 2 of 3 are bad"})
    bad = tuple({"path": f"{number}.png", "reason": "empty"} for number in range(2))
    first, second = made.datasets
    sets = (replace(first, passed_over=(PassedOver("hidden", 2, ".x"),)), replace(second, bad_images=bad))
    data, _ = written(results(tables=(replace(made, datasets=sets),)), tmp_path)
    one, other = data["tables"][0]["datasets"]
    assert one["passed_over"] == [{"why": "hidden", "count": 2, "first": ".x"}]
    assert other["bad_images"] == list(bad)
    assert (other["passed_over"], one["bad_images"]) == ([], [])
