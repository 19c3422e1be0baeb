"""What every metric shares: the table, the results, shared summaries, and bad input in one sentence."""

from __future__ import annotations

import inspect
import math
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simet_cache import metrics
from simet_cache.errors import MetricError
from simet_cache.metrics import METRICS, Copies, MetricValue, Summaries, evaluate, evaluate_each, summaries
from simet_cache.metrics.metric import key_of

module = import_module("simet_cache.metrics.evaluate")  # the package's `evaluate` is the function

Array = NDArray[Any]
RNG = np.random.default_rng(0)
REAL, SYNTH = RNG.standard_normal((40, 6)), RNG.standard_normal((30, 6)) + 0.5
BAD_ROWS = REAL.copy()
BAD_ROWS[[3, 7], 2] = np.nan, np.inf


def with_value(value: float, row: int = 5) -> Array:
    features = REAL.copy()
    features[row, 1] = value
    return features


LABELS = {"real_labels": np.arange(40) % 3, "synth_labels": np.arange(30) % 3}
MAY_REFUSE = {
    "fd_unbiased",
    "vendi",
    "cmmd",
    "roc_auc",
    "tstr",
    "trts",
    "inception_score",
}  # rows without direction, too few of a fold
ALL: dict[str, dict[str, Any]] = {name: {} for name in METRICS} | {
    "roc_auc": {"classifier": "logistic"}
}  # the quick one


@pytest.mark.parametrize("name", METRICS)
def test_every_entry_of_the_table_is_whole(name: str) -> None:
    metric = METRICS[name]
    functions = [one for one in (metric.summarise, metric.join, metric.compare) if one is not None]
    taken = {parameter for function in functions for parameter in inspect.signature(function).parameters}
    assert set(metric.parameters) <= taken
    assert metric.minimal_n >= 1
    assert metric.version >= 1
    assert set(metric.sides) <= {"real", "synth"}
    assert metric.source.partition("https://")[1]
    assert metric.meaning
    assert metric.blind_to
    assert metric.method, "how its interval is made, or why there is none"
    assert metric.check is not None or not metric.parameters
    if {"k", "seed"} & metric.parameters.keys():
        with pytest.raises(MetricError, match="expected a"):
            metrics.resolve({name: {next(iter({"k", "seed"} & metric.parameters.keys())): -1}})


def test_the_table_is_that_of_the_specification() -> None:
    assert set(METRICS) == {
        *("fid", "fd_unbiased", "fd_infinity", "kid", "kid_subsets", "precision", "recall", "density", "coverage"),
        *("clipped_density", "clipped_coverage", "cmmd", "mind", "vendi", "authenticity", "roc_auc", "tstr", "trts"),
        "inception_score",
    }


@pytest.mark.parametrize("name", METRICS)
def test_case_and_hyphens_of_names_do_not_matter(name: str) -> None:
    for written in (name.upper(), name.title(), name.replace("_", "-"), name.upper().replace("_", " ")):
        assert list(metrics.resolve([written])) == [name]
        assert list(metrics.resolve({written: None})) == [name]


def test_results_are_named_as_the_table_names_them() -> None:
    found = evaluate(real=REAL, synth=SYNTH, metrics=["FID", "Kid", "FD-infinity"])
    assert list(found) == ["fid", "kid", "fd_infinity"]
    assert [one.metric for one in found.values()] == ["fid", "kid", "fd_infinity"]
    with pytest.raises(MetricError, match="metric 'fid': expected once, found again as 'FID'"):
        evaluate(real=REAL, synth=SYNTH, metrics={"fid": {}, "FID": {}})
    with pytest.raises(MetricError, match=r"Unknown metric 'FDI'\. Did you mean 'fid'"):
        evaluate(real=REAL, synth=SYNTH, metrics="FDI")


