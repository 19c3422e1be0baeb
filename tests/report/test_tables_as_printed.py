"""Whole tables as a person reads them: who gets a star, what stands beside the numbers, and what is said first."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from simet_cache.report.results import EvaluationResults
from simet_cache.report.table import as_markdown, print_table

Results = Callable[..., EvaluationResults]
Printed = Callable[..., list[str]]

BEST = "*: better than all others ranked in its column by more than chance, at 95% for all of them together"
FIRST = "(*): first in its column, which may be chance"
INCEPTION = {"suffix": "fid_inception"}


@pytest.fixture
def printed(results: Results, monkeypatch: pytest.MonkeyPatch) -> Printed:
    """The lines of a table of ``{dataset: {metric: number}}``, without those that are empty."""

    def make(datasets: dict[str, Any], *, width: int | None = None, **about: Any) -> list[str]:
        class Stream(io.StringIO):
            def isatty(self) -> bool:
                return width is not None

        if width is not None:
            monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm-256color")
        stream = Stream()
        monkeypatch.setattr(sys, "stdout", stream)
        print_table(results(datasets, **INCEPTION, **about))
        plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
        return [line.rstrip() for line in plain.splitlines() if line.strip(" ─")]

    return make


def one(number: float, error: float = 0.1, **more: Any) -> dict[str, Any]:
    return {"number": number, "error": error, **more}


def test_the_best_is_separated_from_all_others(printed: Printed) -> None:
    datasets = {
        "a": {"fid": one(1.0), "precision": one(0.9, 0.02)},
        "b": {"fid": one(2.5), "precision": one(0.5, 0.02)},
        "c": {"fid": one(12.0, 1.1), "precision": one(0.4, 0.02)},
    }
    assert printed(datasets) == [
        "reference: real, 100 images; features: fid_inception",
        "  dataset   images   FID ↓                  precision ↑              features",
        "  a             50    1.00 [0.80, 1.25] *   0.900 [0.860, 0.950] *   extracted",
        "  b             50    2.50 [2.30, 2.75]     0.500 [0.460, 0.550]     extracted",
        "  c             50   12.0  [9.8, 14.8]      0.400 [0.360, 0.450]     extracted",
        BEST,
        "PASS 3 of 3 datasets measured",
    ]


def test_the_first_is_not_separated_from_some(printed: Printed) -> None:
    datasets = {
        name: {"fid": one(fid), "kid": one(fid / 1000, 0.0001), "mind": one(mind)}
        for name, fid, mind in (("A", 1.2, 4.0), ("B", 1.3, 5.0), ("10k", 1.0, 6.0), ("C", 9.0, 2.0))
    }
    assert printed(datasets, metrics=("fid", "kid", "mind"))[1:] == [
        "  dataset   images   FID ↓                   kid ↓                            mind ↓                features",
        "  A             50   1.20 [1.00, 1.45]       0.00120 [0.00100, 0.00145]       4.00 [3.80, 4.25]     extracted",
        "  B             50   1.30 [1.10, 1.55]       0.00130 [0.00110, 0.00155]       5.00 [4.80, 5.25]     extracted",
        "  10k           50   1.00 [0.80, 1.25] (*)   0.00100 [0.00080, 0.00125] (*)   6.00 [5.80, 6.25]     extracted",
        "  C             50   9.00 [8.80, 9.25]       0.00900 [0.00880, 0.00925]       2.00 [1.80, 2.25] *   extracted",
        BEST,
        FIRST,
        "FID, kid: 10k is first, but not separated from A, B at 95% for all 4 sets together",
        "PASS 4 of 4 datasets measured",
    ]


def test_a_copy_of_the_reference_among_small_sets_is_told_first_and_has_no_star(printed: Printed) -> None:
    datasets: dict[str, Any] = {
        f"small-{n}": {
            "kid": one(1.0 + n, warnings=(f"synth has only {n + 40} rows: so small sets give noisy values",))
        }
        for n in range(12)
    }
    leakage = "possible leakage: 50 of 50 synthetic rows equal a real one"
    datasets["copy"] = {"kid": one(0.0, 0.01, copies=(50, 0), warnings=(leakage,))}
    lines = printed(datasets, metrics=("kid",))
    assert lines[1] == "  dataset    images     copies   kid ↓                      features"
    assert lines[2] == "  small-0        50          -    1.00  [0.80, 1.25]    *   extracted"
    assert lines[14] == "  copy           50   50 of 50    0.000 [-0.020, 0.025]     extracted"
    assert lines[15:18] == [
        BEST,
        "possible leakage: copies of real rows, so that no ranking has these sets: copy (50 of 50 rows)",
        "kid: synth has only 40 rows: so small sets give noisy values (small-0)",
    ]
    assert lines[-2:] == ["and 2 more warnings; results.json has them all", "PASS 13 of 13 datasets measured"]


def test_one_set_alone_has_no_star(printed: Printed) -> None:
    assert printed({"a": {"fid": one(3.0), "precision": 0.9, "vendi": 7.0}}, metrics=("fid", "precision", "vendi")) == [
        "reference: real, 100 images; features: fid_inception",
        "  dataset   images   FID ↓               precision ↑   vendi   features",
        "  a             50   3.00 [2.80, 3.25]   0.9           7       extracted",
        "PASS 1 of 1 datasets measured",
    ]


def test_by_some_metrics_nobody_is_the_best_and_by_density_nobody_beyond_1(printed: Printed) -> None:
    datasets = {
        "blur": {"vendi": one(90.0), "authenticity": one(0.9, 0.01), "density": one(1.7, 0.01)},
        "held": {"vendi": one(50.0), "authenticity": one(0.5, 0.01), "density": one(1.1, 0.01)},
    }
    assert printed(datasets, metrics=("vendi", "authenticity", "density"))[1:] == [
        "  dataset   images   vendi                  authenticity           density ↑                  features",
        "  blur          50   90.00 [89.80, 90.25]   0.900 [0.880, 0.925]   1.700 [1.680, 1.725] (*)   extracted",
        "  held          50   50.00 [49.80, 50.25]   0.500 [0.480, 0.525]   1.100 [1.080, 1.125] (*)   extracted",
        FIRST,
        "density: blur, held are equally good and first",
        "vendi: no set is called the best by it: noise is the most diverse set",
        "authenticity: no set is called the best by it: rows far from everything real are authentic, whatever they"
        " show",
        "PASS 2 of 2 datasets measured",
    ]


def test_an_asymmetric_interval_near_zero_is_shown_as_it_is(printed: Printed) -> None:
    datasets = {
        "a": {"kid": one(0.0056, 0.01, ends=(0.0007, 0.04)), "fid": one(162.3, 11.0)},
        "b": {"kid": one(1.1234567, 0.01), "fid": one(12.153, 0.8, ends=(10.5, 13.9))},
    }
    assert printed(datasets, metrics=("kid", "fid"))[2:4] == [
        "  a             50   0.0056 [0.0007, 0.0400] *   162   [140, 190]       extracted",
        "  b             50   1.123  [1.103, 1.148]        12.2 [10.5, 13.9] *   extracted",
    ]


def test_sets_of_other_sizes_are_ranked_by_what_does_not_depend_on_them_alone(printed: Printed) -> None:
    datasets = {
        name: {
            "fid": one(fid, rows=rows),
            "recall": one(fid / 10, 0.01, rows=rows),
            "precision": one(1 - fid / 10, 0.01, rows=rows),
        }
        for name, fid, rows in (("a", 3.0, 50), ("small", 1.0, 20), ("b", 9.0, 50))
    }
    assert printed(datasets, metrics=("fid", "recall", "precision"))[2:] == [
        "  a             50   3.00 [2.80, 3.25] *   0.300 [0.280, 0.325]     0.700 [0.680, 0.725]     extracted",
        "  small         50   1.00 [0.80, 1.25]     0.100 [0.080, 0.125]     0.900 [0.880, 0.925] *   extracted",
        "  b             50   9.00 [8.80, 9.25]     0.900 [0.880, 0.925] *   0.100 [0.080, 0.125]     extracted",
        BEST,
        "FID, recall: small is not ranked: 20 rows, others 50: the metric depends on the number of rows",
        "PASS 3 of 3 datasets measured",
    ]


def test_a_bias_beside_a_tight_interval_is_told_with_what_is_left(printed: Printed) -> None:
    datasets = {"small": {"fid": one(12.153, 0.8, bias=10.94)}, "other": {"fid": one(40.0, 0.9, bias=0.5)}}
    assert printed(datasets, metrics=("fid",))[1:] == [
        "  dataset   images   FID ↓                        features",
        "  small         50   12.2 [10.6, 14.2] * biased   extracted",
        "  other         50   40.0 [38.2, 42.2]            extracted",
        BEST,
        "biased: few rows raise the value by more than half its interval; see below",
        "FID biased by few rows: small 12.15, of which at least about 10.9 is bias (at most about 1.21 without it);"
        " the metric fd_unbiased takes it away",
        "PASS 2 of 2 datasets measured",
    ]


def test_without_intervals_one_line_says_what_rankings_cannot_say(printed: Printed) -> None:
    datasets = {"a": {"fid": 3.0, "precision": 0.9}, "b": {"fid": 12.153, "precision": 0.91234}}
    assert printed(datasets)[1:] == [
        "  dataset   images   FID ↓       precision ↑   features",
        "  a             50    3    (*)   0.9           extracted",
        "  b             50   12.15       0.9123 (*)    extracted",
        FIRST,
        "no intervals were asked for, so that rankings say which value is first and no more; intervals: true does",
        "PASS 2 of 2 datasets measured",
    ]


def test_the_title_is_as_wide_as_the_terminal_and_not_as_the_table(printed: Printed) -> None:
    lines = printed({"a": {"fid": 1.0}}, metrics=("fid",), width=64)
    assert lines[0] == "reference: real, 100 images; features: fid_inception"
    assert len(lines[0]) > max(len(line) for line in lines[1:3])


def test_a_narrow_terminal_has_the_same_numbers_below_each_other(printed: Printed) -> None:
    datasets = {
        "a": {"fid": one(1.0), "precision": one(0.9, 0.02)},
        "with-a-long-name": {"fid": one(12.0, 1.1), "precision": one(0.4, 0.02)},
    }
    lines = printed(datasets, width=64)
    assert lines[: lines.index(BEST)] == [
        "reference: real, 100 images; features: fid_inception",
        "  dataset            images   FID ↓",
        "  a                      50    1.00 [0.80, 1.25] *",
        "  with-a-long-name       50   12.0  [9.8, 14.8]",
        "  dataset            precision ↑              features",
        "  a                  0.900 [0.860, 0.950] *   extracted",
        "  with-a-long-name   0.400 [0.360, 0.450]     extracted",
    ]


def test_in_markdown_the_best_alone_is_bold(results: Results) -> None:
    datasets = {
        "a": {"fid": one(1.0), "precision": one(0.9, 0.02), "kid": 1.0},
        "b": {"fid": one(12.0, 1.1, bias=11.0), "precision": one(0.89, 0.02), "kid": one(2.0, copies=(0, 0))},
    }
    lines = as_markdown(results(datasets, metrics=("fid", "precision", "kid"), **INCEPTION)).splitlines()
    assert lines[2:7] == [
        "| dataset | images | FID ↓ | precision ↑ | kid ↓ | features |",
        "| --- | --- | --- | --- | --- | --- |",
        r"| a | 50 | **1.00 \[0.80, 1.25\] \*** | 0.900 \[0.860, 0.950\] (\*) | 1 (\*) | extracted |",
        r"| b | 50 | 12.0 \[9.8, 14.8\] biased | 0.890 \[0.850, 0.940\] | 2.00 \[1.80, 2.25\] | extracted |",
        "",
    ]


def test_of_a_thousand_sets_the_best_the_broken_and_the_copied_are_shown(printed: Printed) -> None:
    datasets: dict[str, Any] = {f"s{n}": {"fid": one(10.0 + n)} for n in range(1000)}
    datasets["s700"] = {"fid": one(0.5, copies=(0, 50))}
    datasets["s900"] = {"fid": one(1.0)}
    lines = printed(datasets, metrics=("fid",))
    assert len(lines) < 60
    shown = {line.split()[0]: line.split() for line in lines if line.startswith("  s")}
    assert len(shown) == 50
    assert shown["s700"][2:5] == ["50", "of", "50"]
    assert [name for name, cells in shown.items() if "*" in cells] == ["s900"]
    assert "copy" not in shown
    assert (
        "possible leakage: copies of real rows, so that no ranking has these sets:"
        " s700 (50 of 50 rows, 50 of them near copies)" in lines
    )
