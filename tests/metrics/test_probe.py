"""Probes trained on one set and tested on the other: directions, classes on one side alone, and their noise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import MetricValue, Summaries, Summarised, difference, evaluate, logistic, probe

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

CENTRES = 3 * np.eye(4)


def samples(rng: np.random.Generator, n: int, noise: float = 0.3, classes: int = 4) -> tuple[Floats, Labels]:
    labels = np.arange(n) % classes
    return CENTRES[labels] + noise * rng.standard_normal((n, 4)), labels


def measured(real: tuple[Floats, Labels], synth: tuple[Floats, Labels], **parameters: int) -> dict[str, MetricValue]:
    return evaluate(
        real=real[0],
        synth=synth[0],
        metrics={"tstr": parameters, "trts": parameters},
        real_labels=real[1],
        synth_labels=synth[1],
    )


def test_clear_classes_are_learnt_from_either_side() -> None:
    rng = np.random.default_rng(1)
    found = measured(samples(rng, 80), samples(rng, 60))
    for value in found.values():
        assert value.value == 1.0
        assert set(value.details.values()) == {1.0}
        assert value.warnings == ()
    both = {"real_on_real", "accuracy_on_known_classes"}
    assert found["tstr"].details.keys() == both | {"accuracy_on_held_out"}
    assert found["trts"].details.keys() == both | {"real_on_real_of_same_classes"}


def test_tstr_misses_what_the_synthetic_set_does_not_show_and_trts_does_not() -> None:
    """Class 1 is made where only a part of the real one lies: a probe of real rows knows it, but not the reverse."""
    real = np.repeat([[0.0], [10.0], [-10.0]], 30, axis=0) + np.linspace(0, 1, 90)[:, None]
    labels = np.repeat([0, 1, 1], 30)
    synth, made = np.vstack([real[:30], real[30:60]]), np.repeat([0, 1], 30)
    wide = np.hstack([real, real**2]), labels
    found = measured(wide, (np.hstack([synth, synth**2]), made))
    assert found["trts"].value == 1.0
    assert found["tstr"].details["real_on_real"] > 0.9
    swapped = measured((np.hstack([synth, synth**2]), made), wide)
    assert swapped["tstr"].value == 1.0
    assert found["tstr"].value == swapped["trts"].value


def test_wrong_labels_of_the_synthetic_set_show() -> None:
    rng = np.random.default_rng(2)
    real, (rows, labels) = samples(rng, 80), samples(rng, 80)
    found = measured(real, (rows, (labels + 1) % 4))
    assert found["tstr"].value == 0.0
    assert found["trts"].value == 0.0
    assert found["tstr"].details["real_on_real"] == 1.0


def test_numbers_and_texts_name_the_same_classes() -> None:
    rng = np.random.default_rng(3)
    real, (rows, labels) = samples(rng, 40), samples(rng, 40)
    assert measured(real, (rows, labels.astype(str)))["tstr"].value == 1.0


def test_classes_that_the_probe_never_learnt_count_as_wrong_and_are_named() -> None:
    rng = np.random.default_rng(4)
    found = measured(samples(rng, 80), samples(rng, 60, classes=3))
    assert found["tstr"].value == 0.75
    assert found["tstr"].warnings == ("class 3 in real and not in synth: 20 of 80 real rows, which count as wrong",)
    assert found["tstr"].details["accuracy_on_known_classes"] == 1.0
    assert found["tstr"].details["accuracy_on_held_out"] == 0.75
    assert found["trts"].value == 1.0
    assert found["trts"].warnings == ("class 3 in real and not in synth: learnt and not tested",)
    swapped = measured(samples(rng, 60, classes=3), samples(rng, 80))
    assert swapped["trts"].value == 0.75
    assert swapped["trts"].warnings == ("class 3 in synth and not in real: 20 of 80 synth rows, which count as wrong",)
    assert swapped["trts"].details["accuracy_on_known_classes"] == 1.0
    assert swapped["tstr"].value == 1.0


def test_three_digits_of_ten_do_not_beat_all_ten() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    rows, labels = datasets.load_digits(return_X_y=True)
    real, ten = (rows[::2], labels[::2]), (rows[1::2], labels[1::2])
    few = np.isin(ten[1], [0, 1, 6])
    whole, part = measured(real, ten)["tstr"], measured(real, (ten[0][few], ten[1][few]))["tstr"]
    assert part.value < 0.35
    assert whole.value > 0.9
    assert part.details["accuracy_on_known_classes"] > whole.details["accuracy_on_known_classes"]
    assert "classes 2, 3, 4, 5, 7 and 2 more in real and not in synth" in part.warnings[0]
    more = np.repeat(np.flatnonzero(few), 2)  # enough rows for an interval
    sets = {"real": real, "first": ten, "second": (ten[0][more], ten[1][more])}
    given = {name: Summaries(rows, labels=of) for name, (rows, of) in sets.items()}
    assert difference(**given, metrics=["tstr"])["tstr"].better == "first"


def test_numbers_beside_each_other_are_about_the_same_rows() -> None:
    """The fourth class lies in the third: whoever is tested on it is wrong half of the time."""
    rng = np.random.default_rng(13)

    def hard(n: int, classes: int) -> tuple[Floats, Labels]:
        rows, labels = samples(rng, n, classes=classes)
        rows[labels == 3] += CENTRES[2] - CENTRES[3]
        return rows, labels

    real, whole = hard(400, 4), hard(400, 4)
    same = measured(real, real)["tstr"].details
    assert same["accuracy_on_held_out"] == pytest.approx(same["real_on_real"], abs=0.15)
    assert measured(real, whole)["trts"].details["real_on_real_of_same_classes"] == same["real_on_real"]
    easy = (real[0][real[1] < 2], real[1][real[1] < 2])
    easier = measured(real, easy)["trts"]
    assert easier.value == easier.details["real_on_real_of_same_classes"] == 1.0 > easier.details["real_on_real"]


def test_one_class_teaches_nothing() -> None:
    rng = np.random.default_rng(5)
    rows, labels = samples(rng, 40)
    with pytest.raises(MetricError, match=r"synth: expected rows of at least two classes .* found only class 0"):
        evaluate(real=rows, synth=rows, metrics=["tstr"], real_labels=labels, synth_labels=0 * labels)
    with pytest.raises(MetricError, match="real: expected rows of at least two classes"):
        evaluate(real=rows, synth=rows, metrics=["trts"], real_labels=0 * labels, synth_labels=labels)
    alone = evaluate(real=rows, synth=rows, metrics=["tstr"], real_labels=0 * labels, synth_labels=labels)["tstr"]
    assert 0 < alone.value <= 1
    assert "real on real: too few rows to hold some out" in alone.warnings


def test_no_class_in_common_is_an_error() -> None:
    rng = np.random.default_rng(6)
    rows, labels = samples(rng, 40)
    with pytest.raises(MetricError, match="classes 0, 1, 2, 3 in synth and classes 10, 11, 12, 13 in real"):
        measured((rows, labels + 10), (rows, labels))


def test_two_rows_and_constant_features_have_values() -> None:
    two = np.array([[0.0], [1.0]]), np.array([0, 1])
    found = measured(two, two)
    assert found["tstr"].value == found["trts"].value == 1.0
    assert "real on real: too few rows to hold some out" in found["tstr"].warnings
    constant = np.full((20, 3), 0.1), np.arange(20) % 2
    assert measured(constant, constant)["tstr"].value == 0.5


def test_nearly_as_many_classes_as_rows_are_learnt_without_a_word() -> None:
    rng = np.random.default_rng(14)
    rows, labels = rng.standard_normal((40, 60)), np.arange(40) % 30
    assert measured((rows, labels), (rows, labels))["tstr"].value > 0.9


def test_scale_and_offset_change_nothing() -> None:
    rng = np.random.default_rng(7)
    (real, labels), (synth, made) = samples(rng, 80, noise=2), samples(rng, 80, noise=2)
    plain = measured((real, labels), (synth, made))["tstr"].value
    assert 0.3 < plain < 0.95
    for scale, offset in ((1e-30, 0), (1e30, 0), (1, 1e8)):
        moved = measured((real * scale + offset, labels), (synth * scale + offset, made))["tstr"]
        assert moved.value == pytest.approx(plain, abs=0.02)


def test_a_fifth_of_each_real_class_is_held_out_by_the_seed() -> None:
    rng = np.random.default_rng(8)
    rows, labels = samples(rng, 100, noise=3)
    both = sides((rows, labels), (rows, labels))
    tested = [probe.join(**both, seed=seed).among_real.rows for seed in (0, 0, 1)]
    assert list(np.bincount(labels[tested[0]])) == [5, 5, 5, 5]
    np.testing.assert_array_equal(tested[0], tested[1])
    assert not np.array_equal(tested[0], tested[2])


def test_both_metrics_share_their_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    trained: list[int] = []

    def counted(rows, labels):
        trained.append(len(rows))
        return logistic.fitted(rows, labels)

    monkeypatch.setattr(probe, "fitted", counted)
    measured(samples(rng, 100), samples(rng, 60))
    assert sorted(trained) == [60, 80, 100]


def test_a_probe_that_does_not_converge_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    monkeypatch.setattr(logistic, "STEPS", 2)
    found = measured(samples(rng, 80, noise=3), samples(rng, 60, noise=3))
    assert found["tstr"].warnings == ("the probe was stopped before it had converged",)


def sides(real: tuple[Floats, Labels], synth: tuple[Floats, Labels]) -> dict[str, Summarised[None]]:
    return {name: Summarised(rows, None, labels) for name, (rows, labels) in (("real", real), ("synth", synth))}


def test_noise_is_that_of_the_tested_rows_and_that_of_the_training_set() -> None:
    rng = np.random.default_rng(11)
    both = sides(samples(rng, 90, noise=2), samples(rng, 60, noise=2, classes=3))
    joint = probe.join(**both, seed=0)
    for compare, noise, again, tested in (
        (probe.compare_tstr, probe.noise_tstr, joint.on_real_again, 90),
        (probe.compare_trts, probe.noise_trts, joint.on_synth_again, 60),
    ):
        share, trained = compare(**both, joint=joint).value, again.mean(axis=1).var(ddof=1)
        assert trained > 0
        expected = share * (1 - share) / tested + trained
        assert noise(**both, joint=joint).variance == pytest.approx(expected, rel=0.03)
    noise = probe.noise_tstr(**both, joint=joint)
    assert noise.shared.shape == (90,)
    assert len(set(noise.shared[both["real"].labels == 3])) == 1  # all wrong
    assert abs(noise.shared.mean()) < 1e-12
    assert noise.freedom > probe.RESAMPLES - 1


def test_probes_of_real_rows_are_what_two_synthetic_sets_share() -> None:
    rng = np.random.default_rng(15)
    real = samples(rng, 90, noise=2)
    noises = []
    for _ in range(2):
        both = sides(real, samples(rng, 4000, noise=2))
        noises.append(probe.noise_trts(**both, joint=probe.join(**both, seed=0)))
    assert np.corrcoef(noises[0].shared, noises[1].shared)[0, 1] > 0.7


def test_too_few_rows_have_no_noise() -> None:
    rng = np.random.default_rng(16)
    both = sides(samples(rng, 49), samples(rng, 80))
    joint = probe.join(**both, seed=0)
    for noise in (probe.noise_tstr, probe.noise_trts):
        assert noise(**both, joint=joint) == "it needs 50 rows; real has 49"


def far_kind(rng: np.random.Generator, n: int, *, kinds: int) -> tuple[Floats, Labels]:
    """Rows of two classes, and of a kind far from all others that belongs to the second, where there are three kinds.

    It lies along a feature that tells the others nothing: chance decides where the boundary meets it.
    """
    kind = np.arange(n) % kinds
    rows = rng.standard_normal((n, 8))
    rows[:, 0] += 3 * (kind == 1)
    rows[:, 1:] += 4 * (kind == 2)[:, None]
    rows[kind == 2, 0] += 1.5
    return rows, (kind > 0).astype(int)


@pytest.mark.slow
def test_sets_that_lack_the_same_kind_are_rarely_ranked() -> None:
    """A kind that neither set has is right or wrong as one, by chance, which does not grow less as 1/n."""
    apart = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, 17])
        sets = {"real": far_kind(rng, 600, kinds=3)} | {
            name: far_kind(rng, 500, kinds=2) for name in ("first", "second")
        }
        given = {name: Summaries(rows, labels=labels) for name, (rows, labels) in sets.items()}
        apart += difference(**given, metrics=["tstr"])["tstr"].better is not None
    assert apart <= 6, apart


def test_each_class_has_the_accuracy_of_its_rows() -> None:
    rng = np.random.default_rng(18)
    real, synth = samples(rng, 400, noise=2), samples(rng, 240, noise=2, classes=3)
    found = evaluate(
        real=real[0],
        synth=synth[0],
        metrics=["tstr", "trts"],
        real_labels=real[1],
        synth_labels=synth[1],
        per_class=True,
        intervals=True,
    )
    tstr, trts = found["tstr"], found["trts"]
    assert tstr.per_class.keys() == {"0", "1", "2", "3"}
    assert trts.per_class.keys() == {"0", "1", "2"}
    for whole in (tstr, trts):
        rows = [one.n_real if whole is tstr else one.n_synth for one in whole.per_class.values()]
        of_classes = [one.value for one in whole.per_class.values()]
        assert np.average(of_classes, weights=rows) == pytest.approx(whole.value)
        assert all(one.details["real_on_real"] < 1 for one in whole.per_class.values())
    missing = tstr.per_class["3"]
    assert (missing.value, missing.n_real, missing.n_synth, missing.interval) == (0.0, 100, 0, None)
    assert missing.warnings == ("no interval: the probe was trained on no row of this class",)
    for one in (tstr.per_class["0"], trts.per_class["0"]):
        assert one.interval is not None
        assert one.interval.low < one.value < one.interval.high


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_seed_out_of_range_is_refused(seed) -> None:
    rng = np.random.default_rng(12)
    with pytest.raises(MetricError, match="expected a whole number"):
        measured(samples(rng, 8), samples(rng, 8), seed=seed)
