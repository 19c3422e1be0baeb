"""Runs that extract in shards are killed, and several want the same dataset at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES, SIZE = 10, 4


@contextmanager
def started(what: str, folder: Path, stride: int = 1) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("sharder.py"), what, str(folder), str(stride)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("what", "stride"),
    [
        ("putting_together", 17),
        ("a_run", 41),
        pytest.param("putting_together", 1, marks=pytest.mark.slow),
        pytest.param("a_run", 1, marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_any_step_costs_one_shard_at_most(tmp_path: Path, what: str, stride: int) -> None:
    with started(what, tmp_path / "runs", stride) as process:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
    steps, worst = map(int, output.split())
    assert steps >= 60, "steps were not seen"
    assert worst <= (0 if what == "putting_together" else SIZE)
    assert what == "putting_together" or worst > 0, "nothing was lost by any kill"


def test_processes_that_want_the_same_dataset_extract_it_once(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with started("at_once", folder) as one, started("at_once", folder) as two, started("at_once", folder) as three:
        processes = (one, two, three)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        digests = set()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            output, errors = process.communicate()
            assert process.returncode == 0, errors
            digests.add(output.strip())
    assert len(digests) == 1
    assert (folder / "seen").stat().st_size == IMAGES
    assert len(list((folder / "cache").glob("*.pkl"))) == 1


@pytest.mark.slow
def test_a_killed_extraction_frees_its_shard_and_its_device(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with started("until_killed", folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "extracting\n"
        process.kill()
        process.communicate()
    with started("at_once", folder) as process:
        output, errors = process.communicate("go\n", timeout=120)
        assert process.returncode == 0, errors
    assert len(output.split()) == 2
