"""The report as a Prefect task: files and artifact."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from simet_cache.escaping import for_markdown
from simet_cache.report.results import EvaluationResults
from simet_cache.report.runs import KeptRun, keep_run
from simet_cache.report.table import as_markdown
from tasks.artifacts import publish


@task(name="report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
def report(results: EvaluationResults, output: Path, *, run_id: str, keep_runs: int) -> KeptRun:
    """Write results.json and results.csv, and publish the table as an artifact; see ``keep_run``."""
    kept = keep_run(results, output, run_id=run_id, keep_runs=keep_runs)
    publish("evaluation", as_markdown(results), description=for_markdown(results.summary))
    return kept
