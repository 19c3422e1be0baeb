"""Measure many image sets against references, and never extract the same features twice.

::

    python flows/evaluate.py                                   # the example: handwritten digits
    python flows/evaluate.py config.yaml --set metrics=[fid]
    python flows/evaluate.py config.yaml --plan                # what is there and what is missing; runs nothing
    python flows/evaluate.py --real data/real --synth samples/10k samples/20k

Exit code 0: every dataset was measured and every restraint holds; or with ``--plan``, every set can be used. 1: not so.
2: bad input; nothing was measured. 3: Prefect cannot be used, since no server answers or its folder cannot be written.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout's tasks, from any directory and whatever else is installed
warnings.filterwarnings("ignore", "Failed to create the Prefect home")  # which is an error, and said as one

import flows.prefect_import  # noqa: E402, F401 - before the rest of Prefect

# isort: split
from prefect import flow, get_run_logger  # noqa: E402 - the path comes first, here and below
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402
from prefect.states import Completed, Failed  # noqa: E402

from flows.comparison import compare_all  # noqa: E402
from flows.extraction import extract_all  # noqa: E402
from flows.parameters import Configuration  # noqa: E402
from flows.runners import in_flight, require  # noqa: E402
from flows.session import (  # noqa: E402
    INTERRUPTED,
    NO_SERVER,
    STOPPED,
    cancelled,
    ended_by_sigterm,
    left,
    quiet_server,
    signal_of,
    wait_until_recorded,
)
from flows.work import Work  # noqa: E402
from simet_cache import stopping  # noqa: E402
from simet_cache.config import EvaluationConfig  # noqa: E402
from simet_cache.config.weights import require_weights  # noqa: E402
from simet_cache.config_file import config_from_folders, load_config  # noqa: E402
from simet_cache.devices import DeviceLocks  # noqa: E402
from simet_cache.errors import ConfigError, InfrastructureError, SimetCacheError  # noqa: E402
from simet_cache.escaping import for_terminal  # noqa: E402
from simet_cache.plan import onlooker, store_of  # noqa: E402
from simet_cache.report.results import EvaluationResults, Table  # noqa: E402
from simet_cache.report.runs import keep_run, prepare  # noqa: E402
from simet_cache.report.table import print_table  # noqa: E402
from simet_cache.restraints import judge  # noqa: E402
from simet_cache.sweep import plan_sweep  # noqa: E402
from tasks.report import report  # noqa: E402
from tasks.states import sentence_of  # noqa: E402

EXAMPLE = ROOT / "examples" / "digits.yaml"
PASSED, NOT_PASSED, BAD_INPUT = 0, 1, 2
_PACKAGES = ("numpy", "pillow", "prefect", "simet-cache", "torch", "torch-fidelity", "torchvision")


class NotPassedError(SimetCacheError):
    """A dataset could not be measured, or a restraint is broken.

    Attributes:
        result: Everything that was found.
    """

    def __init__(self, result: EvaluationResults) -> None:
        super().__init__(result.summary)
        self.result = result

    def __reduce__(self) -> tuple[type[NotPassedError], tuple[EvaluationResults]]:
        return type(self), (self.result,)


@flow(name="evaluate", persist_result=False, validate_parameters=True)
def evaluate(config: Configuration) -> State[EvaluationResults]:
    """Measure every dataset of a configuration against its references.

    Returns:
        The results, as a completed run where every dataset was measured and every restraint holds; else a failed one,
        whose message says so, with a ``NotPassedError`` that holds them. The files are written before that verdict.
    """
    try:
        with stopping.listening():
            results = _measured(config)
    except STOPPED as stop:
        return cancelled(stop)  # type: ignore[return-value]  # there are no results
    if results.passed:
        return Completed(message=results.summary, data=results)
    return Failed(message=results.summary, data=NotPassedError(results))  # Prefect raises what a failed run holds


def _measured(config: EvaluationConfig) -> EvaluationResults:
    """The story: plan, extract what is missing, compare what is new, judge, report."""
    started = time.perf_counter()
    begun = EvaluationResults(
        tables=(),
        verdicts=(),
        config=config.model_dump(mode="json"),
        versions=_versions(),
        platform=platform.platform(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
    )
    try:
        tables, plan = _tables(config)
    except BaseException as error:
        _keep_the_end(replace(begun, error=_why(error), seconds=time.perf_counter() - started), config)
        raise
    verdicts = tuple(judge(config.restraints, tables))
    results = replace(begun, tables=tables, verdicts=verdicts, plan=plan, seconds=time.perf_counter() - started)
    kept = report(results, config.output, run_id=str(flow_run.id), keep_runs=config.keep_runs)
    print_table(results)
    get_run_logger().info("%s", kept.sentence)
    return results


def _tables(config: EvaluationConfig) -> tuple[tuple[Table, ...], dict[str, Any]]:
    """What was measured, and what was to be done before that."""
    store = store_of(config)
    store.catch_up()
    sweep = plan_sweep(config, store)
    get_run_logger().info("\n".join(map(for_terminal, sweep.lines())))
    runner, places = config.task_runner, config.max_in_flight
    with in_flight(runner, places, on_stop=stopping.request, listening=stopping.listening) as crew:
        locks = DeviceLocks(config.device_locks, f"{flow_run.name} {flow_run.id}", runner.kind == "threads")
        work = Work(config, store, crew, locks)
        found = extract_all(sweep, work)
        tables = compare_all(sweep, found, work)
    return tables, sweep.to_json()


def _keep_the_end(results: EvaluationResults, config: EvaluationConfig) -> None:
    """Of a run that measured nothing: what became of it."""
    try:
        kept = keep_run(results, config.output, run_id=str(flow_run.id), keep_runs=config.keep_runs)
    except SimetCacheError as error:  # it is not what ended the run
        get_run_logger().error("%s", error)
    else:
        get_run_logger().info("%s", kept.sentence)


def _why(error: BaseException) -> str:
    return f"stopped by {signal_of(error)}" if isinstance(error, STOPPED) else sentence_of(error)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # like the library, run from a checkout
            found[name] = "not installed"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow as a command.

    Returns:
        The exit code.
    """
    options = _parse(arguments)
    try:
        config = _config(options)
        require_weights(config)
        if options.plan:
            with onlooker(config) as store:
                sweep = plan_sweep(config, store)
            print("\n".join(map(for_terminal, sweep.lines())))
            return PASSED if sweep.usable else NOT_PASSED
        require(config.task_runner)
        store_of(config)
        prepare(config.output)
    except SimetCacheError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    try:
        with ended_by_sigterm(), quiet_server():
            state = evaluate(config, return_state=True)
            reported = state.is_completed() or isinstance(_error_of(state), NotPassedError)
            wait_until_recorded(state.state_details.flow_run_id, last="report" if reported else None)
    except InfrastructureError as error:
        print(error, file=sys.stderr)
        return NO_SERVER
    except KeyboardInterrupt:
        print("interrupted; what was extracted is kept, and the next run goes on from there", file=sys.stderr)
        return INTERRUPTED
    if state.is_cancelled():
        return left(state)  # type: ignore[arg-type]  # what `cancelled` made
    bad_input = isinstance(_error_of(state), ConfigError)  # found late, like a scheduler that does not answer
    return PASSED if state.is_completed() else BAD_INPUT if bad_input else NOT_PASSED


def _error_of(state: State[Any]) -> Any:
    return None if state.is_cancelled() else state.result(raise_on_failure=False)


def _config(options: argparse.Namespace) -> EvaluationConfig:
    if options.real is not None:
        return config_from_folders(options.real, options.synth, options.set)
    return load_config(options.config or EXAMPLE, options.set)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Measure image sets against a reference; features that are cached are not extracted again.",
        epilog="Exit code 0: all were measured and every restraint holds. 1: not so. 2: bad input. 3: no Prefect."
        " 130: interrupted.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a YAML file; by default the digits example")
    parser.add_argument("--real", metavar="DIR", help="the folder of the reference, in place of CONFIG")
    parser.add_argument("--synth", metavar="DIR", nargs="+", help="the folders to measure against it")
    parser.add_argument("--plan", action="store_true", help="only say what is cached and what is missing; run nothing")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="replace a value of the configuration, like restraints.fid.upper_bound=40",
    )
    options = parser.parse_args(arguments)
    if (options.real is None) != (options.synth is None):
        parser.error("--real and --synth go together")
    if options.real is not None and options.config is not None:
        parser.error("expected either CONFIG or --real and --synth, found both")
    return options


if __name__ == "__main__":
    sys.exit(main())