def test_a_value_says_all_about_itself() -> None:
    found = evaluate(real=REAL, synth=SYNTH, metrics={"recall": None, "precision": {"k": 5}})
    assert list(found) == ["recall", "precision"]
    assert found["precision"] == MetricValue(
        value=found["precision"].value,
        metric="precision",
        version=1,
        direction="higher",
        parameters={"k": 5},
        n_real=40,
        n_synth=30,
        width=6,
        warnings=(),
        copies=Copies(exact=0, near=0, rows=30),
    )
    assert found["recall"].parameters == {"k": 3}
    assert type(found["recall"].value) is float


def as_read_only(features: Array) -> Array:
    features = features.copy()
    features.flags.writeable = False
    return features


@pytest.mark.parametrize(
    "dress",
    [
        pytest.param(np.asfortranarray, id="columns first"),
        pytest.param(lambda features: np.repeat(features, 2, axis=1)[:, ::2], id="strided"),
        pytest.param(lambda features: features[::-1].copy()[::-1], id="negative stride"),
        pytest.param(as_read_only, id="read-only"),
        pytest.param(lambda features: features.astype(">f8"), id="big-endian"),
        pytest.param(lambda features: features.astype(np.longdouble), id="long double"),
        pytest.param(lambda features: features.tolist(), id="lists"),
    ],
)
def test_the_same_numbers_in_another_dress_give_the_same_values(dress: Any) -> None:
    expected = evaluate(real=REAL, synth=SYNTH, metrics=ALL, **LABELS)
    found = evaluate(real=dress(REAL), synth=dress(SYNTH), metrics=ALL, **LABELS)
    for name in METRICS:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint8, np.int64])
def test_narrow_types_give_the_values_of_their_float64_copies(dtype: type) -> None:
    real: Array = np.abs(REAL * 20).astype(dtype)
    synth: Array = np.abs(SYNTH * 20).astype(dtype)
    copies = evaluate(real=real.astype(np.float64), synth=synth.astype(np.float64), metrics=ALL, **LABELS)
    found = evaluate(real=real, synth=synth, metrics=ALL, **LABELS)
    for name in METRICS:
        assert found[name].value == pytest.approx(copies[name].value, rel=1e-9), name


def test_a_handle_is_loaded() -> None:
    class Handle:
        def load(self) -> Array:
            return REAL

    assert evaluate(real=Handle(), synth=SYNTH, metrics="kid") == evaluate(real=REAL, synth=SYNTH, metrics=["kid"])


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("real", "synth"),
    [
        (REAL, REAL),
        (np.zeros((5, 3)), np.zeros((4, 3))),
        (np.ones((2, 1)), np.zeros((2, 1))),
        (REAL * 1e38, SYNTH * 1e38),
        (REAL * 1e-30, SYNTH * 1e-30),
    ],
    ids=["identical", "zeros", "two rows", "huge", "tiny"],
)
def test_unusual_sets_have_a_finite_value(name: str, real: Array, synth: Array) -> None:
    labels = {"real_labels": np.arange(len(real)) % 2, "synth_labels": np.arange(len(synth)) % 2}
    sides = {
        "real": Summaries(real, labels=labels["real_labels"]),
        "synth": Summaries(synth, labels=labels["synth_labels"]),
    }
    values, failures = evaluate_each({name: ALL[name]}, **sides, intervals=True)
    assert values.keys() | failures.keys() == {name}
    assert all(math.isfinite(value.value) for value in values.values())
    assert not failures or name in MAY_REFUSE
    assert not any("\n" in sentence for sentence in failures.values())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every summary and joint that is computed: the function's name, and how many of them went together."""
    calls: list[tuple[str, int]] = []
    of_sets, of_pairs = summaries.summaries_of, module.joints_of

    def summaries_of(features: Array, wanted: Any, *, device: str) -> list[Any]:
        calls.extend((f"{make.__module__.rpartition('.')[2]} of {len(features)}", len(wanted)) for make, _ in wanted)
        return of_sets(features, wanted, device=device)

    def joints_of(wanted: Any) -> list[Any]:
        calls.extend((f"{join.__module__.rpartition('.')[2]} of both", len(wanted)) for join, *_ in wanted)
        return of_pairs(wanted)

    monkeypatch.setattr(summaries, "summaries_of", summaries_of)
    monkeypatch.setattr(module, "joints_of", joints_of)
    return calls


