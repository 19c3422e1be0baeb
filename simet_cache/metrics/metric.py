"""What a metric is, what it reads, and what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics.rows import Features, Floats

Direction: TypeAlias = Literal["lower", "higher", "nearer 0.5"]
Side: TypeAlias = Literal["real", "synth"]
Parameters: TypeAlias = Mapping[str, Any]
Labels: TypeAlias = NDArray[Any]  # (N,), one for each row
S_co = TypeVar("S_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])

SUSPICIOUS = 0.01  # share of copies from which on a set takes no part in rankings


@dataclass(frozen=True)
class Summarised(Generic[S_co]):
    """One set as a comparison sees it.

    Attributes:
        features: Rows of the set, shape (N, D).
        summary: What the metric's summariser made of them; None on a side that the metric does not summarise.
        labels: The class of each row, shape (N,); None where nobody knows it.
        device: Where the metric is to compute: ``cpu`` or a CUDA device.
    """

    features: Features
    summary: S_co
    labels: Labels | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """What a comparison returns: the value, what a reader of it must know, and what else it found on the way."""

    value: float
    warnings: tuple[str, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Noise:
    """How far a value would move if other rows had been drawn.

    The value's variance is ``var(shared) / count - surplus + own``. Kept apart like this, two values against the same
    reference can be compared as pairs: its part of their difference is that of ``first.shared - second.shared``.

    Attributes:
        shared: The influence of each row of the reference on the value, or the value in each of the blocks that the
            reference was cut into; shape (n,), the same rows or blocks for every set that is compared with it. What
            else both values share, such as random directions, stands behind the rows (see ``side_by_side``). Empty
            for metrics that look at the synthetic set alone.
        count: How many rows of the reference, or blocks, the mean of ``shared`` is thought of as taken over.
        own: Variance of the value that the synthetic set contributes.
        freedom: Degrees of freedom of the variance's estimate.
        surplus: How much of ``var(shared) / count`` is not variance of the value, because influences are estimated; it
            cancels in differences.
        bias: By how much the value exceeds that of the distributions on average, where this is known; Frechet
            distances by at least that much. Results show it among the details; intervals are about the value with its
            bias.
        reference: What ``shared`` belongs to: the reference and the seed; ``evaluate`` fills it in.
    """

    shared: Floats
    count: int
    own: float
    freedom: float = np.inf
    surplus: float = 0.0
    bias: float = 0.0
    reference: str = ""

    @property
    def variance(self) -> float:
        """Variance of the value."""
        shared = float(self.shared.var(ddof=1)) / self.count if len(self.shared) > 1 else 0.0
        return max(self.own + shared - self.surplus, 0.0)


def side_by_side(*influences: Floats) -> tuple[Floats, int]:
    """Independent influences on one value as one vector, such as those of rows and of random directions.

    Args:
        influences: Each of shape (n,), n of at least 2, with mean 0.

    Returns:
        The vector and its size, scaled so that its variance divided by its size is the sum of theirs divided by
        theirs; this holds of the differences of two such vectors too.
    """
    size = sum(map(len, influences))
    shares = (np.sqrt((size - 1) * size / ((len(part) - 1) * len(part))) for part in influences)
    return np.concatenate([part * share for part, share in zip(influences, shares, strict=True)]), size


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end.
        high: Upper end.
        level: How often such intervals hold the truth.
        method: How it was made.
        standard_error: Square root of the estimated variance.
    """

    low: float
    high: float
    level: float
    method: str
    standard_error: float


@dataclass(frozen=True)
class Copies:
    """Synthetic rows that stand in the real set, or nearly so: they may have leaked out of the training set.

    Attributes:
        exact: Rows that equal a real one in every number, counted exactly.
        near: Other rows that are far nearer to a real one than real rows are to each other (see ``duplicates``).
        rows: Rows of the synthetic set.
        common: Of the exact ones, those that equal a row which the real set has many times, such as a blank image:
            new samples equal it, too.
    """

    exact: int
    near: int
    rows: int
    common: int = 0

    @property
    def suspicious(self) -> bool:
        """Whether so many rows are copies that values of this set say nothing about the model's own samples."""
        return self.exact - self.common + self.near >= SUSPICIOUS * self.rows > 0


