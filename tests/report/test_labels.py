"""What metrics are called: by one name for machines, and by one label wherever people read."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from simet_cache.metrics import METRICS
from simet_cache.report.files import write_files
from simet_cache.report.labels import label_of
from simet_cache.report.results import EvaluationResults
from simet_cache.report.table import as_markdown, print_table
from simet_cache.restraints import Verdict

Results = Callable[..., EvaluationResults]


@pytest.mark.parametrize("suffix", ["fid_inception", "inception_v3", "resnet18_random0"])
@pytest.mark.parametrize("metric", [name for name in METRICS if name != "fid"])
def test_all_but_fid_are_called_what_they_are_called_in_a_configuration(metric: str, suffix: str) -> None:
    assert label_of(metric, suffix) == metric


@pytest.mark.parametrize(
    ("suffix", "label"),
    [
        ("fid_inception@CIFAR10", "FID"),
        ("inception_v3", "FD (inception_v3)"),
        ("fid_inception+amp", "FD (fid_inception+amp)"),
        ("resnet18_random0", "FD (resnet18_random0)"),
    ],
)
def test_a_distance_has_one_name_for_machines_and_one_for_people(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, label: str
) -> None:
    """Wherever people read there is the label; both are in the files."""
    found = results(
        {
            "mine": {"fid": {"number": 3.0, "classes": {"cat": 1.0, "dog": 2.0}, "warnings": ("few",)}},
            "b": {"fid": "x"},
        },
        metrics=("fid",),
        suffix=suffix,
        verdicts=(Verdict("mine", "fid", 3.0, None, 2.0, "real", suffix.partition("@")[0]),),
    )
    write_files(found, tmp_path)
    data = json.loads((tmp_path / "results.json").read_text())
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert {(row["metric"], row["label"]) for row in rows} == {("fid", label)}
    value = data["tables"][0]["datasets"][0]["values"]["fid"]
    assert {(one["metric"], one["label"]) for one in (value, *value["per_class"].values())} == {("fid", label)}
    assert [(one["metric"], one["label"]) for one in data["restraints"]] == [("fid", label)]
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    print_table(found)
    for text in (stream.getvalue(), html.unescape(re.sub(r"\\(.)", r"\1", as_markdown(found)))):
        assert f"FAIL {label}" in text
        assert f"restraint broken: mine: {label} is 3 (upper_bound 2)" in text
        assert f"{label} per class" in text
        assert f"{label}: few (mine)" in text
        assert f"b: no {label}: x" in text
        without = text.replace(label, "").replace(suffix, "")
        assert "fid" not in without.lower()
