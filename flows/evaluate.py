"""Measure many image sets against a reference, and never extract the same features twice.

::

    python flows/evaluate.py                                   # the example: handwritten digits
    python flows/evaluate.py config.yaml --set metrics=[fid]
    python flows/evaluate.py --real data/real --synth samples/10k samples/20k

Exit code 0: every dataset was measured and every restraint holds. 1: not so. 2: bad input; nothing was measured.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout's tasks, from any directory and whatever else is installed

from prefect import flow  # noqa: E402 - the path comes first, here and below
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed, Failed  # noqa: E402

from flows.parameters import Configuration  # noqa: E402
from flows.session import ended_by_sigterm, quiet_server, wait_until_recorded  # noqa: E402
from simet_cache.config import EvaluationConfig  # noqa: E402
from simet_cache.config_file import config_from_folders, load_config  # noqa: E402
from simet_cache.errors import ConfigError, SimetCacheError  # noqa: E402
from simet_cache.plan import store_of  # noqa: E402
from simet_cache.report.files import prepare_folder  # noqa: E402
from simet_cache.report.results import DatasetResult, EvaluationResults  # noqa: E402
from simet_cache.report.table import print_table  # noqa: E402
from simet_cache.restraints import judge  # noqa: E402
from simet_cache.store import FeatureStore  # noqa: E402
from tasks.features import features_of  # noqa: E402
from tasks.metrics import measure  # noqa: E402
from tasks.report import report  # noqa: E402
from tasks.states import error_of  # noqa: E402

EXAMPLE = ROOT / "examples" / "digits.yaml"
PASSED, NOT_PASSED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_PACKAGES = ("numpy", "pillow", "prefect", "simet-cache", "torch", "torch-fidelity", "torchvision")


@flow(name="evaluate", persist_result=False, validate_parameters=True)
def evaluate(config: Configuration) -> State[EvaluationResults]:
    """Measure every dataset of a configuration against its reference.

    Returns:
        The results, as a completed run where every dataset was measured and every restraint holds, and else as a failed
        one, whose message says so. The files are written before that verdict.
    """
    started_at, started = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    done: dict[str, DatasetResult] = {}
    store = store_of(config)
    store.catch_up()
    reference = features_of(config.reference, config, store, done)
    datasets = tuple(_measured(one, reference, config, store, done) for one in config.datasets)
    results = EvaluationResults(
        reference=reference,
        datasets=datasets,
        verdicts=tuple(judge(config.restraints, {one.name: one.plain_values() for one in datasets})),
        config=config.model_dump(mode="json"),
        versions=_versions(),
        platform=platform.platform(),
        started_at=started_at,
        seconds=time.perf_counter() - started,
    )
    report(results, config.output)
    print_table(results)
    end = Completed if results.passed else Failed
    return end(message=results.summary, data=results)


def _measured(
    one: Any, reference: DatasetResult, config: EvaluationConfig, store: FeatureStore, done: dict[str, DatasetResult]
) -> DatasetResult:
    """One dataset against the reference. What goes wrong is its result, so that the others go on."""
    if reference.features is None:
        return DatasetResult(one.name, reference.suffix, error="the reference has no features")
    found = features_of(one, config, store, done)
    if found.features is None:
        return found
    started = time.perf_counter()
    state = measure(name=one.name, real=reference, synth=found, config=config, return_state=True)
    found = replace(found, metrics_seconds=round(time.perf_counter() - started, 3))
    if not state.is_completed():
        return replace(found, error=error_of(state))
    values, failures = state.result()
    return replace(found, values=values, failures=failures)


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
        store_of(config)
        prepare_folder(config.output)
    except SimetCacheError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    try:
        with ended_by_sigterm(), quiet_server():
            state = evaluate(config, return_state=True)
            wait_until_recorded(state.state_details.flow_run_id, last="report")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; what was extracted is kept, and the next run goes on from there", file=sys.stderr)
        return INTERRUPTED
    return PASSED if state.is_completed() else NOT_PASSED


def _config(options: argparse.Namespace) -> EvaluationConfig:
    if options.real is not None:
        return config_from_folders(options.real, options.synth, options.set)
    return load_config(options.config or EXAMPLE, options.set)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Measure image sets against a reference; features that are cached are not extracted again.",
        epilog="Exit code 0: all were measured and every restraint holds. 1: not so. 2: bad input. 130: interrupted.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a YAML file; by default the digits example")
    parser.add_argument("--real", metavar="DIR", help="the folder of the reference, in place of CONFIG")
    parser.add_argument("--synth", metavar="DIR", nargs="+", help="the folders to measure against it")
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
