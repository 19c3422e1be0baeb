"""Many runs at once, on a server with PostgreSQL, as the README shows it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import postgres
from tests.deploy.installation import Installation, wait_for
from tests.deploy.receiver import Receiver

RUNS, AT_ONCE, WORKERS = 50, 8, 4
EVALUATIONS = 10  # of the runs; the others look after the cache, which needs no torch, and so half the time

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc, as on Linux"),
    pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing())),
]


NIGHTLY, SWEEP, MAINTENANCE = "evaluate/nightly-evaluation", "evaluate/sweep", "maintain/cache-maintenance"
NAMES = [f"worker-{number}" for number in range(WORKERS)]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Installation]:
    """Server, pool, deployments, automations and workers, by the commands of the README and of docs/deploy.md."""
    with postgres.cluster() as database:
        one = Installation(tmp_path_factory.mktemp("site"), database)
        try:
            one.start_server()
            one.edit("prefect.yaml", _without_what_would_interfere)
            one.prefect("work-pool", "create", "--type", "process", "evaluations")
            one.prefect("work-pool", "set-concurrency-limit", "evaluations", str(AT_ONCE))
            one.prefect("--no-prompt", "deploy", "--all")
            save = (
                "import sys; from prefect.blocks.webhook import Webhook; print(Webhook(url=sys.argv[1]).save('alerts'))"
            )
            block = one.python("-c", save, receiver.url).strip()
            path = one.checkout / "automations.yaml"
            text = path.read_text(encoding="utf-8").replace("WEBHOOK_ID", block)
            path.write_text(text.replace("within: 90", "within: 35"), encoding="utf-8")  # a heart beats every 30 s
            one.prefect("automation", "create", "-f", "automations.yaml")
            (one.checkout / "cache" / "features").mkdir(parents=True)
            for name in NAMES:
                one.start_worker(name, "--limit", str(AT_ONCE // WORKERS))
            yield one
        finally:
            one.kill()


def _without_what_would_interfere(content: dict[str, Any]) -> None:
    for deployment in content["deployments"]:
        deployment.pop("schedules", None)
        if deployment["name"] == "cache-maintenance":  # here many run at once
            deployment.pop("concurrency_limit")


@pytest.mark.timeout(1200)
def test_fifty_runs_at_once_over_four_workers(site: Installation, data: Path) -> None:
    every = RUNS // EVALUATIONS
    runs = [
        site.submit(MAINTENANCE) if number % every else site.submit(SWEEP, config=str(data / "tiny.yaml"))
        for number in range(RUNS)
    ]
    ended = wait_for(lambda: _ended(site, runs), f"the end of all runs; see {site.logs}", 900)

    assert Counter((one["state_name"]) for one in ended) == {"Completed": RUNS}
    assert _most_at_once(ended) <= AT_ONCE
    for name in ("server", *NAMES):
        for word in ("database is locked", "OperationalError", "InvalidRequestError"):
            assert word not in site.printed(name)


def test_a_failed_nightly_evaluation_is_sent_to_the_webhook_and_a_failed_sweep_is_not(
    site: Installation, data: Path, receiver: Receiver
) -> None:
    sweep, nightly = (site.submit(name, config=str(data / "strict.yaml")) for name in (SWEEP, NIGHTLY))
    assert site.end_of(sweep)["type"] == site.end_of(nightly)["type"] == "FAILED"
    (sent,) = wait_for(lambda: receiver.received, "the notification", 60)
    assert sent["text"].startswith("nightly-evaluation ")
    assert " Failed: 1 of 1 datasets measured; 0 of 1 restraints hold http://" in sent["text"]
    receiver.received.clear()


def test_a_run_whose_machine_died_is_crashed_reported_and_out_of_the_way(
    site: Installation, data: Path, receiver: Receiver
) -> None:
    run = site.submit(NIGHTLY, config=str(data / "busy.yaml"))
    wait_for(lambda: site.task_states(run).get("extract many") == "Running", "the long extraction")
    for name in NAMES:
        site.kill(name)  # and the run, which is a child of one of them
    assert site.run(run)["state_type"] == "RUNNING"  # nobody has told the server
    assert _slots_taken(site) == 1

    state = site.end_of(run)
    assert (state["type"], state["message"].partition(":")[0]) == ("CRASHED", "No heartbeat")
    (sent,) = wait_for(lambda: receiver.received, "the notification", 60)
    assert " Crashed: No heartbeat" in sent["text"]
    wait_for(lambda: _slots_taken(site) == 0, "the slot to be free for the next night", 60)


def _slots_taken(site: Installation) -> int:
    return int(site.deployment(NIGHTLY)["global_concurrency_limit"]["active_slots"])


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
