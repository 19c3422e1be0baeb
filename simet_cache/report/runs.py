"""The results of each run in a folder of its own, and beside these folders the last good ones.

On disk::

    output/results.json, results.csv                        the last good ones, both of one run
    output/runs/<UTC time>-<id>/results.json, results.csv   of each run, whatever became of it
    output/runs/.lock                                       held while any of them is written or removed

**The last good ones** are replaced by those of a run that has measured something, unless they are of a run that began
later, or have a value that this run was asked for and does not have.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from simet_cache.atomic import read_regular, reported
from simet_cache.errors import StoreError
from simet_cache.report.files import NAMES, prepare_folder, write_files
from simet_cache.report.results import EvaluationResults

_LONGEST = 1 << 30  # bytes of results that are read
_PATIENCE = 60.0  # seconds for which runs that end at the same moment wait for each other
_RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_LEFTOVER = re.compile(r"\.results\.(json|csv)\.[a-z0-9_]{8}\.tmp")  # of a writer that was killed

_Measured = tuple[str, str, str, str]  # reference, extractor, dataset, metric

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptRun:
    """Where the results of a run are.

    Attributes:
        folder: Its own.
        output: Where the last good ones are.
        reason: Why these are not those of this run; None where they are.
    """

    folder: Path
    output: Path
    reason: str | None

    @property
    def sentence(self) -> str:
        """The same for people."""
        if self.reason is None:
            return f"results are in {self.output}, and also in {self.folder}"
        return f"results of this run are in {self.folder}; those in {self.output} were left as they were: {self.reason}"


def runs_folder(output: Path) -> Path:
    """Where the runs have their folders."""
    return output / "runs"


def prepare(output: Path) -> None:
    """Create the folders for the results and see that they can be written to, before the work and not after it.

    Raises:
        StoreError: They cannot.
    """
    for folder in (output, runs_folder(output)):
        prepare_folder(folder)


def keep_run(results: EvaluationResults, output: Path, *, run_id: str, keep_runs: int) -> KeptRun:
    """Write the results of a run into a folder of its own, and in place of the last good ones where they are no less.

    Args:
        results: Of the run.
        output: The folder of the last good ones, and of all runs.
        run_id: Hexadecimal digits that tell runs apart which began in the same second.
        keep_runs: How many runs to keep. The oldest ones go, but for this one and for that of the last good results;
            folders that hold anything else than results stay.

    Raises:
        StoreError: Something cannot be written.
    """
    prepare(output)
    with _alone(output) as alone:
        folder = _new_folder(output, results.started_at, run_id)
        results = replace(results, run=folder.name)
        write_files(results, folder)
        good = _last_good(output)
        reason = _reason_to_keep(good, results)
        if reason is None:
            write_files(results, output)
        if alone:
            of_good = folder.name if reason is None else str(good.get("run"))
            _remove_oldest(output, keep_runs, spare={folder.name, of_good})
    return KeptRun(folder, output, reason)


@contextmanager
def _alone(output: Path) -> Iterator[bool]:
    """Until other runs have written theirs; False where nobody can be kept out, which is no reason to lose results."""
    lock = FileLock(runs_folder(output) / ".lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=_PATIENCE)
    except (OSError, Timeout) as error:
        log.warning("cannot lock %s: %s. Another run may replace results meanwhile", lock.lock_file, error)
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            lock.release()


def _new_folder(output: Path, started_at: str, run_id: str) -> Path:
    when = datetime.fromisoformat(started_at).astimezone(UTC)
    name = run_id[:8]
    while True:
        folder = runs_folder(output) / f"{when:%Y%m%dT%H%M%SZ}-{name}"
        if _RUN.fullmatch(folder.name):
            with reported("cannot write results to", folder), suppress(FileExistsError):
                folder.mkdir()
                return folder
        name = secrets.token_hex(4)


def _last_good(output: Path) -> dict[str, Any]:
    """As they were written, by this version or by another one; empty where there are none that can be read."""
    try:
        found = json.loads(read_regular(output / "results.json", most=_LONGEST))
    except (OSError, StoreError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason_to_keep(good: dict[str, Any], results: EvaluationResults) -> str | None:
    asked, measured = _asked(results), _measured(results)
    if not measured:
        return "this run measured nothing"
    if _began_later(good, results):
        return f"they are of a run that began later, at {good['started_at']}"
    lost = sorted(_measured_before(good) & asked - measured)
    if not lost:
        return None
    reference, extractor, dataset, metric = lost[0]
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    value = f"{metric} of {dataset} against {reference} on {extractor}{more}"
    return f"they have what could not be measured this time, {value}; leave it out of the configuration or remove them"


def _asked(results: EvaluationResults) -> set[_Measured]:
    return {
        (table.reference.name, table.extractor, one.name, metric)
        for table in results.tables
        for one in table.datasets
        for metric in table.metrics
        if metric not in one.excluded
    }


def _measured(results: EvaluationResults) -> set[_Measured]:
    return {
        (table.reference.name, table.extractor, one.name, metric)
        for table in results.tables
        for one in table.datasets
        for metric in one.values
    }


def _measured_before(good: dict[str, Any]) -> set[_Measured]:
    """What has a value there; nothing where they are written in a way that this version does not know."""
    try:
        return {
            (table["reference"]["name"], table["extractor"], one["name"], metric)
            for table in good.get("tables", [])
            for one in table["datasets"]
            for metric in one["values"]
        }
    except (LookupError, TypeError):
        return set()


def _began_later(good: dict[str, Any], results: EvaluationResults) -> bool:
    try:
        theirs, ours = (datetime.fromisoformat(one) for one in (good["started_at"], results.started_at))
        return ours < theirs <= datetime.now(UTC)  # a clock that was wrong once must not hold on to them for ever
    except (LookupError, TypeError, ValueError):
        return False


def _remove_oldest(output: Path, keep: int, *, spare: Collection[str]) -> None:
    """Links are not followed, and what somebody has added to a run keeps it."""
    with suppress(OSError):  # what cannot be removed costs room, and no results
        runs = os.open(runs_folder(output), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            names = sorted(filter(_RUN.fullmatch, os.listdir(runs)), reverse=True)
            for name in names[keep:]:
                if name not in spare:
                    _remove(runs, name)
        finally:
            os.close(runs)


def _remove(runs: int, name: str) -> None:
    with suppress(OSError):
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=runs)
        try:
            files = os.listdir(folder)
            if all(_is_ours(folder, file) for file in files):
                for file in files:
                    os.unlink(file, dir_fd=folder)
                os.rmdir(name, dir_fd=runs)
        finally:
            os.close(folder)


def _is_ours(folder: int, file: str) -> bool:
    named = file in NAMES or _LEFTOVER.fullmatch(file) is not None
    return named and stat.S_ISREG(os.stat(file, dir_fd=folder, follow_symlinks=False).st_mode)
