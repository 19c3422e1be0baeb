"""What a reader must know beside the numbers, in lines: grouped, and cut where they would be hundreds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from simet_cache.datasets.passed_over import in_one_line
from simet_cache.metrics import METRICS, MetricValue, Ranking
from simet_cache.report.image_notes import image_notes
from simet_cache.report.numbers import UNBIASED, bias_of
from simet_cache.report.results import DatasetResult, EvaluationResults, Table
from simet_cache.report.severity import Severity, severity_of

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
    """Leakage first; then failures, broken restraints, skipped images, warnings, what rankings leave open, and classes.

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
        *_leakage(tables, names),
        *_cut(without_features, "references have no features"),
        *_not_measured(tables, names),
        *_failures(tables, names),
        *_broken(results, tables, names),
        *_cut(_skipped(tables), "sets have images skipped"),
        *_passed_over(results),
        *_cut(_biased(tables, names), "metrics are biased; results.json has them all"),
        *image_notes(tables),
        *_cut(_left_out(tables, names), "reasons why sets are not ranked; results.json has them all"),
        *_warnings(tables, names),
        *_cut(_open_rankings(tables, names), "rankings are open; results.json has them all"),
        *_cut(_nothing_ranked(tables), "metrics by which nothing is ranked"),
        *_cut(_classes(tables, names), "datasets and metrics per class; results.csv has them all"),
    ]


def _cut(lines: Iterable[str], what: str) -> list[str]:
    """Each line once, and how many more there are of what."""
    found = list(dict.fromkeys(lines))
    shown, hidden = _first(found, MOST_LINES)
    return [*shown, f"and {hidden} more {what}"] if hidden else shown


def _listed(names: Iterable[str], separator: str = ", ") -> str:
    shown, hidden = _first(list(dict.fromkeys(names)), MOST_NAMES)
    return separator.join(shown) + (f" and {hidden} more" if hidden else "")


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
    if any("cannot read image" in error and "bit_depth" not in error for error in by_error):
        shown.append("on_bad_image: skip leaves out images that cannot be read, and lists them in the results")
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


