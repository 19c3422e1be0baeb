"""The results as tables: for a terminal, and as Markdown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from simet_cache.escaping import for_markdown, for_terminal
from simet_cache.metrics import METRICS
from simet_cache.report.notes import notes
from simet_cache.report.numbers import aligned, bias_of, written
from simet_cache.report.results import DatasetResult, EvaluationResults, Standing, Table
from simet_cache.report.shown import Part, parts
from simet_cache.restraints import Verdict

_ARROW = {"lower": "↓", "higher": "↑", "nearer 0.5": "→.5"}
_MARK: dict[Standing, str] = {"best": "*", "first": "(*)", "": ""}
_BIASED = "biased"
_LEGEND = {
    _MARK[
        "best"
    ]: "better than all others ranked in its column by more than chance, at {level:.6g}% for all of them together",
    _MARK["first"]: "first in its column, which may be chance",
    _BIASED: "few rows raise the value by more than half its interval; see below",
}
_HEADING = 10  # characters of a heading that stand in one line at least
_NAME = 20  # characters of a dataset's name that stand in one line at least
_GAP = 3  # between two columns


@dataclass(frozen=True)
class _Cell:
    """A cell; that of a value has words: its number, its interval, its standing, and whether it is biased."""

    text: str
    best: bool = False
    broken: bool = False
    words: tuple[str, ...] = ()


def print_table(results: EvaluationResults) -> None:
    """Print the results to standard output: as wide as they are in a pipe, as the terminal wants in a terminal.

    Of hundreds of datasets, and of dozens of tables, a part is shown and the rest counted.
    """
    if sys.stdout.isatty():
        console = _Terminal(highlight=False)
    else:
        console = _Terminal(highlight=False, width=10_000, color_system=None)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # an ASCII stream, or a name that is no text, shall not end the run
    shown, hidden = parts(results)
    for part in shown:
        console.print()
        names = ("dataset", *map(for_terminal, results.part_names))
        _print_part(console, *_cells(results, part), title=_title(part.table), names=names)
        if part.left_out:
            console.print(Text(for_terminal(part.left_out)), soft_wrap=True)
    for line in (*_legend(shown), *_tables_left_out(hidden), *notes(results)):
        console.print(Text(for_terminal(line)), soft_wrap=True)
    verdict = ("PASS", "bold green") if results.passed else ("FAIL", "bold red")
    console.print(Text.assemble(verdict, f" {for_terminal(results.summary)}"), soft_wrap=True)


def _print_part(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[_Cell]], *, title: str, names: Sequence[str]
) -> None:
    """One table; or several below each other, where the columns are more than the terminal is wide."""
    rows = _aligned(rows)
    # in a narrow terminal long headings and names wrap, and numbers never do
    widths = [
        max(min(cell_len(heading), _HEADING), *(cell_len(row[number].text) for row in rows), 0)
        for number, heading in enumerate(header)
    ]
    widths[0] = min(widths[0], _NAME)
    leading = [number for number, name in enumerate(header) if name in (*names, "step")]
    others = [number for number in range(len(header)) if number not in leading]
    for first, columns in _packed(leading, others, widths, console.width):
        if first:  # not as the table's title, which wraps where the table is narrower than it
            console.print(Text(for_terminal(title), style="bold"))
        table = RichTable(box=box.SIMPLE_HEAD)
        for number in columns:
            of_values = any(row[number].words for row in rows)  # which are as wide as their column already
            left = of_values or header[number] in (*names, "features")
            justify: Literal["left", "right"] = "left" if left else "right"
            table.add_column(Text(header[number], overflow="fold"), justify=justify, min_width=widths[number])
        for row in rows:
            table.add_row(*(_styled(row[number]) for number in columns))
        console.print(table)


def _aligned(rows: Sequence[Sequence[_Cell]]) -> list[list[_Cell]]:
    """The same with the numbers, intervals and marks of each column below each other."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    for column in columns:
        places = [place for place, cell in enumerate(column) if cell.words]
        texts = aligned([column[place].words for place in places])
        for place, text in zip(places, texts, strict=True):
            column[place] = replace(column[place], text=text)
    return [list(row) for row in zip(*columns, strict=True)]


def _packed(
    leading: Sequence[int], others: Sequence[int], widths: Sequence[int], most: int
) -> Iterator[tuple[bool, list[int]]]:
    """Columns that fit beside each other, the leading ones in every table; and whether it is the first."""
    first, columns = True, [*leading]
    for number in others:
        taken = 1 + sum(widths[one] + _GAP for one in (*columns, number))
        if taken > most and len(columns) > len(leading):
            yield first, columns
            first, columns = False, [*leading]
        columns.append(number)
    yield first, columns


