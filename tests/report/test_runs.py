"""Each run keeps its results, and the last good ones are replaced by no less."""

from __future__ import annotations

import csv
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from simet_cache.errors import StoreError
from simet_cache.report import runs
from simet_cache.report.results import EvaluationResults, Table
from simet_cache.report.runs import KeptRun, keep_run, prepare

Results = Callable[..., EvaluationResults]
Tables = Callable[..., Table]

ID = "0123abcd-4567-89ef-0123-456789abcdef"
NAMES = ["results.csv", "results.json"]


def keep(results: EvaluationResults, output: Path, *, at: str = "", run_id: str = ID, keep_runs: int = 50) -> KeptRun:
    """One that began at a time of its day."""
    if at:
        results = replace(results, started_at=f"2025-01-01T{at}+00:00")
    return keep_run(results, output, run_id=run_id, keep_runs=keep_runs)


def good(output: Path) -> Any:
    """The last good results; both files are of one run."""
    data = json.loads((output / "results.json").read_bytes())
    folder = output / "runs" / data["run"]
    assert json.loads((folder / "results.json").read_bytes()) == data
    assert (folder / "results.csv").read_bytes() == (output / "results.csv").read_bytes()
    return data


def names_in(output: Path) -> list[str]:
    """Of the runs that are kept."""
    return sorted(path.name for path in (output / "runs").iterdir() if not path.name.startswith("."))


def stopped(results: Results) -> EvaluationResults:
    return replace(results({}), tables=(), error="stopped by Ctrl-C")


# A folder for each


def test_a_run_has_a_folder_of_its_own_and_is_the_last_good_one(results: Results, tmp_path: Path) -> None:
    output = tmp_path / "new" / "output"
    kept = keep(results({"mine": {"fid": 3.0}}), output)
    assert kept.folder == output / "runs" / "20250101T000000Z-0123abcd"
    assert sorted(path.name for path in kept.folder.iterdir()) == NAMES
    assert good(output)["run"] == kept.folder.name
    assert kept.reason is None
    assert kept.sentence == f"results are in {output}, and also in {kept.folder}"


def test_runs_of_one_second_have_folders_of_their_own(results: Results, tmp_path: Path) -> None:
    folders = [keep(results({name: {"fid": 1.0}}), tmp_path).folder for name in "abc"]
    assert len(set(folders)) == 3
    assert [json.loads((one / "results.json").read_bytes())["run"] for one in folders] == [one.name for one in folders]
    assert {one.name[:17] for one in folders} == {"20250101T000000Z-"}


@pytest.mark.parametrize("run_id", ["", "None", "../../..", "ABCDEF01"])
def test_whatever_a_run_is_called_its_folder_has_a_name_of_ours(results: Results, tmp_path: Path, run_id: str) -> None:
    folder = keep(results({"a": {"fid": 1.0}}), tmp_path, run_id=run_id).folder
    assert folder.parent == tmp_path / "runs"
    assert len(folder.name) == len("20250101T000000Z-0123abcd")


def test_names_sort_by_the_time_in_utc(results: Results, tmp_path: Path) -> None:
    found = results({"a": {"fid": 1.0}})
    for started_at in ("2025-01-01T00:30:00+01:00", "2025-01-01T00:10:00+00:00"):
        keep(replace(found, started_at=started_at), tmp_path)
    assert [name[:16] for name in names_in(tmp_path)] == ["20241231T233000Z", "20250101T001000Z"]


