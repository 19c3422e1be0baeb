"""What a reader must know beside the numbers, in lines: grouped, and cut where they would be hundreds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from simet_cache.datasets.passed_over import in_one_line
from simet_cache.metrics import METRICS
from simet_cache.report.results import DatasetResult, EvaluationResults, Table

MOST_LINES = 10  # of one kind
MOST_NAMES = 10  # in one line
_T = TypeVar("_T")


class _Names:
    """What to call a dataset: by its name, and by its reference and extractor where there are several of them."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._by_reference = len({table.reference.name for table in tables}) > 1
        self._by_extractor = len({table.extractor for table in tables}) > 1

    def on(self, table: Table) -> str:
        return f" on {table.extractor}" if self._by_extractor else ""

    def place(self, table: Table) -> str:
        against = f" against {table.reference.name}" if self._by_reference else ""
        return against + self.on(table)


def notes(results: EvaluationResults) -> list[str]:
    """Failures, broken restraints, skipped images, warnings, rankings that are open, and classes.

    Of a table whose reference failed, that alone is said.
    """
    names = _Names(results.tables)
    failed = [table for table in results.tables if table.reference.error is not None]
    tables = [table for table in results.tables if table.reference.error is None]
    without_features = (
        f"{table.reference.name}{names.on(table)}, the reference, has no features: {table.reference.error}"
        for table in failed
    )
    return [
        *_cut(without_features, "references have no features"),
        *_not_measured(tables, names),
        *_failures(tables, names),
        *_broken(results, tables, names),
        *_cut(_skipped(tables), "sets have images skipped"),
        *_passed_over(results),
        *_cut(_warnings(tables, names), "warnings; results.json has them all"),
        *_cut(_open_rankings(tables, names), "rankings are open; results.json has them all"),
        *_cut(_classes(tables, names), "datasets and metrics per class; results.csv has them all"),
    ]


def _cut(lines: Iterable[str], what: str) -> list[str]:
    """Each line once, and how many more there are of what."""
    found = list(dict.fromkeys(lines))
    shown, hidden = _first(found, MOST_LINES)
    return [*shown, f"and {hidden} more {what}"] if hidden else shown


def _listed(names: Iterable[str]) -> str:
    shown, hidden = _first(list(dict.fromkeys(names)), MOST_NAMES)
    return ", ".join(shown) + (f" and {hidden} more" if hidden else "")


def _first(entries: list[_T], most: int) -> tuple[list[_T], int]:
    """So many entries, and how many are left; one alone that would be left is shown, too."""
    if len(entries) <= most + 1:
        return entries, 0
    return entries[:most], len(entries) - most


def _not_measured(tables: Sequence[Table], names: _Names) -> list[str]:
    by_error: dict[str, list[str]] = {}
    for table in tables:
        for one in table.datasets:
            if one.error is not None:
                # without features it failed by itself, whatever the reference
                place = names.on(table) if one.features is None else names.place(table)
                by_error.setdefault(one.error, []).append(one.name + place)
    lines = []
    for error, subjects in by_error.items():
        were = "was" if len(set(subjects)) == 1 else "were"
        lines.append(f"{_listed(subjects)} {were} not measured: {error}")
    shown = _cut(lines, "reasons why datasets were not measured; results.json has them all")
    if any("cannot read image" in error for error in by_error):
        shown.append("on_bad_image: skip leaves such images out, and lists them in the results")
    return shown


def _failures(tables: Sequence[Table], names: _Names) -> list[str]:
    subjects: dict[tuple[str, ...], list[str]] = {}
    for table in tables:
        for one in table.datasets:
            labels: dict[str, list[str]] = {}
            for metric, reason in one.failures.items():
                labels.setdefault(reason, []).append(table.label(metric))
            for reason, metrics in labels.items():
                subjects.setdefault((reason, *metrics), []).append(one.name + names.place(table))
    lines = (f"{_listed(of)}: no {', '.join(metrics)}: {reason}" for (reason, *metrics), of in subjects.items())
    return _cut(lines, "reasons why metrics have no value; results.json has them all")