class _Terminal(Console):
    """Who closes the pipe, like head, wants to see no more; the run goes on, and ends as it would have."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process, as rich does."""
        self.quiet = True
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def as_markdown(results: EvaluationResults) -> str:
    """The same tables for a Prefect artifact."""
    shown, hidden = parts(results)
    lines = []
    for part in shown:
        header, rows = _cells(results, part)
        lines += [f"### {for_markdown(_title(part.table))}", "", _row(map(for_markdown, header))]
        lines += [_row(["---"] * len(header)), *(_row(map(_markdown_cell, row)) for row in rows)]
        lines += ["", *((for_markdown(part.left_out), "") if part.left_out else ())]
    said = (*_legend(shown), *_tables_left_out(hidden), *notes(results))
    lines += [f"- {for_markdown(line)}" for line in said]
    return "\n".join([*lines, "", f"**{'PASS' if results.passed else 'FAIL'}** {for_markdown(results.summary)}"])


def _tables_left_out(hidden: int) -> list[str]:
    return [f"{hidden} more tables are not shown; results.csv has them all"] if hidden else []


def _legend(shown: Sequence[Part]) -> list[str]:
    """What the marks mean that occur."""
    rankings = [ranking for part in shown for ranking in part.table.rankings.values()]
    levels = [ranking.level for ranking in rankings if ranking.best] or [0.0]
    words = {
        word for part in shown for one in part.datasets for name in one.values for word in _words(part, one, name)[2:]
    }
    return [f"{word}: {meaning.format(level=100 * levels[0])}" for word, meaning in _LEGEND.items() if word in words]


def _title(table: Table) -> str:
    rows = f", {table.reference.features.shape[0]} images" if table.reference.features else ""
    return f"reference: {table.reference.name}{rows}; features: {table.reference.suffix}"


def _cells(results: EvaluationResults, part: Part) -> tuple[list[str], list[list[_Cell]]]:
    table = part.table
    copied = any(one.copies is not None and one.copies.exact + one.copies.near for one in table.datasets)
    steps = any(one.step is not None for other in results.tables for one in other.datasets)
    header = [
        "dataset",
        *map(for_terminal, results.part_names),
        *(["step"] if steps else []),
        "images",
        *(["copies"] if copied else []),
        *(f"{table.label(name)}{_arrow(name)}" for name in table.metrics),
        *(["restraints"] if results.verdicts else []),
        "features",
    ]
    rows = []
    for one in part.datasets:
        verdicts = part.verdicts.get(one.name, ())
        broken = {verdict.metric: verdict.label for verdict in verdicts if not verdict.passed}
        rows.append(
            [
                _Cell(for_terminal(one.name)),
                *(_Cell(for_terminal(one.parts.get(name, "-"))) for name in results.part_names),
                *([_Cell("-" if one.step is None else str(one.step))] if steps else []),
                _Cell(str(one.features.shape[0]) if one.features else "-"),
                *([_copies(one)] if copied else []),
                *(_value(part, one, name, broken=name in broken) for name in table.metrics),
                *([_judged(verdicts, [*broken.values()])] if results.verdicts else []),
                _Cell(_features(one)),
            ]
        )
    return header, rows


def _arrow(metric: str) -> str:
    """Which way is better; nothing where neither is."""
    return "" if METRICS[metric].no_best else f" {_ARROW[METRICS[metric].direction]}"


def _value(part: Part, one: DatasetResult, name: str, *, broken: bool) -> _Cell:
    if name not in one.values:
        failed = name not in one.excluded and (one.error is not None or name in one.failures)
        return _Cell("failed" if failed else "-")
    words = _words(part, one, name)
    best = part.table.standing(one.name, name) == "best"
    return _Cell(" ".join(word for word in words if word), best=best, broken=broken, words=words)


def _words(part: Part, one: DatasetResult, name: str) -> tuple[str, ...]:
    """A value, its interval, its standing in the ranking, and whether it is mostly bias; what there is not is empty."""
    number, interval = written(one.values[name])
    biased = _BIASED if bias_of(one.values[name]) is not None else ""
    return number, interval, _MARK[part.table.standing(one.name, name)], biased


def _copies(one: DatasetResult) -> _Cell:
    """How many of its rows are real ones, or nearly so."""
    if one.copies is None:
        return _Cell("-")
    return _Cell(f"{one.copies.exact + one.copies.near} of {one.copies.rows}", broken=one.copies.suspicious)


def _judged(verdicts: Sequence[Verdict], broken: Sequence[str]) -> _Cell:
    if not verdicts:
        return _Cell("-")
    return _Cell(f"FAIL {', '.join(broken)}" if broken else "pass", broken=bool(broken))


def _features(one: DatasetResult) -> str:
    if one.features is None:
        return "failed"
    return "cached" if one.cached else "extracted"


def _styled(cell: _Cell) -> Text:
    return Text(cell.text, style="red" if cell.broken else "bold" if cell.best else "", overflow="fold")


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: _Cell) -> str:
    return f"**{for_markdown(cell.text)}**" if cell.best else for_markdown(cell.text)
