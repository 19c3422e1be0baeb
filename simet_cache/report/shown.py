"""Which part of many results a person is shown; the files hold all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from simet_cache.metrics import ranked
from simet_cache.report.results import DatasetResult, EvaluationResults, Table
from simet_cache.restraints import Verdict

MOST_TABLES = 20
MOST_ROWS = 50  # of one table
FEWEST_ROWS = 10  # however many tables there are
_ALL_ROWS = 200


@dataclass(frozen=True)
class Part:
    """The rows of a table that are shown.

    Attributes:
        table: The table.
        datasets: What is shown of it, in its order.
        verdicts: On each of all its datasets, by name.
    """

    table: Table
    datasets: tuple[DatasetResult, ...]
    verdicts: Mapping[str, Sequence[Verdict]]

    @property
    def left_out(self) -> str:
        """Which datasets are shown and how many are not, in words; empty where all are shown."""
        everything, shown = len(self.table.datasets), {one.name for one in self.datasets}
        if len(shown) == everything:
            return ""
        rest = [one for one in self.table.datasets if one.name not in shown]
        failed = sum(not one.measured for one in rest)
        broken = sum(one.measured and _is_broken(self.verdicts.get(one.name, ())) for one in rest)
        counts = [f"{number} {what}" for number, what in ((broken, "broke a restraint"), (failed, "failed")) if number]
        which = f" ({', '.join(counts)})" if counts else ""
        first = self.table.label(self.table.metrics[0])
        return (
            f"{len(shown)} of {everything} datasets: the first by each metric, what broke a restraint, what holds"
            f" copies of real rows, what failed, then the first by {first};"
            f" results.csv has the other {len(rest)}{which}, too"
        )


def parts(results: EvaluationResults) -> tuple[list[Part], int]:
    """What is shown of each table, and how many tables are not: first those in which something is wrong."""
    verdicts: dict[tuple[str, str], dict[str, list[Verdict]]] = {}
    for one in results.verdicts:
        verdicts.setdefault((one.reference, one.extractor), {}).setdefault(one.dataset, []).append(one)
    of_table = [verdicts.get((table.reference.name, table.extractor), {}) for table in results.tables]
    most = max(FEWEST_ROWS, min(MOST_ROWS, _ALL_ROWS // max(len(results.tables), 1)))
    numbers = sorted(range(len(results.tables)), key=lambda n: _is_fine(results.tables[n], of_table[n]))[:MOST_TABLES]
    found = [Part(results.tables[n], _rows(results.tables[n], of_table[n], most), of_table[n]) for n in sorted(numbers)]
    return found, len(results.tables) - len(found)


def _is_broken(verdicts: Sequence[Verdict]) -> bool:
    return any(not one.passed for one in verdicts)


def _is_fine(table: Table, verdicts: Mapping[str, Sequence[Verdict]]) -> bool:
    return all(one.measured and not _is_broken(verdicts.get(one.name, ())) for one in table.datasets)


def _rows(table: Table, verdicts: Mapping[str, Sequence[Verdict]], most: int) -> tuple[DatasetResult, ...]:
    if len(table.datasets) <= most:
        return table.datasets
    wanted: dict[str, None] = {}
    for name in _by_interest(table, verdicts):
        if len(wanted) == most:
            break
        wanted[name] = None
    return tuple(one for one in table.datasets if one.name in wanted)


def _by_interest(table: Table, verdicts: Mapping[str, Sequence[Verdict]]) -> Iterator[str]:
    """The first of each ranking, what broke a restraint, leaked or failed; then the order by the first metric."""
    for ranking in table.rankings.values():  # the first of equal ones: hundreds may be
        yield from ranking.order[:1]
    broken = [one for one in table.datasets if _is_broken(verdicts.get(one.name, ()))]
    yield from (one.name for one in broken if one.measured)
    yield from (one.name for one in table.datasets if one.copies is not None and one.copies.suspicious)
    yield from (one.name for one in table.datasets if not one.measured)
    yield from (table.rankings[table.metrics[0]].order if table.rankings else ())
    yield from ranked(table.values(table.metrics[0]))
    yield from (one.name for one in table.datasets)
