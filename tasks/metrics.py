"""Summaries and comparisons as Prefect tasks, each cached for as long as everything that it has made is there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from prefect import get_run_logger, task
from prefect.runtime import task_run

from simet_cache import comparisons
from simet_cache.comparisons import Comparison, Rows
from simet_cache.derived import Derived
from simet_cache.devices import DeviceLocks, available, taken
from simet_cache.errors import ExtractorError, StoppedError
from simet_cache.metrics import Summaries
from simet_cache.metrics.metric import Side
from simet_cache.metrics.packing import to_json
from simet_cache.retrying import can_pass
from tasks.states import light_errors, sentence_of


@task(task_run_name="summarise {name}")
def summarise(
    rows: Rows,
    side: Side,
    metrics: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    derived: Derived,
    device: str,
    locks: DeviceLocks = DeviceLocks(),  # noqa: B008 - it is frozen
) -> dict[str, Any]:
    """What concerns the reference alone, once, before many comparisons want it at the same time.

    It has no cache policy of its own, since that depends on the store; the flow gives it one, as it does ``measure``.
    """
    del name  # names the run
    with light_errors(), taken(_devices(device), locks) as where:
        comparisons.summarise(derived, rows, side, metrics, device=where)
    return {}


@task(task_run_name="measure {name}")
def measure(
    group: Sequence[Comparison],
    *,
    name: str,
    derived: Derived,
    device: str,
    locks: DeviceLocks = DeviceLocks(),  # noqa: B008 - it is frozen
    attempts: int = 1,
) -> dict[str, Any]:
    """Compute and keep what is missing of some comparisons with one reference.

    Args:
        group: The comparisons.
        name: For people.
        derived: Where summaries and values are kept.
        device: Where to compute, as in the configuration.
        locks: Which devices other processes do not use meanwhile.
        attempts: How often this may be tried: before the last time, trouble that can pass is raised.

    Returns:
        By dataset, ``seconds`` and, where there are any: ``failures``, why a metric has no value; ``error``, why there
        is none at all; ``unkept``, values that could not be kept, packed.
    """
    del name  # names the run
    outcomes: dict[str, Any] = {}
    passing: Exception | None = None
    with light_errors(), taken(_devices(device), locks) as where:
        for one in group:
            started = time.perf_counter()
            try:
                found = _measured(one, derived, where)
            except StoppedError:
                raise
            except Exception as error:  # noqa: BLE001 - one that cannot be measured leaves the others their values
                found = {"error": sentence_of(error)}
                get_run_logger().error("%s: %s", one.synth.name, found["error"])
                passing = error if can_pass(error) else passing
            outcomes[one.synth.name] = {**found, "seconds": round(time.perf_counter() - started, 3)}
        if passing is not None and (task_run.run_count or attempts) < attempts:
            raise passing
    return outcomes


def _measured(one: Comparison, derived: Derived, device: str) -> dict[str, Any]:
    real = _reference(one.real, one.real.labels_digest, device)
    values, failures = comparisons.compare(derived, one, device=device, real=real)
    unkept = {}
    for name, value in values.items():
        if not derived.has("values", one.keys[name]):
            try:
                unkept[name] = to_json(replace(value, noise=None))
            except TypeError as error:  # it cannot be sent either; the others can
                failures[name] = f"its value can neither be kept nor sent: {error}"
    return {key: found for key, found in (("failures", failures), ("unkept", unkept)) if found}


def _devices(device: str) -> tuple[str, ...]:
    """Where features are extracted; the CPU where there is no such device, as features that are cached need none."""
    try:
        return available("cpu" if device == "mps" else device)  # which has no float64
    except ExtractorError:
        return ("cpu",)


@lru_cache(maxsize=1)
def _reference(rows: Rows, labels: str | None, device: str) -> Summaries:  # noqa: ARG001 - other labels, another set
    """Opened and checked once for all the datasets that it is compared with."""
    return comparisons.opened(rows, "real", device=device)
