"""The deployments and automations that are in the repository, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import is_valid

ROOT = Path(__file__).resolve().parents[2]
CONTENT = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = {deployment["name"]: deployment for deployment in CONTENT["deployments"]}
AUTOMATIONS = yaml.safe_load((ROOT / "automations.yaml").read_text(encoding="utf-8"))["automations"]


def flow_of(deployment: dict[str, Any]) -> Flow[Any, Any]:
    path, _, name = deployment["entrypoint"].partition(":")
    return load_flow_from_entrypoint(f"{ROOT / path}:{name}")


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(key)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def test_what_is_deployed() -> None:
    assert list(DEPLOYMENTS) == ["nightly-evaluation", "sweep", "cache-maintenance"]
    PrefectYamlModel.model_validate(CONTENT)


def test_no_folder_of_any_machine_is_named() -> None:
    assert CONTENT["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "."}}]
    for text in texts(CONTENT):
        assert not text.startswith(("/", "~"))
        assert "{{" not in text  # a variable of the environment is replaced by the deployer's value
    for deployment in DEPLOYMENTS.values():
        assert deployment["work_pool"]["job_variables"]["working_dir"] == "."


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_parameters_are_what_the_flow_takes(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    flow = flow_of(deployment)
    schema = parameter_schema(flow).model_dump()
    assert is_valid(deployment["parameters"], schema)
    assert not is_valid({name: [3] for name in deployment["parameters"]}, schema)
    assert flow.should_validate_parameters


def test_the_example_that_runs_every_night_is_there() -> None:
    assert (ROOT / DEPLOYMENTS["nightly-evaluation"]["parameters"]["config"]).is_file()


@pytest.mark.parametrize("name", ["nightly-evaluation", "cache-maintenance"])
def test_schedules_say_where_their_hours_are(name: str) -> None:
    (schedule,) = DEPLOYMENTS[name]["schedules"]
    CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert ZoneInfo(schedule["timezone"])
    assert DEPLOYMENTS[name]["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_the_sweep_waits_to_be_asked() -> None:
    assert "schedules" not in DEPLOYMENTS["sweep"]


def test_queues_are_named_so_that_workers_can_choose() -> None:
    pools = {deployment["work_pool"]["name"] for deployment in DEPLOYMENTS.values()}
    queues = [deployment["work_pool"]["work_queue_name"] for deployment in DEPLOYMENTS.values()]
    assert (pools, queues) == ({"evaluations"}, ["nightly", "sweeps", "maintenance"])


def test_automations_are_valid_and_about_what_is_deployed() -> None:
    for automation in AUTOMATIONS:
        for action in automation["actions"]:
            if "block_document_id" in action:
                assert action["block_document_id"] == "WEBHOOK_ID"
                action["block_document_id"] = str(uuid4())
        AutomationCore.model_validate(automation)
    (named,) = (a["trigger"]["match_related"] for a in AUTOMATIONS if "match_related" in a["trigger"])
    assert named["prefect.resource.name"] in DEPLOYMENTS
    beats = int(DEPLOYMENTS["sweep"]["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    (patience,) = (a["trigger"]["within"] for a in AUTOMATIONS if a["trigger"]["posture"] == "Proactive")
    assert patience >= 2 * beats