@dataclass(frozen=True)
class MetricValue:
    """One value with everything needed to read it again later.

    Attributes:
        value: The value, always finite.
        metric: Name in ``METRICS``.
        version: Version of the algorithm; values of different versions are not comparable.
        direction: Which way is better.
        parameters: Every parameter, defaults filled in, seeds among them.
        n_real: Rows of the real set.
        n_synth: Rows of the synthetic set.
        width: Features in a row.
        warnings: Sentences about how far the value can be trusted.
        details: What the metric found beside its value, by name.
        interval: None where none was asked for, or where no valid one is known; a warning then says why.
        per_class: The metric on the rows of each label alone, where that was asked for.
        copies: Synthetic rows that are copies of real ones; None where nobody looked.
        noise: What ``difference_of`` needs, or why there is none; it stays in memory.
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
    details: Mapping[str, float] = field(default_factory=dict)
    interval: Interval | None = None
    per_class: Mapping[str, MetricValue] = field(default_factory=dict)
    copies: Copies | None = None
    noise: Noise | str | None = field(default=None, compare=False, repr=False)

    @property
    def uncapped(self) -> float:
        """The value, or what it was before the metric cut it off at a bound, where details tell."""
        return self.details.get("uncapped", self.value)


def _any_values() -> None:
    """Nothing to check."""


@dataclass(frozen=True)
class Metric:
    """A metric as pure functions: one about a single set, one about a pair.

    Each function receives those of ``parameters`` that it names as keyword-only arguments. ``summarise`` and ``join``
    may be readers (see ``tiles``) instead of functions: what several metrics read off the products of rows with rows
    is then read in one pass over them.

    Attributes:
        compare: ``compare(real=Summarised, synth=Summarised, **parameters)``, an ``Outcome``; metrics with ``join``
            also take ``joint=``.
        direction: Which way is better.
        version: Raised whenever the value of the same input changes.
        source: Where the definition comes from.
        meaning: What it says, in one line.
        blind_to: What it cannot see, in one line.
        summarise: ``summarise(features, **parameters)``: what concerns one set alone, without its rows. Summaries are
            kept on the disk where the function is marked with ``kept_as``, which has a version of its own.
        join: What concerns both sets, and is shared by metrics that name the same one.
        noise: ``noise(real=, synth=, seed=, **parameters)``, a ``Noise``, or why these rows allow none, as the end of
            the sentence ``no interval: ...``; ``joint=`` likewise.
        blocks: Whether its noise is found from disjoint parts of both sets (see ``blocks``). ``noise`` then says only
            how far the value moves while the balls that it is measured with stay the same.
        classes: ``classes(joint=, intervals=)``, for a metric whose values of classes are read off what it makes of all
            rows: the label, ``Outcome`` and noise of each class. Others are measured on the rows of each class alone.
        method: How the noise is found, as results say it; or why no interval is offered.
        parameters: Names and defaults of what a caller may set.
        minimal_n: Fewest rows in either set.
        sides: The sets whose summary ``compare`` reads; the other one is not summarised.
        needs_labels: Whether it reads the labels of both sets.
        bounds: What the value can be at least and at most.
        squared: Whether it is a squared distance, whose noise grows with it: its interval is made as one of its root.
        counts_matter: Whether its expectation depends on the number of synthetic rows, so that only sets of equal size
            are ranked.
        sufficient: The value from which on more is no better; None where more always is.
        no_best: Why the highest value is not the best one, as a sentence, where that is so: nothing is ranked by it.
        check: ``check(**parameters)``: raises ``MetricError`` on values that the metric cannot work with.
    """

    compare: Callable[..., Outcome]
    direction: Direction
    version: int
    source: str
    meaning: str
    blind_to: str
    summarise: Callable[..., Any] | None = None
    join: Callable[..., Any] | None = None
    noise: Callable[..., Noise | str] | None = None
    method: str = ""
    parameters: Parameters = field(default_factory=dict)
    minimal_n: int = 2
    sides: tuple[Side, ...] = ("real", "synth")
    blocks: bool = False
    classes: Callable[..., Iterable[tuple[str, Outcome, Noise | str | None]]] | None = None
    needs_labels: bool = False
    bounds: tuple[float, float] = (-np.inf, np.inf)
    squared: bool = False
    counts_matter: bool = True
    sufficient: float | None = None
    no_best: str = ""
    check: Callable[..., None] = _any_values

    def from_best(self, value: float) -> float:
        """How far a value is from the best there can be, on a scale of its own: the smallest is the best of many."""
        if self.sufficient is not None:
            value = min(value, self.sufficient)
        return {"lower": value, "higher": -value, "nearer 0.5": abs(value - 0.5)}[self.direction]


def named(function: Callable[..., Any], parameters: Parameters) -> dict[str, Any]:
    """The part of ``parameters`` that ``function`` takes as keyword-only arguments."""
    signature = inspect.signature(function).parameters
    taken = {name for name, parameter in signature.items() if parameter.kind is parameter.KEYWORD_ONLY}
    return {name: value for name, value in parameters.items() if name in taken}


@dataclass(frozen=True)
class KeptAs:
    """The name under which summaries of one function are kept on the disk.

    Attributes:
        name: Given once, and another one for every function; it does not change where the function moves.
        version: Raised whenever the summary of the same input changes.
    """

    name: str
    version: int


def kept_as(name: str, *, version: int) -> Callable[[F], F]:
    """Mark a summariser, so that its summaries are kept on the disk; those of others are made again in every run."""

    def mark(function: F) -> F:
        function.kept_as = KeptAs(name, version)  # type: ignore[attr-defined]
        return function

    return mark


def name_on_disk(function: Callable[..., Any]) -> KeptAs | None:
    """The name under which summaries of a function are kept; None where they are not."""
    found = getattr(function, "kept_as", None)
    return found if isinstance(found, KeptAs) else None


def key_of(function: Callable[..., Any], parameters: Parameters) -> str:
    """Name of what ``function`` makes: equal for two metrics exactly when they can share it.

    It does not hold the version: what is kept longer than a process belongs under the key *and* the version.
    """
    arguments = ", ".join(f"{name}={value!r}" for name, value in sorted(named(function, parameters).items()))
    kept = name_on_disk(function)
    return f"{kept.name if kept else f'{function.__module__}.{function.__qualname__}'}({arguments})"
