"""Running a flow from the command line: with a quiet temporary server whose records are complete.

Without ``PREFECT_API_URL`` Prefect starts a server for the run and kills it at the end. By itself that server prints
errors about itself (telemetry, a locked database) after runs that went well, and dies before it has recorded what the
tasks became.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import httpx
from prefect._internal.control_listener import get_intent
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import TERMINAL_STATES, State, StateType
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError, TerminationSignal
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_HOME,
    PREFECT_LOGGING_SERVER_LEVEL,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE,
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL,
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE,
    temporary_settings,
)
from prefect.states import Cancelled

from simet_cache.errors import InfrastructureError, SimetCacheError
from simet_cache.escaping import for_log
from simet_cache.urls import reason_of, without_secrets

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
STOPPED = (KeyboardInterrupt, TerminationSignal)  # Ctrl-C, and SIGTERM as Prefect raises it in a flow

_OF_RUNS = ("prefect.task_runs", "prefect.flow_runs")  # loggers
NO_SERVER = 3  # the exit code of a command

_ANSWER = 20.0  # seconds in which a server must answer
_PATIENCE = 10.0  # seconds without progress
_LAST_RESORT = 3.0  # seconds that threads have to end when all else is done
_LATER = "what was extracted is kept, and the next run goes on from there"


@contextmanager
def quiet_server() -> Iterator[None]:
    """A server that answers: the user's, or a temporary one that says nothing.

    Raises:
        InfrastructureError: There is none, within a minute; or it was lost, and the run with it.
    """
    quiet_logs()
    if url := PREFECT_API_URL.value():
        _require_answer(url)
        with _lost(f"Prefect's server at {without_secrets(url)}"):
            yield
        return
    _require_home()
    settings = {
        PREFECT_LOGGING_SERVER_LEVEL: "ERROR",  # which is read where it does not start, and by nobody else
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        # else it makes a transaction for each state of each task run, which takes longer than the runs themselves
        PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE: 100,
        PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE: 100,
        PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL: 1,  # whole seconds: less is 0, and half a core
    }
    with temporary_settings(settings):
        server = _temporary_server()  # the one that Prefect will use: there is one for each process
        server.start()
        with _lost("Prefect's temporary server"):
            yield


def _require_answer(url: str) -> None:
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": _ANSWER}) as client,
        ):
            error = client.api_healthcheck()
    except (RuntimeError, TypeError, ValueError, httpx.HTTPError, httpx.InvalidURL) as refused:
        error = refused
    if error is not None:
        raise InfrastructureError(
            f"PREFECT_API_URL: no Prefect server answers at {without_secrets(url)}: {reason_of(error).rstrip('.')};"
            " start it, set the variable to its address, like http://127.0.0.1:4200/api, or unset it"
        ) from error


def _require_home() -> None:
    """The temporary server keeps its database there, unless it was given another one."""
    home = PREFECT_HOME.value()
    if str(home) not in str(PREFECT_API_DATABASE_CONNECTION_URL.value()):
        return
    try:
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        raise InfrastructureError(
            f"Prefect cannot write to its folder {home}: {error.strerror or error}; set PREFECT_HOME to one that can be"
            " written, or PREFECT_API_URL to a server that is running"
        ) from error


@contextmanager
def _lost(server: str) -> Iterator[None]:
    """What Prefect's client raises where the server that was there has gone."""
    try:
        yield
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        raise InfrastructureError(f"{server} was lost: {reason_of(error)}; {_LATER}") from error


def _temporary_server() -> Any:
    from flows.temporary_server import ServerOutOfReach  # noqa: PLC0415 - two seconds, and of no use in a deployment

    return ServerOutOfReach()


def quiet_logs() -> None:
    """In any process that runs tasks: what a person would want to read."""
    for name in _OF_RUNS:
        logging.getLogger(name).addFilter(_one_sentence)
    logging.getLogger("simet_cache").setLevel(logging.INFO)
    for logger in map(logging.getLogger, (None, "prefect", *_OF_RUNS, "simet_cache")):
        for handler in logger.handlers:
            handler.addFilter(for_log)  # names of folders and images, which have run names and messages made of them


