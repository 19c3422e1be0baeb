"""What a task has returned is handed on to that task alone, under its own key, and read in one way only."""

from __future__ import annotations

import base64
import json
import logging
import math
import pickle
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prefect import flow, task
from prefect.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
    CachePolicy,
    CompoundCachePolicy,
)
from prefect.client.schemas.objects import State, StateType
from torch.utils.data import DataLoader, TensorDataset

from simet_cache import FeatureCachePolicy, FeatureCacheService, FeatureSet, FeatureStore, feature_key, feature_task
from simet_cache.derived_policy import DerivedCachePolicy
from simet_cache.records import FeatureResultSerializer, Records
from simet_cache.upkeep import verify

pytestmark = pytest.mark.usefixtures("prefect_server")
DATA = TensorDataset(torch.arange(40, dtype=torch.float32).reshape(10, 4))
KEY = feature_key(DATA, suffix="s", batch_size=4)
OTHERS = [INPUTS, TASK_SOURCE, RUN_ID, FLOW_PARAMETERS, DEFAULT, INPUTS + TASK_SOURCE, INPUTS - "loader"]


def loader() -> DataLoader:
    return DataLoader(DATA, batch_size=4)


def pixels(batches: DataLoader) -> np.ndarray:
    return torch.cat([batch[0] for batch in batches]).numpy()


def features(cache_dir: Path, batches: DataLoader, suffix: str) -> np.ndarray:
    return FeatureCacheService(cache_dir).get_or_compute(batches, pixels, suffix)


def valued(cache_dir: Path, function: Callable[[np.ndarray], Any], **options: Any) -> Any:
    """A task that returns a value of the features; made by a factory, as users make many."""

    @task(cache_policy=FeatureCachePolicy(cache_dir), **options)
    def value(loader: DataLoader, suffix: str) -> Any:
        return function(features(cache_dir, loader, suffix))

    return value


def size_along(axis: int) -> Callable[[np.ndarray], int]:
    return lambda array: array.shape[axis]


def seen(*states: Any) -> list[tuple[str, Any]]:
    return [(state.name, state.result()) for state in states]


def ran(own: Any, *arguments: Any) -> tuple[str, Any]:
    return seen(own(loader(), *(arguments or ("s",)), return_state=True))[0]


# No compound policies


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: type(other).__name__)
@pytest.mark.parametrize("make", [FeatureCachePolicy, DerivedCachePolicy])
def test_no_policy_takes_another_beside_it(tmp_path: Path, make: Any, other: CachePolicy) -> None:
    with pytest.raises(TypeError, match=f"{make.__name__} cannot be combined with another policy"):
        other + make(tmp_path)
    with pytest.raises(TypeError, match=f"{make.__name__} cannot be combined with another policy"):
        make(tmp_path) + other
    with pytest.raises(TypeError, match="nor leave out inputs"):
        make(tmp_path) - "loader"
    policy = make(tmp_path)
    assert NO_CACHE + policy is policy


def test_a_compound_that_was_made_by_hand_caches_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    @task(cache_policy=CompoundCachePolicy(policies=[TASK_SOURCE, FeatureCachePolicy(tmp_path)]), persist_result=True)
    def own(loader: DataLoader, suffix: str) -> FeatureSet:
        return FeatureStore(tmp_path).put(KEY, pixels(loader))

    first = own(loader(), "s", return_state=True)
    Path(first.result().path).unlink()
    assert own(loader(), "s", return_state=True).name == "Completed"
    assert own(loader(), "another suffix", return_state=True).name == "Completed"
    assert "FeatureCachePolicy cannot be combined with another policy" in caplog.text


def test_no_record_is_believed_under_another_key(tmp_path: Path) -> None:
    class Salted(FeatureCachePolicy):
        def compute_key(self, *arguments: Any, **options: Any) -> str | None:
            key = super().compute_key(*arguments, **options)
            return key and key[::-1]

    @task(cache_policy=Salted(tmp_path))
    def own(loader: DataLoader, suffix: str) -> int:
        return len(features(tmp_path, loader, suffix))

    assert [ran(own) for _ in range(2)] == [("Completed", 10), ("Completed", 10)]


