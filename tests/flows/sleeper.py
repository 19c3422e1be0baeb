"""A command whose tasks run until they are told to stop, or longer: what ``tests/flows/test_session.py`` interrupts.

::

    python tests/flows/sleeper.py FOLDER [deaf]

Each task run leaves a file in FOLDER when it begins. With ``deaf`` it does not hear that it should stop.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.runners import in_flight
from flows.session import STOPPED, cancelled, ended_by_sigterm, left, quiet_server, wait_until_recorded
from simet_cache.config import TaskRunnerConfig
from simet_cache.errors import SimetCacheError

stopping = threading.Event()


class StoppedError(SimetCacheError):
    """As a task ends that was told to."""


@task(task_run_name="sleep {number}")
def sleep(number: int, folder: str, *, deaf: bool) -> None:
    (Path(folder) / str(number)).write_text(str(os.getpid()))
    if deaf:
        time.sleep(600)
    stopping.wait()
    raise StoppedError("stopped")


@task(task_run_name="report")
def report() -> None:
    pass


@flow(name="sleeper", persist_result=False)
def sleeper(folder: str, deaf: bool = False) -> State[int]:
    try:
        with in_flight(TaskRunnerConfig(), 3, on_stop=stopping.set) as crew:
            for number in range(8):
                crew.submit(sleep, number=number, folder=folder, deaf=deaf)
    except STOPPED as stop:
        return cancelled(stop)
    report()
    return Completed(message="slept")


def main() -> int:
    with ended_by_sigterm(), quiet_server():
        state = sleeper(sys.argv[1], deaf="deaf" in sys.argv, return_state=True)
        last = None if state.is_cancelled() else "report"
        wait_until_recorded(state.state_details.flow_run_id, last=last, patience=2)
        return left(state) if state.is_cancelled() else 0


if __name__ == "__main__":
    sys.exit(main())
