"""The results as a table: for a terminal, and as Markdown."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simet_cache.metrics import METRICS, MetricValue
from simet_cache.report.results import DatasetResult, EvaluationResults

_ARROW = {"lower": "↓", "higher": "↑", "nearer 0.5": "→.5"}
_HARMLESS = str.maketrans(
    {**{sign: f"\\{sign}" for sign in "\\`*_[]|#~"}, "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


@dataclass(frozen=True)
class _Cell:
    text: str
    best: bool = False
    broken: bool = False


def print_table(results: EvaluationResults) -> None:
    """Print the results to standard output: as wide as they are in a pipe, as the terminal wants in a terminal."""
    if sys.stdout.isatty():
        console = _Terminal(highlight=False)
    else:
        console = _Terminal(highlight=False, width=10_000, color_system=None)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # an ASCII stream, or a name that is no text, shall not end the run
    header, rows = _cells(results)
    table = Table(box=box.SIMPLE_HEAD, title=Text(_title(results)), title_justify="left", title_style="bold")
    for number, name in enumerate(header):
        # in a narrow terminal headings wrap, and numbers never do
        width = max((len(row[number].text) for row in rows), default=0) if number else 0
        justify: Literal["left", "right"] = "left" if number in (0, len(header) - 1) else "right"
        table.add_column(Text(name, overflow="fold"), justify=justify, min_width=width)
    for row in rows:
        table.add_row(*(_styled(cell) for cell in row))
    console.print()
    console.print(table)
    for line in notes(results):
        console.print(Text(line), soft_wrap=True)
    verdict = ("PASS", "bold green") if results.passed else ("FAIL", "bold red")
    console.print(Text.assemble(verdict, f" {results.summary}"), soft_wrap=True)


class _Terminal(Console):
    """Who closes the pipe, like head, wants to see no more; the run goes on, and ends as it would have."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process, as rich does."""
        self.quiet = True
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def as_markdown(results: EvaluationResults) -> str:
    """The same table for a Prefect artifact."""
    header, rows = _cells(results)
    lines = [f"### {_escape(_title(results))}", "", _row(header), _row(["---"] * len(header))]
    lines += [_row([f"**{_escape(cell.text)}**" if cell.best else _escape(cell.text) for cell in row]) for row in rows]
    lines += ["", *(f"- {_escape(line)}" for line in notes(results))]
    return "\n".join([*lines, "", f"**{'PASS' if results.passed else 'FAIL'}** {results.summary}"])


def notes(results: EvaluationResults) -> list[str]:
    """What a reader must know beside the numbers: failures, broken restraints, skipped images, warnings."""
    if results.reference.error is not None:
        return [f"{results.reference.name}, the reference, has no features: {results.reference.error}"]
    lines = [f"{one.name} was not measured: {one.error}" for one in results.datasets if one.error is not None]
    if any("cannot read image" in line for line in lines):
        lines.append("on_bad_image: skip leaves such images out, and lists them in the results")
    for one in results.datasets:
        reasons: dict[str, list[str]] = {}
        for name, reason in one.failures.items():
            reasons.setdefault(reason, []).append(results.label(name))
        lines += [f"{one.name}: no {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    lines += [f"restraint broken: {verdict}" for verdict in results.verdicts if not verdict.passed]
    for one in (results.reference, *results.datasets):
        if one.skipped:
            first = one.skipped[0]
            lines.append(f"{one.name}: images skipped: {len(one.skipped)}, first {first['path']}: {first['reason']}")
    return lines + _warnings(results) + _open_rankings(results) + _classes(results)


def _warnings(results: EvaluationResults) -> list[str]:
    """Each warning once, with the metrics and the datasets that it is about."""
    warned: dict[str, dict[str, list[str]]] = {}
    for one in results.datasets:
        for name, value in one.values.items():
            for warning in value.warnings:
                warned.setdefault(warning, {}).setdefault(one.name, []).append(results.label(name))
    grouped: dict[tuple[str, ...], list[str]] = {}
    for warning, datasets in warned.items():
        for dataset, metrics in datasets.items():
            grouped.setdefault((warning, *metrics), []).append(dataset)
    everything = len(results.metric_names())
    return [
        f"{'' if len(metrics) == everything > 1 else ', '.join(metrics) + ': '}{warning} ({', '.join(datasets)})"
        for (warning, *metrics), datasets in grouped.items()
    ]


def _open_rankings(results: EvaluationResults) -> list[str]:
    """Where the best value may be so by chance."""
    lines = []
    for metric in results.metric_names():
        near = {name: one for name, one in results.differences(metric).items() if one.better is None}
        if near:
            level = next(iter(near.values())).interval.level
            lines.append(f"{results.label(metric)}: the best is not separated from {', '.join(near)} at {level:.0%}")
    return lines


def _classes(results: EvaluationResults) -> list[str]:
    """Where a dataset is best and where it is worst; the files hold all of its classes."""
    lines = []
    for one in results.datasets:
        for metric, value in one.values.items():
            if len(value.per_class) > 1:
                ordered = sorted(
                    value.per_class, key=lambda name: METRICS[metric].from_best(value.per_class[name].value)
                )
                best, worst = (f"{value.per_class[name].value:.4g} ({name})" for name in (ordered[0], ordered[-1]))
                lines.append(f"{one.name}: {results.label(metric)} per class: best {best}, worst {worst}")
    return lines


def _title(results: EvaluationResults) -> str:
    reference = results.reference
    rows = f", {reference.features.shape[0]} images" if reference.features else ""
    return f"reference: {reference.name}{rows}; features: {reference.suffix}"


def _cells(results: EvaluationResults) -> tuple[list[str], list[list[_Cell]]]:
    names = results.metric_names()
    header = ["dataset", "images", *(f"{results.label(name)} {_ARROW[METRICS[name].direction]}" for name in names)]
    if results.verdicts:
        header.append("restraints")
    best = {name: results.best(name) for name in names}
    rows = []
    for one in results.datasets:
        images = str(one.features.shape[0]) if one.features else "-"
        row = [_Cell(one.name), _Cell(images), *(_value(results, one, name, best[name]) for name in names)]
        if results.verdicts:
            row.append(_judged(results, one))
        rows.append([*row, _Cell(_features(one))])
    return [*header, "features"], rows


def _value(results: EvaluationResults, one: DatasetResult, name: str, best: set[str]) -> _Cell:
    if name not in one.values:
        return _Cell("failed" if one.error is not None or name in one.failures else "-")
    broken = any(v.dataset == one.name and v.metric == name and not v.passed for v in results.verdicts)
    star = "*" if one.name in best else " "
    return _Cell(f"{_number(one.values[name])}{star}", best=one.name in best, broken=broken)


def _number(value: MetricValue) -> str:
    """The value, and the longer arm of its interval."""
    if value.interval is None:
        return f"{value.value:.4g}"
    arm = max(value.interval.high - value.value, value.value - value.interval.low)
    return f"{value.value:.4g} ±{arm:.2g}"


def _judged(results: EvaluationResults, one: DatasetResult) -> _Cell:
    mine = [verdict for verdict in results.verdicts if verdict.dataset == one.name]
    if not mine:
        return _Cell("-")
    broken = [verdict.metric for verdict in mine if not verdict.passed]
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