def test_a_folder_that_cannot_be_written(results: Results, tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    for act in (prepare, lambda output: keep(results({"a": {"fid": 1.0}}), output)):
        with pytest.raises(StoreError, match=r"cannot write results to .*runs: File exists"):
            act(tmp_path)


# What is replaced


def nothing_measured(results: Results) -> EvaluationResults:
    return results({"mine": "no image", "other": {"fid": "no rows"}})


def test_a_run_that_measured_nothing_replaces_nothing(results: Results, tmp_path: Path) -> None:
    first = keep(results({"mine": {"fid": 3.0}}), tmp_path, at="01:00:00")
    for found in (nothing_measured(results), stopped(results), results({})):
        kept = keep(found, tmp_path, at="02:00:00")
        assert kept.reason == "this run measured nothing"
        assert good(tmp_path)["run"] == first.folder.name
        assert json.loads((kept.folder / "results.json").read_bytes())["passed"] is found.passed
        assert (
            kept.sentence == f"results of this run are in {kept.folder}; those in {tmp_path} were left as they were:"
            " this run measured nothing"
        )


def test_where_nothing_was_ever_measured_there_are_no_good_results(results: Results, tmp_path: Path) -> None:
    keep(nothing_measured(results), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    keep(results({"mine": {"fid": 3.0}}), tmp_path, at="01:00:00")
    assert good(tmp_path)["tables"]


def test_the_end_of_a_run_that_was_stopped_is_written_down(results: Results, tmp_path: Path) -> None:
    folder = keep(stopped(results), tmp_path).folder
    data = json.loads((folder / "results.json").read_bytes())
    assert (data["passed"], data["error"], data["tables"]) == (False, "stopped by Ctrl-C", [])
    assert data["summary"] == "nothing was measured: stopped by Ctrl-C"
    with (folder / "results.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == []


LESS = [
    ({"a": {"fid": 1.0}, "b": "no image"}, "fid of b"),
    ({"a": {"fid": 1.0}, "b": {"fid": "no rows"}, "new": {"fid": 1.0}}, "fid of b"),
    ({"a": "gone", "b": "gone", "new": {"fid": 1.0}}, "fid of a"),
]
NO_LESS = [
    {"a": {"fid": 9.0}, "b": {"fid": 9.0}},  # worse, and broken restraints, are news
    {"a": {"fid": 1.0}},  # b is not asked for any more
    {"a": {"fid": 1.0}, "b": {"fid": 1.0}, "new": "no image"},
    {"c": {"fid": 1.0}},
]


@pytest.mark.parametrize(("then", "lost"), LESS)
def test_what_was_measured_and_could_not_be_again_is_kept(
    results: Results, tmp_path: Path, then: dict[str, Any], lost: str
) -> None:
    keep(results({"a": {"fid": 1.0}, "b": {"fid": 2.0}}, metrics=("fid",)), tmp_path, at="01:00:00")
    kept = keep(results(then, metrics=("fid",)), tmp_path, at="02:00:00")
    assert kept.reason is not None
    assert f"they have what could not be measured this time, {lost} against real on " in kept.reason
    assert good(tmp_path)["started_at"].startswith("2025-01-01T01")


@pytest.mark.parametrize("then", NO_LESS)
def test_what_is_no_less_replaces(results: Results, tmp_path: Path, then: dict[str, Any]) -> None:
    keep(results({"a": {"fid": 1.0}, "b": {"fid": 2.0}}, metrics=("fid",)), tmp_path, at="01:00:00")
    assert keep(results(then, metrics=("fid",)), tmp_path, at="02:00:00").reason is None
    assert good(tmp_path)["started_at"].startswith("2025-01-01T02")


def test_another_reference_extractor_or_metric_is_another_question(
    results: Results, table: Tables, tmp_path: Path
) -> None:
    keep(results({"a": {"fid": 1.0, "precision": 1.0}}), tmp_path, at="01:00:00")
    failed = {"a": "no image", "b": {"fid": 1.0}}
    others = [
        table(failed, metrics=("fid",), reference="another"),
        table(failed, metrics=("fid",), suffix="resnet50"),
        table({**failed, "a": {}}, metrics=("fid",), excluded={"a": ("fid",)}),
    ]
    for other in others:
        keep(results({"a": {"fid": 1.0, "precision": 1.0}}), tmp_path, at="01:00:00")
        assert keep(results(tables=(other,)), tmp_path, at="02:00:00").reason is None
        (tmp_path / "results.json").unlink()


def test_an_older_run_that_ends_later_replaces_nothing(results: Results, tmp_path: Path) -> None:
    newer = keep(results({"a": {"fid": 1.0}}), tmp_path, at="02:00:00")
    older = keep(results({"a": {"fid": 2.0}, "b": {"fid": 2.0}}), tmp_path, at="01:00:00")
    assert older.reason == "they are of a run that began later, at 2025-01-01T02:00:00+00:00"
    assert good(tmp_path)["run"] == newer.folder.name


@pytest.mark.parametrize(
    "found",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[]",
        b"\xff",
        b'{"tables": 3, "started_at": 3}',
        b'{"tables": [{"datasets": [3]}], "started_at": "yesterday"}',
        b'{"tables": [], "started_at": "2025-01-01T00:00:00"}',
        b'{"tables": [], "started_at": "9999-01-01T00:00:00+00:00"}',  # of a clock that was wrong
    ],
)
def test_what_cannot_be_read_is_no_good_result(results: Results, tmp_path: Path, found: bytes) -> None:
    (tmp_path / "results.json").write_bytes(found)
    assert keep(results({"a": {"fid": 1.0}}), tmp_path).reason is None
    assert good(tmp_path)["tables"]


def test_results_of_an_earlier_version_count(results: Results, tmp_path: Path) -> None:
    """They do not say which run they are of."""
    data = results({"a": {"fid": 1.0}, "b": {"fid": 1.0}}).to_json()
    del data["run"], data["error"]
    (tmp_path / "results.json").write_text(json.dumps(data))
    assert keep(results({"a": {"fid": 1.0}, "b": "no image"}), tmp_path, at="02:00:00").reason is not None
    assert keep(results({"a": {"fid": 1.0}, "b": {"fid": 1.0}}), tmp_path, at="02:00:00").reason is None


def test_neither_file_is_replaced_where_one_cannot_be_written(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(results({"a": {"fid": 1.0}}), tmp_path, at="01:00:00")
    before = [(tmp_path / name).read_bytes() for name in NAMES]
    real = tempfile.mkstemp

    def full(*arguments: Any, **options: Any) -> Any:
        if options["dir"] == tmp_path and options["prefix"].startswith(".results.json"):
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(StoreError, match="No space left on device"):
        keep(results({"a": {"fid": 2.0}}), tmp_path, at="02:00:00")
    assert [(tmp_path / name).read_bytes() for name in NAMES] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [*NAMES, "runs"]


def test_many_runs_at_the_same_moment(results: Results, tmp_path: Path) -> None:
    """In threads and in other processes; what is there at the end is of one run, and of the newest."""

    def write(second: int) -> None:
        for minute in range(20):
            keep(results({"a": {"fid": 1.0}}), tmp_path, at=f"01:{minute:02d}:0{second}", keep_runs=100)

    others = [multiprocessing.get_context("fork").Process(target=write, args=(number,)) for number in range(2)]
    for process in others:
        process.start()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (2, 3)))
    for process in others:
        process.join()
        assert process.exitcode == 0
    assert good(tmp_path)["started_at"] == "2025-01-01T01:19:03+00:00"
    assert len(names_in(tmp_path)) == 80


def test_where_there_can_be_no_lock_results_are_written_and_none_are_removed(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runs, "_PATIENCE", 0.05)
    prepare(tmp_path)
    with FileLock(tmp_path / "runs" / ".lock"):
        for hour in range(3):
            kept = keep(results({"a": {"fid": 1.0}}), tmp_path, at=f"0{hour}:00:00", keep_runs=1)
    assert len(names_in(tmp_path)) == 3
    assert good(tmp_path)["run"] == kept.folder.name
    assert "Another run may replace results meanwhile" in caplog.text


# How many are kept


def test_the_oldest_runs_go(results: Results, tmp_path: Path) -> None:
    for hour in range(5):
        keep(results({"a": {"fid": 1.0}}), tmp_path, at=f"0{hour}:00:00", keep_runs=3)
    assert [name[9:11] for name in names_in(tmp_path)] == ["02", "03", "04"]


def test_the_run_behind_the_good_results_and_this_one_stay(results: Results, tmp_path: Path) -> None:
    for hour in range(5):
        found = results({"a": {"fid": 1.0}}) if hour == 1 else nothing_measured(results)
        keep(found, tmp_path, at=f"0{hour}:00:00", keep_runs=1)
    assert [name[9:11] for name in names_in(tmp_path)] == ["01", "04"]
    keep(results({"a": {"fid": 1.0}}), tmp_path, at="00:30:00", keep_runs=1)  # it has taken long
    assert [name[9:13] for name in names_in(tmp_path)] == ["0030", "0100", "0400"]
    assert good(tmp_path)["run"].startswith("20250101T0100")


def test_what_is_not_ours_stays_and_no_link_is_followed(results: Results, tmp_path: Path) -> None:
    output, elsewhere = tmp_path / "output", tmp_path / "elsewhere"
    old = [keep(results({"a": {"fid": 1.0}}), output, at=f"00:00:0{number}").folder for number in range(6)]
    (old[0] / "notes.txt").write_text("mine")
    (old[1] / "results.json").unlink()
    (old[1] / "results.json").symlink_to(old[0] / "notes.txt")
    old[2].rename(elsewhere)
    old[2].symlink_to(elsewhere)
    (old[3] / ".results.json.abcd1234.tmp").touch()  # of a writer that was killed
    (old[4] / "results.csv").unlink()
    (old[4] / "results.csv").mkdir()
    for name in ("20250101", "x-20250101T000000Z-0123abcd", "20250101T000000Z-0123abcd-x"):
        (output / "runs" / name).mkdir()
        (output / "runs" / name / "results.json").touch()
    last = keep(results({"a": {"fid": 1.0}}), output, at="02:00:00", keep_runs=1).folder
    gone = {old[3].name, old[5].name}
    left = {one.name for one in old} - gone | {"20250101", "x-20250101T000000Z-0123abcd", "20250101T000000Z-0123abcd-x"}
    assert set(names_in(output)) == left | {last.name}
    assert (old[0] / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in elsewhere.iterdir()) == NAMES


def test_the_folder_of_all_runs_may_be_a_link_and_is_then_not_pruned(results: Results, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "runs").symlink_to(tmp_path / "elsewhere")
    for hour in range(3):
        keep(results({"a": {"fid": 1.0}}), tmp_path / "output", at=f"0{hour}:00:00", keep_runs=1)
    assert len(names_in(tmp_path / "output")) == 3
