"""Deployments on a server with SQLite, as the README shows them: every step through a command or the API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.installation import Installation, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc, as on Linux"),
]
NIGHTLY, SWEEP, MAINTENANCE = "evaluate/nightly-evaluation", "evaluate/sweep", "maintain/cache-maintenance"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Server, pool, deployments and a worker, by the commands of the README."""
    one = Installation(tmp_path_factory.mktemp("site"))
    try:
        one.start_server()
        one.prefect("work-pool", "create", "--type", "process", "evaluations")
        one.prefect("--no-prompt", "deploy", "--all")
        one.start_worker()
        yield one
    finally:
        one.kill()


def test_what_the_server_knows_names_no_folder_and_shows_a_form(site: Installation) -> None:
    for name in (NIGHTLY, SWEEP, MAINTENANCE):
        deployment = site.deployment(name)
        assert deployment["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "."}}]
        for key in ("pull_steps", "job_variables", "parameters", "path", "entrypoint"):
            assert str(site.checkout) not in json.dumps(deployment[key])
        assert deployment["enforce_parameter_schema"]
    form = site.deployment(SWEEP)["parameter_openapi_schema"]
    assert [choice.get("title") or choice["$ref"] for choice in form["properties"]["config"]["anyOf"]] == [
        "File",
        "#/definitions/EvaluationConfig",
    ]
    assert "upper_bound" in form["definitions"]["RestraintConfig"]["properties"]


def test_a_scheduled_run_fires_alone_and_the_next_one_finds_everything(site: Installation, data: Path) -> None:
    nightly = site.deployment(NIGHTLY)["id"]
    site.call("PATCH", f"/deployments/{nightly}", {"parameters": {"config": str(data / "tiny.yaml")}})
    site.prefect("deployment", "schedule", "create", NIGHTLY, "--interval", "5", "--replace", "--accept-yes")
    first = wait_for(lambda: _first(site, "PENDING", "RUNNING", "COMPLETED"), "a scheduled run")
    late = site.submit(NIGHTLY)
    state = site.end_of(late)
    assert (state["type"], state["message"]) == ("CANCELLED", "Deployment concurrency limit reached.")
    site.prefect("deployment", "schedule", "clear", NIGHTLY, "--accept-yes")

    assert first["auto_scheduled"]
    state = site.end_of(first["id"])
    assert (state["type"], state["message"]) == ("COMPLETED", "1 of 1 datasets measured")
    states = site.final_task_states(first["id"])
    assert (states["extract real"], states["extract a"]) == ("Completed", "Completed")
    (artifact,) = [one for one in site.artifacts_of(first["id"]) if one["key"] == "evaluation"]
    assert r"resnet18\_random0\_32px" in artifact["data"]  # as Markdown shows it
    wait_for(lambda: "Completed('1 of 1 datasets measured')" in site.log_of(first["id"]), "the log", 60)

    second = site.submit(SWEEP, config=str(data / "tiny.yaml"))
    assert site.end_of(second)["type"] == "COMPLETED"
    states = site.final_task_states(second)
    assert (states["extract real"], states["extract a"]) == ("Cached", "Cached")


def _first(site: Installation, *types: str) -> Any:
    return next((run for run in site.runs_of(NIGHTLY) if run["state_type"] in types), None)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"config": 3}, "3 is not valid under any of the given schemas"),
        ({"config": {"reference": {"digits": "held-out"}}}, "'datasets' is a required property"),
        (
            {"config": {"reference": {"digits": "reference"}, "datasets": [{"digits": "blur"}], "metrix": []}},
            "'metrix' was unexpected",
        ),
    ],
)
def test_what_the_form_does_not_allow_makes_no_run(
    site: Installation, parameters: dict[str, Any], problem: str
) -> None:
    identity = site.deployment(SWEEP)["id"]
    answer = site.request("POST", f"/deployments/{identity}/create_flow_run", {"parameters": parameters})
    assert answer.status_code == 409
    assert problem in answer.text


def test_what_only_the_run_can_see_is_a_failed_run_with_a_sentence(site: Installation, data: Path) -> None:
    """Two files at once: one that is not there, and one with a bound that cannot hold, in the nightly deployment."""
    missing, strict = site.submit(SWEEP, config="nope.yaml"), site.submit(NIGHTLY, config=str(data / "strict.yaml"))
    state = site.end_of(missing)
    assert state["type"] == "FAILED"
    assert state["message"].endswith("nope.yaml: cannot read the configuration: No such file or directory")
    state = site.end_of(strict)
    assert state["type"] == "FAILED"
    assert state["message"] == "1 of 1 datasets measured; 0 of 1 restraints hold"


def test_maintenance_repairs(site: Installation) -> None:
    (site.checkout / "cache" / "features").mkdir(parents=True, exist_ok=True)
    (site.checkout / "cache" / "features" / f"{'a' * 32}.pkl").write_bytes(b"damage")
    run = site.submit(MAINTENANCE)
    state = site.end_of(run)
    assert (state["type"], state["message"]) == (
        "COMPLETED",
        "entries checked: 1, repaired: 1, left for a person: 0",
    )
    assert [one["key"] for one in site.artifacts_of(run)] == ["maintenance"]


KEPT = {"extract real": "Completed", "extract a": "Completed"}


def test_a_cancelled_run_ends_and_keeps_what_was_extracted(site: Installation, data: Path) -> None:
    run = site.submit(SWEEP, config=str(data / "busy.yaml"))
    wait_for(lambda: site.task_states(run).get("extract many") == "Running", "the long extraction")
    site.prefect("flow-run", "cancel", run)
    assert site.end_of(run)["name"] == "Cancelled"
    wait_for(lambda: site.task_states(run).items() >= KEPT.items(), "the record of what was extracted", 60)


def test_after_a_kill_the_next_run_goes_on(site: Installation, data: Path) -> None:
    """After the test before: what that one extracted is there."""
    killed = site.submit(SWEEP, config=str(data / "busy.yaml"))
    wait_for(lambda: site.task_states(killed).get("extract many") == "Running", "the long extraction")
    site.kill("worker")  # and the run, which is its child
    site.start_worker()
    assert site.run(killed)["state_type"] == "RUNNING"  # nobody has told the server

    resumed = site.submit(SWEEP, config=str(data / "busy.yaml"))
    assert site.end_of(resumed)["type"] == "COMPLETED"
    expected = {**dict.fromkeys(KEPT, "Cached"), "extract many": "Completed"}
    assert site.final_task_states(resumed).items() >= expected.items()
