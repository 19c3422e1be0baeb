"""Comparisons are computed once, for the same numbers as ever, and looked up afterwards."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simet_cache import comparisons
from simet_cache.comparisons import Comparison, Counts, Rows, compare, counts, known, opened, summarise, summary_recipes
from simet_cache.derived import Derived, kept
from simet_cache.errors import DamagedEntryError, MetricError
from simet_cache.metrics import METRICS, Intervals, Summaries, evaluate, fd_unbiased, fid, neighbours, resolve
from simet_cache.metrics.metric import KeptAs, Noise, Outcome, kept_as, name_on_disk
from simet_cache.metrics.packing import pack
from simet_cache.store import FeatureStore

FAST = {"fid": {}, "kid": {}, "precision": {}, "vendi": {}}
LABELS = np.array(["cat", "dog", "emu"])


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path)


@pytest.fixture
def derived(tmp_path: Path) -> Derived:
    return Derived(tmp_path)


def features(number: int, count: int = 30, width: int = 4, kind: Any = np.float32) -> Any:
    return np.random.default_rng(number).normal(size=(count, width)).astype(kind)


def rows(store: FeatureStore, number: int, count: int = 30, *, labels: bool = False, **options: Any) -> Rows:
    handle = store.put(f"{number:032x}", features(number, count, **options))
    return Rows(f"set {number}", handle, LABELS[np.arange(count) % 3] if labels else None)


def pair(store: FeatureStore, metrics: Any = FAST, *, labels: bool = False, **options: Any) -> Comparison:
    return Comparison(rows(store, 0, labels=labels), rows(store, 1, labels=labels), metrics, **options)


def refuse(*_: Any, **__: Any) -> Any:
    pytest.fail("it is known")


def bits(value: Any) -> Any:
    """A value with its noise, so that equal means equal to the last bit."""
    tree, arrays = pack(value)
    return tree, [(array.dtype, array.shape, array.tobytes()) for array in arrays]


# Values


def test_the_second_time_nothing_is_computed(
    store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pair(store, intervals=Intervals())
    values, failures = compare(derived, asked, device="cpu")
    assert (list(values), failures) == (list(FAST), {})
    for name in ("evaluate_each", "opened"):
        monkeypatch.setattr(comparisons, name, refuse)
    assert compare(derived, asked, device="cpu") == (values, {})
    assert known(Derived(derived.cache_dir), asked) == values
    assert all(value.noise is None for value in known(derived, asked).values())
    for name, value in values.items():
        noise = derived.noise(asked.keys[name])
        assert bits(noise) == bits(value.noise)


def test_it_is_what_evaluate_returns(store: FeatureStore, derived: Derived) -> None:
    asked = pair(store, labels=True, intervals=Intervals(level=0.9, seed=3), per_class=True)
    values, _ = compare(derived, asked, device="cpu")
    plain = evaluate(
        real=features(0),
        synth=features(1),
        metrics=FAST,
        intervals={"level": 0.9, "seed": 3},
        per_class=True,
        real_labels=asked.real.labels,
        synth_labels=asked.synth.labels,
        device="cpu",
    )
    assert [bits(value) for value in values.values()] == [bits(value) for value in plain.values()]
    assert {name: bits(derived.value(key, noise=True)) for name, key in asked.keys.items()} == {
        name: bits(value) for name, value in plain.items()
    }


def test_only_what_is_missing_is_computed_and_the_order_is_that_asked_for(
    store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(derived, pair(store, {"fid": {}}), device="cpu")
    asked, each = [], comparisons.evaluate_each
    monkeypatch.setattr(
        comparisons, "evaluate_each", lambda metrics, **rest: (asked.append(list(metrics)), each(metrics, **rest))[1]
    )
    values, _ = compare(derived, pair(store, {"vendi": {}, "fid": {}, "kid": {}}), device="cpu")
    assert asked == [["vendi", "kid"]]
    assert list(values) == ["vendi", "fid", "kid"]


def test_what_fails_is_told_and_not_kept(
    store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pair(store, {"fid": {}, "inception_score": {"splits": 31}, "kid": {}})
    for _ in range(2):
        values, failures = compare(derived, asked, device="cpu")
        assert list(values) == ["fid", "kid"]
        assert list(failures) == ["inception_score"]
        assert "lower splits" in failures["inception_score"]
    assert list(known(derived, asked)) == ["fid", "kid"]


def test_a_summary_that_cannot_be_made_leaves_the_others(store: FeatureStore, derived: Derived) -> None:
    matrix = features(0)
    matrix[3] = 0  # no direction
    real = Rows("real", store.put("a" * 32, matrix))
    asked = Comparison(real, rows(store, 1), {"cmmd": {}, "fid": {}, "precision": {}})
    values, failures = compare(derived, asked, device="cpu")
    assert (list(values), list(failures)) == (["fid", "precision"], ["cmmd"])
    recipes = summary_recipes(real.features, "real", asked.requests)
    assert [derived.has("summaries", recipe.key) for recipe in recipes.values()] == [False, True, True]


def test_a_set_with_too_few_rows_fails_metric_by_metric(store: FeatureStore, derived: Derived) -> None:
    asked = Comparison(rows(store, 0, 1), rows(store, 1), FAST)
    values, failures = compare(derived, asked, device="cpu")
    assert values == {}
    assert list(failures) == list(FAST)


@pytest.mark.parametrize("lost", ["removed", "flipped"])
def test_a_value_that_is_lost_is_made_again(store: FeatureStore, derived: Derived, lost: str) -> None:
    asked = pair(store)
    values, _ = compare(derived, asked, device="cpu")
    path = derived.path("values", asked.keys["kid"])
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.unlink() if lost == "removed" else path.write_bytes(content)
    assert list(known(derived, asked)) == ["fid", "precision", "vendi"]
    assert compare(derived, asked, device="cpu") == (values, {})
    assert list(known(derived, asked)) == list(FAST)


def test_a_reference_serves_several_comparisons(
    store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = summarise(derived, rows(store, 0), "real", {"fid": {}}, device="cpu")
    sides: list[str] = []
    monkeypatch.setattr(
        comparisons, "opened", lambda one, side, **rest: (sides.append(side), opened(one, side, **rest))[1]
    )
    for number in (1, 2):
        asked = Comparison(rows(store, 0), rows(store, number), FAST)
        values, _ = compare(derived, asked, device="cpu", real=real)
        assert values == evaluate(real=features(0), synth=features(number), metrics=FAST, device="cpu")
    assert sides == ["synth", "synth"]


# Keys


def keys_of(store: FeatureStore, **changes: Any) -> dict[str, str]:
    usual: dict[str, Any] = {
        "real": rows(store, 0, labels=True),
        "synth": rows(store, 1, labels=True),
        "metrics": {"precision": {"k": 3}},
        "intervals": None,
        "per_class": False,
    }
    return dict(Comparison(**{**usual, **changes}).keys)


def test_every_component_changes_the_key(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real, synth = rows(store, 0, labels=True), rows(store, 1, labels=True)
    relabelled = dataclasses.replace(real, labels=real.labels[::-1])  # type: ignore[index]
    numbered = dataclasses.replace(real, labels=np.arange(30))
    as_texts = dataclasses.replace(real, labels=np.arange(30).astype(str))
    others = [
        {},
        {"real": rows(store, 2, labels=True)},
        {"synth": rows(store, 2, labels=True)},
        {"real": synth, "synth": real},
        {"metrics": {"precision": {"k": 4}}},
        {"metrics": {"recall": {"k": 3}}},
        {"intervals": Intervals()},
        {"intervals": Intervals(level=0.9)},
        {"intervals": Intervals(seed=1)},
        {"per_class": True},
        {"per_class": True, "real": relabelled},
        {"per_class": True, "synth": dataclasses.replace(synth, labels=relabelled.labels)},
        {"per_class": True, "real": numbered},
        {"per_class": True, "real": as_texts},
        {"per_class": True, "intervals": Intervals()},
        {"metrics": {"tstr": {}}},
        {"metrics": {"tstr": {}}, "real": relabelled},
        {"metrics": {"tstr": {"seed": 1}}},
    ]
    keys = [key for changes in others for key in keys_of(store, **changes).values()]
    assert len(set(keys)) == len(others)
    monkeypatch.setitem(METRICS, "precision", dataclasses.replace(METRICS["precision"], version=99))
    assert keys_of(store)["precision"] not in keys
    monkeypatch.undo()
    monkeypatch.setattr(comparisons, "VERSION", 99)
    assert keys_of(store)["precision"] not in keys


def test_nothing_else_changes_the_key(store: FeatureStore) -> None:
    plain = keys_of(store)
    renamed = dataclasses.replace(rows(store, 0), name="another name", labels=None)
    assert keys_of(store, real=renamed) == plain
    moved = dataclasses.replace(renamed.features, path="/elsewhere.pkl", key="f" * 32, row_order="loader")
    assert keys_of(store, real=Rows("real", moved)) == plain
    assert keys_of(store, metrics={"precision": {}}) == plain
    assert keys_of(store, metrics={"kid": {}, "precision": None})["precision"] == plain["precision"]
    real = rows(store, 0, labels=True)
    wide = dataclasses.replace(real, labels=real.labels.astype("<U50"))  # type: ignore[union-attr]
    assert keys_of(store, real=wide, per_class=True) == keys_of(store, per_class=True)


def test_features_recomputed_to_the_same_digest_change_nothing(
    store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, _ = compare(derived, pair(store), device="cpu")
    store.remove(f"{0:032x}")
    monkeypatch.setattr(comparisons, "evaluate_each", refuse)
    assert compare(derived, pair(store), device="cpu") == (values, {})


def test_unknown_metrics_are_an_error(store: FeatureStore, derived: Derived) -> None:
    for ask in (lambda one: known(derived, one), lambda one: counts(derived, [one]), lambda one: one.keys):
        with pytest.raises(MetricError, match=r"Unknown metric 'fud'\. Did you mean 'fid'"):
            ask(pair(store, {"fud": {}}))


# A value says the same whatever else was asked for


def test_intervals_do_not_depend_on_the_other_metrics(derived: Derived, store: FeatureStore) -> None:
    """Of a class that tenths of the sets may lack, either."""
    count = 520
    labels = np.where(np.arange(count) < 5, "rare", "usual")
    sets = [dataclasses.replace(rows(store, number, count, width=2), labels=labels) for number in (0, 1)]
    alone = Comparison(*sets, {"precision": {}}, Intervals())
    value = compare(derived, alone, device="cpu")[0]["precision"]
    assert value.interval is not None
    both = evaluate(
        real=Summaries(features(0, count, 2), labels=labels, device="cpu"),
        synth=Summaries(features(1, count, 2), labels=labels, device="cpu"),
        metrics=["precision", "tstr", "coverage"],
        intervals=True,
    )
    assert bits(both["precision"]) == bits(value)
    assert both["coverage"].interval is not None
    assert both["tstr"].interval is not None


# Summaries

PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name, metric in METRICS.items() if metric.summarise),
    ("precision", {"k": 1}),
    ("recall", {"k": 40}),
    ("coverage", {"k": 2}),
    ("clipped_density", {"k": 3}),
    ("authenticity", {"k": 2}),
    ("cmmd", {"sigma": 2, "normalise": False}),
    ("fd_infinity", {"sizes": 4, "seed": 2}),
]


@pytest.mark.parametrize("shape", [(30, 4), (12, 20)])
@pytest.mark.parametrize("asked", PARAMETERS, ids=str)
def test_loaded_summaries_give_the_same_bits(
    store: FeatureStore,
    derived: Derived,
    monkeypatch: pytest.MonkeyPatch,
    asked: Any,
    shape: tuple[int, int],
) -> None:
    (count, width), (name, parameters) = shape, asked
    asked = resolve({name: parameters})
    sets = [rows(store, number, count, width=width) for number in (0, 1)]
    fresh = [Summaries(one.features, device="cpu") for one in sets]
    expected = evaluate(real=fresh[0], synth=fresh[1], metrics=asked, intervals=True)
    sides: Any = ("real", "synth")
    for one, side in zip(sets, sides, strict=True):
        summarise(derived, one, side, asked, device="cpu")
    with_few = METRICS[name].summarise in (fid.summarise, fd_unbiased.summarise) and count <= width
    if not with_few:
        monkeypatch.setattr("simet_cache.metrics.summaries.summaries_of", refuse)
    loaded = [
        summarise(Derived(derived.cache_dir), one, side, asked, device="cpu")
        for one, side in zip(sets, sides, strict=True)
    ]
    found = evaluate(real=loaded[0], synth=loaded[1], metrics=asked, intervals=True)
    assert bits(found[name]) == bits(expected[name])
    assert len(kept(derived.cache_dir)) == len(METRICS[name].sides)


def test_metrics_that_share_a_summary_share_the_file(store: FeatureStore, derived: Derived) -> None:
    one = rows(store, 0)
    summarise(derived, one, "real", {"fid": {}, "density": {}, "coverage": {}}, device="cpu")
    assert len(kept(derived.cache_dir)) == 2
    summarise(derived, one, "real", {"density": {"k": 2}}, device="cpu")
    assert len(kept(derived.cache_dir)) == 3


def summary_keys(store: FeatureStore) -> dict[str, str]:
    recipes = summary_recipes(rows(store, 0).features, "real", resolve(["fid", "density"]))
    return {summary: recipe.key for summary, recipe in recipes.items()}


def test_a_raised_version_of_a_summariser_changes_its_keys_alone(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = summary_keys(store)
    monkeypatch.setattr(neighbours.radii, "kept_as", KeptAs("radii", 99))
    assert [summary for summary, key in summary_keys(store).items() if key != before[summary]] == ["radii(k=5)"]


def test_summaries_are_no_concern_of_the_metrics_that_share_them(
    store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = summary_keys(store)
    summarise(derived, rows(store, 0), "real", {"density": {}}, device="cpu")
    monkeypatch.setitem(METRICS, "authenticity", dataclasses.replace(METRICS["authenticity"], version=99))
    monkeypatch.setitem(METRICS, "another", METRICS["density"])
    assert summary_keys(store) == before
    monkeypatch.setattr("simet_cache.metrics.summaries.summaries_of", refuse)
    summarise(derived, rows(store, 0), "real", {"another": {}}, device="cpu")


def test_names_of_summaries_are_given_for_good(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = {metric.summarise for metric in METRICS.values() if metric.summarise is not None}
    names = [name_on_disk(function) for function in functions]
    assert None not in names
    assert len({kept.name for kept in names if kept}) == len(functions)
    digest = dataclasses.replace(rows(store, 0).features, digest="0" * 32)
    keys = {summary: recipe.key for summary, recipe in summary_recipes(digest, "real", resolve(["density"])).items()}
    monkeypatch.setattr(neighbours.radii, "__module__", "moved.elsewhere")
    moved = summary_recipes(digest, "real", resolve(["density"]))
    assert {summary: recipe.key for summary, recipe in moved.items()} == keys
    assert keys == {"radii(k=5)": "7a1edafe72558aa1929cfccc2b309562"}


# Metrics of other people


@dataclasses.dataclass(frozen=True)
class Unknown:
    """A summary that no file can hold."""

    rows: int


def count_rows(features: Any) -> Unknown:
    return Unknown(len(features))


@kept_as("rows", version=1)
def count_rows_by_name(features: Any) -> Unknown:
    return Unknown(len(features))


def unknown_value(**_: Any) -> Outcome:
    return Outcome(1.0, details={"odd": Unknown(3)})  # type: ignore[dict-item]


@pytest.mark.parametrize("named", [False, True], ids=["without a name", "with a name"])
def test_a_summary_of_an_unknown_kind_costs_nothing_but_its_own_keeping(
    store: FeatureStore,
    derived: Derived,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    named: bool,
) -> None:
    caplog.set_level(logging.INFO)
    function = count_rows_by_name if named else count_rows
    counted = dataclasses.replace(
        METRICS["fid"],
        summarise=function,
        join=None,
        noise=None,
        compare=lambda *, real, synth: Outcome(real.summary.rows / synth.summary.rows),
    )
    asked = pair(store, {"fid": {}, "counted": {}, "density": {}}, intervals=Intervals())
    with monkeypatch.context() as patch:
        patch.setitem(METRICS, "counted", counted)
        for _ in range(2):
            values, failures = compare(Derived(derived.cache_dir), asked, device="cpu")
            assert (list(values), failures, values["counted"].value) == (["fid", "counted", "density"], {}, 1.0)
    alone, _ = compare(Derived(derived.cache_dir), pair(store, {"fid": {}}, intervals=Intervals()), device="cpu")
    assert values["fid"] == alone["fid"]
    assert ("cannot keep" if named else "not kept, because they have no name on the disk") in caplog.text
    recipes = summary_recipes(asked.real.features, "real", resolve({"fid": {}, "density": {}}))
    assert all(derived.has("summaries", recipe.key) for recipe in recipes.values())


def test_a_value_of_an_unknown_kind_costs_nothing_but_its_own_keeping(
    store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    odd = dataclasses.replace(METRICS["vendi"], summarise=None, sides=(), noise=None, compare=unknown_value)
    monkeypatch.setitem(METRICS, "odd", odd)
    asked = pair(store, {"odd": {}, "fid": {}})
    values, failures = compare(derived, asked, device="cpu")
    assert (list(values), failures) == (["odd", "fid"], {})
    assert list(known(derived, asked)) == ["fid"]
    assert "cannot keep" in caplog.text
    assert "MetricValue" in caplog.text


def test_a_gaussian_of_few_rows_is_made_again(store: FeatureStore, derived: Derived) -> None:
    few, several = rows(store, 0, 4), rows(store, 1, 30)
    found = []
    for one in (few, several):
        summarise(derived, one, "real", {"fid": {}}, device="cpu")
        (recipe,) = summary_recipes(one.features, "real", {"fid": {}}).values()
        found.append((derived.has("summaries", recipe.key), derived.summary(recipe.key) is not None))
    assert found == [(True, False), (True, True)]
    asked = Comparison(few, several, {"fid": {}})
    assert compare(derived, asked, device="cpu")[0] == evaluate(
        real=few.features, synth=several.features, metrics=["fid"], device="cpu"
    )


def test_of_several_threads_one_makes_the_summaries(
    store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simet_cache.metrics import summaries

    made, make = [], summaries.summaries_of
    together = threading.Barrier(4)
    monkeypatch.setattr(summaries, "summaries_of", lambda *given, **rest: (made.append(1), make(*given, **rest))[1])
    one, found = rows(store, 0), []

    def work() -> None:
        together.wait()
        found.append(summarise(Derived(derived.cache_dir), one, "real", FAST, device="cpu"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert made == [1]


@pytest.mark.slow
def test_of_several_processes_one_makes_the_summaries(store: FeatureStore, tmp_path: Path, run: Any) -> None:
    rows(store, 0)
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import os, time
from pathlib import Path
from simet_cache.comparisons import Rows, summarise
from simet_cache.derived import Derived
from simet_cache.metrics import summaries
from simet_cache.store import FeatureStore

make = summaries.summaries_of
def noted(*given, **rest):
    Path({str(tmp_path / "made")!r}).open("a").write("x")
    time.sleep(1)
    return make(*given, **rest)
summaries.summaries_of = noted
Path({str(tmp_path)!r}, f"ready-{{os.getpid()}}").touch()
while len(list(Path({str(tmp_path)!r}).glob("ready-*"))) < 2:
    time.sleep(0.01)
one = Rows("one", FeatureStore({str(tmp_path)!r}).find("{0:032x}"))
found = summarise(Derived({str(tmp_path)!r}), one, "real", {{"fid": {{}}, "kid": {{}}}}, device="cpu")
print(sorted(found.memo))
"""
    )
    done: list[Any] = []
    threads = [threading.Thread(target=lambda: done.append(run(script, cwd=tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.returncode for one in done] == [0, 0], done
    assert done[0].stdout == done[1].stdout
    assert (tmp_path / "made").read_text() == "x"


def test_a_set_that_is_both_sides_is_no_deadlock(store: FeatureStore, derived: Derived) -> None:
    one = rows(store, 0)
    values, failures = compare(derived, Comparison(one, one, {"fid": {}}), device="cpu")
    assert (values["fid"].value, failures) == (pytest.approx(0, abs=1e-9), {})


def test_what_stops_a_computation_passes_through(
    store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception):
        pass

    def stop(*_: Any, **__: Any) -> None:
        raise StoppedError

    monkeypatch.setattr("simet_cache.metrics.summaries.summaries_of", stop)
    with pytest.raises(StoppedError):
        compare(derived, pair(store), device="cpu")
    monkeypatch.undo()
    assert list(compare(derived, pair(store), device="cpu")[0]) == list(FAST)


# Features that cannot be used


def test_damaged_features_leave_nothing_behind_that_is_wrong(store: FeatureStore, derived: Derived) -> None:
    """A flipped bit is seen before anything is kept by the digest of the features as they were."""
    asked = pair(store)
    path = Path(asked.synth.features.path)
    status, content = path.stat(), bytearray(path.read_bytes())
    content[70] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DamagedEntryError, match="it was put aside, and the next run extracts it again"):
        compare(derived, asked, device="cpu")
    assert not path.exists()
    assert known(derived, asked) == {}
    again = pair(store)
    assert compare(derived, again, device="cpu")[0] == evaluate(
        real=features(0), synth=features(1), metrics=FAST, device="cpu"
    )


def test_removed_and_replaced_features_are_told(store: FeatureStore, derived: Derived) -> None:
    asked = pair(store)
    store.put(f"{1:032x}", features(5))
    with pytest.raises(DamagedEntryError, match="was replaced during this run, by another one; run again"):
        compare(derived, asked, device="cpu")
    Path(asked.synth.features.path).unlink()
    with pytest.raises(DamagedEntryError, match="was removed during this run"):
        compare(derived, asked, device="cpu")


def test_features_that_could_not_be_stored_are_compared_all_the_same(
    store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("simet_cache.changes.staged", full)
        unsaved = Rows("synth", store.keep("f" * 32, features(1)))
    assert unsaved.features.unsaved is not None
    values, _ = compare(derived, Comparison(rows(store, 0), unsaved, FAST), device="cpu")
    assert known(derived, pair(store)) == values


# Counts


def test_counts(store: FeatureStore, derived: Derived, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Comparison(rows(store, 0), rows(store, number), {"fid": {}, "recall": {}}) for number in (1, 2, 1)]
    assert counts(derived, asked) == Counts(values=4, values_there=0, summaries=5, summaries_there=0)
    summarise(derived, asked[0].real, "real", {"fid": {}}, device="cpu")
    assert counts(derived, asked) == Counts(values=4, values_there=0, summaries=5, summaries_there=1)
    compare(derived, asked[0], device="cpu")
    monkeypatch.setattr("simet_cache.sealed.read_head", refuse)
    assert counts(derived, asked) == Counts(values=4, values_there=2, summaries=3, summaries_there=1)
    assert counts(derived, asked[:1]) == Counts(values=2, values_there=2, summaries=0, summaries_there=0)
    assert counts(derived, []) == Counts(0, 0, 0, 0)


def test_intervals_of_known_values_still_pair(store: FeatureStore, derived: Derived) -> None:
    """What ``difference_of`` needs comes back from the disk."""
    from simet_cache.metrics import difference_of

    asked = [Comparison(rows(store, 0), rows(store, number), {"kid": {}}, Intervals()) for number in (1, 2)]
    fresh = [compare(derived, one, device="cpu")[0]["kid"] for one in asked]
    there = [dataclasses.replace(known(derived, one)["kid"], noise=derived.noise(one.keys["kid"])) for one in asked]
    assert isinstance(there[0].noise, Noise)
    assert difference_of(*there) == difference_of(*fresh)
