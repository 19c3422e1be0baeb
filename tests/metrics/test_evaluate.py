"""What every metric shares: the table, the results, shared summaries, and bad input in one sentence."""

from __future__ import annotations

import inspect
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simet_cache import metrics
from simet_cache.errors import MetricError
from simet_cache.metrics import METRICS, MetricValue, Summaries, evaluate, neighbours, precision_recall

Array = NDArray[Any]
RNG = np.random.default_rng(0)
REAL, SYNTH = RNG.standard_normal((40, 6)), RNG.standard_normal((30, 6)) + 0.5
BAD_ROWS = REAL.copy()
BAD_ROWS[[3, 7], 2] = np.nan, np.inf


def with_value(value: float, row: int = 5) -> Array:
    features = REAL.copy()
    features[row, 1] = value
    return features


@pytest.mark.parametrize("name", METRICS)
def test_every_parameter_reaches_a_function(name: str) -> None:
    metric = METRICS[name]
    taken = {*inspect.signature(metric.summarise).parameters, *inspect.signature(metric.compare).parameters}
    assert set(metric.parameters) <= taken
    assert metric.minimal_n >= 1
    assert metric.version >= 1
    assert metric.sides


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
    expected = evaluate(real=REAL, synth=SYNTH, metrics=list(METRICS))
    found = evaluate(real=dress(REAL), synth=dress(SYNTH), metrics=list(METRICS))
    for name in METRICS:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint8, np.int64])
def test_narrow_types_give_the_values_of_their_float64_copies(dtype: type) -> None:
    real: Array = np.abs(REAL * 20).astype(dtype)
    synth: Array = np.abs(SYNTH * 20).astype(dtype)
    copies = evaluate(real=real.astype(np.float64), synth=synth.astype(np.float64), metrics=list(METRICS))
    assert evaluate(real=real, synth=synth, metrics=list(METRICS)) == copies


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
        (REAL * 1e-300, SYNTH * 1e-300),
    ],
    ids=["identical", "zeros", "two rows", "huge", "tiny"],
)
def test_unusual_sets_have_a_finite_value(name: str, real: Array, synth: Array) -> None:
    assert math.isfinite(evaluate(real=real, synth=synth, metrics=[name])[name].value)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    def radii(features: Array, *, k: int) -> neighbours.Radii:
        calls.append(len(features))
        return neighbours.radii(features, k=k)

    table = {
        name: metrics.Metric(**{**vars(metric), "summarise": radii})
        for name, metric in METRICS.items()
        if metric.summarise is precision_recall.summarise
    }
    monkeypatch.setattr(metrics, "METRICS", table)
    return calls


def test_only_the_sides_that_a_metric_reads_are_summarised(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    evaluate(real=REAL, synth=SYNTH, metrics=["precision"])
    assert calls == [len(REAL)]
    evaluate(real=REAL, synth=SYNTH, metrics=["recall"])
    assert calls == [len(REAL), len(SYNTH)]


def test_one_reference_does_its_work_once_for_many_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    reference = Summaries(REAL)
    for shift in range(5):
        evaluate(real=reference, synth=SYNTH + shift, metrics=["precision", "recall"])
    assert calls.count(len(REAL)) == 1
    evaluate(real=reference, synth=SYNTH, metrics={"precision": {"k": 4}})
    assert calls.count(len(REAL)) == 2
    evaluate(real=SYNTH, synth=reference, metrics=["precision", "recall"])
    assert calls.count(len(REAL)) == 2


def test_metrics_with_one_summariser_and_equal_parameters_share_a_key() -> None:
    precision, recall, fid = METRICS["precision"], METRICS["recall"], METRICS["fid"]
    assert (
        precision.summary_key({"k": 3}) == recall.summary_key({"k": 3}) == "simet_cache.metrics.neighbours.radii(k=3)"
    )
    assert precision.summary_key({"k": 4}) != precision.summary_key({"k": 3})
    assert fid.summary_key({}) == "simet_cache.metrics.fid.summarise()"


def test_summaries_known_from_elsewhere_are_used() -> None:
    known = Summaries(REAL)
    expected = evaluate(real=known, synth=SYNTH, metrics=list(METRICS))
    again = Summaries(REAL, memo=known.memo)
    assert set(again.memo) == {METRICS[name].summary_key({"k": 3}) for name in ("fid", "kid", "precision")}
    assert evaluate(real=again, synth=SYNTH, metrics=list(METRICS)) == expected


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (BAD_ROWS, r"NaN or infinity in 2 of 40 rows \(first: 3, 7\)"),
        (with_value(-np.inf), r"NaN or infinity in 1 of 40 rows \(first: 5\)"),
        (with_value(1e41), r"expected values up to 1e\+40, found larger ones in 1 of 40 rows \(first: 5\)"),
        (np.full((40, 6), np.nan), r"in 40 of 40 rows \(first: 0, 1, 2, 3, 4\)"),
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


def test_different_widths_are_refused() -> None:
    with pytest.raises(MetricError, match="equal width, found 6 and 5 features"):
        evaluate(real=REAL, synth=SYNTH[:, :5], metrics=["fid"])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["fjd"], "Unknown metric 'fjd'. Did you mean 'fid'? The metrics are: fid, kid,"),
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
    assert sorted(metrics.__all__) == metrics.__all__
    assert all(hasattr(metrics, name) for name in metrics.__all__)
    functions: list[Callable[..., object]] = [evaluate, *(metric.compare for metric in METRICS.values())]
    for function in functions:
        kinds = {name: parameter.kind for name, parameter in inspect.signature(function).parameters.items()}
        assert kinds["real"] is kinds["synth"] is inspect.Parameter.KEYWORD_ONLY


def test_neither_torch_nor_prefect_is_imported() -> None:
    code = "import sys, simet_cache.metrics; print(sorted({'torch', 'prefect'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