def _broken(results: EvaluationResults, tables: Sequence[Table], names: _Names) -> list[str]:
    by_name = {(table.reference.name, table.extractor): table for table in tables}
    broken = [
        (verdict, by_name[verdict.reference, verdict.extractor])
        for verdict in results.verdicts
        if not verdict.passed and (verdict.reference, verdict.extractor) in by_name
    ]
    if len(broken) > MOST_LINES:  # what was not measured has been told above
        broken.sort(key=lambda pair: pair[0].value is None)
    shown, hidden = _first(broken, MOST_LINES)
    lines = [f"restraint broken: {one.sentence(one.dataset + names.place(table))}" for one, table in shown]
    if hidden:
        counted = Counter(table.label(verdict.metric) for verdict, table in broken[len(shown) :])
        which = ", ".join(f"{label} {number}" for label, number in counted.items())
        lines.append(f"and {hidden} more restraints broken ({which})")
    return lines


def _skipped(tables: Sequence[Table]) -> Iterator[str]:
    for table in tables:
        for one in (table.reference, *table.datasets):
            if one.skipped:
                first = one.skipped[0]
                yield f"{one.name}: images skipped: {len(one.skipped)}, first {first['path']}: {first['reason']}"


def _passed_over(results: EvaluationResults) -> list[str]:
    """One line, since nothing of it needs to be wrong."""
    sets = ((one.name, one.passed_over) for t in results.tables for one in (t.reference, *t.datasets))
    line = in_one_line(sets, ((one["glob"], one["paths"]) for one in results.plan.get("beside_globs", ())))
    return [f"{line}; results.json has them by set"] if line else []


def _warnings(tables: Sequence[Table], names: _Names) -> Iterator[str]:
    """Each warning once, with the metrics and the datasets that it is about."""
    subjects: dict[tuple[bool, str, tuple[str, ...]], list[str]] = {}
    for table in tables:
        for one in table.datasets:
            for warning, labels in _warned(one, table).items():
                everything = len(labels) == len(table.metrics) > 1
                found = subjects.setdefault((everything, warning, () if everything else tuple(labels)), [])
                found.append(one.name + names.place(table))
    groups = list(subjects.items())
    if len(groups) > MOST_LINES:
        groups.sort(key=lambda group: -len(group[1]))
    for (_, warning, metrics), of in groups:
        yield f"{', '.join(metrics)}{': ' if metrics else ''}{warning} ({_listed(of)})"


def _warned(one: DatasetResult, table: Table) -> dict[str, list[str]]:
    warned: dict[str, list[str]] = {}
    for metric, value in one.values.items():
        for warning in value.warnings:
            warned.setdefault(warning, []).append(table.label(metric))
    return warned


def _open_rankings(tables: Sequence[Table], names: _Names) -> Iterator[str]:
    """Where the best value may be so by chance."""
    for table in tables:
        for metric in table.metrics:
            near = {name: one for name, one in table.differences.get(metric, {}).items() if one.better is None}
            if near:
                level = next(iter(near.values())).interval.level
                what = f"{table.label(metric)}{names.place(table)}"
                nearest = sorted(near, key=lambda name: abs(near[name].value)) if len(near) > MOST_NAMES else near
                yield f"{what}: the best is not separated from {_listed(nearest)} at {level:.0%}"


def _classes(tables: Sequence[Table], names: _Names) -> Iterator[str]:
    """Where a dataset is best and where it is worst; the files hold all of its classes."""
    for table in tables:
        for one in table.datasets:
            for metric, value in one.values.items():
                if len(value.per_class) > 1:
                    of_class = value.per_class
                    ordered = sorted(of_class, key=lambda name: METRICS[metric].from_best(of_class[name].value))
                    best, worst = (f"{of_class[name].value:.4g} ({name})" for name in (ordered[0], ordered[-1]))
                    yield f"{one.name}{names.place(table)}: {table.label(metric)} per class: best {best}, worst {worst}"
