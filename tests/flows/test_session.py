"""Ctrl-C and SIGTERM: a run ends within seconds, and is recorded as cancelled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal

from flows import session
from flows.session import STOPPED, cancelled, wait_until_recorded

SLEEPER = Path(__file__).with_name("sleeper.py")


def recorded(kind: str) -> list[tuple[str, str]]:
    """Names and states in the database of the subprocesses, the latest first."""
    import sqlite3

    with sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db") as connection:
        return connection.execute(f"SELECT name, state_name FROM {kind} ORDER BY created DESC").fetchall()


@pytest.mark.slow
class TestCommand:
    @pytest.mark.parametrize("deaf", [False, True], ids=["hears", "deaf"])
    @pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_run_that_is_stopped_is_cancelled(
        self, tmp_path: Path, sent: signal.Signals, code: int, deaf: bool
    ) -> None:
        """Ctrl-C reaches the whole process group, as from a terminal; SIGTERM the process alone."""
        process = subprocess.Popen(
            [sys.executable, str(SLEEPER), str(tmp_path), *(["deaf"] if deaf else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 300
            while len(list(tmp_path.iterdir())) < 3:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.1)
            time.sleep(1)  # so that the server hears of the runs
            (os.killpg if sent is signal.SIGINT else os.kill)(process.pid, sent)
            _, err = process.communicate(timeout=120)  # the deaf ones would sleep for ten minutes
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == code, err
        assert "the next run goes on from there" in err
        for word in ("Traceback", "Crash", "Error logging to API"):
            assert word not in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]  # no other was begun
        assert recorded("flow_run")[0][1] == "Cancelled"
        assert [state for _, state in recorded("task_run")[:3]] == ["Cancelled" if deaf else "Failed"] * 3


@pytest.mark.usefixtures("prefect_server")
class TestCancelled:
    @pytest.mark.parametrize(
        ("stop", "name", "code"),
        [(KeyboardInterrupt(), "Ctrl-C", 130), (TerminationSignal(signal.SIGTERM), "SIGTERM", 143)],
        ids=["ctrl-c", "sigterm"],
    )
    def test_the_state_says_which_signal_it_was(self, stop: BaseException, name: str, code: int) -> None:
        @flow(persist_result=False)
        def stopped() -> Any:
            try:
                raise stop
            except STOPPED as caught:
                return cancelled(caught)

        state = stopped(return_state=True)
        assert state.is_cancelled()
        assert name in state.message
        assert getattr(state.data, "result", state.data) == code

    def test_what_prefect_itself_ends_is_prefects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "get_intent", lambda: "cancel")
        stop = TerminationSignal(signal.SIGTERM)
        with pytest.raises(TerminationSignal):
            cancelled(stop)


@pytest.mark.usefixtures("prefect_server")
class TestRecords:
    def test_all_are_there_when_it_returns(self) -> None:
        @task(task_run_name="task {number}")
        def one(number: int) -> None:
            pass

        @flow(persist_result=False)
        def many() -> None:
            for number in range(20):
                one(number)

        state = many(return_state=True)
        run = state.state_details.flow_run_id
        assert wait_until_recorded(run, last="task 19")
        with get_client(sync_client=True) as client:
            assert session._count(client, run) == 20
            assert session._count(client, run, final=False) == 0
            assert session._count(client, run, last="task 19") == 1

    def test_a_run_that_never_comes_is_given_up(self) -> None:
        assert not wait_until_recorded(uuid4(), last="none", patience=0.3)

    def test_a_server_that_is_gone_is_given_up(self) -> None:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            assert not wait_until_recorded(uuid4(), last="none", patience=2)