def test_only_the_sides_that_a_metric_reads_are_summarised(made: list[tuple[str, int]]) -> None:
    evaluate(real=REAL, synth=SYNTH, metrics=["precision"])
    assert made == [("neighbours of 40", 1), ("neighbours of both", 1)]
    made.clear()
    evaluate(real=REAL, synth=SYNTH, metrics=["recall"])
    assert made == [("neighbours of 30", 1), ("neighbours of both", 1)]


def test_what_metrics_share_is_computed_once_and_together(made: list[tuple[str, int]]) -> None:
    evaluate(real=REAL, synth=SYNTH, metrics=["precision", "recall", "density", "coverage", "kid"])
    of_real = [call for call in made if call[0].endswith("of 40")]
    assert of_real == [("neighbours of 40", 3), ("neighbours of 40", 3), ("kid of 40", 3)]  # k = 3, k = 5, and kid
    assert sum(call[0] == "neighbours of both" for call in made) == 3  # balls of real k=3 and k=5, of synth k=3


def test_one_reference_does_its_work_once_for_many_sets(made: list[tuple[str, int]]) -> None:
    reference = Summaries(REAL)
    for shift in range(5):
        evaluate(real=reference, synth=SYNTH + shift, metrics=["precision", "recall"])
    assert [name for name, _ in made].count("neighbours of 40") == 1
    evaluate(real=reference, synth=SYNTH, metrics={"precision": {"k": 4}})
    assert [name for name, _ in made].count("neighbours of 40") == 2
    evaluate(real=SYNTH, synth=reference, metrics=["precision", "recall"])
    assert [name for name, _ in made].count("neighbours of 40") == 2


def test_metrics_with_one_summariser_and_equal_parameters_share_a_key() -> None:
    radii = METRICS["precision"].summarise
    assert radii is METRICS["recall"].summarise
    assert radii is not None
    assert key_of(radii, {"k": 3}) == "radii(k=3)"  # a name that was given, and no path of code
    assert key_of(radii, {"k": 3, "other": 1}) == key_of(radii, {"k": 3})
    assert key_of(radii, {"k": 4}) != key_of(radii, {"k": 3})


def test_summaries_known_from_elsewhere_are_used(made: list[tuple[str, int]]) -> None:
    wanted = ["fid", "kid", "precision", "recall"]
    known = Summaries(REAL)
    expected = evaluate(real=known, synth=SYNTH, metrics=wanted)
    made.clear()
    assert evaluate(real=Summaries(REAL, memo=known.memo), synth=SYNTH, metrics=wanted) == expected
    assert not [name for name, _ in made if name.endswith("of 40")]


def test_a_part_is_a_set_of_its_own() -> None:
    whole = Summaries(REAL, labels=LABELS["real_labels"])
    part = whole.part(np.arange(10, 30))
    expected = evaluate(real=REAL[10:30], synth=SYNTH, metrics=["fid", "precision"])
    evaluate(real=whole, synth=SYNTH, metrics=["fid", "precision"])
    assert evaluate(real=part, synth=SYNTH, metrics=["fid", "precision"]) == expected
    assert part.classes["1"].tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert [len(rows) for rows in whole.classes.values()] == [14, 13, 13]


def test_each_class_has_the_value_of_its_own_rows() -> None:
    wanted = ["fid", "precision", "tstr"]
    found = evaluate(real=REAL, synth=SYNTH, metrics=wanted, per_class=True, **LABELS)
    for label in range(3):
        alone = evaluate(
            real=REAL[LABELS["real_labels"] == label], synth=SYNTH[LABELS["synth_labels"] == label], metrics=wanted[:2]
        )
        assert found["fid"].per_class[str(label)] == alone["fid"]
        assert found["precision"].per_class[str(label)] == alone["precision"]
    assert found["fid"].value == evaluate(real=REAL, synth=SYNTH, metrics=["fid"])["fid"].value
    assert found["tstr"].per_class.keys() == {"0", "1", "2"}  # read off the probe of all classes: see test_probe


