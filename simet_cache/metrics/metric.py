"""What a metric is, and what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from simet_cache.metrics.rows import Features

Direction: TypeAlias = Literal["lower", "higher"]
Side: TypeAlias = Literal["real", "synth"]
Parameters: TypeAlias = Mapping[str, Any]
S_co = TypeVar("S_co", covariant=True)


@dataclass(frozen=True)
class Summarised(Generic[S_co]):
    """One set as a comparison sees it.

    Attributes:
        features: Rows of the set, shape (N, D).
        summary: What the metric's summariser made of them; None on a side that the metric does not summarise.
    """

    features: Features
    summary: S_co


@dataclass(frozen=True)
class Outcome:
    """What a comparison returns: the value, and what a reader of it must know."""

    value: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricValue:
    """One value with everything needed to read it again later.

    Attributes:
        value: The value, always finite.
        metric: Name in ``METRICS``.
        version: Version of the algorithm; values of different versions are not comparable.
        direction: Which way is better.
        parameters: Every parameter, defaults filled in.
        n_real: Rows of the real set.
        n_synth: Rows of the synthetic set.
        width: Features in a row.
        warnings: Sentences about how far the value can be trusted.
    """

    value: float
    metric: str
    version: int
    direction: Direction
    parameters: Parameters
    n_real: int
    n_synth: int
    width: int
    warnings: tuple[str, ...] = ()


def _any_values() -> None:
    """Nothing to check."""


@dataclass(frozen=True)
class Metric:
    """A metric as two pure functions: one about a single set, one about a pair.

    Each function receives those of ``parameters`` that it names as keyword-only arguments.

    Attributes:
        summarise: ``summarise(features, **parameters)``: what concerns one set alone, without its rows.
        compare: ``compare(real=Summarised, synth=Summarised, **parameters)``, an ``Outcome``.
        direction: Which way is better.
        version: Raised whenever the value or the summary of the same input changes.
        source: Where the definition comes from.
        parameters: Names and defaults of what a caller may set.
        minimal_n: Fewest rows in either set.
        sides: The sets whose summary ``compare`` reads; the other one is not summarised.
        check: ``check(**parameters)``: raises ``MetricError`` on values that the metric cannot work with.
    """

    summarise: Callable[..., Any]
    compare: Callable[..., Outcome]
    direction: Direction
    version: int
    source: str
    parameters: Parameters
    minimal_n: int
    sides: tuple[Side, ...] = ("real", "synth")
    check: Callable[..., None] = _any_values

    def summary_key(self, parameters: Parameters) -> str:
        """Name of the summary: equal for two metrics exactly when they can share it on one feature set.

        It does not hold the version: what is kept longer than a process belongs under the key *and* ``version``.
        """
        arguments = ", ".join(f"{name}={value!r}" for name, value in sorted(named(self.summarise, parameters).items()))
        return f"{self.summarise.__module__}.{self.summarise.__qualname__}({arguments})"


def named(function: Callable[..., Any], parameters: Parameters) -> dict[str, Any]:
    """The part of ``parameters`` that ``function`` takes as keyword-only arguments."""
    signature = inspect.signature(function).parameters
    taken = {name for name, parameter in signature.items() if parameter.kind is parameter.KEYWORD_ONLY}
    return {name: value for name, value in parameters.items() if name in taken}
