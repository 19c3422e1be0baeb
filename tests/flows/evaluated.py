"""An evaluation in this process, and what it found."""

from __future__ import annotations

from typing import Any

from flows.evaluate import NotPassedError, evaluate
from simet_cache import EvaluationConfig
from simet_cache.report.results import EvaluationResults, Table


def evaluated(config: dict[str, Any]) -> Any:
    """The state that the flow ends in."""
    return evaluate(EvaluationConfig.model_validate(config), return_state=True)


def results_of(state: Any) -> EvaluationResults:
    """What it found, passed or not."""
    data = getattr(state.data, "result", state.data)
    return data.result if isinstance(data, NotPassedError) else data


def table_of(state: Any) -> Table:
    """Of a configuration with one reference and one extractor."""
    (table,) = results_of(state).tables
    return table
