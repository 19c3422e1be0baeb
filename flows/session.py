"""Running a flow from the command line: with a quiet temporary server whose records are complete.

Without ``PREFECT_API_URL`` Prefect starts a server for the run and kills it at the end. By itself that server prints
errors about itself (telemetry, a locked database) after runs that went well, and dies before it has recorded what the
tasks became.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOGGING_SERVER_LEVEL,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from simet_cache.errors import ConfigError, SimetCacheError

TERMINATED = 128 + signal.SIGTERM

_PAGE = 200  # the most task runs that one request may ask for


@contextmanager
def quiet_server() -> Iterator[None]:
    """Settings for the temporary server, unless the user runs one; one sentence where a traceback would say less."""
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addFilter(_one_sentence)
    logging.getLogger("simet_cache").setLevel(logging.INFO)
    if url := PREFECT_API_URL.value():
        with get_client(sync_client=True) as client:
            if client.api_healthcheck() is not None:
                raise ConfigError(
                    [f"PREFECT_API_URL: no Prefect server answers at {url}; start it, or unset the variable"]
                )
        yield
        return
    settings = {
        PREFECT_LOGGING_SERVER_LEVEL: "CRITICAL",
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120,  # the first start makes the database; 20 can be too few
    }
    with temporary_settings(settings):
        from flows.temporary_server import ServerOutOfReach  # noqa: PLC0415 - two seconds, and of no use in a deployment

        ServerOutOfReach()  # the one that Prefect will use: there is one for each process
        yield


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """A scheduler's SIGTERM ends the run as an exit does, so that the temporary server goes with it."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_sentence(record: logging.LogRecord) -> bool:
    """Prefect logs an exception twice, once with its traceback; for our own errors their sentence is enough."""
    return not (record.exc_info and isinstance(record.exc_info[1], SimetCacheError))


def wait_until_recorded(flow_run_id: UUID | None, *, last: str, patience: float = 5.0) -> bool:
    """Wait until the server has the final state of every task run.

    Events reach it in order: when the last task run is there and no other is unfinished, all are.

    Args:
        flow_run_id: Of the flow run that has ended.
        last: The name of its last task run.
        patience: Seconds after which to give up.

    Returns:
        Whether all are recorded.
    """
    EventsWorker.drain_all(timeout=int(patience))
    APILogWorker.drain_all(timeout=int(patience))
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            runs = _task_runs(flow_run_id)
        except (httpx.HTTPError, PrefectHTTPStatusError):  # a server that is gone will not record more
            return False
        if last in {run.name for run in runs} and all(run.state and run.state.is_final() for run in runs):
            return True
        time.sleep(0.05)
    return False


def _task_runs(flow_run_id: UUID | None) -> list[TaskRun]:
    runs: list[TaskRun] = []
    with get_client(sync_client=True) as client:
        while True:
            page = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])),
                sort=TaskRunSort.ID_DESC,
                limit=_PAGE,
                offset=len(runs),
            )
            runs += page
            if len(page) < _PAGE:
                return runs
