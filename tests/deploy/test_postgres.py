"""Many runs at once, on a server with PostgreSQL, as the README shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import postgres
from tests.deploy.installation import Installation, wait_for

RUNS, AT_ONCE, WORKERS = 50, 8, 4
EVALUATIONS = 10  # of the runs; the others look after the cache, which needs no torch, and so half the time

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc, as on Linux"),
    pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing())),
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Installation]:
    with postgres.cluster() as database:
        one = Installation(tmp_path / "site", database)
        try:
            yield one
        finally:
            one.kill()


@pytest.mark.timeout(1200)
def test_fifty_runs_at_once_over_four_workers(site: Installation, data: Path) -> None:
    site.edit("prefect.yaml", _without_limits_of_their_own)
    site.prefect("work-pool", "create", "--type", "process", "evaluations")
    site.prefect("work-pool", "set-concurrency-limit", "evaluations", str(AT_ONCE))
    site.prefect("--no-prompt", "deploy", "--all")
    (site.checkout / "cache" / "features").mkdir(parents=True)
    every = RUNS // EVALUATIONS
    runs = [
        site.submit("maintain/cache-maintenance")
        if number % every
        else site.submit("evaluate/sweep", config=str(data / "tiny.yaml"))
        for number in range(RUNS)
    ]
    for number in range(WORKERS):
        site.start_worker(f"worker-{number}", "--limit", str(AT_ONCE // WORKERS))
    ended = wait_for(lambda: _ended(site, runs), f"the end of all runs; see {site.logs}", 900)

    assert Counter((one["state_name"]) for one in ended) == {"Completed": RUNS}
    assert _most_at_once(ended) <= AT_ONCE
    for name in ("server", *(f"worker-{number}" for number in range(WORKERS))):
        for word in ("database is locked", "OperationalError", "InvalidRequestError"):
            assert word not in site.printed(name)


def _without_limits_of_their_own(content: dict[str, Any]) -> None:
    for deployment in content["deployments"]:
        deployment.pop("concurrency_limit", None)
        deployment.pop("schedules", None)


def _ended(site: Installation, runs: list[str]) -> list[dict[str, Any]] | None:
    found = site.call("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": runs}}})
    return found if len(found) == RUNS and all(one["end_time"] for one in found) else None


def _most_at_once(runs: list[dict[str, Any]]) -> int:
    """How many were in state Running at the busiest moment."""
    moments = [(datetime.fromisoformat(run["start_time"]), 1) for run in runs]
    moments += [(datetime.fromisoformat(run["end_time"]), -1) for run in runs]
    most = now = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most
