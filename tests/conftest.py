"""What tests of several files share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

# Property tests: the same cases in every run, so that a green run stays green; `make test-random` looks for new ones.
# Nothing depends on how fast the machine is, and nothing on what an earlier run has found.
settings.register_profile(
    "fixed",
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("random", settings.get_profile("fixed"), derandomize=False)
settings.load_profile("fixed")

# Prefect reads its settings when it is imported, which test modules do before any fixture runs. No test touches the
# user's own database; subprocesses share one, since the first start of a server with a new one takes 20 s.
_HOME = tempfile.TemporaryDirectory(prefix="prefect-home-")
os.environ |= {
    "PREFECT_HOME": _HOME.name,
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # tasks are tested without a flow where one adds nothing
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
os.environ.pop("PREFECT_API_URL", None)
# a shell's background jobs ignore Ctrl-C, and hand that on to whatever the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _nothing_in_use() -> Iterator[None]:
    """A process holds two files for each cache that it has used, and the tests use more than it may open."""
    yield
    from simet_cache import locks

    locks.end_uses()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A server with an empty database, one for the session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of small random PNG images."""

    def make(name: str, count: int = 12, *, seed: int = 0, side: int = 40) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for number in range(count):
            pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:04d}.png")
        return folder

    return make


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in a new process, from another directory."""

    def call(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call


@pytest.fixture
def task_states() -> Callable[[], dict[str, list[str]]]:
    """Reads the final states that Prefect's database holds, by the name of the task run, oldest first."""
    import sqlite3

    def read() -> dict[str, list[str]]:
        database = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
        with sqlite3.connect(database) as connection:
            rows = connection.execute("SELECT name, state_name FROM task_run ORDER BY created").fetchall()
        states: dict[str, list[str]] = {}
        for name, state in rows:
            states.setdefault(name, []).append(state)
        return states

    return read


def load_results(folder: Path) -> dict:
    """results.json of an evaluation."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))
