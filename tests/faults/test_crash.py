"""Writers are killed and processes want the same key at once: old or new, and one computation."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout

from simet_cache.store import FeatureStore

ROOT = Path(__file__).resolve().parents[2]
KEY = "0" * 32
FEATURES = np.ones((2, 2), np.float32)


def start(*arguments: str | Path, script: str = "writer.py") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# Killed writers


@pytest.mark.parametrize(
    ("kills", "seed"), [(40, 0), pytest.param(400, 1, marks=pytest.mark.slow)], ids=["40 kills", "400 kills"]
)
def test_a_killed_writer_leaves_the_old_entry_or_the_new_one(tmp_path: Path, kills: int, seed: int) -> None:
    output, errors = start("kill", tmp_path, str(kills), str(seed)).communicate()
    assert output.split()[:1] == [str(kills)], errors
    assert int(output.split()[1]) > 1, "none of them wrote anything"


@pytest.mark.parametrize(
    "what",
    [
        *("puts", "chained", "twice", "described", "quarantines", "removals"),
        *(pytest.param(what, marks=pytest.mark.slow) for what in ("forced", "readers", "twice_anywhere")),
    ],
)
def test_a_kill_at_any_step_leaves_a_whole_entry(tmp_path: Path, what: str) -> None:
    process = start(what, tmp_path, script="killer.py")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    kills = [int(line.split()[0]) for line in output.splitlines()]
    assert min(kills) >= 12, "steps were not seen"


# One computation


def test_one_computation_per_key_over_many_processes(tmp_path: Path) -> None:
    log = tmp_path / "computed"
    processes = [start("compute", tmp_path / "cache", log, "12") for _ in range(4)]
    for process in processes:
        assert line_of(process) == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert Counter(log.read_text().splitlines()) == {f"done {number:032x}": 1 for number in range(12)}


@pytest.mark.parametrize(
    ("processes", "keys"), [(8, 20), pytest.param(16, 200, marks=pytest.mark.slow)], ids=["20 keys", "200 keys"]
)
def test_each_key_is_computed_once_although_processes_are_killed(tmp_path: Path, processes: int, keys: int) -> None:
    log = tmp_path / "log"
    process = start("crowd", tmp_path / "cache", log, str(processes), str(keys))
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    starts, done, kills = map(int, output.split())
    assert kills > 0
    assert starts == done + kills
    finished = Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("done"))
    assert finished == {f"{number:032x}": 1 for number in range(keys)}


def test_a_killed_holder_frees_its_key(tmp_path: Path) -> None:
    holder = start("hold", tmp_path)
    assert line_of(holder) == "computing\n"
    with pytest.raises(Timeout):
        FileLock(tmp_path / "locks" / f"{KEY}.lock").acquire(timeout=0)
    kill(holder)
    found = FeatureStore(tmp_path).get_or_compute(KEY, lambda: FEATURES)
    assert np.array_equal(found.load(), FEATURES)
    assert (tmp_path / "locks").is_dir()


# In use


def test_what_a_living_process_uses_is_not_removed(tmp_path: Path) -> None:
    FeatureStore(tmp_path / "made").put(KEY, FEATURES)
    (tmp_path / "made").rename(tmp_path / "cache")  # this process has not used it
    users = [start("use", tmp_path / "cache") for _ in range(2)]
    assert [line_of(user) for user in users] == ["using\n"] * 2
    store = FeatureStore(tmp_path / "cache")
    assert store.remove(KEY) == 0
    kill(users[0])
    assert store.remove(KEY) == 0, "the other one lives"
    kill(users[1])
    assert store.remove(KEY) > 0
    assert store.keys() == []
    left = sorted(file.name for file in (tmp_path / "cache" / "locks").iterdir())
    assert left == ["entries.holder", "entries.lock", "used.lock"], "the dead have left nothing"


def test_what_a_process_computes_is_not_removed(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    holder = start("hold", tmp_path)
    assert line_of(holder) == "computing\n"
    store.put(KEY, FEATURES)
    assert store.remove(KEY) == 0
    kill(holder)
    assert store.remove(KEY) > 0
    assert store.keys() == []
