"""Task runs on Ray: on processes of our own on this machine, or on a cluster that somebody has started."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from prefect import Task
from prefect.futures import PrefectFuture
from prefect_ray.task_runners import PrefectRayFuture, RayTaskRunner

from flows.runners import GRACE, Engine, Hearing
from flows.session import give_up_on, server_for_workers
from simet_cache.config import TaskRunnerConfig
from simet_cache.errors import ConfigError


@contextmanager
def started(config: TaskRunnerConfig, hearing: Hearing) -> Iterator[Engine]:  # noqa: ARG001 - Ray interrupts a task itself
    """A cluster that is ready to run tasks.

    Args:
        config: With an address, that of a cluster, like ``ray://host:10001`` or ``auto``; else the number of processes
            to start here, by default one for each CPU that this process may use.
        hearing: Not needed: a task run that is cancelled is interrupted by Ray.

    Raises:
        ConfigError: No cluster answers.
    """
    with server_for_workers(), _runner(config) as runner:

        def submit(task: Task[..., Any], parameters: dict[str, Any]) -> PrefectFuture[Any]:
            future = runner.submit(task=task, parameters=parameters)
            return RayFuture(task_run_id=future.task_run_id, wrapped_future=future.wrapped_future)

        def stop(unfinished: set[PrefectFuture[Any]]) -> None:
            futures = [one for one in unfinished if isinstance(one, RayFuture)]
            for future in futures:
                ray.cancel(future.wrapped_future)
            with suppress(Exception):  # what it was that ended them does not matter
                ray.wait([one.wrapped_future for one in futures], num_returns=len(futures), timeout=GRACE)
            give_up_on(one.task_run_id for one in futures)

        yield Engine(submit, stop)


class RayFuture(PrefectRayFuture):  # type: ignore[misc]  # prefect-ray has no types
    """A task run on Ray that says when it has ended, however it did: Ray's own callback is silent about some errors."""

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        """Call a function with this future when it has ended."""

        def wait() -> None:
            self.wait()
            fn(self)

        threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _runner(config: TaskRunnerConfig) -> Iterator[RayTaskRunner]:
    logging.getLogger("prefect.task_runner.ray").setLevel(logging.WARNING)
    options: dict[str, Any] = {"logging_level": "ERROR"} | ({} if config.address else _own(config.workers))
    runner = RayTaskRunner(address=config.address, init_kwargs=options)
    try:
        runner.__enter__()
    except ConnectionError as error:
        sentence = f"task_runner.address: no Ray cluster answers at {config.address}; start one with: ray start --head"
        raise ConfigError([sentence]) from error
    try:
        yield runner
    finally:
        runner.__exit__(None, None, None)


def _own(workers: int | None) -> dict[str, Any]:
    """Of a cluster on this machine. Ray listens on the machine's own address, and asks nobody who they are."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    path = os.pathsep.join([_ROOT, *filter(None, sys.path)])
    # Ray allows one thread of torch and BLAS for each worker. Of ours, only one extracts at a time on a CPU.
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cpus))}
    return {
        "num_cpus": workers or cpus,
        "include_dashboard": False,
        "runtime_env": {"env_vars": environment, "worker_process_setup_hook": "flows.session.quiet_logs"},
    }


_ROOT = str(Path(__file__).resolve().parents[1])