def test_classes_that_cannot_be_compared_are_named() -> None:
    real_labels = np.array(["cat"] * 20 + ["dog"] * 19 + ["emu"])
    synth_labels = np.array(["cat"] * 10 + ["emu"] * 10 + ["fox"] * 10)
    found = evaluate(
        real=REAL, synth=SYNTH, metrics=["fid"], per_class=True, real_labels=real_labels, synth_labels=synth_labels
    )["fid"]
    assert set(found.per_class) == {"cat"}
    joined = "; ".join(found.warnings)
    assert "no value for class dog: not in synth" in joined
    assert "no value for class fox: not in real" in joined
    assert "no value for class emu: real: expected at least 2 rows for metric 'fid', found 1" in joined


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": True}, "real: expected labels for values of each class, found none; pass real_labels"),
        ({"per_class": True, "real_labels": LABELS["real_labels"]}, "synth: expected labels"),
        ({"metrics": ["tstr"]}, "real: expected labels for metric 'tstr', found none; pass real_labels"),
        ({"real_labels": [1, 2]}, r"real: expected 40 labels, .* found shape \(2,\)"),
        ({"synth_labels": np.zeros(30)}, "synth: expected 30 labels, integers or texts, .* of dtype float64"),
        ({"device": "tpu"}, "device: expected auto, cpu, cuda"),
        ({"device": "cuda:99"}, "device: expected one of .* CUDA devices, found 'cuda:99'"),
        ({"real": Summaries(REAL), "real_labels": LABELS["real_labels"]}, "real: expected labels inside the Summaries"),
    ],
)
def test_labels_and_devices_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MetricError, match=f"^{message}"):
        evaluate(**{"real": REAL, "synth": SYNTH, "metrics": ["fid"], **options})


def test_a_metric_that_fails_leaves_the_others_their_values() -> None:
    values, failures = evaluate_each(["precision", "tstr", "fid"], real=Summaries(REAL), synth=Summaries(SYNTH))
    assert list(values) == ["precision", "fid"]
    assert failures == {"tstr": "real: expected labels for metric 'tstr', found none; pass real_labels"}
    with pytest.raises(MetricError, match="Did you mean 'fid'"):
        evaluate_each(["fit"], real=Summaries(REAL), synth=Summaries(SYNTH))


@pytest.mark.parametrize("dress", [np.asarray, np.float32, as_read_only, np.asfortranarray])
def test_rows_that_stand_in_both_sets_are_counted(dress: Any) -> None:
    real = REAL.astype(np.float32)
    synth = np.vstack([SYNTH.astype(np.float32), real[:3], real[:1], -np.zeros((1, 6), np.float32)])
    real = np.vstack([real, np.zeros((1, 6), np.float32)])
    (warning,) = evaluate(real=real, synth=dress(synth), metrics=["precision"])["precision"].warnings
    assert warning == "possible leakage: 5 of 35 synthetic rows equal a real one"
    near = np.nextafter(synth, np.float32(9))
    assert evaluate(real=real, synth=near, metrics=["precision"])["precision"].warnings == ()


