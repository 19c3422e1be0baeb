"""The policy under a real Prefect engine: states, records, refresh, and what is believed when."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.results import ResultStore
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from simet_cache import FeatureCachePolicy, FeatureCacheService, FeatureSet, FeatureStore, feature_key, feature_task
from simet_cache.records import FeatureResultSerializer

pytestmark = pytest.mark.usefixtures("prefect_server")
DATA = TensorDataset(torch.arange(40, dtype=torch.float32).reshape(10, 4))


def loader(batch_size: int = 4, **options: Any) -> DataLoader:
    return DataLoader(DATA, batch_size=batch_size, **options)


class Extractor:
    """Counts how often it is run, and on how many images."""

    def __init__(self, factor: float = 1.0) -> None:
        self.calls = 0
        self.images = 0
        self.factor = factor

    def __call__(self, batches: DataLoader) -> np.ndarray:
        rows = torch.cat([batch[0] for batch in batches]).numpy()
        self.calls += 1
        self.images += len(rows)
        return rows * np.float32(self.factor)


def in_flow(function: Any) -> Any:
    """Run something in a flow run of its own, and return what it returns.

    Most tests call tasks without one: the engine is the same, and each flow run takes a second to end.
    """
    kept = []

    @flow
    def run() -> None:
        kept.append(function())

    run()
    return kept[0]


def make_task(cache_dir: Path, extractor: Extractor, **options: Any) -> Any:
    @feature_task(cache_dir=cache_dir, suffix="pixels", **options)
    def extract(loader: DataLoader) -> np.ndarray:
        return extractor(loader)

    return extract


def context_of(extract: Any) -> Any:
    """As Prefect makes it for a run of a task, before it asks for the key."""
    run = TaskRun.model_construct(name="run")
    return TaskRunContext(
        task=extract, task_run=run, parameters={}, result_store=ResultStore(), client=get_client(sync_client=True)
    )


def test_the_key_is_exactly_the_documented_one() -> None:
    policy = FeatureCachePolicy("unused")
    subset = Subset(DATA, [3, 1])
    by_loader = {"loader": DataLoader(subset, batch_size=4), "suffix": "s", "other": object()}
    by_dataset = {"dataset": subset, "batch_size": 4, "suffix": "s"}
    expected = feature_key(subset, suffix="s", batch_size=4)
    for inputs in (by_loader, by_dataset):
        assert policy.compute_key(None, inputs, {}) == expected
    renamed = FeatureCachePolicy("unused", loader="batches", suffix="cache_key_suffix")
    assert renamed.compute_key(None, {"batches": by_loader["loader"], "cache_key_suffix": "s"}, {}) == expected
    renamed = FeatureCachePolicy("unused", dataset="images", batch_size="size")
    assert renamed.compute_key(None, {"images": subset, "size": 4, "suffix": "s"}, {}) == expected


def test_second_run_is_cached_and_hands_on_the_handle(tmp_path: Path) -> None:
    extractor = Extractor()
    extract = make_task(tmp_path, extractor)
    first = in_flow(lambda: extract(loader(), return_state=True))
    second = in_flow(lambda: extract(loader(), return_state=True))
    assert (first.name, second.name) == ("Completed", "Cached")
    assert extractor.calls == 1
    handle = second.result()
    assert isinstance(handle, FeatureSet)
    assert handle == first.result()
    assert handle.key == feature_key(DATA, suffix="pixels", batch_size=4)
    assert Path(handle.path) == tmp_path / f"{handle.key}.pkl"
    with Path(handle.path).open("rb") as file:
        np.testing.assert_array_equal(pickle.load(file), DATA.tensors[0].numpy())


def test_another_batch_size_is_another_entry(tmp_path: Path) -> None:
    extractor = Extractor()
    extract = make_task(tmp_path, extractor)
    names = [extract(loader(size), return_state=True).name for size in (4, 5, 4)]
    assert names == ["Completed", "Completed", "Cached"]
    assert extractor.calls == 2


def test_removing_the_features_makes_the_task_run_again(tmp_path: Path) -> None:
    extractor = Extractor()
    extract = make_task(tmp_path, extractor)
    handle = extract(loader())
    Path(handle.path).unlink()
    assert (tmp_path / "prefect" / "records" / handle.key).exists()
    assert extract(loader(), return_state=True).name == "Completed"
    assert extractor.calls == 2
    assert extract(loader(), return_state=True).name == "Cached"


def test_damaged_features_are_extracted_again_and_kept_aside(tmp_path: Path) -> None:
    extractor = Extractor()
    extract = make_task(tmp_path, extractor)
    handle = extract(loader())
    Path(handle.path).write_bytes(Path(handle.path).read_bytes()[:100])
    assert extract(loader(), return_state=True).name == "Completed"
    assert extractor.calls == 2
    assert len(list((tmp_path / "quarantine").glob("*.pkl"))) == 1


@pytest.mark.parametrize("lost", ["results", "records"])
def test_a_lost_record_or_result_never_fails_a_task(tmp_path: Path, lost: str) -> None:
    extractor = Extractor()
    extract = make_task(tmp_path, extractor)
    extract(loader())
    shutil.rmtree(tmp_path / "prefect" / lost)
    again = extract(loader(), return_state=True)
    assert again.name == {"results": "Completed", "records": "Cached"}[lost]  # no result: a miss; no record: adopted
    assert extractor.calls == 1  # the features are there either way
    assert extract(loader(), return_state=True).name == "Cached"


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"[]", b'"x"', b'{"expiration": "x"}', b'{"storage_key": "/etc/passwd"}']
)
def test_a_damaged_record_never_fails_a_task(tmp_path: Path, garbage: bytes) -> None:
    extract = make_task(tmp_path, Extractor())
    handle = extract(loader())
    (tmp_path / "prefect" / "records" / handle.key).write_bytes(garbage)
    state = extract(loader(), return_state=True)
    assert state.name == "Cached"
    assert state.result() == handle


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"7", b'{"other": 1}', b'{"feature_set": 3}', b'{"error": "x"}'])
def test_a_damaged_result_never_fails_a_task(tmp_path: Path, garbage: bytes) -> None:
    extract = make_task(tmp_path, Extractor())
    handle = extract(loader())
    (tmp_path / "prefect" / "results" / handle.key).write_bytes(garbage)
    state = extract(loader(), return_state=True)
    assert state.is_completed()
    assert state.result() == handle


def test_a_record_cannot_make_a_hit_run_code(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (canary,)

    import base64

    extract = make_task(tmp_path / "cache", Extractor())
    handle = extract(loader())
    record = tmp_path / "cache" / "prefect" / "records" / handle.key
    result = tmp_path / "cache" / "prefect" / "results" / handle.key
    result.write_bytes(base64.encodebytes(pickle.dumps(Attack())))
    record.write_text(json.dumps({"storage_key": str(result), "serializer": {"type": "pickle"}}))
    state = extract(loader(), return_state=True)
    assert state.is_completed()
    assert not canary.exists()


def test_refresh_really_extracts_again(tmp_path: Path) -> None:
    extractor = Extractor()
    extract = make_task(tmp_path, extractor)
    extract(loader())
    refreshed = extract.with_options(refresh_cache=True)(loader(), return_state=True)
    assert refreshed.name == "Completed"
    assert extractor.images == 20
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        assert extract(loader(), return_state=True).name == "Completed"
        assert extractor.images == 30
        kept = extract.with_options(refresh_cache=False)
        assert kept(loader(), return_state=True).name == "Cached"
    assert extractor.images == 30


def test_entries_of_the_reference_end_in_cached(tmp_path: Path) -> None:
    key = feature_key(DATA, suffix="pixels", batch_size=4)
    features = np.ones((10, 3), dtype=np.float32)
    with (tmp_path / f"{key}.pkl").open("wb") as file:
        pickle.dump(features, file)  # as simet does
    extractor = Extractor()
    state = make_task(tmp_path, extractor)(loader(), return_state=True)
    assert state.name == "Cached"
    assert extractor.calls == 0
    np.testing.assert_array_equal(state.result().load(), features)


def test_an_entry_replaced_behind_prefects_back_is_handed_on_as_it_is(tmp_path: Path) -> None:
    extract = make_task(tmp_path, Extractor())
    handle = extract(loader())
    FeatureCacheService(tmp_path).get_or_compute(loader(), Extractor(2.0), "pixels", force_recompute=True)
    state = extract(loader(), return_state=True)
    assert state.name == "Cached"
    assert state.result().digest != handle.digest
    np.testing.assert_array_equal(state.result().load(), DATA.tensors[0].numpy() * 2)


def test_a_moved_cache_folder_keeps_its_hits(tmp_path: Path) -> None:
    extractor = Extractor()
    make_task(tmp_path / "old", extractor)(loader())
    (tmp_path / "old").rename(tmp_path / "new")
    state = make_task(tmp_path / "new", extractor)(loader(), return_state=True)
    assert state.name == "Cached"
    assert state.result().path.startswith(str(tmp_path / "new"))
    assert extractor.calls == 1


def test_an_entry_with_other_rows_is_no_hit(tmp_path: Path) -> None:
    extractor = Extractor()
    extract = make_task(tmp_path, extractor)
    extract(loader(drop_last=True))
    state = extract(loader(), return_state=True)  # the same key, but ten rows and not eight
    assert state.name == "Completed"
    assert state.result().shape == (10, 4)
    assert extractor.calls == 2


def test_a_bad_result_caches_nothing_and_leaves_the_older_entry(tmp_path: Path) -> None:
    extract = make_task(tmp_path, Extractor())
    handle = extract(loader())
    bad = make_task(tmp_path, Extractor(float("nan")), refresh_cache=True)
    state = bad(loader(), return_state=True)
    assert state.is_failed()
    assert "finite" in state.message
    assert FeatureStore(tmp_path).find(handle.key) == handle


OWN_CALLS: list[int] = []  # a list that the task itself has caught would be part of what it is


def test_a_users_own_task_with_the_policy_alone(tmp_path: Path) -> None:
    OWN_CALLS.clear()

    @task(cache_policy=FeatureCachePolicy(tmp_path, loader="batches", suffix="cache_key_suffix"))
    def own(batches: DataLoader, cache_key_suffix: str) -> int:
        OWN_CALLS.append(1)
        return len(FeatureCacheService(tmp_path).get_or_compute(batches, Extractor(), cache_key_suffix))

    states = [own(loader(), "mine", return_state=True) for _ in range(2)]
    assert [state.name for state in states] == ["Completed", "Cached"]
    assert [state.result() for state in states] == [10, 10]
    key = feature_key(DATA, suffix="mine", batch_size=4)
    kept = {file.suffix for file in (tmp_path / "prefect" / "values" / key).iterdir()}
    assert kept == {".record", ".result"}  # with no result_storage asked for
    (tmp_path / f"{key}.pkl").unlink()
    assert own(loader(), "mine", return_state=True).name == "Completed"
    assert len(OWN_CALLS) == 2


def test_a_users_own_task_that_stores_nothing_is_never_cached(tmp_path: Path) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def own(loader: DataLoader, suffix: str) -> int:
        return 1

    names = [own(loader(), "s", return_state=True).name for _ in range(2)]
    assert names == ["Completed", "Completed"]


def test_async_tasks(tmp_path: Path) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path))
    async def own(loader: DataLoader, suffix: str) -> FeatureSet:
        key = feature_key(loader.dataset, suffix=suffix, batch_size=loader.batch_size)
        return FeatureStore(tmp_path).put(key, Extractor()(loader))

    @flow
    async def run() -> list[str]:
        return [(await own(loader(), "s", return_state=True)).name for _ in range(2)]

    assert asyncio.run(run()) == ["Completed", "Cached"]


def test_submitted_tasks_extract_once(tmp_path: Path) -> None:
    extractor = Extractor()
    extract = make_task(tmp_path, extractor)

    def submit() -> list[FeatureSet]:
        return [future.result() for future in [extract.submit(loader()) for _ in range(4)]]

    handles = in_flow(submit)
    assert len(set(handles)) == 1
    assert extractor.calls == 1


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"suffix": "s"}, "no parameter 'loader'"),
        ({"loader": None, "suffix": "s"}, "expected a torch DataLoader, found NoneType"),
        ({"dataset": DATA, "suffix": "s"}, "no parameter 'batch_size'"),
        ({"loader": DataLoader(DATA)}, "no parameter 'suffix'"),
        ({"loader": DataLoader(DATA), "suffix": 3}, "suffix must be a string"),
        ({"loader": DataLoader(Endless()), "suffix": "s"}, "has no length"),
        ({"dataset": object(), "batch_size": 4, "suffix": "s"}, "object has no length"),
    ],
)
def test_where_there_is_no_key_the_user_sees_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, inputs: dict[str, Any], why: str
) -> None:
    names = ", ".join(inputs)
    scope: dict[str, Any] = {}
    exec(f"def own({names}):\n    return 1", scope)  # a task with exactly these parameters
    own = task(scope["own"], cache_policy=FeatureCachePolicy(tmp_path))
    with caplog.at_level(logging.WARNING):
        state = own(**inputs, return_state=True)
    assert state.name == "Completed"
    warnings = [record.getMessage() for record in caplog.records if "no cache key" in record.getMessage()]
    assert len(warnings) == 1
    assert why in warnings[0]
    assert "Traceback" not in caplog.text


def test_a_matrix_as_result_is_refused_with_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def own(loader: DataLoader, suffix: str) -> np.ndarray:
        return Extractor()(loader)

    assert own(loader(), "s").shape == (10, 4)  # the run itself goes on
    with pytest.raises(TypeError, match="use feature_task"):
        FeatureResultSerializer().dumps(np.zeros((2, 2)))
    with pytest.raises(TypeError, match="JSON value"):
        FeatureResultSerializer().dumps((1, 2))  # would come back as a list


def test_the_policy_cannot_be_diluted() -> None:
    with pytest.raises(TypeError, match="documented md5"):
        FeatureCachePolicy("unused") + INPUTS


def test_feature_task_names_its_entries_after_the_function_or_its_suffix(tmp_path: Path) -> None:
    @feature_task(cache_dir=tmp_path)
    def plain(batches: DataLoader) -> np.ndarray:
        return Extractor()(batches)

    @feature_task(cache_dir=tmp_path, name="named")
    def own_suffix(loader: DataLoader, suffix: str = "chosen") -> np.ndarray:
        return Extractor()(loader)

    keys = [plain(loader()).key, own_suffix(loader()).key, own_suffix(loader(), "other").key]
    assert keys == [feature_key(DATA, suffix=suffix, batch_size=4) for suffix in ("plain", "chosen", "other")]
    assert own_suffix.name == "named"


def test_feature_task_refuses_what_it_decides_itself(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="persist_result"):
        feature_task(cache_dir=tmp_path, persist_result=False)
    with pytest.raises(TypeError, match="no parameter"):
        feature_task(cache_dir=tmp_path)(lambda: np.zeros((1, 1), dtype=np.float32))


def test_the_second_run_in_a_new_process_is_cached(tmp_path: Path, run: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import numpy as np, torch
from pathlib import Path
from prefect import flow
from torch.utils.data import DataLoader, TensorDataset
from simet_cache import feature_task

@feature_task(cache_dir={str(tmp_path / "cache")!r})
def extract(loader):
    Path({str(tmp_path)!r}, "extracted").open("a").write("x")
    return np.concatenate([batch[0].numpy() for batch in loader])

@flow
def main():
    return extract(DataLoader(TensorDataset(torch.ones(10, 4)), batch_size=4), return_state=True).name

if __name__ == "__main__":
    print("state:", main())
"""
    )
    names = [run(script, cwd=tmp_path).stdout.split("state: ")[1].strip() for _ in range(2)]
    assert names == ["Completed", "Cached"]
    assert (tmp_path / "extracted").read_text() == "x"


