"""Task runs side by side, of which at most so many are unfinished: in threads, on Dask, or on Ray.

::

    with in_flight(config.task_runner, 8, on_stop=stopping.request, listening=stopping.listening) as crew:
        futures = [crew.submit(extract_features, dataset=dataset, ...) for dataset in datasets]
        ...

A flow's decorator cannot know which runner its configuration asks for, so the runner is started in the flow's body.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from prefect import Task
from prefect.futures import PrefectConcurrentFuture, PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.callables import get_call_parameters

from flows.session import give_up_on
from simet_cache.config import TaskRunnerConfig
from simet_cache.errors import ConfigError

GRACE = 5.0  # seconds that task runs have to end once they were told to


@dataclass(frozen=True)
class Hearing:
    """How tasks hear that they shall end; both are functions of a module, since other processes are given them too.

    Attributes:
        on_stop: Makes the tasks that are running in this process end soon.
        listening: Makes the words of an earlier run void.
    """

    on_stop: Callable[[], None]
    listening: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Engine:
    """What runs the tasks.

    Attributes:
        submit: A task and its parameters by name, to be run as soon as there is room.
        stop: Given the unfinished futures: cancels what has not begun, tells the rest to end, and waits for it, but for
            seconds only.
    """

    submit: Callable[[Task[..., Any], dict[str, Any]], PrefectFuture[Any]]
    stop: Callable[[set[PrefectFuture[Any]]], None]


class Crew:
    """Takes task runs, and makes whoever has another one wait while too many are unfinished."""

    def __init__(self, engine: Engine, places: int) -> None:
        self._engine = engine
        self._places = threading.Semaphore(places)
        self._count = places
        self._closed = False
        self.unfinished: set[PrefectFuture[Any]] = set()

    def submit(self, task: Task[..., Any], /, **parameters: Any) -> PrefectFuture[Any]:
        """Start a task run; while all places are taken, wait until one of them, whichever it is, ends.

        Raises:
            RuntimeError: The ``with`` block has been left.
        """
        if self._closed:
            raise RuntimeError("expected task runs inside of the with block of in_flight, found one after its end")
        self._places.acquire()
        try:
            future = self._engine.submit(task, get_call_parameters(task.fn, (), parameters))
        except BaseException:
            self._places.release()
            raise
        self.unfinished.add(future)
        future.add_done_callback(self._ended)
        return future

    def wait(self) -> None:
        """Until every task run has ended."""
        for _ in range(self._count):
            self._places.acquire()
        self._places.release(self._count)

    def close(self) -> None:
        """Take no more."""
        self._closed = True

    def _ended(self, future: PrefectFuture[Any]) -> None:
        self.unfinished.discard(future)
        self._places.release()


def _nothing() -> None:
    """Tasks that hear nothing end when they end."""


@contextmanager
def in_flight(
    runner: TaskRunnerConfig,
    places: int,
    *,
    on_stop: Callable[[], None] = _nothing,
    listening: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Crew]:
    """Start a task runner, for the body of a flow.

    Left as usual, it waits for every task run. Left by an exception, be it Ctrl-C or SIGTERM, it cancels what has not
    begun, gives the rest a few seconds to end, and leaves.

    Args:
        runner: Which one.
        places: How many task runs may be unfinished at a time.
        on_stop: Makes the tasks that are running in a process end soon.
        listening: Makes what ``on_stop`` said before void, as it is entered. Both are functions of a module: on a
            cluster they are called in its workers.

    Raises:
        ConfigError: The runner is not installed, or cannot be reached.
    """
    with _started(runner, places, Hearing(on_stop, listening)) as engine:
        crew = Crew(engine, places)
        try:
            yield crew
            crew.wait()
        except BaseException:
            crew.close()
            engine.stop(set(crew.unfinished))
            raise
        finally:
            crew.close()


def require(runner: TaskRunnerConfig) -> None:
    """Check that a task runner is installed, before anything is run.

    Raises:
        ConfigError: It is not.
    """
    _module(runner.kind)


def _started(runner: TaskRunnerConfig, places: int, hearing: Hearing) -> AbstractContextManager[Engine]:
    if runner.kind == "threads":
        return _threads(runner.workers or places, hearing)
    started: AbstractContextManager[Engine] = _module(runner.kind).started(runner, hearing)
    return started


def _module(kind: str) -> Any:
    """Where a kind of runner is started; the packages that it needs may not be there."""
    try:
        if kind == "dask":
            from flows import on_dask  # noqa: PLC0415 - an extra

            return on_dask
        if kind == "ray":
            from flows import on_ray  # noqa: PLC0415 - an extra

            return on_ray
    except ModuleNotFoundError as error:
        sentence = f"task_runner: {kind}: the package {error.name} is not installed; pip install 'simet-cache[{kind}]'"
        raise ConfigError([sentence]) from error
    return None


@contextmanager
def _threads(workers: int, hearing: Hearing) -> Iterator[Engine]:
    with ExitStack() as stack:
        runner: ThreadPoolTaskRunner[Any] = stack.enter_context(ThreadPoolTaskRunner(max_workers=workers))

        def submit(task: Task[..., Any], parameters: dict[str, Any]) -> PrefectFuture[Any]:
            return runner.submit(task=task, parameters=parameters)

        def stop(unfinished: set[PrefectFuture[Any]]) -> None:
            hearing.on_stop()
            running = {
                one.wrapped_future: one.task_run_id
                for one in unfinished
                if isinstance(one, PrefectConcurrentFuture) and not one.wrapped_future.cancel()
            }
            if left := wait(running, timeout=GRACE).not_done:
                stack.pop_all()  # the runner would wait for ever; how the process ends then is for the command to say
                give_up_on(running[one] for one in left)

        yield Engine(submit, stop)
