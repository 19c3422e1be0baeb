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


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("writer.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("kills", "seed"), [(40, 0), pytest.param(400, 1, marks=pytest.mark.slow)], ids=["40 kills", "400 kills"]
)
def test_a_killed_writer_leaves_the_old_entry_or_the_new_one(tmp_path: Path, kills: int, seed: int) -> None:
    output, errors = start("kill", tmp_path, str(kills), str(seed)).communicate()
    assert output.split()[:1] == [str(kills)], errors
    assert int(output.split()[1]) > 1, "none of them wrote anything"


def test_one_computation_per_key_over_many_processes(tmp_path: Path) -> None:
    log = tmp_path / "computed"
    processes = [start("compute", tmp_path / "cache", log, "12") for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert Counter(log.read_text().split()) == {f"{number:032x}": 1 for number in range(12)}


def test_a_killed_holder_frees_its_key(tmp_path: Path) -> None:
    holder = start("hold", tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "computing\n"
    with pytest.raises(Timeout):
        FileLock(tmp_path / "locks" / f"{KEY}.lock").acquire(timeout=0)
    holder.kill()
    holder.communicate()
    features = np.ones((2, 2), np.float32)
    found = FeatureStore(tmp_path).get_or_compute(KEY, lambda: features)
    assert np.array_equal(found.load(), features)
    assert (tmp_path / "locks").is_dir()
