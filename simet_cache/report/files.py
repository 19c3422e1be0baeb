"""results.json and results.csv."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

from simet_cache.atomic import reported, write_atomically
from simet_cache.report.results import EvaluationResults

_COLUMNS = ("dataset", "metric", "label", "value", "direction", "best", "passed", "n_real", "n_synth", "width")
_MORE = ("version", "parameters", "suffix", "key", "reference_key", "cached", "warnings", "error")


def prepare_folder(folder: Path) -> None:
    """Create the folder for the results and see that it can be written to, before the work and not after it.

    Raises:
        StoreError: It cannot.
    """
    with reported("cannot write results to", folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def write_files(results: EvaluationResults, folder: Path) -> None:
    """Write both files, each at once or not at all.

    Raises:
        StoreError: The folder or a file cannot be written.
    """
    prepare_folder(folder)
    contents = {
        "results.json": json.dumps(results.to_json(), indent=2, ensure_ascii=False) + "\n",
        "results.csv": as_csv(results),
    }
    for name, text in contents.items():
        data = text.encode("utf-8", "backslashreplace")  # in JSON, that is a name's way to be no UTF-8
        with reported("cannot write", folder / name):
            write_atomically(folder / name, lambda file, data=data: file.write(data))  # type: ignore[misc]


def as_csv(results: EvaluationResults) -> str:
    """One row for each dataset and metric; a dataset that could not be measured has one row, which says why."""
    verdicts = {(verdict.dataset, verdict.metric): verdict.passed for verdict in results.verdicts}
    reference_key = results.reference.features.key if results.reference.features else ""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_COLUMNS, *_MORE], restval="", lineterminator="\n")
    writer.writeheader()
    for one in results.datasets:
        common = {
            "dataset": one.name,
            "suffix": one.suffix,
            "key": one.features.key if one.features else "",
            "reference_key": reference_key,
            "cached": one.cached,
        }
        if one.error is not None:
            writer.writerow({**common, "error": one.error})
        for name, value in one.values.items():
            writer.writerow(
                {
                    **common,
                    "metric": name,
                    "label": results.label(name),
                    "value": repr(value.value),
                    "direction": value.direction,
                    "best": one.name in results.best(name),
                    "passed": verdicts.get((one.name, name), ""),
                    "n_real": value.n_real,
                    "n_synth": value.n_synth,
                    "width": value.width,
                    "version": value.version,
                    "parameters": json.dumps(dict(value.parameters)),
                    "warnings": "; ".join(value.warnings),
                }
            )
    return text.getvalue()
