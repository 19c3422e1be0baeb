"""results.json and results.csv."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from simet_cache.atomic import Staged, reported, staged, sync_folder
from simet_cache.config.parts import MAX_COPIES
from simet_cache.escaping import for_csv, for_json
from simet_cache.metrics import MetricValue
from simet_cache.report.results import DatasetResult, EvaluationResults, Table
from simet_cache.restraints import Verdict

NAMES = ("results.csv", "results.json")

_WHERE = ("reference", "extractor", "dataset")
_COLUMNS = ("metric", "label", "class", "value", "low", "high", "direction", "best", "passed")
_MORE = (
    "n_real",
    "n_synth",
    "copies_exact",
    "copies_near",
    "width",
    "version",
    "parameters",
    "level",
    "method",
    "details",
    "suffix",
    "key",
)
_LAST = ("reference_key", "cached", "warnings", "error")


def prepare_folder(folder: Path) -> None:
    """Create the folder for the results and see that it can be written to, before the work and not after it.

    Raises:
        StoreError: It cannot.
    """
    with reported("cannot write results to", folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def write_files(results: EvaluationResults, folder: Path) -> None:
    """Write both files, each at once or not at all; and neither is put in its place before both are written.

    Raises:
        StoreError: The folder or a file cannot be written.
    """
    prepare_folder(folder)
    texts = (as_csv(results), for_json(json.dumps(results.to_json(), indent=2, ensure_ascii=False)) + "\n")
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_written(folder / name, text)) for name, text in zip(NAMES, texts, strict=True)
        }
        for name, file in files.items():
            with reported("cannot write", folder / name):
                file.replace()
    with reported("cannot write results to", folder):
        sync_folder(folder)


@contextmanager
def _written(path: Path, text: str) -> Iterator[Staged]:
    with ExitStack() as stack:
        with reported("cannot write", path):
            new = stack.enter_context(staged(path))
            new.file.write(text.encode())
            new.finish()
        yield new


def as_csv(results: EvaluationResults) -> str:
    """One row for each comparison and metric, for each class where that was asked for, and for ``max_copies``.

    A dataset that could not be measured has one row, which says why, and so has a metric. Texts that a spreadsheet
    would take for formulas begin with an apostrophe.
    """
    verdicts = {(one.reference, one.extractor, one.dataset, one.metric): one for one in results.verdicts}
    text = io.StringIO()
    columns = [*_WHERE, *results.part_names, "step", *_COLUMNS, *_MORE, *_LAST]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writerow({name: for_csv(name) for name in columns})
    for table in results.tables:
        for one in table.datasets:
            about = {
                name: verdicts[place]
                for name in (*one.values, MAX_COPIES)
                if (place := (table.reference.name, table.extractor, one.name, name)) in verdicts
            }
            writer.writerows(
                {name: for_csv(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
                for row in _rows(table, one, about)
            )
    return text.getvalue()


def _rows(table: Table, one: DatasetResult, verdicts: Mapping[str, Verdict]) -> Iterator[dict[str, object]]:
    common: dict[str, object] = {
        "reference": table.reference.name,
        "extractor": table.extractor,
        "dataset": one.name,
        **one.parts,
        "step": "" if one.step is None else one.step,
        "suffix": one.suffix,
        "key": one.features.key if one.features else "",
        "reference_key": table.reference.features.key if table.reference.features else "",
        "cached": one.cached,
    }
    if one.error is not None:
        yield {**common, "error": one.error}
    for name, reason in one.failures.items():
        yield {**common, "metric": name, "label": table.label(name), "error": reason}
    passed = {name: verdict.passed for name, verdict in verdicts.items()}
    for name, value in one.values.items():
        of_metric = {**common, "metric": name, "label": table.label(name)}
        yield {**of_metric, **_about(value), "best": table.standing(one.name, name), "passed": passed.get(name, "")}
        for label, of_class in value.per_class.items():
            yield {**of_metric, **_about(of_class), "class": label}
    copies = verdicts.get(MAX_COPIES)
    if copies is not None and copies.value is not None:
        yield {**common, "metric": MAX_COPIES, "label": "copies", "value": copies.value, "passed": copies.passed}


def _about(value: MetricValue) -> dict[str, object]:
    found: dict[str, object] = {
        "value": repr(value.value),
        "direction": value.direction,
        "n_real": value.n_real,
        "n_synth": value.n_synth,
        "width": value.width,
        "version": value.version,
        "parameters": json.dumps(dict(value.parameters)),
        "details": json.dumps(dict(value.details)) if value.details else "",
        "warnings": "; ".join(value.warnings),
    }
    if value.copies is not None:
        found |= {"copies_exact": value.copies.exact, "copies_near": value.copies.near}
    if value.interval is not None:
        of_interval = value.interval
        found |= {"low": repr(of_interval.low), "high": repr(of_interval.high)}
        found |= {"level": of_interval.level, "method": of_interval.method}
    return found
