"""Task runs in flight: bounded, and the same whatever runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound

from flows.runners import in_flight, require
from simet_cache.config import TaskRunnerConfig
from simet_cache.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
EXTRACTOR = ROOT / "tests" / "flows" / "extractor.py"


THREADS = TaskRunnerConfig()
needs_dask = pytest.mark.skipif(not find_spec("prefect_dask"), reason="simet-cache[dask] is not installed")
needs_ray = pytest.mark.skipif(not find_spec("prefect_ray"), reason="simet-cache[ray] is not installed")


@task
def hold(release: threading.Event, begun: list[int], number: int) -> int:
    begun.append(number)
    release.wait(30)
    return number


def in_a_flow(body: Callable[[], Any]) -> State[Any]:
    return flow(body, name="test", persist_result=False)(return_state=True)


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


@pytest.mark.usefixtures("prefect_server")
class TestInFlight:
    def test_one_too_many_waits_until_any_of_them_ends(self) -> None:
        releases, begun = [threading.Event() for _ in range(4)], []

        def body() -> None:
            with in_flight(THREADS, 2) as crew:
                futures = [crew.submit(hold, release=releases[n], begun=begun, number=n) for n in range(2)]
                until(lambda: len(begun) == 2)
                rest = threading.Thread(
                    target=lambda: futures.append(crew.submit(hold, release=releases[2], begun=begun, number=2))
                )
                rest.start()
                rest.join(0.5)
                assert rest.is_alive()  # both places are taken
                releases[1].set()  # the second, while the first goes on
                rest.join(30)
                assert not rest.is_alive()
                until(lambda: len(begun) == 3)
                assert len(crew.unfinished) == 2
                releases[0].set()
                releases[2].set()
            assert [one.result() for one in futures] == [0, 1, 2]
            assert not crew.unfinished

        assert in_a_flow(body).is_completed()

    def test_the_end_of_the_block_waits_for_every_run(self) -> None:
        ended: list[int] = []

        @task
        def slow(number: int) -> None:
            time.sleep(0.3)
            ended.append(number)

        def body() -> None:
            with in_flight(THREADS, 8) as crew:
                for number in range(5):
                    crew.submit(slow, number=number)
            assert sorted(ended) == [0, 1, 2, 3, 4]
            with pytest.raises(RuntimeError, match="inside of the with block"):
                crew.submit(slow, number=5)

        assert in_a_flow(body).is_completed()

    def test_runs_that_fail_leave_their_places(self) -> None:
        @task
        def fail() -> None:
            raise ValueError("no")

        def body() -> list[str]:
            with in_flight(THREADS, 1) as crew:
                futures = [crew.submit(fail) for _ in range(3)]
                for future in futures:
                    future.wait()
                return [future.state.name for future in futures]

        assert in_a_flow(body).result() == ["Failed"] * 3

    def test_defaults_and_names_of_a_task_are_kept(self) -> None:
        @task(task_run_name="add {a} {b}")
        def add(a: int, b: int = 2) -> int:
            return a + b

        def body() -> tuple[int, str]:
            with in_flight(THREADS, 1) as crew:
                future = crew.submit(add, a=1)
                future.wait()
            until(lambda: recorded(future) is not None)
            return future.result(), recorded(future).name

        assert in_a_flow(body).result() == (3, "add 1 2")

    @pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
    def test_left_by_an_exception_it_stops_what_runs_and_cancels_what_waits(self, error: BaseException) -> None:
        release, begun = threading.Event(), []

        def leave() -> None:
            with in_flight(TaskRunnerConfig(workers=1), 3, on_stop=release.set) as crew:
                for number in range(3):
                    crew.submit(hold, release=release, begun=begun, number=number)
                until(lambda: begun == [0])
                raise error

        def body() -> None:
            with pytest.raises(type(error)):
                leave()
            assert begun == [0]

        assert in_a_flow(body).is_completed()

    def test_what_does_not_hear_is_left_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flows.runners.GRACE", 0.2)
        release, begun, futures = threading.Event(), [], []

        def leave() -> None:
            with in_flight(THREADS, 1) as crew:
                futures.append(crew.submit(hold, release=release, begun=begun, number=0))
                until(lambda: begun == [0])
                until(lambda: recorded(futures[0]) is not None)
                raise ValueError("a bug")

        def body() -> str:
            with pytest.raises(ValueError, match="a bug"):
                leave()
            return recorded(futures[0]).state_name

        try:
            assert in_a_flow(body).result() == "Cancelled"
        finally:
            release.set()


def recorded(future: Any) -> Any:
    """The task run, once the server has heard of it."""
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        return client.read_task_run(future.task_run_id)
    return None


@pytest.mark.parametrize(("kind", "package"), [("dask", "prefect_dask"), ("ray", "prefect_ray")])
def test_a_runner_that_is_not_installed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    monkeypatch.delitem(sys.modules, f"flows.on_{kind}", raising=False)
    monkeypatch.delattr(f"flows.on_{kind}", raising=False)
    monkeypatch.setitem(sys.modules, f"{package}.task_runners", None)
    monkeypatch.setitem(sys.modules, {"dask": "dask", "ray": "ray"}[kind], None)
    with pytest.raises(ConfigError, match=rf"pip install 'simet-cache\[{kind}\]'"):
        require(TaskRunnerConfig(kind=kind))


def test_threads_are_always_there() -> None:
    require(THREADS)


@pytest.fixture
def folders(images: Callable[..., Path]) -> list[str]:
    return [str(images(f"set-{number}", 48, seed=number)) for number in range(4)]


@pytest.fixture
def extracted(tmp_path: Path, folders: list[str]) -> Callable[..., dict[str, dict[str, str]]]:
    """Extracts the folders in a command of its own; what became of each."""

    def call(kind: str, cache: str, **wanted: Any) -> dict[str, dict[str, str]]:
        with begun(tmp_path, kind=kind, folders=folders, cache=cache, **wanted) as process:
            out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        for word in ("Traceback", "ERROR", "WARNING", "distributed"):
            assert word not in err, err
        return json.loads(out.splitlines()[-1])

    return call


@contextmanager
def begun(folder: Path, **wanted: Any) -> Iterator[subprocess.Popen[str]]:
    options = {**wanted, "cache": str(folder / wanted["cache"]), "log": str(folder / f"{wanted['cache']}.log")}
    process = subprocess.Popen(
        [sys.executable, str(EXTRACTOR), json.dumps(options)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def reads(log: Path) -> dict[str, list[str]]:
    """Who read each image, by its path."""
    found: dict[str, list[str]] = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        process, path = line.split(" ", 1)
        found.setdefault(path, []).append(process)
    return found


def of_one_set(log: Path, name: str) -> set[str]:
    return {process for path, who in reads(log).items() if f"/{name}/" in path for process in who}


@pytest.mark.slow
class TestSameResults:
    @needs_dask
    def test_dask_processes_of_our_own(self, extracted: Callable[..., Any], tmp_path: Path) -> None:
        threads = extracted("threads", "threads")
        dask = extracted("dask", "dask", workers=2, seconds=0.02, model={"workers": 1})  # with a loader's process each
        assert dask == threads
        assert {one["state"] for one in dask.values()} == {"Completed"}
        again = extracted("dask", "dask", workers=2)
        assert {one["state"] for one in again.values()} == {"Cached"}
        assert [again[name]["digest"] for name in again] == [dask[name]["digest"] for name in again]
        assert all(len(who) == 1 for who in reads(tmp_path / "dask.log").values())

    @needs_ray
    def test_ray_processes_of_our_own(self, extracted: Callable[..., Any], tmp_path: Path) -> None:
        threads = extracted("threads", "threads")
        assert extracted("ray", "ray", workers=2, seconds=0.02) == threads
        assert all(len(who) == 1 for who in reads(tmp_path / "ray.log").values())
        assert len({who[0] for who in reads(tmp_path / "ray.log").values()}) == 2


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """A scheduler and two workers that somebody has started, as the README says."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{EXTRACTOR.parent}",
        "DASK_TEMPORARY_DIRECTORY": str(tmp_path / "scratch"),
    }
    dask = [sys.executable, "-m", "distributed.cli"]
    commands = [["dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"]]
    commands += [["dask_worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"]] * 2
    with (tmp_path / "dask-cluster.log").open("w") as log:
        started = [
            subprocess.Popen(
                [*dask[:2], f"{dask[2]}.{command[0]}", *command[1:]],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for command in commands
        ]
        try:
            yield address
        finally:
            for process in started:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@needs_dask
@pytest.mark.slow
class TestDaskElsewhere:
    def test_a_worker_that_is_killed_costs_what_it_was_doing(
        self, scheduler: str, extracted: Callable[..., Any], folders: list[str], tmp_path: Path
    ) -> None:
        threads = extracted("threads", "threads")
        log = tmp_path / "dask.log"
        with begun(tmp_path, kind="dask", address=scheduler, folders=folders, cache="dask", seconds=0.1) as process:
            until(lambda: len({who for one in reads(log).values() for who in one}) == 2)  # both are at work
            victim = log.read_text().splitlines()[-1].split()[0]  # the one that has the device
            os.kill(int(victim), signal.SIGKILL)
            out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        assert json.loads(out.splitlines()[-1]) == threads
        again = [path for path, who in reads(log).items() if len(who) > 1]
        assert again, "it was killed in the middle of an extraction"
        assert len({Path(path).parent for path in again}) == 1  # which alone was begun anew
        assert all(victim in reads(log)[path] for path in again)

    def test_one_that_is_stopped_ends_its_tasks_there_too(
        self, scheduler: str, folders: list[str], tmp_path: Path
    ) -> None:
        log = tmp_path / "dask.log"
        with begun(tmp_path, kind="dask", address=scheduler, folders=folders, cache="dask", seconds=0.5) as process:
            until(lambda: len({who for one in reads(log).values() for who in one}) == 2)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=120)
        assert process.returncode == 143, err
        read = len(reads(log))
        time.sleep(2)
        assert len(reads(log)) == read < 96
        with begun(tmp_path, kind="dask", address=scheduler, folders=folders[-1:], cache="dask") as process:
            out, err = process.communicate(timeout=500)  # the same workers take the next run
        assert [one["state"] for one in json.loads(out.splitlines()[-1]).values()] == ["Completed"], err

    def test_a_scheduler_that_does_not_answer_is_one_sentence(self, folders: list[str], tmp_path: Path) -> None:
        with begun(tmp_path, kind="dask", address="tcp://127.0.0.1:9", folders=folders, cache="dask") as process:
            _, err = process.communicate(timeout=500)
        assert process.returncode != 0
        assert "no Dask scheduler answers at tcp://127.0.0.1:9" in err