def test_the_small_result_of_replaced_features_is_no_hit(tmp_path: Path) -> None:
    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def mean(loader: DataLoader, suffix: str) -> float:
        return float(FeatureCacheService(tmp_path).get_or_compute(loader, Extractor(), suffix).mean())

    assert mean(loader(), "s") == 19.5
    FeatureCacheService(tmp_path).get_or_compute(loader(), Extractor(2.0), "s", force_recompute=True)
    state = mean(loader(), "s", return_state=True)
    assert (state.name, state.result()) == ("Completed", 39.0)


def test_a_relative_cache_folder_is_meant_where_the_task_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    extract = make_task(Path("cache"), Extractor())
    monkeypatch.chdir(tmp_path / "b")
    assert [extract(loader(), return_state=True).name for _ in range(2)] == ["Completed", "Cached"]
    assert not list((tmp_path / "b").iterdir())


def test_hits_in_a_folder_that_is_only_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    extractor = Extractor()
    extract = make_task(tmp_path, extractor)
    handle = extract(loader())
    shutil.rmtree(tmp_path / "prefect")

    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("simet_cache.atomic.Staged", refuse)
    state = extract(loader(), return_state=True)
    assert (state.name, state.result()) == ("Cached", handle)
    assert "Traceback" not in caplog.text
    assert extractor.calls == 1


