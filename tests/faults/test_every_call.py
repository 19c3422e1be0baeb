"""Each operation is killed before each of its calls to the file system, and each call fails in each way.

What docs/cache.md counts comes from here: run with ``-s`` to see how many calls each operation makes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
OPERATIONS = {  # each with the fewest calls that it can be done in
    "put": 30,
    "replace": 60,
    "hit": 30,
    "adopt": 60,
    "prune": 50,
    "repair": 60,
    "export": 40,
    "import": 60,
    "pull": 60,
    "push": 60,
    "derive": 20,
    "record": 40,
    "assemble": 80,
}
WAYS = ["kill", "short", "EIO", "ENOSPC", "EACCES", "EMFILE", "EINTR"]


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faults.c, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler, and a loader that knows LD_PRELOAD")
    library = tmp_path_factory.mktemp("shim") / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, HERE / "faults.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


def run(shim: Path, *arguments: object) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, HERE / "every_call.py", *map(str, arguments)],
        env={
            **os.environ,
            "LD_PRELOAD": str(shim),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
            "OMP_NUM_THREADS": "1",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(*arguments[:1], *arguments[2:], found)
    return found


def test_a_put_that_is_killed_before_each_of_its_calls(shim: Path, tmp_path: Path) -> None:
    found = run(shim, "put", tmp_path, "kill")
    assert found["killed"] == found["calls"] >= OPERATIONS["put"]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_call_is_the_last_one_or_fails(shim: Path, tmp_path: Path, operation: str, way: str) -> None:
    """Old or new and never half, or a sentence; and the next time all is well."""
    found = Counter(run(shim, operation, tmp_path, way))
    assert found["calls"] >= OPERATIONS[operation], "calls were not seen"
    tried = found["killed"] + found["done"] + found["refused"]
    assert tried == found["tried"] > 0
    if way == "kill":
        assert found["killed"] == tried
    elif way == "short":
        assert found["refused"] == 0, "what was written in part was not written on"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_kills_and_stops(tmp_path: Path, seed: int) -> None:
    """Eight processes put, get, prune, remove and verify the same keys."""
    done = subprocess.run(
        [sys.executable, HERE / "every_call.py", "storm", tmp_path / "cache", "40", str(seed)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    print(found)
    assert min(found["kills"], found["stops"]) >= 10
    assert found["values"] >= 10
