"""Task runs on Dask: on a cluster of our own processes on this machine, or on one that somebody has started.

What a worker needs is told to it by ``Worker``, a plugin that Dask hands to every worker, also to one that replaces
another. Task runs that a lost worker had are run again by Dask, under the same task run of Prefect.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import dask
import distributed
from prefect import Task
from prefect.futures import PrefectFuture
from prefect.states import Crashed
from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture

from flows.runners import GRACE, Engine, Hearing
from flows.session import give_up_on, quiet_logs, send_records, server_for_workers
from simet_cache.config import TaskRunnerConfig
from simet_cache.errors import ConfigError


@contextmanager
def started(config: TaskRunnerConfig, hearing: Hearing) -> Iterator[Engine]:
    """A cluster that is ready to run tasks.

    Args:
        config: With an address, that of a scheduler; else the number of processes to start here, by default one for
            each CPU that this process may use.
        hearing: How tasks hear that they shall end.

    Raises:
        ConfigError: No scheduler answers, or its workers cannot import this code.
    """
    with server_for_workers(), _runner(config) as runner:
        client = _client(runner, config.address)
        with _prepared(client, Worker(hearing, ours=config.address is None), config.address):

            def submit(task: Task[..., Any], parameters: dict[str, Any]) -> PrefectFuture[Any]:
                # not pure: Dask would hash the parameters, file names and all, to recognise what it has computed
                future = client.submit(task, parameters=parameters, return_type="state", pure=False)
                return DaskFuture(task_run_id=future.task_run_id, wrapped_future=future)

            def stop(unfinished: set[PrefectFuture[Any]]) -> None:
                futures = [one.wrapped_future for one in unfinished if isinstance(one, DaskFuture)]
                keys = [future.key for future in futures]
                client.cancel(futures)
                _in_time(lambda: client.run(_wind_up, keys, on_error="ignore"), 2 * GRACE)
                give_up_on(one.task_run_id for one in unfinished if isinstance(one, DaskFuture))

            try:
                yield Engine(submit, stop)
            finally:
                _in_time(lambda: client.run(_wind_up, [], on_error="ignore"), 2 * GRACE)


class DaskFuture(PrefectDaskFuture[Any]):
    """A task run on Dask; where Dask gave it up, as when it has cost several workers their lives, it has crashed."""

    def wait(self, timeout: float | None = None) -> None:
        """Until the run has ended, or so many seconds."""
        super().wait(timeout)
        if self._final_state is None and self._wrapped_future.status in {"error", "cancelled", "lost"}:
            error = self._wrapped_future.exception(timeout=GRACE)  # type: ignore[no-untyped-call]
            self._final_state = Crashed(message=f"Dask gave the task run up: {type(error).__name__}: {error}")
            give_up_on([self.task_run_id], self._final_state)


class Worker(distributed.WorkerPlugin):
    """What makes a process of Dask a good place for our tasks.

    Args:
        hearing: How tasks hear that they shall end.
        ours: It is a process of ours, and not one that somebody has started.
    """

    def __init__(self, hearing: Hearing, *, ours: bool) -> None:
        self._hearing = hearing
        self._ours = ours
        self._worker: distributed.Worker | None = None

    def setup(self, worker: distributed.Worker) -> None:
        """As soon as the worker is there."""
        self._worker = worker
        # Dask's workers may have no children of their own, but a DataLoader has some
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # noqa: SLF001
        if self._ours:
            os.setpgid(0, 0)  # out of the reach of Ctrl-C: the flow says when to end
        quiet_logs()

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:  # noqa: ARG002 - Dask's interface
        """A task that is cancelled while it runs hears of it; so it does where its flow's process has died."""
        assert self._worker is not None  # noqa: S101 - for the type checker
        if len(self._worker.state.executing) > 1:  # the word would reach its neighbours too
            return
        if finish == "executing":
            with self._hearing.listening():
                pass  # what was said to another task does not concern this one
        elif start == "executing" and finish in {"cancelled", "released"}:
            self._hearing.on_stop()


@contextmanager
def _runner(config: TaskRunnerConfig) -> Iterator[DaskTaskRunner]:
    logging.getLogger("distributed").setLevel(logging.ERROR)
    logging.getLogger("prefect.task_runner.dask").setLevel(logging.WARNING)
    if config.address is not None:
        with DaskTaskRunner(address=config.address, client_kwargs={"timeout": 10}) as runner:
            yield runner
        return
    options = {
        "n_workers": config.workers or _CPUS,
        "threads_per_worker": 1,
        "processes": True,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "scheduler_kwargs": {"dashboard": False},
        "security": True,  # else any user of this machine could have the workers run code
        "memory_limit": None,
    }
    settings = {
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.nanny.pre-spawn-environ": {"DASK_LOGGING__DISTRIBUTED": "critical", **_threads()},
    }
    with dask.config.set(settings), DaskTaskRunner(cluster_kwargs=options) as runner:
        yield runner


_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> dict[str, str]:
    """Of torch and of BLAS, in each worker: all, since only one extracts on a CPU at a time. Dask would allow one."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: os.environ.get(name, str(_CPUS)) for name in names}


def _client(runner: DaskTaskRunner, address: str | None) -> Any:
    """The client, whose first use starts the cluster or connects to it."""
    try:
        return runner.client
    except OSError as error:
        if address is None:
            raise
        sentence = f"task_runner.address: no Dask scheduler answers at {address}; start one with: dask scheduler"
        raise ConfigError([sentence]) from error


@contextmanager
def _prepared(client: Any, plugin: Worker, address: str | None) -> Iterator[None]:
    """The plugin on all workers, as long as this run lasts."""
    name = f"simet-cache-{uuid4()}"
    try:
        client.register_plugin(plugin, name=name)
    except ModuleNotFoundError as error:
        sentence = (
            f"task_runner.address: the Dask workers at {address} cannot import {error.name};"
            " start them in a checkout of this repository, or with PYTHONPATH set to one"
        )
        raise ConfigError([sentence]) from error
    try:
        yield
    finally:
        _in_time(lambda: client.unregister_worker_plugin(name), GRACE)


async def _wind_up(keys: Collection[Any], dask_worker: distributed.Worker) -> None:
    """In a worker: until these tasks, which were cancelled, have ended, and the server was told what became of all."""
    give_up = time.monotonic() + GRACE
    while any(task.key in keys for task in dask_worker.state.executing) and time.monotonic() < give_up:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await asyncio.to_thread(send_records)


def _in_time(call: Callable[[], Any], seconds: float) -> None:
    """Call something that may never answer, as a worker that hangs, or may no longer be there."""

    def attempt() -> None:
        with suppress(OSError, TimeoutError):
            call()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