def _leakage(tables: Sequence[Table], names: _Names) -> Iterator[str]:
    """Sets with rows of the reference: all of those that are left out for it, and some that hold a few."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for table in tables:
        for one in table.datasets:
            copies = one.copies
            if copies is not None and copies.exact + copies.near:
                near = f", {copies.near} of them near copies" if copies.near else ""
                count = f"{copies.exact + copies.near} of {copies.rows} rows{near}"
                found[copies.suspicious].append(f"{one.name}{names.place(table)} ({count})")
    if found[True]:
        yield f"possible leakage: copies of real rows, so that no ranking has these sets: {', '.join(found[True])}"
    if found[False]:
        yield f"possible leakage: a few copies of real rows: {_listed(found[False])}"


def _biased(tables: Sequence[Table], names: _Names) -> Iterator[str]:
    """Values that are mostly bias, with what is left without it."""
    for table in tables:
        for metric in table.metrics:
            of_metric = {one.name: (one, bias_of(one.values[metric])) for one in table.datasets if metric in one.values}
            biased = [_unbiased(one, metric, bias) for one, bias in of_metric.values() if bias is not None]
            if biased:
                remedy = "" if UNBIASED in table.metrics else f"; the metric {UNBIASED} takes it away"
                what = f"{table.label(metric)}{names.place(table)}"
                yield f"{what} biased by few rows: {_listed(biased, '; ')}{remedy}"


def _unbiased(one: DatasetResult, metric: str, bias: float) -> str:
    # the estimate is of second order, and with few rows for each feature the bias exceeds it: half of it at N = D
    value = one.values[metric].value
    if UNBIASED in one.values:
        without = f"{UNBIASED}: {one.values[UNBIASED].value:.3g}"
    else:
        without = f"at most about {value - bias:.3g} without it"
    return f"{one.name} {value:.4g}, of which at least about {bias:.3g} is bias ({without})"


def _left_out(tables: Sequence[Table], names: _Names) -> Iterator[str]:
    """Sets with a value that have no place in a ranking; copies of real rows have been told, and so have failures."""
    subjects: dict[tuple[str, ...], list[str]] = {}
    for table in tables:
        for one in table.datasets:
            if one.copies is not None and one.copies.suspicious:
                continue
            labels: dict[str, list[str]] = {}
            for metric, ranking in table.rankings.items():
                if one.name in ranking.left_out and metric in one.values:
                    labels.setdefault(ranking.left_out[one.name], []).append(table.label(metric))
            for reason, metrics in labels.items():
                subjects.setdefault((reason, *metrics), []).append(one.name + names.place(table))
    for (reason, *metrics), of in subjects.items():
        are = "is" if len(set(of)) == 1 else "are"
        yield f"{', '.join(metrics)}: {_listed(of)} {are} not ranked: {reason}"


def _warnings(tables: Sequence[Table], names: _Names) -> list[str]:
    """Each warning once, with the metrics and the datasets that it is about; of many, the most severe."""
    subjects: dict[tuple[bool, str, tuple[str, ...]], list[str]] = {}
    for table in tables:
        for one in table.datasets:
            for warning, labels in _warned(one, table).items():
                everything = len(labels) == len(table.metrics) > 1
                found = subjects.setdefault((everything, warning, () if everything else tuple(labels)), [])
                found.append(one.name + names.place(table))
    groups = sorted(subjects.items(), key=lambda group: severity_of(group[0][1]))
    if len(groups) > MOST_LINES:
        groups.sort(key=lambda group: (severity_of(group[0][1]), -len(group[1])))
    lines: dict[bool, list[str]] = {True: [], False: []}
    for (_, warning, metrics), of in groups:
        line = f"{', '.join(metrics)}{': ' if metrics else ''}{warning} ({_listed(of)})"
        lines[severity_of(warning) is Severity.LEAKAGE].append(line)
    return [*lines[True], *_cut(lines[False], "warnings; results.json has them all")]


def _warned(one: DatasetResult, table: Table) -> dict[str, list[str]]:
    warned: dict[str, list[str]] = {}
    for metric, value in one.values.items():
        for warning in value.warnings:
            if one.copies is not None and severity_of(warning) is Severity.LEAKAGE:
                continue  # which has been told with its count
            warned.setdefault(warning, []).append(table.label(metric))
    return warned


def _open_rankings(tables: Sequence[Table], names: _Names) -> Iterator[str]:
    """Where the first value may be so by chance; one line for all where nobody asked whether it is."""
    unasked = False
    subjects: dict[tuple[str, str], list[str]] = {}
    for table in tables:
        for metric, ranking in table.rankings.items():
            if ranking.open and not _asked(ranking):
                unasked = True
            elif ranking.open:
                subjects.setdefault((_open(ranking), names.place(table)), []).append(table.label(metric))
    for (sentence, place), metrics in subjects.items():
        yield f"{', '.join(metrics)}{place}: {sentence}"
    if unasked:
        yield "no intervals were asked for, so that rankings say which value is first and no more; intervals: true does"


def _asked(ranking: Ranking) -> bool:
    values = [ranking.values[name] for name in ranking.order]
    return any(value.interval is not None or _no_interval(value) for value in values)


def _no_interval(value: MetricValue) -> str:
    """The warning that says why a value has no interval; empty where it has one, or none was asked for."""
    return next((warning for warning in value.warnings if warning.startswith("no interval: ")), "")


def _open(ranking: Ranking) -> str:
    """From which others the first set is not separated; the nearest of many."""
    sets, equal = len(ranking.order), ranking.first
    tied = [name for name in ranking.order if name in equal]
    are = f"{tied[0]} is first" if len(tied) == 1 else f"{_listed(tied)} are equally good and first"
    others = (ranking.open.keys() & ranking.differences.keys()) - {*tied}
    near = [name for name in ranking.order if name in others]
    together = f" for all {sets} sets together" if sets > 2 else ""
    reasons = [f"not separated from {_listed(near)} at {100 * ranking.level:.6g}%{together}"] if near else []
    for why, of in _without_intervals(ranking).items():
        who = "it" if {*of} == {*tied} else _listed(of)
        reasons.append(f"{who} {'has' if len({*of}) == 1 else 'have'} no interval{why and ': '}{why}")
    return f"{are}, but {', and '.join(reasons)}" if reasons else are


def _without_intervals(ranking: Ranking) -> dict[str, list[str]]:
    """Sets whose values cannot be compared, by the reason, which is empty where the value's warnings have it."""
    found: dict[str, list[str]] = {}
    for name, reason in ranking.open.items():
        if name not in ranking.differences:
            subject = name if reason.startswith(f"{name} has no interval: ") else ranking.order[0]
            why = reason.removeprefix(f"{subject} has no interval: ")
            told = _no_interval(ranking.values[subject]) == f"no interval: {why}"
            found.setdefault("" if told else why, []).append(subject)
    return found


def _nothing_ranked(tables: Sequence[Table]) -> Iterator[str]:
    """Metrics whose highest value is not the best one."""
    for table in tables:
        for metric, ranking in table.rankings.items():
            if ranking.remark and len(ranking.order) > 1:
                yield f"{table.label(metric)}: no set is called the best by it: {ranking.remark}"


def _classes(tables: Sequence[Table], names: _Names) -> Iterator[str]:
    """Where a dataset is best and where it is worst; the files hold all of its classes."""
    for table in tables:
        for one in table.datasets:
            for metric, value in one.values.items():
                if len(value.per_class) > 1:
                    of_class = value.per_class
                    ordered = sorted(of_class, key=lambda name: METRICS[metric].from_best(of_class[name].value))
                    words = ("highest", "lowest") if METRICS[metric].no_best else ("best", "worst")
                    ends = zip(words, (ordered[0], ordered[-1]), strict=True)
                    said = ", ".join(f"{word} {of_class[name].value:.4g} ({name})" for word, name in ends)
                    yield f"{one.name}{names.place(table)}: {table.label(metric)} per class: {said}"