def test_rows_of_other_dtypes_are_equal_where_their_numbers_are() -> None:
    real = np.round(REAL * 4) / 4
    warnings = evaluate(real=real, synth=real[:7].astype(np.float16), metrics=["precision"])["precision"].warnings
    assert "7 of 7 synthetic rows" in warnings[-1]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (BAD_ROWS, r"NaN or infinity in 2 of 40 rows \(first: 3, 7\)"),
        (with_value(-np.inf), r"NaN or infinity in 1 of 40 rows \(first: 5\)"),
        (with_value(1e41), r"expected values up to 1e\+40, found larger ones in 1 of 40 rows \(first: 5\)"),
        (np.full((40, 6), np.nan), r"in 40 of 40 rows \(first: 0, 1, 2, 3, 4\)"),
        (REAL * 1e-70, r"expected values above 1e-60, found 3.11e-70 at most; rescale"),
        (REAL[0], r"expected a 2-D array \(rows, features\), found shape \(6,\)"),
        (REAL[None], r"found shape \(1, 40, 6\)"),
        (REAL[:0], r"expected at least one row and one feature, found shape \(0, 6\)"),
        (REAL[:, :0], r"found shape \(40, 0\)"),
        (REAL.astype(object), r"found dtype object"),
        (REAL.astype(str), r"found dtype <U"),
        (REAL.astype(np.complex128), r"found dtype complex128"),
        (REAL > 0, r"found dtype bool"),
        ([[1.0, 2.0], [3.0]], r"expected something NumPy reads as a 2-D array, found list"),
        (None, r"found shape \(\)"),
        (REAL[:1], r"expected at least 2 rows for metric 'kid', found 1"),
    ],
)
@pytest.mark.parametrize("side", ["real", "synth"])
def test_features_that_cannot_be_used_are_refused_in_one_line(features: Any, message: str, side: str) -> None:
    sides: dict[str, Any] = {"real": SYNTH, "synth": SYNTH, side: features}
    with pytest.raises(MetricError, match=f"^{side}: .*{message}") as caught:
        evaluate(**sides, metrics=["kid"])
    assert "\n" not in str(caught.value)


