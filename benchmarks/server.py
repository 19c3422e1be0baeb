"""What task runs cost Prefect's server: seconds, rows and bytes of its database for each thousand of them.

A real server on SQLite in a home of its own. The tasks do nothing, so that all that is measured is Prefect's.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.store import table

RUNS = 1000
TABLES = ("task_run", "task_run_state", "events", "event_resources", "log")
PATIENCE = 300.0  # seconds for the server to record what it was told
# what it is called, and the environment in which the flow runs
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "calls": ("calls, one after the other", {}),
    "submits": ("`submit`, 8 in flight", {}),
    "hits": ("hits: calls that find their result cached", {}),
    "quiet": ("calls, without logs to the server", {"PREFECT_LOGGING_TO_API_ENABLED": "false"}),
}


def flow_of(kind: str, number: int) -> dict[str, float]:
    """Run a flow of so many task runs; the seconds of its loop alone."""
    from prefect import flow, task
    from prefect.cache_policies import INPUTS, NO_CACHE
    from prefect.events.worker import EventsWorker
    from prefect.futures import PrefectFuture
    from prefect.logging.handlers import APILogWorker
    from prefect.task_runners import ThreadPoolTaskRunner

    taken: dict[str, float] = {}

    @task(cache_policy=NO_CACHE, persist_result=False)
    def nothing(number: int) -> int:
        return number

    @task(cache_policy=INPUTS, persist_result=True)
    def cached() -> int:
        return 1

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
    def many() -> None:
        cached()
        started = time.perf_counter()
        if kind == "submits":
            waiting: list[PrefectFuture[Any]] = []
            for one in range(number):
                waiting.append(nothing.submit(one))
                if len(waiting) == 8:
                    waiting.pop(0).wait()
            for future in waiting:
                future.wait()
        else:
            for one in range(number):
                cached() if kind == "hits" else nothing(one)
        taken["seconds"] = time.perf_counter() - started

    many()
    started = time.perf_counter()
    EventsWorker.drain_all(timeout=int(PATIENCE))
    APILogWorker.drain_all(timeout=int(PATIENCE))
    taken["sent"] = time.perf_counter() - started
    return taken


@contextmanager
def server(home: Path) -> Iterator[dict[str, str]]:
    """A server of its own, and the environment in which flows find it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    where = ["--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    command = [sys.executable, "-m", "prefect", "server", "start", *where]
    with open(home / "server.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/api/health"), "the server to start")
        yield environment
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def wait_until(holds: Callable[[], bool], what: str) -> float:
    started = time.perf_counter()
    while not holds():
        if time.perf_counter() - started > PATIENCE:
            sys.exit(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.2)
    return time.perf_counter() - started


class Database:
    """The server's, read beside it."""

    def __init__(self, home: Path) -> None:
        self._file = home / "prefect.db"

    def rows(self) -> dict[str, int]:
        """Of each table that grows."""
        return {name: self.number(f"SELECT count(*) FROM {name}") for name in TABLES}

    def size(self) -> int:
        """Bytes of all pages, those that still wait in the journal among them."""
        return self.number("PRAGMA page_count") * self.number("PRAGMA page_size")

    def number(self, asked: str) -> int:
        """The one number that answers a query."""
        connection = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=60)
        try:
            return int(connection.execute(asked).fetchone()[0])
        finally:
            connection.close()


UNFINISHED = "SELECT count(*) FROM task_run WHERE state_type IS NULL OR state_type != 'COMPLETED'"


def run() -> str:
    """A table of task runs on a server of their own."""
    found: dict[str, dict[str, float]] = {}
    for kind, (_, more) in KINDS.items():
        with tempfile.TemporaryDirectory() as name, server(Path(name)) as environment:
            database = Database(Path(name))
            once(kind, 1, {**environment, **more})  # what is made once: the flow, its settings, the cached result
            steady(database)
            rows, size = database.rows(), database.size()
            measured: dict[str, float] = once(kind, RUNS, {**environment, **more})
            runs = rows["task_run"] + RUNS
            measured["behind"] = wait_until(
                lambda database=database, runs=runs: (
                    database.rows()["task_run"] >= runs and not database.number(UNFINISHED)
                ),
                "the server to record the runs",
            )
            steady(database)
            measured["bytes"] = database.size() - size
            measured.update({table: count - rows[table] for table, count in database.rows().items()})
            found[kind] = measured
    return server_table(found)


def once(kind: str, number: int, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.server", kind, str(number)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{kind}:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def steady(database: Database) -> None:
    """Events are written some seconds after they come."""
    before: dict[str, int] = {}
    while (now := database.rows()) != before:
        before = now
        time.sleep(6)


def server_table(found: dict[str, dict[str, float]]) -> str:
    def row(kind: str) -> list[str]:
        one = found[kind]
        shown = [f"{one['seconds'] / RUNS * 1000:.1f}", f"{one['sent'] + one['behind']:.1f}"]
        return [KINDS[kind][0], *shown, *(f"{one[name]:,.0f}" for name in TABLES), f"{one['bytes'] / 1e6:.1f}"]

    text = (
        f"**Prefect's server** (SQLite, one machine), for {RUNS:,} task runs that do nothing, in one flow run; each"
        " line a server of its own. Behind is how long after the flow's loop the server had recorded every final state."
    )
    head = " | ".join(["", "ms for each", "s behind", *(f"rows in `{name}`" for name in TABLES), "MB of database"])
    return f"{text}\n\n{table(head, map(row, found))}"


if __name__ == "__main__":
    print(json.dumps(flow_of(sys.argv[1], int(sys.argv[2]))))
