"""Intervals and paired differences: their formulas, how rows are dealt, and whether they hold simulated truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from simet_cache.errors import MetricError
from simet_cache.metrics import METRICS, Interval, MetricValue, Summaries, difference, difference_of, evaluate
from simet_cache.metrics.blocks import BLOCKS, PLAIN_ROWS, block_noise
from simet_cache.metrics.intervals import interval_of
from simet_cache.metrics.metric import Metric, Noise, Outcome

Floats = NDArray[np.float64]
NORMAL = 1.959963984540054


def metric(**changed: Any) -> Metric:
    given = dict(direction="lower", version=1, source="", meaning="", blind_to="", method="made for a test")
    return Metric(compare=lambda **_: Outcome(0.0), **{**given, **changed})


def value(noise: Noise | str | None, number: float = 3.0, **changed: Any) -> MetricValue:
    given = dict(metric="plain", version=1, direction="lower", parameters={}, n_real=500, n_synth=100, width=2)
    return MetricValue(value=number, noise=noise, **{**given, **changed})


@pytest.fixture(autouse=True)
def made_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "plain", metric())
    monkeypatch.setitem(METRICS, "high", metric(direction="higher"))
    monkeypatch.setitem(METRICS, "half", metric(direction="nearer 0.5", bounds=(0.0, 1.0)))
    monkeypatch.setitem(METRICS, "share", metric(direction="higher", bounds=(0.0, 1.0)))


def ends(found: MetricValue) -> tuple[float, float]:
    assert found.interval is not None
    return found.interval.low, found.interval.high


def of(noise: Noise, number: float, level: float = 0.95, **changed: Any) -> tuple[float, float]:
    return ends(interval_of(value(noise, number), metric(**changed), level))


def wilson(hits: int, draws: int) -> Any:
    return pytest.approx(tuple(stats.binomtest(hits, draws).proportion_ci(0.95, method="wilson")), rel=1e-12)


NONE = np.empty(0)
NO_SPREAD = Noise(NONE, 1, own=0.0)


# One value.


def test_the_variance_is_that_of_the_mean_of_the_reference_and_that_of_the_synthetic_set() -> None:
    noise = Noise(np.array([1.0, -1.0, 3.0, -3.0]), count=8, own=0.25)
    assert noise.variance == pytest.approx(20 / 3 / 8 + 0.25)
    assert Noise(NONE, count=1, own=0.25).variance == 0.25


@pytest.mark.parametrize(("level", "quantile"), [(0.95, NORMAL), (0.9, 1.6448536269514722)])
def test_an_interval_reaches_as_far_as_the_normal_quantile(level: float, quantile: float) -> None:
    found = interval_of(value(Noise(NONE, 1, own=0.25)), metric(), level)
    assert found.interval == Interval(
        low=pytest.approx(3 - quantile / 2),  # type: ignore[arg-type]
        high=pytest.approx(3 + quantile / 2),  # type: ignore[arg-type]
        level=level,
        method="made for a test",
        standard_error=0.5,
    )
    assert found.warnings == ()


def test_few_degrees_of_freedom_widen_it() -> None:
    low, high = of(Noise(NONE, 1, own=1.0, freedom=9), 0.0)
    assert (low, high) == pytest.approx((-2.2621571628540993, 2.2621571628540993))


def test_ends_stay_within_what_the_metric_can_be() -> None:
    assert of(Noise(NONE, 1, own=1.0), 1.0, bounds=(0.0, np.inf)) == pytest.approx((0.0, 1 + NORMAL))


def test_the_interval_of_a_squared_distance_is_that_of_its_root() -> None:
    root, error = 2.0, 0.25
    noise = Noise(NONE, 1, own=(2 * root * error) ** 2)
    expected = ((root - NORMAL * error) ** 2, (root + NORMAL * error) ** 2)
    assert of(noise, root**2, squared=True) == pytest.approx(expected)
    low, high = of(Noise(NONE, 1, own=1.0), -0.5, squared=True)  # an unbiased estimate of nothing
    assert (low, high) == pytest.approx((-0.5 - 0.75 * NORMAL, -0.5 + 1.25 * NORMAL))
    assert of(NO_SPREAD, 0.0, squared=True) == (0.0, 0.0)


@pytest.mark.parametrize("hits", [1, 30, 90, 99])
def test_a_share_with_binomial_noise_has_wilsons_interval(hits: int) -> None:
    share = hits / 100
    assert of(Noise(NONE, 1, own=share * (1 - share) / 100), share, bounds=(0.0, 1.0)) == wilson(hits, 100)


@pytest.mark.parametrize("hits", [0, 100])
def test_a_share_of_all_or_none_claims_no_certainty(hits: int) -> None:
    assert of(NO_SPREAD, hits / 100, bounds=(0.0, 1.0)) == wilson(hits, 100)  # of the fewer rows: 100 synthetic ones


def test_a_share_of_all_is_as_uncertain_as_its_noise_says() -> None:
    low, high = of(Noise(NONE, 1, own=0.05**2), 1.0, bounds=(0.0, 1.0))
    assert high == 1.0
    assert low < of(NO_SPREAD, 1.0, bounds=(0.0, 1.0))[0]
    assert of(Noise(NONE, 1, own=1e-12), 1.0, bounds=(0.0, 1.0)) == wilson(100, 100)


def test_a_share_whose_noise_is_larger_than_it_can_be_still_has_an_interval() -> None:
    low, high = of(Noise(NONE, 1, own=4.0), 0.9, bounds=(0.0, 1.0))
    assert 0 <= low < 0.9 < high <= 1


@pytest.mark.parametrize(
    ("number", "uncapped", "error", "expected"),
    [
        (0.9, 0.9, 0.1, (0.9 - 0.1 * NORMAL, 1.0)),  # a calibrated share: no Wilson interval
        (1.0, 1.05, 0.1, (1.05 - 0.1 * NORMAL, 1.0)),
        (1.0, 1.6, 0.1, None),  # far beyond the cap: as little certainty as without noise
    ],
)
def test_a_value_that_was_cut_off_has_the_interval_of_what_it_was(
    number: float, uncapped: float, error: float, expected: tuple[float, float] | None
) -> None:
    cut = value(Noise(NONE, 1, own=error**2), number, details={"uncapped": uncapped})
    found = ends(interval_of(cut, metric(bounds=(0.0, 1.0)), 0.95))
    assert found == (wilson(100, 100) if expected is None else pytest.approx(expected))


def test_what_has_no_noise_has_no_interval_and_says_why() -> None:
    found = interval_of(value(None, warnings=("first",)), metric(method="it is a constant"), 0.95)
    assert found.interval is None
    assert found.warnings == ("first", "no interval: it is a constant")
    found = interval_of(value("these rows are too few"), metric(), 0.95)
    assert (found.interval, found.warnings) == (None, ("no interval: these rows are too few",))


# Two values against one reference.


def test_what_the_reference_contributes_to_both_values_cancels() -> None:
    shared = np.random.default_rng(0).standard_normal(400)
    first = value(Noise(shared, 400, own=1e-6), 3.0)
    second = value(Noise(shared + 0.01, 400, own=1e-6), 3.01)
    found = difference_of(first, second)
    assert found.value == pytest.approx(-0.01)
    assert found.interval.standard_error == pytest.approx(np.sqrt(2e-6))
    half = NORMAL * np.sqrt(2e-6)
    assert (found.interval.low, found.interval.high) == pytest.approx((-0.01 - half, -0.01 + half), rel=1e-6)
    assert found.interval.method == "paired; made for a test"
    assert found.better == "first"
    other = value(Noise(np.random.default_rng(1).standard_normal(400), 400, own=1e-6), 3.01)
    assert difference_of(first, other).better is None  # the same two values, moved by other rows


def test_the_order_of_the_sets_changes_the_sign_alone() -> None:
    shared = np.random.default_rng(0).standard_normal((2, 10)) * 0.1
    first = value(Noise(shared[0], 10, own=0.0, freedom=9), 0.95, metric="share", direction="higher")
    second = value(Noise(shared[1], 10, own=0.0, freedom=9), 0.40, metric="share", direction="higher")
    one, other = difference_of(first, second), difference_of(second, first)
    assert (one.interval.low, one.interval.high) == pytest.approx((-other.interval.high, -other.interval.low))
    assert (one.better, other.better) == ("first", "second")


@pytest.mark.parametrize(
    ("name", "first", "second", "better"),
    [
        ("plain", 1.0, 2.0, "first"),
        ("plain", 2.0, 1.0, "second"),
        ("plain", 1.0, 1.1, None),
        ("high", 1.0, 2.0, "second"),
        ("high", 2.0, 1.0, "first"),
        ("half", 0.9, 0.5, "second"),
        ("half", 0.1, 0.5, "second"),
        ("half", 0.55, 0.1, "first"),
        ("half", 0.2, 0.8, None),  # far from each other, and as far from 0.5
    ],
)
def test_the_better_set_is_named_where_the_sets_are_separated(
    name: str, first: float, second: float, better: str | None
) -> None:
    noise = Noise(NONE, 1, own=0.005 if name == "half" else 0.01)
    pair = [value(noise, number, metric=name, direction=METRICS[name].direction) for number in (first, second)]
    found = difference_of(*pair)
    assert found.better == better
    assert found.interval.low <= first - second <= found.interval.high


def test_estimation_noise_of_the_influences_is_no_noise_of_the_value_and_none_of_a_difference() -> None:
    shared = np.random.default_rng(0).standard_normal((2, 100))
    first, second = (Noise(part, 100, own=0.5, surplus=0.004) for part in shared)
    assert first.variance == pytest.approx(0.5 + shared[0].var(ddof=1) / 100 - 0.004)
    assert Noise(shared[0], 100, own=0.0, surplus=1.0).variance == 0.0
    found = difference_of(value(first), value(second)).interval
    assert found.standard_error == pytest.approx(np.sqrt(1.0 + (shared[0] - shared[1]).var(ddof=1) / 100))


def test_a_known_bias_is_told_beside_the_value() -> None:
    biased = interval_of(value(Noise(NONE, 1, own=0.25, bias=0.7), details={"other": 1.0}), metric(), 0.95)
    assert biased.details == {"other": 1.0, "bias": 0.7}
    assert ends(biased) == pytest.approx((3 - NORMAL / 2, 3 + NORMAL / 2))
    assert interval_of(value(Noise(NONE, 1, own=0.25)), metric(), 0.95).details == {}


def test_sets_of_unequal_size_are_compared_with_a_warning() -> None:
    first = value(Noise(NONE, 1, own=1.0))
    assert difference_of(first, first).warnings == ()
    assert "100 and 7 rows" in difference_of(first, replace(first, n_synth=7)).warnings[0]


def test_shares_without_noise_are_not_separated_by_a_hair() -> None:
    found = difference_of(*(value(NO_SPREAD, number, metric="share", direction="higher") for number in (1.0, 0.99)))
    assert found.better is None
    assert found.interval.low < 0 < found.interval.high


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"metric": "high"}, "equal metric, found 'plain' and 'high'"),
        ({"version": 2}, "equal version, found 1 and 2"),
        ({"parameters": {"k": 4}}, r"equal parameters, found \{\} and \{'k': 4\}"),
        ({"n_real": 7}, "equal n_real, found 500 and 7"),
        ({"width": 7}, "equal width, found 2 and 7"),
        ({"noise": None}, "found one without"),
        ({"noise": "too few rows"}, "found one without"),
        ({"noise": Noise(NONE, 1, own=1.0, reference="other")}, r"against one Summaries\(real\)"),
        ({"noise": Noise(np.ones(5), 1, own=1.0)}, r"against one Summaries\(real\)"),
    ],
)
def test_values_that_are_no_pair_are_refused(changed: dict[str, Any], sentence: str) -> None:
    first = value(Noise(NONE, 1, own=1.0))
    with pytest.raises(MetricError, match=sentence):
        difference_of(first, replace(first, **changed))


# Disjoint parts.

MANY = BLOCKS * PLAIN_ROWS + 1  # rows, from which on parts are measured by the metrics themselves


def recorded(rows: int, others: int, seed: int = 0) -> tuple[list[list[Floats]], dict[str, Noise | str]]:
    """The rows that each call of ``values_of`` got of both sets, and the noise."""
    seen: list[list[Floats]] = []

    def values_of(*, real: Summaries, synth: Summaries) -> dict[str, MetricValue]:
        seen.append([real.features[:, 0], synth.features[:, 0]])
        return {"precision": value(None, float(real.features.mean())), "recall": value(None, 2.0)}

    sets = [Summaries(np.arange(float(count))[:, None]) for count in (rows, others)]
    whole = {"precision": value(None, 400.0), "recall": value(None, 2.0)}
    return seen, block_noise(whole, values_of, real=sets[0], synth=sets[1], seed=seed)


def from_parts(whole: MetricValue, parts: list[MetricValue]) -> Noise:
    following = iter(parts)
    rows = Summaries(np.arange(MANY + 0.0)[:, None])
    noises = block_noise(
        {"precision": whole}, lambda **_: {"precision": next(following)}, real=rows, synth=rows, seed=0
    )
    assert isinstance(noises["precision"], Noise)
    return noises["precision"]


def test_each_row_is_in_one_part() -> None:
    seen, noise = recorded(rows=MANY + 3, others=MANY)
    assert len(seen) == BLOCKS  # one call each, for all the metrics
    for side, count in ((0, MANY + 3), (1, MANY)):
        assert sorted(np.concatenate([pair[side] for pair in seen])) == list(range(count))
        assert {len(pair[side]) for pair in seen} <= {count // BLOCKS, count // BLOCKS + 1}
    means = np.array([pair[0].mean() for pair in seen])
    assert isinstance(noise["precision"], Noise)
    assert noise["precision"].shared == pytest.approx(means - means.mean())
    assert noise["precision"].variance == pytest.approx(means.var(ddof=1) / BLOCKS)
    assert noise["precision"].freedom == BLOCKS - 1
    assert isinstance(noise["recall"], Noise)
    assert noise["recall"].variance == 0.0


def test_the_reference_is_cut_alike_for_every_set_and_otherwise_for_another_seed() -> None:
    parts = [[pair[0].tolist() for pair in recorded(MANY, others, seed)[0]] for others, seed in ((600, 0), (900, 0))]
    assert parts[0] == parts[1]
    assert parts[0] != [pair[0].tolist() for pair in recorded(MANY, 600, seed=1)[0]]
    assert parts[0][0] != list(range(0, MANY, BLOCKS))  # at random: rows often come in an order


@pytest.mark.parametrize(("rows", "others", "side"), [(499, 900, "real"), (900, 499, "synth")])
def test_sets_too_small_for_parts_have_no_noise(rows: int, others: int, side: str) -> None:
    seen, noise = recorded(rows, others)
    assert seen == []
    assert noise == dict.fromkeys(
        ("precision", "recall"), f"it needs parts of both sets, 500 rows of each; {side} has 499"
    )


@pytest.mark.parametrize(("whole", "factor"), [(0.8, 1.0), (0.9, 0.09 / 0.16), (0.5, 0.25 / 0.16), (1.0, 1.0)])
def test_the_variance_of_a_share_goes_with_its_distance_from_the_ends(whole: float, factor: float) -> None:
    found = 0.8 + np.linspace(-0.1, 0.1, BLOCKS)
    noise = from_parts(value(None, whole), [value(None, share) for share in found])
    assert noise.variance == pytest.approx(factor * found.var(ddof=1) / BLOCKS)
    assert np.corrcoef(noise.shared, found)[0, 1] == pytest.approx(1.0)  # still comparable as pairs


def test_parts_of_a_value_that_was_cut_off_are_taken_as_they_were() -> None:
    found = np.linspace(0.5, 1.5, BLOCKS)
    parts = [value(None, min(each, 1.0), details={"uncapped": each}) for each in found]
    noise = from_parts(value(None, 1.0, details={"uncapped": 1.01}), parts)
    assert noise.variance == pytest.approx(found.var(ddof=1) / BLOCKS)


@pytest.mark.parametrize(
    ("known", "theirs", "variance"),
    [
        (0.1, 0.3, 0.1 + 0.7),  # the rest is added
        (0.6, 0.3, 2.0),  # or goes along, where that is more
        (0.1, 2.0, 0.1),  # there is no rest
        (0.1, 0.0, 1.1),
        (0.0, 0.3, 0.7),
    ],
)
def test_what_is_known_of_the_whole_replaces_what_the_parts_know_of_themselves(
    known: float, theirs: float, variance: float
) -> None:
    found = np.linspace(-1.0, 1.0, BLOCKS)
    spread = found.var(ddof=1) / BLOCKS
    parts = [value(Noise(NONE, 1, own=theirs * spread * BLOCKS), share) for share in found]
    noise = from_parts(value(Noise(NONE, 1, own=known * spread), 0.0), parts)
    assert noise.variance == pytest.approx(variance * spread)


def test_parts_that_all_agree_leave_what_is_known_of_the_whole() -> None:
    parts = [value(Noise(NONE, 1, own=1.0), 5.0)] * BLOCKS
    assert from_parts(value(Noise(NONE, 1, own=0.1), 0.0), parts).variance == pytest.approx(0.1)


def test_variances_given_the_balls_are_those_of_independent_rows() -> None:
    real, synth = gaussian(0), gaussian(1)
    names = {"precision": 600, "recall": 600, "authenticity": 600}
    asked = {name: evaluate(real=real, synth=synth, metrics=[name])[name] for name in names}
    for name, rows in names.items():
        noise = noise_of(name, real, synth)
        share = asked[name].value
        assert noise.own == pytest.approx(share * (1 - share) / rows)
        assert len(noise.shared) == 0
    distance = np.sqrt(((real[:, None] - real) ** 2).sum(axis=-1))
    reach = np.sort(distance, axis=1)[:, 5]
    held = (np.sqrt(((real[:, None] - synth) ** 2).sum(axis=-1)) <= reach[:, None]).sum(axis=0) / 5
    assert noise_of("density", real, synth).own == pytest.approx(held.var() / 600)


def noise_of(name: str, real: Floats, synth: Floats) -> Noise:
    """What the metric itself says about its noise, before it is looked for in parts."""
    seen: list[Noise] = []
    noise = METRICS[name].noise
    assert noise is not None

    def spy(**arguments: Any) -> Noise:
        seen.append(noise(**arguments))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METRICS, name, replace(METRICS[name], noise=spy))
        evaluate(real=real, synth=synth, metrics=[name], intervals=True)
    return seen[0]


# Through the doors that users take.


def gaussian(seed: int, rows: int = 600, width: int = 4, scale: float = 1.0, shift: float = 0.0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, width)) * scale + shift


def test_intervals_are_deterministic_and_depend_on_the_seed() -> None:
    def found(seed: int) -> Interval | None:
        asked = {"level": 0.9, "seed": seed}
        return evaluate(real=gaussian(0), synth=gaussian(1), metrics=["precision"], intervals=asked)[
            "precision"
        ].interval

    assert found(0) == found(0)
    assert found(0) != found(1)
    assert found(0).level == 0.9  # type: ignore[union-attr]


def test_values_are_those_without_intervals() -> None:
    names = ["precision", "recall"]
    plain = evaluate(real=gaussian(0), synth=gaussian(1), metrics=names)
    found = evaluate(real=gaussian(0), synth=gaussian(1), metrics=names, intervals=True)
    for name in names:
        assert plain[name].interval is None
        assert found[name].interval is not None
        assert replace(found[name], interval=None) == plain[name]


def test_small_sets_keep_their_value_and_say_why_it_has_no_interval() -> None:
    found = evaluate(real=gaussian(0, 100), synth=gaussian(1, 100), metrics=["precision"], intervals=True)["precision"]
    assert found.interval is None
    assert found.warnings[-1] == "no interval: it needs parts of both sets, 500 rows of each; real has 100"


def test_identical_sets_have_an_interval_that_claims_no_certainty() -> None:
    rows = gaussian(0)
    found = evaluate(real=rows, synth=rows, metrics=["precision"], intervals=True)["precision"]
    assert found.value == 1.0
    assert ends(found)[0] < 1.0 == ends(found)[1]


def test_two_sets_are_compared_against_one_reference() -> None:
    real, good, bad = gaussian(0), gaussian(1), gaussian(2, shift=1.0)
    found = difference(real=real, first=good, second=bad, metrics={"precision": {"k": 5}}, intervals={"level": 0.9})
    assert found["precision"].better == "first"
    assert found["precision"].interval.level == 0.9
    assert found["precision"].value > 0
    alike = difference(real=real, first=good, second=gaussian(3), metrics=["precision"])
    assert alike["precision"].better is None


def test_sets_measured_against_two_references_are_refused() -> None:
    values = [
        evaluate(real=gaussian(seed), synth=gaussian(1), metrics=["precision"], intervals=asked)["precision"]
        for seed, asked in ((0, {"seed": 0}), (9, {"seed": 0}), (0, {"seed": 1}))
    ]
    for other in values[1:]:
        with pytest.raises(MetricError, match="against the same reference"):
            difference_of(values[0], other)


def test_a_difference_needs_intervals() -> None:
    rows = gaussian(0, 100)
    with pytest.raises(MetricError, match="pass intervals=True"):
        difference(real=rows, first=rows, second=rows, metrics=["precision"], intervals=False)
    with pytest.raises(MetricError, match="expected values of 'precision' with intervals"):
        difference(real=rows, first=rows, second=rows, metrics=["precision"])


# Simulated truth, with few repetitions; benchmarks/coverage.py has many.


REPETITIONS = 150


@pytest.fixture(scope="module")
def simulated() -> dict[str, NDArray[np.float64]]:
    """Value, variance and ends of the interval of each metric in each repetition."""
    names = ["fid", "kid", "precision", "recall", "density", "coverage"]
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for repetition in range(REPETITIONS):
        real, synth = gaussian(2 * repetition), gaussian(2 * repetition + 1, scale=0.9, shift=0.4)
        values = evaluate(real=real, synth=synth, metrics=names, intervals={"seed": repetition}, device="cpu")
        for name, one in values.items():
            assert one.interval
            found[name].append((one.value, one.interval.standard_error**2, one.interval.low, one.interval.high))
    return {name: np.array(rows).T for name, rows in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fid", "kid", "precision", "recall", "density", "coverage"])
def test_intervals_hold_the_mean_over_repetitions(name: str, simulated: dict[str, NDArray[np.float64]]) -> None:
    values, variances, low, high = simulated[name]
    truth = values.mean()
    assert 0.88 <= ((low <= truth) & (truth <= high)).mean() <= 0.99
    assert 0.65 <= variances.mean() / values.var(ddof=1) <= 1.5


@pytest.mark.slow
def test_pairing_separates_what_two_intervals_leave_open() -> None:
    separated, apart, wrong = 0, 0, 0
    for repetition in range(60):
        real = Summaries(gaussian(4 * repetition), device="cpu")
        sets = [gaussian(4 * repetition + 1 + i, shift=shift) for i, shift in enumerate((0.55, 0.6, 0.55))]
        first, second, third = (
            evaluate(real=real, synth=synth, metrics=["kid"], intervals=True)["kid"] for synth in sets
        )
        separated += difference_of(first, second).better == "first"
        apart += ends(first)[1] < ends(second)[0]
        wrong += difference_of(first, third).better is not None
    assert separated > 2 * apart
    assert wrong <= 8


CENTRES = np.random.default_rng(20).standard_normal((20, 12))


def of_kinds(rng: np.random.Generator, rows: int, kinds: int = 20) -> Floats:
    """Rows of many kinds, with few rows of each, and without negative values: as images have features."""
    spread = CENTRES[rng.integers(kinds, size=rows)] + 0.4 * rng.standard_normal((rows, 12))
    return np.asarray(np.maximum(spread, -0.5))


def repeated(
    metrics: dict[str, dict[str, int]], repetitions: int, rows: int, kinds: int = 20
) -> dict[str, tuple[list[MetricValue], list[MetricValue]]]:
    """Values of pairs of synthetic sets of one source against one reference."""
    found: dict[str, tuple[list[MetricValue], list[MetricValue]]] = {name: ([], []) for name in metrics}
    for repetition in range(repetitions):
        rng = np.random.default_rng([repetition, 5])
        real = Summaries(of_kinds(rng, rows), device="cpu")
        for side in range(2):
            synth = Summaries(of_kinds(rng, rows, kinds), device="cpu")
            values = evaluate(real=real, synth=synth, metrics=metrics, intervals={"seed": repetition}, device="cpu")
            for name, one in values.items():
                found[name][side].append(one)
    return found


def ratios(first: list[MetricValue], second: list[MetricValue]) -> tuple[float, float]:
    """Standard errors over what they stand for: of the values, and of their differences."""
    one, other = (np.array([each.uncapped for each in values]) for values in (first, second))
    errors = [each.interval.standard_error for each in first if each.interval]
    apart = [difference_of(*pair).interval.standard_error for pair in zip(first, second, strict=True)]
    spread = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)
    return float(np.mean(errors) / spread), float(np.mean(apart) / (one - other).std(ddof=1))


def test_standard_errors_of_sets_of_many_kinds_are_neither_too_large_nor_too_small() -> None:
    """Tenths of 600 rows of twenty kinds have three rows of each: what is near there is of another kind."""
    names: dict[str, dict[str, int]] = {name: {} for name in ("density", "clipped_coverage", "precision", "coverage")}
    for name, pair in repeated(names, repetitions=40, rows=600, kinds=14).items():
        assert ratios(*pair) == pytest.approx((1.0, 1.0), abs=0.4), name


def test_coverage_near_its_largest_value_separates_no_equal_sets() -> None:
    first, second = repeated({"coverage": {"k": 10}}, repetitions=40, rows=600)["coverage"]
    assert np.mean([each.value for each in first]) > 0.995
    assert ratios(first, second)[0] > 0.75
    assert sum(difference_of(*pair).better is not None for pair in zip(first, second, strict=True)) <= 3


def test_sets_sorted_by_class_have_the_errors_of_shuffled_ones() -> None:
    """But for the random error of nine degrees of freedom, which is a quarter for each seed."""
    names = ["precision", "recall", "density", "coverage", "clipped_density", "clipped_coverage", "authenticity"]
    rng = np.random.default_rng(6)
    rows = [of_kinds(rng, 600) for _ in range(2)]
    in_order = [side[np.argsort(side[:, 0])] for side in rows]
    errors = []
    for sets in (rows, in_order, [side[::-1] for side in in_order]):
        real, synth = (Summaries(np.ascontiguousarray(side), device="cpu") for side in sets)
        found = [evaluate(real=real, synth=synth, metrics=names, intervals={"seed": seed}) for seed in range(16)]
        ofs = [[each[name].interval.standard_error for name in names] for each in found]  # type: ignore[union-attr]
        errors.append(np.mean(ofs, axis=0))
    np.testing.assert_allclose(errors, np.broadcast_to(errors[0], (3, len(names))), rtol=0.3)


def test_authenticity_that_hubs_decide_has_no_interval() -> None:
    """Rows of a narrow set in many dimensions have the same few real rows as nearest ones: 24 of 1,000 here."""
    rng = np.random.default_rng(0)
    real, near = rng.standard_normal((2, 600, 64))
    for synth, offered in ((near, True), (0.5 * near, False)):
        found = evaluate(real=real, synth=synth, metrics=["authenticity"], intervals=True)["authenticity"]
        assert (found.interval is not None) is offered
    assert "real rows are nearest to nearly all synthetic ones; it needs 50" in found.warnings[-1]


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("clipped_coverage", "a little too narrow in many dimensions"),
        ("tstr", "differences of sets that lack the same kinds of rows are a little too narrow"),
        ("mind", "too wide where the sets hardly differ"),
        ("roc_auc", "too wide where the sets clearly differ"),
    ],
)
def test_intervals_that_are_known_not_to_fit_say_so(metric: str, label: str) -> None:
    """Those of benchmarks/RESULTS.md, interval coverage, that are outside of its bar by more than chance."""
    rng = np.random.default_rng(1)
    rows, labels = rng.standard_normal((1040, 3)), np.arange(1040) % 2
    sides = {
        name: Summaries(rows[part], labels=labels[part])
        for name, part in (("real", slice(520)), ("synth", slice(520, None)))
    }
    parameters = {"mind": {"directions": 8}, "roc_auc": {"classifier": "logistic"}}.get(metric)
    found = evaluate(**sides, metrics={metric: parameters}, intervals=True)[metric]
    assert found.interval is not None
    assert label in found.interval.method


def test_parts_in_which_too_few_rows_decide_are_shares_all_the_same() -> None:
    shares = np.linspace(0.3, 0.7, BLOCKS)
    known = value(Noise(NONE, 1, own=1e-4), 0.5)
    withheld = [value("about 9 real rows are nearest", share) for share in shares]
    binomial = [replace(one, noise=Noise(NONE, 1, own=one.value * (1 - one.value) / one.n_synth)) for one in withheld]
    assert from_parts(known, withheld).variance == from_parts(known, binomial).variance
    without = [replace(one, noise=None) for one in withheld]
    assert from_parts(known, without).variance != from_parts(known, binomial).variance