@contextmanager
def server_for_workers() -> Iterator[None]:
    """The address of the temporary server, if that is what there is, among the settings that workers are given.

    Without it each of them would start a server of its own.
    """
    if PREFECT_API_URL.value():
        yield
        return
    server = _temporary_server()
    server.start()
    with temporary_settings({PREFECT_API_URL: server.api_url}):
        yield


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """A scheduler's SIGTERM ends the run as an exit does, so that the temporary server goes with it."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def cancelled(stop: BaseException) -> State[int]:
    """The end of a flow run that was told to stop; without it Prefect would call the run crashed.

    ::

        try:
            ...
        except STOPPED as stop:
            return cancelled(stop)

    Args:
        stop: What was raised in the flow's body, one of ``STOPPED``.

    Returns:
        A cancelled state; its data is the exit code of a command.

    Raises:
        TerminationSignal: It was Prefect itself that ends this process, since somebody cancelled the run in the UI or
            it is to be run elsewhere; then the state is Prefect's to decide.
    """
    if get_intent() is not None:
        raise stop
    code = TERMINATED if isinstance(stop, TerminationSignal) else INTERRUPTED
    return Cancelled(message=f"stopped by {signal_of(stop)}; {_LATER}", data=code)


def signal_of(stop: BaseException) -> str:
    """What stopped a run, one of ``STOPPED``, as people call it."""
    return "SIGTERM" if isinstance(stop, TerminationSignal) else "Ctrl-C"


def left(state: State[int]) -> int:
    """Say that a command was stopped, and end it with the exit code of its signal.

    Everything is on disk and recorded by now. Where a task's thread does not end, the process does so without it, some
    seconds after this function was called.
    """
    print(state.message, file=sys.stderr)
    code: int = getattr(state.data, "result", state.data)  # type: ignore[arg-type, assignment]
    last_resort = threading.Timer(_LAST_RESORT, _end, [code])
    last_resort.daemon = True
    last_resort.start()
    return code


def give_up_on(task_run_ids: Iterable[UUID], end: State[Any] | None = None) -> None:
    """Record an end of task runs that have none, since nobody will hear of another.

    Args:
        task_run_ids: Those that are recorded as ended are left alone.
        end: Their state; by default that they were cancelled.
    """
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        for task_run_id in task_run_ids:
            with suppress(PrefectHTTPStatusError, ObjectNotFound):
                known = client.read_task_run(task_run_id).state
                if known is None or not known.is_final():
                    state = end or Cancelled(message="stopped before it had ended")
                    client.set_task_run_state(task_run_id, state, force=True)


def send_records() -> None:
    """In a process that runs tasks: wait until the server was sent all that there is to say about them."""
    services: Any = EventsWorker
    for service in tuple(services._instances.values()):  # noqa: SLF001 - its interface would start another one
        if isinstance(service, EventsWorker):
            service.wait_until_empty()
    APILogWorker.drain_all(timeout=int(_PATIENCE))  # it sends what it has every few seconds, or at its end


def _end(code: int) -> None:
    _temporary_server().stop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _one_sentence(record: logging.LogRecord) -> bool:
    """Prefect logs an exception twice, once with its traceback; of our own errors, and a lost server, one is enough."""
    return not (record.exc_info and isinstance(record.exc_info[1], (SimetCacheError, httpx.HTTPError)))


def wait_until_recorded(flow_run_id: UUID | None, *, last: str | None, patience: float = _PATIENCE) -> bool:
    """Wait until the server has the final state of every task run.

    The events of one process reach it in order: when the last task run is there and no other is unfinished, all are.

    Args:
        flow_run_id: Of the flow run that has ended.
        last: The name of its last task run; None where nobody knows which one it is, as in a run that was stopped.
        patience: Seconds without any progress after which to give up.

    Returns:
        Whether all are recorded.
    """
    give_up = time.monotonic() + patience
    finished, pause = -1, 0.05
    try:
        EventsWorker.drain_all(timeout=int(patience))
        APILogWorker.drain_all(timeout=int(patience))
        with get_client(sync_client=True) as client:
            while time.monotonic() < give_up:
                there = last is None or _count(client, flow_run_id, last=last)
                if there and not _count(client, flow_run_id, final=False):
                    return True
                if (now := _count(client, flow_run_id)) > finished:
                    finished, give_up = now, time.monotonic() + patience
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
    except (httpx.HTTPError, PrefectHTTPStatusError):  # a server that is gone will not record more
        pass
    return False


def _count(client: SyncPrefectClient, flow_run_id: UUID | None, *, final: bool = True, last: str | None = None) -> int:
    """How many task runs of a flow run are in a final state, or not; counted by the server, so many cost as few."""
    states = TERMINAL_STATES if final else set(StateType) - TERMINAL_STATES
    task_runs: dict[str, Any] = {"state": {"type": {"any_": sorted(state.value for state in states)}}}
    if last is not None:
        task_runs["name"] = {"any_": [last]}
    wanted = {"flow_runs": {"id": {"any_": [str(flow_run_id)]}}, "task_runs": task_runs}
    return int(client.request("POST", "/task_runs/count", json=wanted).json())
