"""What the states of task runs say: to a person, and to Prefect about trying again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames
from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from simet_cache.errors import SimetCacheError
from simet_cache.retrying import can_pass, causes


@contextmanager
def light_errors() -> Iterator[None]:
    """Errors leave without what was in the hands of who raised them: Prefect keeps each until the flow has ended."""
    try:
        yield
    except Exception as error:
        for one in causes(error):
            clear_frames(one.__traceback__)
        raise


def error_of(state: State[Any]) -> str:
    """Why a run has no result, in one sentence where the error is one of ours."""
    error = state.result(raise_on_failure=False) if state.is_final() else None
    if isinstance(error, BaseException):
        return sentence_of(error)
    return state.message or f"the task run ended in state {state.name}"


def sentence_of(error: BaseException) -> str:
    """What it says where it is one of ours, and else of which kind it is, too."""
    return str(error) if isinstance(error, SimetCacheError) else f"unexpected {type(error).__name__}: {error}"


def is_temporary(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 - Prefect's interface
    """Whether a failed run is worth another try: trouble with files and networks passes, a corrupt image does not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and can_pass(error)