def test_what_was_found_to_exist_can_be_read(tmp_path: Path) -> None:
    """Between Prefect's two questions another process may remove the entry."""
    extract = make_task(tmp_path, Extractor())
    handle = extract(loader())
    run = context_of(extract)
    extract.cache_policy.compute_key(run, {"loader": loader()}, {})
    records, results = run.result_store.metadata_storage, run.result_store.result_storage
    record = records.read_path(handle.key)
    Path(handle.path).unlink()
    shutil.rmtree(tmp_path / "prefect")
    assert records.read_path(handle.key) == record
    assert FeatureResultSerializer().loads(results.read_path(json.loads(record)["storage_key"])) == handle


def test_rows_are_expected_by_each_run_for_itself(tmp_path: Path) -> None:
    extract = make_task(tmp_path, Extractor())
    extract(loader())
    contexts = [context_of(extract) for _ in range(2)]
    for context, one in zip(contexts, (loader(drop_last=True), loader()), strict=True):
        extract.cache_policy.compute_key(context, {"loader": one}, {})
    key = feature_key(DATA, suffix="pixels", batch_size=4)
    with pytest.raises(FileNotFoundError):
        contexts[0].result_store.metadata_storage.read_path(key)
    assert contexts[1].result_store.metadata_storage.read_path(key)


