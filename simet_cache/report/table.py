"""The results as tables: for a terminal, and as Markdown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from simet_cache.metrics import METRICS, MetricValue
from simet_cache.report.notes import notes
from simet_cache.report.results import DatasetResult, EvaluationResults, Table
from simet_cache.report.shown import Part, parts
from simet_cache.restraints import Verdict

_ARROW = {"lower": "↓", "higher": "↑", "nearer 0.5": "→.5"}
_HARMLESS = str.maketrans(
    {**{sign: f"\\{sign}" for sign in "\\`*_[]|#~"}, "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)
_HEADING = 10  # characters of a heading that stand in one line at least
_NAME = 20  # characters of a dataset's name that stand in one line at least
_GAP = 3  # between two columns


@dataclass(frozen=True)
class _Cell:
    text: str
    best: bool = False
    broken: bool = False


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
        _print_part(console, *_cells(results, part), title=_title(part.table))
        if part.left_out:
            console.print(Text(part.left_out), soft_wrap=True)
    for line in (*_tables_left_out(hidden), *notes(results)):
        console.print(Text(line), soft_wrap=True)
    verdict = ("PASS", "bold green") if results.passed else ("FAIL", "bold red")
    console.print(Text.assemble(verdict, f" {results.summary}"), soft_wrap=True)


def _print_part(console: Console, header: Sequence[str], rows: Sequence[Sequence[_Cell]], *, title: str) -> None:
    """One table; or several below each other, where the columns are more than the terminal is wide."""
    # in a narrow terminal long headings and names wrap, and numbers never do
    widths = [
        max(min(cell_len(heading), _HEADING), *(cell_len(row[number].text) for row in rows), 0)
        for number, heading in enumerate(header)
    ]
    widths[0] = min(widths[0], _NAME)
    leading = [number for number, name in enumerate(header) if name in ("dataset", "step")]
    others = [number for number in range(len(header)) if number not in leading]
    for first, columns in _packed(leading, others, widths, console.width):
        table = RichTable(box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
        table.title = Text(title) if first else None
        for number in columns:
            justify: Literal["left", "right"] = "left" if header[number] in ("dataset", "features") else "right"
            table.add_column(Text(header[number], overflow="fold"), justify=justify, min_width=widths[number])
        for row in rows:
            table.add_row(*(_styled(row[number]) for number in columns))
        console.print(table)


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
        lines += [f"### {_escape(_title(part.table))}", "", _row(header), _row(["---"] * len(header))]
        lines += [
            _row([f"**{_escape(cell.text)}**" if cell.best else _escape(cell.text) for cell in row]) for row in rows
        ]
        lines += ["", *((_escape(part.left_out), "") if part.left_out else ())]
    lines += [f"- {_escape(line)}" for line in (*_tables_left_out(hidden), *notes(results))]
    return "\n".join([*lines, "", f"**{'PASS' if results.passed else 'FAIL'}** {results.summary}"])


def _tables_left_out(hidden: int) -> list[str]:
    return [f"{hidden} more tables are not shown; results.csv has them all"] if hidden else []


def _title(table: Table) -> str:
    rows = f", {table.reference.features.shape[0]} images" if table.reference.features else ""
    return f"reference: {table.reference.name}{rows}; features: {table.reference.suffix}"


def _cells(results: EvaluationResults, part: Part) -> tuple[list[str], list[list[_Cell]]]:
    table = part.table
    steps = any(one.step is not None for other in results.tables for one in other.datasets)
    header = [
        "dataset",
        *(["step"] if steps else []),
        "images",
        *(f"{table.label(name)} {_ARROW[METRICS[name].direction]}" for name in table.metrics),
        *(["restraints"] if results.verdicts else []),
        "features",
    ]
    rows = []
    for one in part.datasets:
        verdicts = part.verdicts.get(one.name, ())
        broken = {verdict.metric: verdict.label for verdict in verdicts if not verdict.passed}
        rows.append(
            [
                _Cell(one.name),
                *([_Cell("-" if one.step is None else str(one.step))] if steps else []),
                _Cell(str(one.features.shape[0]) if one.features else "-"),
                *(
                    _value(one, name, best=one.name in table.best(name), broken=name in broken)
                    for name in table.metrics
                ),
                *([_judged(verdicts, [*broken.values()])] if results.verdicts else []),
                _Cell(_features(one)),
            ]
        )
    return header, rows


def _value(one: DatasetResult, name: str, *, best: bool, broken: bool) -> _Cell:
    if name not in one.values:
        failed = name not in one.excluded and (one.error is not None or name in one.failures)
        return _Cell("failed" if failed else "-")
    return _Cell(f"{_number(one.values[name])}{'*' if best else ' '}", best=best, broken=broken)


def _number(value: MetricValue) -> str:
    """The value, and the longer arm of its interval."""
    if value.interval is None:
        return f"{value.value:.4g}"
    arm = max(value.interval.high - value.value, value.value - value.interval.low)
    return f"{value.value:.4g} ±{arm:.2g}"


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


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Names of folders are not ours: no markup of theirs shall count."""
    return text.translate(_HARMLESS)