class Wrapped:
    """Turns itself into an array as NumPy asks it to."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


class Handle(Wrapped):
    def load(self) -> Any:
        return self.array


def masked(array: Array, *hidden: Any) -> Any:
    found = np.ma.masked_array(array.copy())
    for place in hidden:
        found[place] = np.ma.masked
    return found


@pytest.mark.parametrize("dress", [lambda rows: rows, list, tuple, Wrapped, Handle])
def test_masked_values_are_refused(dress: Callable[[Any], Any]) -> None:
    spoiled = REAL.copy()
    spoiled[3, 1] = 1e5  # what the mask is to hide
    with pytest.raises(MetricError, match=r"^real: expected values that are all known, found 2 masked; fill them in"):
        evaluate(real=dress(masked(spoiled, (3, 1), (5, 0))), synth=SYNTH, metrics=["fid"])


@pytest.mark.parametrize("kind", ["no mask", "nothing masked", "subclass", "tensor", "lists"])
def test_array_likes_that_lose_nothing_give_the_values_of_their_arrays(kind: str) -> None:
    torch = pytest.importorskip("torch")
    rows: Any = {
        "no mask": np.ma.masked_array(REAL),
        "nothing masked": np.ma.masked_array(REAL, np.zeros(REAL.shape, bool)),
        "subclass": REAL.view(np.recarray),
        "tensor": torch.from_numpy(REAL),
        "lists": REAL.tolist(),
    }[kind]
    assert type(Summaries(rows).features) is np.ndarray
    found, expected = (evaluate(real=real, synth=SYNTH, metrics=["fid"])["fid"].value for real in (rows, REAL))
    assert found == expected


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tensor with gradients", r"found Tensor \(.*requires grad.*\); pass a NumPy array on the CPU"),
        ("tensor elsewhere", r"found Tensor \(.*meta.*\); pass a NumPy array on the CPU"),
        ("bfloat16", r"found Tensor \(.*BFloat16\)"),
        ("sparse", r"found csr_array; call .toarray\(\) on it"),
        ("generator", r"found generator; pass a NumPy array"),
        ("complex", r"found dtype complex128; take .real and .imag"),
        ("times", r"found dtype datetime64\[s\]; say what number a time is to be"),
        ("structured", r"found dtype \[.*\]; make one column of each field"),
        ("missing", r"found dtype object; every value must be a number, and none be missing"),
    ],
)
def test_array_likes_that_would_lose_something_are_refused(kind: str, message: str) -> None:
    torch, sparse = pytest.importorskip("torch"), pytest.importorskip("scipy.sparse")
    rows: Any = {
        "tensor with gradients": lambda: torch.from_numpy(REAL).requires_grad_(),
        "tensor elsewhere": lambda: torch.empty(40, 6, device="meta"),
        "bfloat16": lambda: torch.from_numpy(REAL).bfloat16(),
        "sparse": lambda: sparse.csr_array(REAL),
        "generator": lambda: (row for row in REAL),
        "complex": lambda: REAL + 1j,
        "times": lambda: REAL.astype("datetime64[s]"),
        "structured": lambda: np.zeros(40, dtype=[("a", "f4"), ("b", "f4")]),
        "missing": lambda: np.where(REAL > 0, REAL, None),
    }[kind]()
    with pytest.raises(MetricError, match=f"^real: expected .*{message}"):
        evaluate(real=rows, synth=SYNTH, metrics=["fid"])


NUMBERS = np.arange(40) % 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (masked(NUMBERS, 3), "real labels: expected values that are all known, found 1 masked"),
        (list(masked(NUMBERS.astype(str), 3)), "real labels: expected values that are all known, found 1 masked"),
        (["a", float("nan")] * 20, "real: expected labels, integers or texts, found nan in row 1"),
        (["a", None] * 20, "real: expected 40 labels, integers or texts, .* of dtype object"),
        (["a", 1.5] * 20, "real: expected labels, integers or texts, found 1.5 in row 1"),
        ([[0], [1, 2]] * 20, "real labels: expected something NumPy reads as a row of labels, found list"),
        ((label for label in NUMBERS), "real labels: .* found generator"),
    ],
)
def test_labels_that_would_lose_something_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(MetricError, match=f"^{message}"):
        Summaries(REAL, where="real", labels=labels)


@pytest.mark.parametrize("labels", [np.ma.masked_array(NUMBERS), ["a", 1] * 20, list(np.array(["a", "b"] * 20))])
def test_labels_that_are_all_there_are_taken(labels: Any) -> None:
    found = Summaries(REAL, labels=labels)
    assert [len(rows) for rows in found.classes.values()] == [20, 20]


def test_different_widths_are_refused() -> None:
    with pytest.raises(MetricError, match="equal width, found 6 and 5 features"):
        evaluate(real=REAL, synth=SYNTH[:, :5], metrics=["fid"])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["fjd"], "Unknown metric 'fjd'. Did you mean 'fid'? The metrics are: fid, "),
        (["zzzz"], "Unknown metric 'zzzz'. The metrics are: fid"),
        ({"precision": {"K": 3}}, "Unknown parameter of metric 'precision': 'K'."),
        ({"recall": {"kk": 3}}, "Did you mean 'k'? Its parameters are: k."),
        ({"fid": {"k": 3}}, "Unknown parameter of metric 'fid': 'k'. Its parameters are: none."),
        ({"precision": 5}, "metric 'precision': expected parameters by name"),
        ({"precision": {"k": 0}}, "k: expected a whole number of at least 1, found 0"),
        ({"precision": {"k": True}}, "found True"),
        ({"recall": {"k": 2.0}}, "found 2.0"),
        ({"recall": {"k": "3"}}, "found '3'"),
    ],
)
def test_requests_are_refused_before_any_row_is_read(wanted: Any, message: str) -> None:
    with pytest.raises(MetricError, match=re.escape(message)):
        evaluate(real=None, synth=None, metrics=wanted)


def test_all_is_exact_and_sides_are_keyword_only() -> None:
    assert sorted(metrics.__all__, key=lambda name: (not name.isupper(), name.islower(), name)) == metrics.__all__
    assert all(hasattr(metrics, name) for name in metrics.__all__)
    functions: list[Callable[..., object]] = [evaluate, *(metric.compare for metric in METRICS.values())]
    for function in functions:
        kinds = {name: parameter.kind for name, parameter in inspect.signature(function).parameters.items()}
        assert kinds["real"] is kinds["synth"] is inspect.Parameter.KEYWORD_ONLY


def test_prefect_is_not_imported() -> None:
    code = "import sys, simet_cache.metrics; print(sorted({'prefect'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