# Which task returned it


def test_two_tasks_under_one_key_keep_their_own_values(tmp_path: Path) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def rows(loader: DataLoader, suffix: str) -> int:
        return features(tmp_path, loader, suffix).shape[0]

    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def dims(loader: DataLoader, suffix: str) -> int:
        return features(tmp_path, loader, suffix).shape[1]

    assert [ran(own) for own in (rows, dims)] == [("Completed", 10), ("Completed", 4)]
    assert [ran(own) for own in (rows, dims)] == [("Cached", 10), ("Cached", 4)]


@pytest.mark.parametrize(
    "functions",
    [
        (len, np.ndim),
        (partial(np.size, axis=0), partial(np.size, axis=1)),
        (lambda array: array.shape[0], lambda array: array.shape[1]),
        tuple(lambda array, axis=axis: array.shape[axis] for axis in (0, 1)),
        (size_along(0), size_along(1)),
    ],
    ids=["functions", "partials", "lambdas", "defaults", "closures"],
)
def test_tasks_of_one_factory_keep_their_own_values(tmp_path: Path, functions: Any) -> None:
    tasks = [valued(tmp_path, function) for function in functions]
    expected = [function(np.zeros((10, 4))) for function in functions]
    for name in ("Completed", "Cached"):
        assert [ran(own) for own in tasks] == [(name, value) for value in expected]


def test_other_parameters_are_other_values(tmp_path: Path) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def quantile(loader: DataLoader, suffix: str, at: float = 0.0) -> float:
        return float(np.quantile(features(tmp_path, loader, suffix), at))

    for name in ("Completed", "Cached"):
        assert [ran(quantile, "s", at) for at in (0.0, 1.0)] == [(name, 0.0), (name, 39.0)]


def test_where_parameters_cannot_be_told_apart_no_value_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def applied(loader: DataLoader, suffix: str, head: torch.nn.Module) -> float:
        return float(head(torch.from_numpy(features(tmp_path, loader, suffix))).sum().detach())

    heads = [torch.nn.Linear(4, 1) for _ in range(2)]
    found = [ran(applied, "s", head) for head in (heads[0], heads[1], heads[0])]
    assert [name for name, _ in found] == ["Completed"] * 3
    assert found[0][1] == found[2][1] != found[1][1]
    assert "cannot be told apart from run to run (head)" in caplog.text


def dotted(weights: Any) -> Callable[[np.ndarray], float]:
    return lambda array: float(sum(array[0] * np.asarray(weights)))


def weighted(array: np.ndarray, weights: Any) -> float:
    return float(sum(array[0] * np.asarray(weights)))


class Weights:
    def __init__(self, *weights: float) -> None:
        self.weights = weights

    def __call__(self, array: np.ndarray) -> float:
        return weighted(array, self.weights)