def test_the_place_of_the_records_cannot_be_moved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="key_storage"):
        FeatureCachePolicy(tmp_path).configure(key_storage=tmp_path)


def test_loaders_with_workers_work_in_a_flow(tmp_path: Path, run: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import torch
from prefect import flow
from torch.utils.data import DataLoader, TensorDataset
from simet_cache import feature_task

@feature_task(cache_dir={str(tmp_path / "cache")!r})
def extract(loader):
    return torch.cat([batch[0] for batch in loader]).numpy()

@flow
def main():
    for size in range(1, 6):
        loader = DataLoader(TensorDataset(torch.rand(10, 4)), batch_size=size, num_workers=2)
        print("state:", extract(loader, return_state=True).name)

if __name__ == "__main__":
    main()
"""
    )
    done = run(script, cwd=tmp_path)
    assert done.stdout.count("state: Completed") == 5, done.stderr


def test_feature_task_wants_to_know_every_parameter_that_matters(tmp_path: Path) -> None:
    def clip(loader: DataLoader, model: str, scale: float = 1.0) -> np.ndarray:
        return Extractor(scale)(loader)

    with pytest.raises(TypeError, match="model, scale"):
        feature_task(cache_dir=tmp_path)(clip)
    extract = feature_task(cache_dir=tmp_path, suffix="clip_{model}_{scale}")(clip)
    keys = [extract(loader(), "a").key, extract(loader(), "b").key, extract(loader(), "a", scale=2.0).key]
    suffixes = ["clip_a_1.0", "clip_b_1.0", "clip_a_2.0"]
    assert keys == [feature_key(DATA, suffix=suffix, batch_size=4) for suffix in suffixes]
    assert extract(loader(), "a", return_state=True).name == "Cached"


def test_feature_task_takes_no_async_function(tmp_path: Path) -> None:
    async def extract(loader: DataLoader) -> np.ndarray:
        return np.zeros((1, 1), dtype=np.float32)

    with pytest.raises(TypeError, match="async"):
        feature_task(cache_dir=tmp_path)(extract)
