"""The table for a person: in a terminal, in a pipe, in ASCII, as Markdown; no name of a folder is taken for markup."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from simet_cache.escaping import for_terminal
from simet_cache.report.notes import notes
from simet_cache.report.results import EvaluationResults, Table
from simet_cache.report.table import as_markdown, print_table
from simet_cache.restraints import Verdict

Results = Callable[..., EvaluationResults]
Tables = Callable[..., Table]

BROKEN = Verdict("mine", "fid", 3.0, None, 2.0, "real", "fid_inception")
HELD = Verdict("other", "fid", 1.0, None, 2.0, "real", "fid_inception")
NAMES = [
    "[bold]x",
    "[/]",
    "[red]a[/red]",
    "[link=http://x]y[/link]",
    ":smile:",
    "a|b",
    "<script>alert(1)</script>",
    "*stars* and _lines_",
    "`code`",
    "~~gone~~",
    "# heading",
    "&lt;b&gt;",
    "back\\slash",
    "![image](x)",
]


class Stream(io.TextIOWrapper):
    """Standard output of some encoding, a terminal or not."""

    def __init__(self, encoding: str, terminal: bool = False) -> None:
        self.raw_bytes = io.BytesIO()
        self.terminal = terminal
        super().__init__(self.raw_bytes, encoding=encoding, errors="strict")

    def isatty(self) -> bool:
        return self.terminal

    def text(self) -> str:
        self.flush()
        return self.raw_bytes.getvalue().decode(self.encoding)


def printed(
    monkeypatch: pytest.MonkeyPatch, results: EvaluationResults, encoding: str = "utf-8", terminal: bool = False
) -> str:
    stream = Stream(encoding, terminal)
    monkeypatch.setattr(sys, "stdout", stream)
    print_table(results)
    return stream.text()


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name)]
    return re.split(r"\s{2,}", line.strip())


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich reads the width and the colours of a terminal here."""
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_the_table_in_a_pipe(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(
        {
            "mine": {"fid": 3.0, "precision": 0.91234},
            "other cached": {"fid": 1.0, "precision": 0.5},
            "third": "no image",
        },
        verdicts=(BROKEN, HELD),
    )
    text = printed(monkeypatch, found)
    assert "\x1b" not in text
    assert "reference: real, 100 images; features: fid_inception" in text
    assert row(text, "dataset") == ["dataset", "images", "FID ↓", "precision ↑", "restraints", "features"]
    assert row(text, "mine") == ["mine", "50", "3", "0.9123 (*)", "FAIL FID", "extracted"]
    assert row(text, "other cached")[:4] == ["other cached", "50", "1 (*)", "0.5"]
    assert row(text, "other cached")[-1] == "cached"
    assert row(text, "third  ") == ["third", "-", "failed", "failed", "-", "failed"]
    assert "third was not measured: no image" in text
    assert "restraint broken: mine: FID is 3 (upper_bound 2)" in text
    assert text.rstrip().endswith("FAIL 2 of 3 datasets measured; 1 of 2 restraints hold")


def test_a_pipe_is_as_wide_as_the_results(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    name = "a-long-name-" * 20
    text = printed(monkeypatch, results({name: {"fid": 1.0}}, reference=name))
    assert row(text, name)[0] == name
    assert f"reference: {name}, 100 images" in text


def test_intervals_and_what_they_leave_open(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(
        {
            "a": {"fid": {"number": 1.0, "error": 0.1}},
            "near": {"fid": {"number": 1.2, "error": 0.1}},
            "far": {"fid": {"number": 2.0, "error": 0.1}},
        },
        metrics=("fid",),
        level=0.95,
    )
    text = printed(monkeypatch, found)
    cells = [row(text, name)[2] for name in ("a ", "near", "far")]
    assert cells == ["1.00 [0.80, 1.25] (*)", "1.20 [1.00, 1.45]", "2.00 [1.80, 2.25]"]
    assert "FID: a is first, but not separated from near at 95% for all 3 sets together" in text


def test_classes_are_told_by_their_best_and_worst(results: Results) -> None:
    classes = {"cat": 0.5, "dog": 0.9, "eel": 0.1}
    found = results({"a": {"precision": {"number": 0.5, "classes": classes}, "fid": {"number": 1, "classes": classes}}})
    assert "a: precision per class: best 0.9 (dog), worst 0.1 (eel)" in notes(found)
    assert "a: FID per class: best 0.1 (eel), worst 0.9 (dog)" in notes(found)
    (line,) = notes(results({"a": {"vendi": {"number": 0.5, "classes": classes}}}, metrics=("vendi",)))
    assert line == "a: vendi per class: highest 0.9 (dog), lowest 0.1 (eel)"


def test_one_reason_for_many_metrics_is_told_once(results: Results) -> None:
    found = results({"a": {"fid": "one row", "precision": "one row"}, "b": {"fid": 1.0, "precision": 0.5}})
    assert notes(found) == ["a: no FID, precision: one row"]


def test_one_warning_for_many_metrics_and_datasets_is_told_once(results: Results) -> None:
    found = results({"a": {"fid": 1.0, "precision": 0.5}, "b": {"fid": 1.0, "precision": 0.5}}, warnings=("few rows",))
    assert notes(found)[:-1] == ["few rows (a, b)"]
    found = results({"a": {"fid": 1.0}, "b": {"fid": 1.0, "precision": 0.5}}, warnings=("few rows",))
    assert notes(found)[:-1] == ["FID: few rows (a)", "few rows (b)"]


def test_without_restraints_there_is_no_such_column(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, results({"mine": {"fid": 3.0, "precision": 0.9}}))
    assert row(text, "dataset") == ["dataset", "images", "FID ↓", "precision ↑", "features"]
    assert text.rstrip().endswith("PASS 1 of 1 datasets measured")


def test_ties_are_all_marked(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, results({"a": {"fid": 1.0}, "b": {"fid": 1.0}, "c": {"fid": 2.0}}, metrics=("fid",)))
    assert [row(text, name)[2] for name in ("a ", "b ", "c ")] == ["1 (*)", "1 (*)", "2"]
    assert "no intervals were asked for" in text


def test_a_terminal_gets_colours_and_no_line_beyond_its_width(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    found = results(
        {"mine-with-a-name-that-is-rather-long": {"fid": 3.0, "precision": 0.9}, "other": {"fid": 3.0}},
        verdicts=(BROKEN,),
    )
    text = printed(monkeypatch, found, terminal=True)
    assert "\x1b[1;32mPASS" in text or "\x1b[1;31mFAIL" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    table = plain[: plain.index("(*): first")]
    assert max(map(len, table.splitlines())) <= 60
    assert "3 (*)" in table


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_and_any_name(
    results: Results, monkeypatch: pytest.MonkeyPatch, encoding: str, terminal: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = results(
        {"größe-模型": {"fid": 1.0}, "other": {"fid": 2.0}, os.fsdecode(b"bad-\xff"): "größe"}, reference="模型"
    )
    text = printed(monkeypatch, found, encoding, terminal)
    assert "1 (*)" in text
    assert "bad-\\udcff" in text
    if encoding != "ascii":
        assert "größe" in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("terminal", [False, True])
def test_no_name_is_markup_in_the_table(
    results: Results, monkeypatch: pytest.MonkeyPatch, name: str, terminal: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    verdict = Verdict(name, "fid", 3.0, None, 2.0, name, "fid_inception")
    found = results(
        {name: {"fid": 3.0}, "failed": f"cannot read {name}"},
        reference=name,
        verdicts=(verdict,),
        skipped=({"path": name, "reason": name},),
        warnings=(name,),
    )
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(monkeypatch, found, terminal=terminal))
    assert f"reference: {name}, 100 images" in text
    assert any(line.strip().startswith(f"{name} ") for line in text.splitlines())
    assert f"failed was not measured: cannot read {name}" in text
    assert f"restraint broken: {name}: FID is 3" in text
    assert f"first {name}: {name}" in text
    assert f"FID: {name} ({name})" in text


@pytest.mark.parametrize("name", [*NAMES, "two\nlines", "two\r\nlines"])
def test_no_name_is_markup_in_markdown(results: Results, name: str) -> None:
    """A renderer shows the name as it is, in the right number of cells."""
    found = results(
        {
            name: {"fid": {"number": 3.0, "error": 0.1}, "precision": 0.5},
            "other": {"fid": {"number": 4.0, "error": 0.1}, "precision": 0.4},
            "failed": f"cannot read {name}",
        },
        reference=name,
    )
    markdown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = markdown.parse(as_markdown(found))
    assert not [token for token in tokens if token.type == "html_block"]
    lines = []
    for token in tokens:
        for child in token.children or []:
            assert child.type in {"text", "strong_open", "strong_close", "text_special"}
        if token.type == "inline":
            lines.append("".join(child.content for child in token.children or []))
    shown = for_terminal(name)
    assert lines[0] == f"reference: {shown}, 100 images; features: fid_inception"
    assert lines[1:6] == ["dataset", "images", "FID ↓", "precision ↑", "features"]
    assert lines[6:11] == [shown, "50", "3.00 [2.80, 3.25] *", "0.5 (*)", "extracted"]
    assert f"failed was not measured: cannot read {shown}" in lines


def test_markdown_as_written(results: Results) -> None:
    numbers = ({"fid": {"number": number, "error": 0.1}, "precision": 0.5} for number in (3.0, 4.0))
    found = results(dict(zip(("mine", "other"), numbers, strict=True)))
    assert as_markdown(found).splitlines() == [
        "### reference: real, 100 images; features: fid\\_inception",
        "",
        "| dataset | images | FID ↓ | precision ↑ | features |",
        "| --- | --- | --- | --- | --- |",
        "| mine | 50 | **3.00 \\[2.80, 3.25\\] \\*** | 0.5 (\\*) | extracted |",
        "| other | 50 | 4.00 \\[3.80, 4.25\\] | 0.5 (\\*) | extracted |",
        "",
        "- \\*: better than all others ranked in its column by more than chance, at 95% for all of them together",
        "- (\\*): first in its column, which may be chance",
        "- no intervals were asked for, so that rankings say which value is first and no more; intervals: true does",
        "",
        "**PASS** 2 of 2 datasets measured",
    ]


def test_a_warning_of_several_sets_is_one_line(results: Results) -> None:
    found = results({"a": {"fid": 1.0}, "b": {"fid": 2.0}, "c": {"precision": 1.0}}, warnings=("few rows",))
    assert notes(found)[:-1] == ["FID: few rows (a, b)", "precision: few rows (c)"]


def test_skipped_images_are_counted_and_the_first_is_named(results: Results) -> None:
    skipped = ({"path": "x.png", "reason": "empty"}, {"path": "y.png", "reason": "damaged"})
    assert notes(results({"a": {"fid": 1.0}}, skipped=skipped)) == ["a: images skipped: 2, first x.png: empty"]


def test_a_reference_that_fails_says_so_once(results: Results) -> None:
    error = "cannot read image x.png: empty"
    found = results({"a": "the reference has no features", "b": "the reference has no features"}, error=error)
    assert notes(found) == ["real, the reference, has no features: cannot read image x.png: empty"]


def test_steps_have_a_column_where_any_set_has_one(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results({"mine": {"fid": 3.0}, "other": {"fid": 4.0}}, metrics=("fid",), steps={"mine": 1000})
    text = printed(monkeypatch, found)
    assert row(text, "dataset") == ["dataset", "step", "images", "FID ↓", "features"]
    assert row(text, "mine")[:3] == ["mine", "1000", "50"]
    assert row(text, "other")[:3] == ["other", "-", "50"]


def test_what_was_not_asked_for_has_not_failed(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results({"mine": "no image", "other": {"fid": 4.0}}, excluded={"other": ("precision",)})
    text = printed(monkeypatch, found)
    assert row(text, "other")[2:4] == ["4", "-"]
    found = results({"mine": {"fid": 4.0}}, excluded={"mine": ("precision",)})
    assert "PASS" in printed(monkeypatch, found)


def test_each_reference_and_extractor_has_a_table(
    results: Results, table: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = (
        table({"mine": {"fid": 3.0}, "other": {"fid": 4.0}}, metrics=("fid",)),
        table(
            {"mine": {"fid": 5.0}, "other": {"fid": 2.0}}, metrics=("fid",), reference="b", suffix="resnet18_random0"
        ),
    )
    verdict = Verdict("mine", "fid", 5.0, None, 4.0, "b", "resnet18_random0")
    found = results(tables=tables, verdicts=(verdict,))
    first, second = printed(monkeypatch, found).split("reference: b, 100 images; features: resnet18_random0")
    assert "reference: real, 100 images; features: fid_inception" in first
    assert row(first, "mine") == ["mine", "50", "3 (*)", "-", "extracted"]
    assert row(second, "mine") == ["mine", "50", "5", "FAIL FD (resnet18_random0)", "extracted"]
    assert row(second, "dataset")[2] == "FD (resnet18_random0) ↓"
    assert "restraint broken: mine against b on resnet18_random0: FD (resnet18_random0) is 5 (upper_bound 4)" in second
    assert second.rstrip().endswith("FAIL 4 of 4 comparisons measured; 0 of 1 restraints hold")
    headings = [line for line in as_markdown(found).splitlines() if line.startswith("#")]
    assert headings == [
        "### reference: real, 100 images; features: fid\\_inception",
        "### reference: b, 100 images; features: resnet18\\_random0",
    ]


def test_of_thousands_a_part_is_printed_and_the_rest_counted(
    results: Results, table: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {f"s{n}": {"fid": float(n)} for n in range(1000)}
    found = results(tables=tuple(table(numbers, metrics=("fid",), reference=f"r{n}") for n in range(30)))
    for text in (printed(monkeypatch, found), as_markdown(found)):
        assert len(text.splitlines()) < 400
        assert text.count("10 of 1000 datasets: the first by each metric,") == 20
        assert "10 more tables are not shown; results.csv has them all" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_in_a_narrow_terminal_columns_go_below_each_other_and_no_number_is_cut_off(
    results: Results, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    metrics = ("fid", "kid", "precision", "recall", "density", "coverage", "mind", "roc_auc")
    numbers = {name: {"number": 0.12345 + place, "error": 0.1} for place, name in enumerate(metrics)}
    found = results(
        {"a": numbers},
        metrics=metrics,
        steps={"a": 1000},
        verdicts=(Verdict("a", "fid", 3.0, None, 2.0, "real", "fid_inception"),),
    )
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(monkeypatch, found, terminal=True))
    lines = text[: text.index("restraint broken")].splitlines()
    assert max(map(len, lines)) <= width
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines if line.startswith("  a ")]
    assert all(one[:2] == ["a", "1000"] for one in rows)
    cells = [cell for one in rows for cell in one[2:]]
    values = [f"{0.12345 + n:.2f} [{n - 0.07655:.2f}, {n + 0.37345:.2f}]" for n in range(8)]
    assert cells == ["50", *values, "FAIL FID", "extracted"]
    assert sum(line.startswith("reference:") for line in lines) == 1
    assert (len(rows) == 1) == (width > 200)


def test_parts_are_columns_beside_the_dataset(results: Results, table: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    made = table({"a": {"fid": 1.0}, "b": {"fid": 2.0}}, steps={"a": 5}, metrics=("fid",))
    first, second = made.datasets
    found = results(tables=(replace(made, datasets=(replace(first, parts={"run": "x"}), second)),))
    lines = [line.split() for line in printed(monkeypatch, found).splitlines()]
    assert any(line[:3] == ["dataset", "run", "step"] for line in lines)
    assert any(line[:3] == ["a", "x", "5"] for line in lines)
    assert any(line[:3] == ["b", "-", "-"] for line in lines)
    assert "| dataset | run | step |" in as_markdown(found)
