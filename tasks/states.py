"""What the final state of a task run says to a person."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State

from simet_cache.errors import SimetCacheError


def error_of(state: State[Any]) -> str:
    """Why a run has no result, in one sentence where the error is one of ours."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, SimetCacheError):
        return str(error)
    if isinstance(error, BaseException):
        return f"unexpected {type(error).__name__}: {error}"
    return state.message or f"the task run ended in state {state.name}"