@pytest.mark.parametrize(
    "functions",
    [
        (dotted(np.array([0, 1, 0, 0])), dotted(np.array([0, 0, 1, 0]))),
        (partial(weighted, weights=np.array([0, 1, 0, 0])), partial(weighted, weights=np.array([0, 0, 1, 0]))),
        (Weights(0, 1, 0, 0), Weights(0, 0, 1, 0)),
        (Weights(0, 1, 0, 0).__call__, Weights(0, 0, 1, 0).__call__),
    ],
    ids=["arrays", "partials", "objects", "methods"],
)
def test_where_what_was_caught_cannot_be_told_apart_no_value_is_kept(
    tmp_path: Path, functions: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [valued(tmp_path, function) for function in functions]
    assert [ran(own) for own in (*tasks, *tasks)] == [("Completed", 1.0), ("Completed", 2.0)] * 2
    assert "cannot be told apart from run to run" in caplog.text


def test_lists_that_were_caught_tell_tasks_apart(tmp_path: Path) -> None:
    tasks = [valued(tmp_path, dotted(weights)) for weights in ([0, 1, 0, 0], [0, 0, 1, 0])]
    for name in ("Completed", "Cached"):
        assert [ran(own) for own in tasks] == [(name, 1.0), (name, 2.0)]


def test_mappings_that_were_caught_tell_tasks_apart(tmp_path: Path) -> None:
    def at(options: dict[str, int]) -> Callable[[np.ndarray], float]:
        return lambda array: float(array[0, options["column"]])

    tasks = [valued(tmp_path, at({"column": column})) for column in (1, 2)]
    for name in ("Completed", "Cached"):
        assert [ran(own) for own in tasks] == [(name, 1.0), (name, 2.0)]


def test_tasks_that_were_caught_tell_tasks_apart(tmp_path: Path) -> None:
    @task
    def rows(array: np.ndarray) -> int:
        return array.shape[0]

    @task
    def dims(array: np.ndarray) -> int:
        return array.shape[1]

    tasks = [valued(tmp_path, own) for own in (rows, dims)]
    assert [ran(own)[1] for own in (*tasks, *tasks)] == [10, 4, 10, 4]


def test_a_task_that_returns_its_feature_set_is_cached_whatever_its_parameters(tmp_path: Path) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def annotated(loader: DataLoader, suffix: str, model: object) -> FeatureSet:
        return FeatureStore(tmp_path).get_or_compute(KEY, lambda: pixels(loader))

    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def silent(loader, suffix, model):  # type: ignore[no-untyped-def]
        return FeatureStore(tmp_path).get_or_compute(KEY, lambda: pixels(loader))

    handle = annotated(loader(), "s", object())
    assert ran(annotated, "s", object()) == ("Cached", handle)
    assert ran(silent, "s", "a") == ("Completed", handle)
    assert ran(silent, "s", "a") == ("Cached", handle)


def test_a_feature_task_takes_nothing_but_a_feature_set(tmp_path: Path) -> None:
    rows = valued(tmp_path, len)
    assert [ran(rows) for _ in range(2)] == [("Completed", 10), ("Cached", 10)]
    extract = feature_task(cache_dir=tmp_path, suffix="s")(pixels)
    state = extract(loader(), return_state=True)
    assert (state.name, type(state.result())) == ("Cached", FeatureSet)
    assert ran(rows) == ("Cached", 10)


@pytest.mark.parametrize("value", [(1, 2), math.nan, Path("a"), {1: 2}, [1, (2, 3)], {"a": {3}}], ids=repr)
def test_what_json_does_not_keep_is_a_miss(tmp_path: Path, value: Any) -> None:
    own = valued(tmp_path, lambda _: value)
    for _ in range(2):
        name, found = ran(own)
        assert name == "Completed"
        assert type(found) is type(value)
        assert repr(found) == repr(value)


def test_the_feature_set_of_another_key_is_not_replaced_by_that_of_the_tasks_own(tmp_path: Path) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def own(loader: DataLoader, suffix: str) -> FeatureSet:
        features(tmp_path, loader, suffix)
        return FeatureStore(tmp_path).put("0" * 32, np.ones((3, 2), np.float32))

    for _ in range(2):
        name, handle = ran(own)
        assert (name, handle.key) == ("Completed", "0" * 32)


def test_an_identity_is_the_same_in_every_process(tmp_path: Path, run: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
from enum import Enum
from simet_cache.task_identity import TaskIdentity

class Colour(Enum):
    RED = 1

def make(names):
    def own(x):
        return x in {"a", "b", "c", "d"} and x not in names
    return own

print(TaskIdentity.of(make(("e", "f")), {"colour": Colour.RED, "names": ["a", 1, None], "deep": {"b": (2.5, True)}}))
""")
    first, second = (run(script, cwd=tmp_path, PYTHONHASHSEED=seed).stdout for seed in "12")
    assert "unknown=()" in first
    assert first == second


def test_an_expiration_is_that_of_its_own_task(tmp_path: Path) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path), cache_expiration=timedelta(seconds=-1))
    def short(loader: DataLoader, suffix: str) -> FeatureSet:
        return FeatureStore(tmp_path).get_or_compute(KEY, lambda: pixels(loader))

    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def long(loader: DataLoader, suffix: str) -> FeatureSet:
        return FeatureStore(tmp_path).get_or_compute(KEY, lambda: pixels(loader))

    assert [ran(own)[0] for own in (short, long, short, long)] == ["Completed", "Cached", "Completed", "Cached"]


def of_earlier_versions(cache_dir: Path, value: Any) -> FeatureSet:
    """Features, with a record and a result as they were before records knew their tasks."""
    handle = FeatureStore(cache_dir).put(KEY, DATA.tensors[0].numpy())
    value = handle if value is FeatureSet else value
    for name in ("records", "results"):
        (cache_dir / "prefect" / name).mkdir(parents=True, exist_ok=True)
    (cache_dir / "prefect" / "results" / KEY).write_bytes(FeatureResultSerializer().dumps(value))
    record = {"storage_key": str(cache_dir / "prefect" / "results" / KEY), "expiration": None, "digest": handle.digest}
    (cache_dir / "prefect" / "records" / KEY).write_text(
        json.dumps({**record, "serializer": {"type": "simet-cache"}, "prefect_version": "3.8.8"})
    )
    return handle


def test_feature_sets_of_earlier_versions_are_hits(tmp_path: Path) -> None:
    handle = of_earlier_versions(tmp_path, FeatureSet)

    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def own(loader: DataLoader, suffix: str) -> FeatureSet:
        pytest.fail("it is there")

    assert ran(own) == ("Cached", handle)
    extract = feature_task(cache_dir=tmp_path, suffix="s")(pixels)
    assert seen(extract(loader(), return_state=True)) == [("Cached", handle)]


def test_values_of_earlier_versions_are_found_out_once_more(tmp_path: Path) -> None:
    of_earlier_versions(tmp_path, 4)
    rows = valued(tmp_path, len)
    assert [ran(rows) for _ in range(2)] == [("Completed", 10), ("Cached", 10)]
    extract = feature_task(cache_dir=tmp_path, suffix="s")(pixels)
    assert isinstance(extract(loader()), FeatureSet)


@pytest.mark.parametrize("part", ["record", "result"])
@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"[]", b"7", b'{"value": 11}', b'{"error": "x"}', b'{"feature_set": 3}']
)
def test_a_damaged_value_is_a_miss(tmp_path: Path, part: str, garbage: bytes) -> None:
    rows = valued(tmp_path, len)
    ran(rows)
    (path,) = (tmp_path / "prefect" / "values" / KEY).glob(f"*.{part}")
    path.write_bytes(garbage)
    assert [ran(rows) for _ in range(2)] == [("Completed", 10), ("Cached", 10)]


def test_values_go_with_their_features(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    rows = valued(tmp_path, len)
    ran(rows)
    assert verify(store, full=True).findings == ()
    (tmp_path / f"{KEY}.pkl").unlink()
    assert KEY in {finding.key for finding in verify(store, repair=True).findings}
    assert not (tmp_path / "prefect" / "values" / KEY).exists()


def test_no_file_behind_a_link_goes_with_them(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    for name in ("chapter.tex", "0123456789abcdef.record"):
        (thesis / name).write_text("years")
    store = FeatureStore(tmp_path / "cache")
    values = store.cache_dir / "prefect" / "values"
    values.mkdir(parents=True)
    (values / KEY).symlink_to(thesis)
    verify(store, repair=True)
    store.put(KEY, np.ones((2, 2), np.float32))
    store.remove(KEY)
    store.forget_notes(KEY)
    assert len(list(thesis.iterdir())) == 2


# What is called inside of a task


class Attack:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def plant(cache_dir: Path, key: str, canary: Path) -> None:
    """A record and a result that would run code, wherever a task may look for them."""
    blob = base64.encodebytes(pickle.dumps(Attack(canary)))
    for folder in ("results", "records", "derived", "values"):
        (cache_dir / "prefect" / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("results", "derived"):
        (cache_dir / "prefect" / folder / key).write_bytes(blob)
    record = {"storage_key": str(cache_dir / "prefect" / "results" / key), "serializer": {"type": "pickle"}}
    (cache_dir / "prefect" / "records" / key).write_text(json.dumps(record))


@pytest.mark.parametrize("options", [{}, {"result_serializer": "pickle"}], ids=["plain", "pickle"])
def test_a_task_inside_of_a_task_reads_nothing_of_ours(tmp_path: Path, options: dict[str, Any]) -> None:
    cache_dir, canary, calls = tmp_path / "cache", tmp_path / "canary", []

    @task(cache_policy=INPUTS, persist_result=True, **options)
    def inner(word: str) -> tuple[str, int]:
        calls.append(word)
        return word, 1

    @task(cache_policy=FeatureCachePolicy(cache_dir), refresh_cache=True)
    def outer(loader: DataLoader, suffix: str) -> int:
        features(cache_dir, loader, suffix)
        assert inner(str(tmp_path)) == (str(tmp_path), 1)  # no JSON value: its serializer is its own
        return 10

    plant(cache_dir, INPUTS.compute_key(None, {"word": str(tmp_path)}, {}), canary)  # type: ignore[arg-type]
    for _ in range(2):
        assert outer(loader(), "s") == 10
    assert not canary.exists()
    assert calls == [str(tmp_path)]  # it is cached where it would be anywhere else


def test_a_flow_inside_of_a_task_keeps_its_results_elsewhere(tmp_path: Path) -> None:
    @flow(persist_result=True)
    def inner() -> tuple[int, int]:
        return 1, 2

    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def outer(loader: DataLoader, suffix: str) -> int:
        features(tmp_path, loader, suffix)
        return sum(inner())

    assert [ran(outer) for _ in range(2)] == [("Completed", 3), ("Cached", 3)]
    assert not (tmp_path / "prefect" / "results").exists()


@pytest.mark.parametrize("again", [False, True], ids=["computed", "cached"])
def test_a_state_that_is_read_back_from_the_server_runs_nothing(tmp_path: Path, again: bool) -> None:
    """Prefect itself reads the file that such a state names, in whatever way the file says."""
    canary = tmp_path / "canary"
    extract = feature_task(cache_dir=tmp_path / "cache", suffix="s")(pixels)
    rows = valued(tmp_path / "cache", len)
    for own, arguments in ((extract, ()), (rows, ("s",))):
        state = own(loader(), *arguments, return_state=True)
        state = own(loader(), *arguments, return_state=True) if again else state
        assert state.name == ("Cached" if again else "Completed")
        for file in (tmp_path / "cache" / "prefect").rglob("*"):
            if file.is_file():
                blob = base64.encodebytes(pickle.dumps(Attack(canary))).decode()
                file.write_text(json.dumps({"metadata": {"serializer": {"type": "pickle"}}, "result": blob}))
        read_back: State[Any] = State(type=StateType.COMPLETED, data=state.data.metadata)
        assert read_back.result() == state.result()
    assert not canary.exists()


def test_records_hand_out_nothing_of_other_keys(tmp_path: Path) -> None:
    plant(tmp_path, "0" * 32, tmp_path / "canary")
    policy = FeatureCachePolicy(tmp_path)
    for records in (Records(cache_dir=str(tmp_path)), Records.of(policy.request({"loader": loader(), "suffix": "s"}))):
        with pytest.raises(FileNotFoundError):
            records.read_path("0" * 32)
        with pytest.raises(FileNotFoundError):
            records.result(str(tmp_path / "prefect" / "results" / ("0" * 32)))
    assert not (tmp_path / "canary").exists()


def test_an_annotation_that_is_wrong_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def own(loader: DataLoader, suffix: str) -> FeatureSet:
        return len(features(tmp_path, loader, suffix))  # type: ignore[return-value]

    with caplog.at_level(logging.WARNING):
        assert own(loader(), "s") == 10
    assert "expected a FeatureSet from this task, as it is annotated, found int" in caplog.text
