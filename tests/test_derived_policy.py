"""Tasks that derive values and summaries, under a real Prefect engine: Cached only while everything is there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS

from simet_cache import comparisons
from simet_cache.comparisons import Comparison, Rows, compare, summarise, summary_recipes
from simet_cache.derived import Derived, results_folder
from simet_cache.derived_policy import DerivedCachePolicy
from simet_cache.metrics import METRICS, neighbours, resolve
from simet_cache.metrics.metric import KeptAs
from simet_cache.records import private_folder
from simet_cache.store import FeatureStore
from simet_cache.upkeep import verify

pytestmark = pytest.mark.usefixtures("prefect_server")


def rows(store: FeatureStore, number: int, count: int = 30, name: str = "") -> Rows:
    features = np.random.default_rng(number).normal(size=(count, 4)).astype(np.float32)
    return Rows(name or f"set {number}", store.put(f"{number:032x}", features))


def group(store: FeatureStore, metrics: Any = ("fid", "vendi"), names: str = "") -> list[Comparison]:
    asked = {name: {} for name in metrics} if isinstance(metrics, tuple) else metrics
    real = rows(store, 0, name=f"{names}real")
    return [Comparison(real, rows(store, number, name=f"{names}{number}"), asked) for number in (1, 2)]


class Measure:
    """A task as flows have it, which notes what it was run for."""

    def __init__(self, cache_dir: Path) -> None:
        self.ran: list[str] = []

        @task(cache_policy=DerivedCachePolicy(cache_dir), persist_result=True)
        def measure(group: list[Comparison], device: str) -> dict[str, dict[str, str]]:
            failures = {}
            for one in group:
                self.ran.append(one.synth.name)
                failed = compare(Derived(cache_dir), one, device=device)[1]
                if failed:
                    failures[one.synth.name] = failed
            return failures

        self.task = measure

    def __call__(self, group: list[Comparison]) -> Any:
        self.ran.clear()
        return self.task(group, "cpu", return_state=True)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path)


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    return Measure(tmp_path)


def test_completed_then_cached_in_another_flow_run(store: FeatureStore, measure: Measure) -> None:
    asked, seen = group(store), []

    @flow
    def run() -> None:
        states = [future.state for future in [measure.task.submit(asked, "cpu")] if future.wait() is None]
        seen.extend((state.name, state.result()) for state in states)

    run()
    run()
    assert seen == [("Completed", {}), ("Cached", {})]
    assert measure.ran == ["1", "2"]


def test_names_order_and_grouping_do_not_matter(store: FeatureStore, measure: Measure) -> None:
    measure(group(store))
    assert measure(group(store, names="renamed ")[::-1]).name == "Cached"
    assert measure(group(store)[1:]).name == "Cached"
    assert measure(group(store, ("vendi",))).name == "Cached"
    assert measure(group(store, ("vendi", "recall"))).name == "Completed"


@pytest.mark.parametrize("how", ["removed", "cut", "changed"])
def test_one_entry_less_and_it_runs_again(store: FeatureStore, measure: Measure, how: str) -> None:
    asked = group(store)
    measure(asked)
    derived = Derived(store.cache_dir)
    path = derived.path("values", asked[1].keys["fid"])
    good = path.read_bytes()
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(
            good[:-8] if how == "cut" else good.replace(b'\\"metric\\": \\"fid\\"', b'\\"metric\\": \\"kid\\"')
        )
        assert path.read_bytes() != good
    assert measure(asked).name == "Completed"
    assert derived.value(asked[1].keys["fid"]).metric == "fid"
    assert measure(asked).name == "Cached"


def test_a_raised_version_runs_again(store: FeatureStore, measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(group(store))
    monkeypatch.setitem(METRICS, "fid", dataclasses.replace(METRICS["fid"], version=99))
    assert measure(group(store)).name == "Completed"
    assert measure(group(store)).name == "Cached"


def test_what_failed_is_tried_again_and_its_result_is_not_believed_later(
    store: FeatureStore, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = group(store, ("fid", "inception_score"))
    broken = dataclasses.replace(METRICS["inception_score"], minimal_n=1000)
    with monkeypatch.context() as patch:
        patch.setitem(METRICS, "inception_score", broken)
        for _ in range(2):
            state = measure(asked)
            assert state.name == "Completed"
            assert {name: list(failed) for name, failed in state.result().items()} == {
                "1": ["inception_score"],
                "2": ["inception_score"],
            }
    for one in asked:  # somebody else has made them meanwhile
        compare(Derived(store.cache_dir), one, device="cpu")
    state = measure(asked)
    assert (state.name, state.result(), measure.ran) == ("Cached", {}, [])
    assert not (store.cache_dir / "prefect").exists()
    (result,) = private_folder(results_folder(store.cache_dir)).iterdir()
    assert json.loads(result.read_bytes()) == {"value": {}}


def test_an_exception_is_not_cached(store: FeatureStore, measure: Measure) -> None:
    asked = group(store)
    Path(asked[0].real.features.path).unlink()
    assert measure(asked).is_failed()
    rows(store, 0)
    assert measure(asked).name == "Completed"


def test_summaries(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    @task(cache_policy=DerivedCachePolicy(store.cache_dir), persist_result=True)
    def prepare(rows: Rows, side: str, metrics: Any) -> dict[str, str]:
        summarise(Derived(store.cache_dir), rows, side, metrics, device="cpu")  # type: ignore[arg-type]
        return {}

    real, asked = rows(store, 0), {"precision": {}, "vendi": {}, "recall": {"k": 4}, "fid": {}}
    names = [prepare(real, "real", asked, return_state=True).name for _ in range(2)]
    assert names == ["Completed", "Cached"]
    assert prepare(real, "synth", asked, return_state=True).name == "Completed"  # another k, and vendi
    recipes = summary_recipes(real.features, "real", resolve(asked))
    assert list(recipes) == ["radii(k=3)", "gaussian()"]
    Derived(store.cache_dir).path("summaries", next(iter(recipes.values())).key).unlink()
    assert prepare(real, "real", asked, return_state=True).name == "Completed"
    monkeypatch.setitem(METRICS, "coverage", dataclasses.replace(METRICS["coverage"], version=99))
    assert prepare(real, "real", asked, return_state=True).name == "Cached"  # coverage shares the radii
    monkeypatch.setattr(neighbours.radii, "kept_as", KeptAs("radii", 99))
    assert prepare(real, "real", asked, return_state=True).name == "Completed"


def test_summaries_that_are_not_worth_keeping_are_cached_all_the_same(store: FeatureStore) -> None:
    @task(cache_policy=DerivedCachePolicy(store.cache_dir), persist_result=True)
    def prepare(rows: Rows, side: str, metrics: Any) -> dict[str, str]:
        summarise(Derived(store.cache_dir), rows, side, metrics, device="cpu")  # type: ignore[arg-type]
        return {}

    few = rows(store, 5, count=4)
    (recipe,) = summary_recipes(few.features, "real", {"fid": {}}).values()
    assert [prepare(few, "real", {"fid": {}}, return_state=True).name for _ in range(2)] == ["Completed", "Cached"]
    assert Derived(store.cache_dir).summary(recipe.key) is None


def test_refresh_runs_again(store: FeatureStore, measure: Measure) -> None:
    measure(group(store))
    refreshed = measure.task.with_options(refresh_cache=True)
    assert refreshed(group(store), "cpu", return_state=True).name == "Completed"


def test_where_nothing_is_made_or_a_metric_is_unknown_there_is_no_key(
    store: FeatureStore, measure: Measure, caplog: pytest.LogCaptureFixture
) -> None:
    assert measure([]).name == measure([]).name == "Completed"
    assert measure(group(store, {"fud": {}})).is_failed()
    assert "This task has no cache key: Unknown metric 'fud'" in caplog.text


def test_it_does_not_disturb_the_upkeep_of_features(store: FeatureStore, measure: Measure) -> None:
    measure(group(store))
    measure(group(store))
    assert verify(store, full=True).findings == ()
    assert verify(store, repair=True).findings == ()
    assert measure(group(store)).name == "Cached"


def test_a_folder_that_is_only_to_be_read(
    store: FeatureStore, measure: Measure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = group(store)

    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("simet_cache.atomic.Staged", refuse)
        assert [measure(asked).name for _ in range(2)] == ["Completed", "Completed"]
        assert "Read-only file system. It is used all the same" in caplog.text
    measure(asked)
    monkeypatch.setattr("simet_cache.atomic.Staged", refuse)
    monkeypatch.setattr(comparisons, "evaluate_each", lambda *_, **__: pytest.fail("it is known"))
    assert measure(asked).name == "Cached"


def test_workers_in_other_processes_get_the_policy(store: FeatureStore, measure: Measure) -> None:
    import cloudpickle

    asked = group(store)
    measure(asked)
    policy, sent = cloudpickle.loads(cloudpickle.dumps((DerivedCachePolicy(store.cache_dir), asked)))
    key = policy.compute_key(None, {"group": sent}, {})
    assert key == DerivedCachePolicy(store.cache_dir).compute_key(None, {"group": asked}, {})


def test_the_policy_cannot_be_diluted(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="the files alone"):
        DerivedCachePolicy(tmp_path) + INPUTS
