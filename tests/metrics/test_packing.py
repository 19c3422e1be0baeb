"""Everything that metrics make survives as JSON and arrays, and nothing else does."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from simet_cache.metrics import METRICS, Copies, Interval, MetricValue, Summaries
from simet_cache.metrics.metric import Noise, key_of
from simet_cache.metrics.packing import KINDS, pack, unpack

FLOATS = st.floats(width=64)
NOISES = st.builds(
    Noise,
    shared=arrays.arrays(np.float64, st.integers(0, 5), elements=FLOATS),
    count=st.integers(0),
    own=FLOATS,
    freedom=FLOATS,
    surplus=FLOATS,
    bias=FLOATS | FLOATS.map(np.float64),
    reference=st.text(),
)
PARAMETERS = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | FLOATS | st.text())


def values(per_class: st.SearchStrategy[Any]) -> st.SearchStrategy[MetricValue]:
    return st.builds(
        MetricValue,
        value=FLOATS | FLOATS.map(np.float64),
        metric=st.sampled_from(list(METRICS)),
        version=st.integers(),
        direction=st.sampled_from(["lower", "higher"]),
        parameters=PARAMETERS,
        n_real=st.integers(),
        n_synth=st.integers(),
        width=st.integers(),
        warnings=st.lists(st.text()).map(tuple),
        details=st.dictionaries(st.text(), FLOATS),
        interval=st.none() | st.builds(Interval, FLOATS, FLOATS, FLOATS, st.text(), FLOATS),
        per_class=per_class,
        noise=st.none() | st.text() | NOISES,
    )


VALUES = values(st.dictionaries(st.text(), values(st.just({})), max_size=2))


def there_and_back(value: Any, **options: Any) -> Any:
    tree, arrays = pack(value)
    written = [np.array(array, order="C") for array in arrays]  # as a file has them
    return unpack(json.loads(json.dumps(tree)), written.__getitem__, **options)


def same(one: Any, other: Any) -> bool:
    """To the last bit, with types and the order of arrays in memory."""
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        order = one.flags.f_contiguous, one.flags.c_contiguous
        return (one.dtype, one.shape, one.tobytes(), *order) == (
            other.dtype,
            other.shape,
            other.tobytes(),
            other.flags.f_contiguous,
            other.flags.c_contiguous,
        )
    return repr(one) == repr(other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


@given(VALUES)
@settings(max_examples=60)
def test_any_value_survives(value: MetricValue) -> None:
    assert same(there_and_back(value), value)


@given(VALUES)
@settings(max_examples=20)
def test_without_its_noise_no_array_is_asked_for(value: MetricValue) -> None:
    def refuse(number: int) -> Any:
        held = arrays[number]
        assert held.ndim == 0, "an array was read"
        return held

    tree, arrays = pack(value)
    found = unpack(tree, refuse, noise=False)
    assert found.noise is None
    assert all(one.noise is None for one in found.per_class.values())


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))])
def test_the_order_of_an_array_in_memory_survives(array: Any) -> None:
    assert same(there_and_back(array), array)
    assert same(there_and_back({"a": (array, [array.T])}), {"a": (array, [array.T])})


def test_every_summary_of_the_table_survives() -> None:
    rows = Summaries(np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32), device="cpu")
    seen = set()
    for metric in METRICS.values():
        if metric.summarise is not None:
            rows.prepare([(metric, metric.parameters)])
            summary = rows.memo[key_of(metric.summarise, metric.parameters)]
            assert same(there_and_back(summary), summary)
            seen.add(type(summary))
    assert seen == set(KINDS.values()) - {MetricValue, Interval, Noise, Copies}, "the table of kinds is exact"


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, np.array(["text"]), np.array([{}], dtype=object), b"bytes", 1j, {"a": {1, 2}}]
)
def test_nothing_else_is_packed(value: Any) -> None:
    with pytest.raises(TypeError, match="expected what metrics are made of"):
        pack(value)


@pytest.mark.parametrize(
    "tree",
    [
        {"kind": "posix.system", "fields": {"command": "true"}},
        {"kind": "interval", "fields": {"low": 1.0}},
        {"kind": "spectrum", "fields": {"values": 1, "__class__": 2}},
        {"kind": "spectrum"},
        {"spectrum": 1},
        {"array": 0, "more": 1},
        {},
    ],
)
def test_no_class_is_made_but_those_of_the_table(tree: Any) -> None:
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        unpack(tree, [np.empty(0)].__getitem__)
