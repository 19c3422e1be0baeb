"""Sweeps: the product of lists, in task runs of a sensible size, where nothing is done twice."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import TaskRunSort
from torchvision.models import resnet18

from flows.evaluate import ROOT, main
from flows.session import wait_until_recorded
from simet_cache import FeatureStore
from simet_cache import comparisons as comparing
from simet_cache import extraction as extracting
from simet_cache import plan as planning
from simet_cache.datasets import folder as folders
from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import ImageReadError, StoreError
from simet_cache.key import feature_key
from tests.flows.evaluated import evaluated, results_of, table_of

SCRIPT = ROOT / "flows" / "evaluate.py"
SMALL = {"name": "resnet18", "weights": "random", "image_size": 32, "batch_size": 4}


@pytest.fixture
def sets(tmp_path: Path, images: Callable[..., Path]) -> Callable[[int], dict[str, Any]]:
    """A sweep of so many sets of checkpoints against one reference, as a plain mapping."""

    def make(count: int) -> dict[str, Any]:
        for seed, name in enumerate(["real", *(f"run/checkpoint-{number}000" for number in range(count))]):
            if not (tmp_path / name).exists():
                images(name, seed=seed)
        return {
            "cache_dir": str(tmp_path / "cache" / "features"),
            "output": str(tmp_path / "results"),
            "reference": {"path": str(tmp_path / "real")},
            "datasets": [{"glob": str(tmp_path / "run" / "checkpoint-{step}")}],
            "extractor": SMALL,
            "metrics": ["kid", "precision"],
        }

    return make


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every metric that is computed of a pair."""
    made: list[str] = []
    original = comparing.evaluate_each

    def counted(metrics: Any, **options: Any) -> Any:
        made.extend(metrics)
        return original(metrics, **options)

    monkeypatch.setattr(comparing, "evaluate_each", counted)
    return made


def runs_of(state: Any) -> Iterator[tuple[str, str]]:
    """The names of a flow run's task runs, and the states that they ended in."""
    assert wait_until_recorded(state.state_details.flow_run_id, last="report")
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        for run in client.read_task_runs(flow_run_filter=wanted, sort=TaskRunSort.EXPECTED_START_TIME_ASC, limit=200):
            yield run.name, run.state_name


@pytest.mark.usefixtures("prefect_server")
class TestNothingTwice:
    def test_one_more_dataset_costs_one_extraction_and_one_comparison(
        self, sets: Callable[[int], dict[str, Any]], images_read: list[str], compared: list[str]
    ) -> None:
        before = table_of(evaluated(sets(3)))
        assert (len(images_read), len(compared)) == (48, 6)
        after = table_of(evaluated(sets(4)))
        assert (len(images_read), len(compared)) == (60, 8)
        assert {name.split("/")[0] for name in images_read[48:]} == {"checkpoint-3000"}
        assert [one.plain_values() for one in after.datasets[:3]] == [one.plain_values() for one in before.datasets]
        assert [one.cached for one in after.datasets] == [True, True, True, False]

    def test_one_more_metric_costs_that_metric(
        self, sets: Callable[[int], dict[str, Any]], images_read: list[str], compared: list[str]
    ) -> None:
        config = sets(2)
        evaluated(config)
        compared.clear()
        evaluated({**config, "metrics": ["precision", "recall", "kid"]})
        assert compared == ["recall"] * 2
        assert len(images_read) == 36

    def test_features_that_are_the_same_again_change_nothing_downstream(
        self, sets: Callable[[int], dict[str, Any]], images_read: list[str], compared: list[str]
    ) -> None:
        config = sets(2)
        before = table_of(evaluated(config))
        after = table_of(evaluated({**config, "force_recompute": True}))
        assert (len(images_read), len(compared)) == (72, 4)
        assert [one.plain_values() for one in after.datasets] == [one.plain_values() for one in before.datasets]

    def test_a_second_run_ends_cached_throughout(self, sets: Callable[[int], dict[str, Any]]) -> None:
        config = sets(2)
        evaluated(config)
        states = dict(runs_of(evaluated(config)))
        assert states.pop("report") == "Completed"
        assert set(states.values()) <= {"Cached"}, states

    def test_the_steps_of_checkpoints_are_numbers_and_their_order(
        self, sets: Callable[[int], dict[str, Any]], tmp_path: Path
    ) -> None:
        results = table_of(evaluated(sets(11)))
        assert [one.step for one in results.datasets] == [1000 * number for number in range(11)]
        header, first, *_ = (tmp_path / "results" / "results.csv").read_text().splitlines()
        assert dict(zip(header.split(","), first.split(","), strict=False))["step"] == "0"


@pytest.mark.usefixtures("prefect_server")
class TestProducts:
    def test_every_reference_and_extractor_has_a_table(
        self, sets: Callable[[int], dict[str, Any]], images: Callable[..., Path], images_read: list[str]
    ) -> None:
        config = sets(2)
        images("other", seed=9)
        config["references"] = [config.pop("reference"), {"path": str(Path(config["output"]).parent / "other")}]
        config["extractors"] = [config.pop("extractor"), {**SMALL, "seed": 1}]
        config["exclude"] = [
            {"reference": "other", "extractor": "*random1*"},
            {"reference": "other", "dataset": "checkpoint-0*", "metric": "kid"},
        ]
        config["restraints"] = {"precision": {"lower_bound": 0, "extractors": ["*random0*"]}}
        state = evaluated(config)
        results = results_of(state)
        assert [(t.reference.name, t.extractor, len(t.datasets)) for t in results.tables] == [
            ("real", "resnet18_random0_32px", 2),
            ("other", "resnet18_random0_32px", 2),
            ("real", "resnet18_random1_32px", 2),
        ]
        assert [set(one.values) for one in results.tables[1].datasets] == [{"precision"}, {"precision", "kid"}]
        assert len(results.verdicts) == 4
        assert state.is_completed()
        assert len(images_read) == 12 * (4 + 3)  # the other reference is not opened with the second extractor

    def test_a_dataset_of_many_references_is_extracted_once(
        self, sets: Callable[[int], dict[str, Any]], images_read: list[str]
    ) -> None:
        config = sets(2)
        real = config.pop("reference")
        config["references"] = [{**real, "name": name} for name in ("one", "two")]
        config["datasets"].append({**real, "name": "itself"})
        results = results_of(evaluated(config))
        assert len(images_read) == 36
        assert [t.datasets[-1].values["precision"].value for t in results.tables] == [1.0, 1.0]

    def test_comparisons_share_task_runs_and_runs_stay_few(self, sets: Callable[[int], dict[str, Any]]) -> None:
        config = {**sets(9), "max_in_flight": 1}
        names = Counter(name.split()[0] for name, _ in runs_of(evaluated(config)))
        assert names == {"extract": 10, "summarise": 1, "measure": 3, "report": 1}


@pytest.mark.usefixtures("prefect_server")
class TestShards:
    def test_shards_are_runs_of_their_own_and_leave_the_entry_of_the_whole(
        self, sets: Callable[[int], dict[str, Any]], images_read: list[str], tmp_path: Path
    ) -> None:
        whole = table_of(evaluated(sets(2)))
        config = {**sets(2), "shard_size": 5, "cache_dir": str(tmp_path / "sharded" / "features")}
        images_read.clear()
        state = evaluated(config)
        sharded = table_of(state)
        assert len(images_read) == 36
        runs = dict(runs_of(state))
        for name in ("real", "checkpoint-0000", "checkpoint-1000"):
            assert [runs.get(f"extract {name} [{number}/3]") for number in (1, 2, 3)] == ["Completed"] * 3
            assert runs[f"assemble {name}"] == "Completed"
        assert [one.features.digest for one in sharded.datasets] == [one.features.digest for one in whole.datasets]
        assert [one.plain_values() for one in sharded.datasets] == [one.plain_values() for one in whole.datasets]
        assert len(FeatureStore(config["cache_dir"]).keys()) == 3
        again = evaluated(config)
        assert "assemble real" not in dict(runs_of(again))
        assert all(one.cached for one in table_of(again).datasets)

    def test_shards_may_be_kept(self, sets: Callable[[int], dict[str, Any]]) -> None:
        config = {**sets(1), "shard_size": 4, "keep_shards": True}
        evaluated(config)
        evaluated(config)
        assert len(FeatureStore(config["cache_dir"]).keys()) == 2 * (1 + 3)

    def test_a_shard_that_is_there_is_not_extracted_again(
        self, sets: Callable[[int], dict[str, Any]], images_read: list[str]
    ) -> None:
        config = {**sets(1), "shard_size": 4, "keep_shards": True}
        evaluated(config)
        store = FeatureStore(config["cache_dir"])
        dataset = FolderDataset(config["reference"]["path"])
        store.path(feature_key(dataset, suffix="resnet18_random0_32px", batch_size=4)).unlink()
        images_read.clear()
        state = evaluated({**config, "keep_shards": False})
        assert images_read == []
        runs = dict(runs_of(state))
        assert [runs[f"extract real [{number}/3]"] for number in (1, 2, 3)] == ["Cached"] * 3
        assert runs["assemble real"] == "Completed"

    def test_a_shard_that_is_a_set_of_its_own_too_stays(
        self, sets: Callable[[int], dict[str, Any]], images: Callable[..., Path], images_read: list[str]
    ) -> None:
        big = {"path": str(images("big", 8, seed=5))}
        seed = next(seed for seed in range(1000) if set(random.Random(seed).sample(range(8), 4)) == {0, 1, 2, 3})
        part = {**big, "name": "part", "subset": {"size": 4, "seed": seed}}
        config = {**sets(0), "shard_size": 4, "datasets": [big, part], "metrics": ["kid"]}
        for read in (20, 20):
            whole, half = table_of(evaluated(config)).datasets
            assert len(images_read) == read
            assert whole.measured
            assert half.measured
        assert {whole.features.key, half.features.key} < {*FeatureStore(config["cache_dir"]).keys()}
        assert len(FeatureStore(config["cache_dir"]).keys()) == 3

    def test_a_bad_image_fails_its_dataset_and_keeps_the_other_shards(
        self, sets: Callable[[int], dict[str, Any]], tmp_path: Path, images_read: list[str]
    ) -> None:
        config = {**sets(2), "shard_size": 4}
        bad = tmp_path / "run" / "checkpoint-1000" / "0005.png"
        good = bad.read_bytes()
        os.truncate(bad, 200)  # its header is fine: only reading it shows
        state = evaluated(config)
        first, second = table_of(state).datasets
        assert first.measured
        assert str(bad) in str(second.error)
        bad.write_bytes(good)
        images_read.clear()
        assert evaluated(config).is_completed()
        assert sorted(images_read) == [f"checkpoint-1000/{number:04d}.png" for number in range(4, 8)]

    def test_bad_images_are_left_out_of_shards_as_of_wholes(
        self, sets: Callable[[int], dict[str, Any]], tmp_path: Path
    ) -> None:
        config = {**sets(1), "on_bad_image": "skip"}
        for number in (1, 4, 5, 6, 7):  # one of the first shard, all of the second
            (tmp_path / "run" / "checkpoint-0000" / f"{number:04d}.png").write_bytes(b"no image")
        whole = table_of(evaluated(config)).datasets[0]
        config |= {"shard_size": 4, "cache_dir": str(tmp_path / "sharded" / "features")}
        for _ in range(2):
            sharded = table_of(evaluated(config)).datasets[0]
            assert sharded.features.key == whole.features.key
            assert sharded.features.digest == whole.features.digest
            assert sharded.skipped == whole.skipped
        assert sharded.cached


@pytest.mark.usefixtures("prefect_server")
class TestFailures:
    def test_what_can_pass_is_tried_again_and_a_corrupt_image_is_not(
        self, sets: Callable[[int], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = sets(2)
        os.truncate(tmp_path / "run" / "checkpoint-1000" / "0003.png", 200)  # its header is fine
        tried: Counter[str] = Counter()
        original = folders.read_image

        def flaky(path: str, **options: Any) -> Any:
            name = "/".join(Path(path).parts[-2:])
            tried[name] += 1
            if name == "checkpoint-0000/0002.png" and tried[name] == 1:
                raise ImageReadError(path, "Stale file handle", errno=116)
            return original(path, **options)

        monkeypatch.setattr(folders, "read_image", flaky)
        monkeypatch.setattr("flows.work.exponential_backoff", lambda backoff_factor: lambda retries: [0.0] * retries)
        first, second = table_of(evaluated(config)).datasets
        assert first.measured
        assert tried["checkpoint-0000/0002.png"] == 2
        assert "cannot read image" in str(second.error)
        assert tried["checkpoint-1000/0003.png"] == 1

    def test_all_bad_images_are_listed_before_anything_of_their_set_is_extracted(
        self, sets: Callable[[int], dict[str, Any]], tmp_path: Path, images_read: list[str]
    ) -> None:
        config = {**sets(2), "shard_size": 5}
        for number in range(11):
            (tmp_path / "run" / "checkpoint-1000" / f"{number:04d}.png").write_bytes(b"no image" if number else b"")
        first, second = table_of(evaluated(config)).datasets
        assert first.measured
        assert not any(name.startswith("checkpoint-1000") for name in images_read)
        assert [Path(one["path"]).name for one in second.bad_images] == [f"{n:04d}.png" for n in range(11)]
        assert second.bad_images[0]["reason"] == "the file is empty"
        error = str(second.error)
        assert error.startswith("cannot read images: 11 of 12 are bad: ")
        assert "0009.png: not an image" in error
        assert "0010.png" not in error
        assert "and 1 more" in error
        (table,) = json.loads((tmp_path / "results" / "results.json").read_text())["tables"]
        assert len(table["datasets"][1]["bad_images"]) == 11

    def test_headers_of_cached_sets_are_not_read(
        self, sets: Callable[[int], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checked: list[str] = []
        original = folders.check_header

        def counted(path: str, **options: Any) -> None:
            checked.append(path)
            original(path, **options)

        monkeypatch.setattr(folders, "check_header", counted)
        config = {**sets(1), "extractors": [SMALL, {**SMALL, "seed": 1}]}
        del config["extractor"]
        evaluated(config)
        assert len(checked) == 24  # once for both extractors
        evaluated(config)
        assert len(checked) == 24

    def test_bad_images_whose_features_are_at_the_remote_stop_nothing(
        self, sets: Callable[[int], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = {**sets(1), "remote": f"file://{tmp_path}/remote"}
        assert evaluated(config).is_completed()

        def unknown_here(path: str, **_: Any) -> None:
            raise ImageReadError(path, "not an image that Pillow can decode")

        monkeypatch.setattr(folders, "check_header", unknown_here)  # as where a decoder is missing
        assert evaluated({**config, "cache_dir": str(tmp_path / "elsewhere" / "features")}).is_completed()
        assert evaluated({**sets(1), "cache_dir": str(tmp_path / "nowhere" / "features")}).is_failed()

    def test_a_limit_on_pixels_is_no_part_of_the_features(
        self, sets: Callable[[int], dict[str, Any]], images_read: list[str]
    ) -> None:
        config = sets(1)
        refused = table_of(evaluated({**config, "max_pixels": 1599}))
        assert "40 x 40 pixels are more than the 1,599 of max_pixels" in str(refused.reference.error)
        assert images_read == []
        assert evaluated({**config, "max_pixels": 1600}).is_completed()
        again = table_of(evaluated({**config, "max_pixels": 1599}))
        assert all(one.cached for one in again.datasets)

    @pytest.mark.parametrize(("retries", "failed"), [(1, []), (0, ["checkpoint-1000"])])
    def test_a_comparison_is_tried_again_and_leaves_the_others_of_its_run_alone(
        self,
        sets: Callable[[int], dict[str, Any]],
        monkeypatch: pytest.MonkeyPatch,
        compared: list[str],
        retries: int,
        failed: list[str],
    ) -> None:
        tried: Counter[str] = Counter()
        original = comparing.compare

        def stumbling(derived: Any, comparison: Any, **options: Any) -> Any:
            tried[comparison.synth.name] += 1
            if comparison.synth.name == "checkpoint-1000" and tried["checkpoint-1000"] == 1:
                raise OSError(errno.ESTALE, "Stale file handle")
            return original(derived, comparison, **options)

        monkeypatch.setattr(comparing, "compare", stumbling)
        monkeypatch.setattr("flows.work.exponential_backoff", lambda backoff_factor: lambda retries: [0.0] * retries)
        table = table_of(evaluated({**sets(6), "max_in_flight": 1, "retries": retries}))
        assert [one.name for one in table.datasets if one.error] == failed
        assert [one.name for one in table.datasets if not one.measured] == failed
        assert tried["checkpoint-1000"] == 1 + retries
        assert len(compared) == 2 * (6 - len(failed))  # what was measured before the second try is not measured again

    def test_a_limit_of_prefects_is_taken_by_who_extracts_and_not_by_a_hit(
        self, sets: Callable[[int], dict[str, Any]]
    ) -> None:
        config = {**sets(1), "extraction_limit": "gpus", "retries": 0}
        refused = table_of(evaluated(config))
        assert "gpus" in str(refused.reference.error)
        with get_client(sync_client=True) as client:
            client._client.post("/v2/concurrency_limits/", json={"name": "gpus", "limit": 1})
            assert evaluated(config).is_completed()
            client._client.patch("/v2/concurrency_limits/gpus", json={"limit": 0})
        assert evaluated(config).is_completed()  # a hit never waits

    def test_a_group_of_comparisons_survives_one_that_cannot_be_made(
        self, sets: Callable[[int], dict[str, Any]], tmp_path: Path, images: Callable[..., Path]
    ) -> None:
        config = {**sets(6), "max_in_flight": 1}
        shutil.rmtree(tmp_path / "run" / "checkpoint-2000")
        images("run/checkpoint-2000", 1, seed=3)
        table = table_of(evaluated(config))
        assert [len(one.failures) for one in table.datasets] == [0, 0, 2, 0, 0, 0]
        again = table_of(evaluated(config))
        assert again.datasets[2].failures == table.datasets[2].failures

    def test_labels_are_wanted_of_those_only_that_are_compared_by_them(
        self, sets: Callable[[int], dict[str, Any]], images: Callable[..., Path], tmp_path: Path
    ) -> None:
        for number, name in enumerate(["train", "labelled"]):
            for label in ("cat", "dog"):
                images(f"{name}/{label}", seed=20 + 2 * number + (label == "dog"))
        config = {
            **sets(1),
            "reference": {"path": str(tmp_path / "train"), "classes": True},
            "metrics": ["kid", "tstr"],
            "exclude": [{"dataset": "checkpoint-*", "metric": "tstr"}],
        }
        config["datasets"].append({"path": str(tmp_path / "labelled"), "classes": True})
        plain, labelled = table_of(evaluated(config)).datasets
        assert (plain.error, set(plain.values)) == (None, {"kid"})
        assert (labelled.error, set(labelled.values)) == (None, {"kid", "tstr"})

    def test_values_that_cannot_be_kept_have_intervals_and_no_differences(
        self, sets: Callable[[int], dict[str, Any]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("simet_cache.derived.Derived.keep_value", lambda *_: None)  # as where the disk is full
        table = table_of(evaluated({**sets(2), "intervals": True}))
        for one in table.datasets:
            assert one.measured
            assert one.values["kid"].interval is not None
        for ranking in table.rankings.values():
            assert ranking.differences == {}
            assert ranking.best is None
            assert all("no longer there; run again" in reason for reason in ranking.open.values())
        assert "could not be kept: no other set is compared with it" in caplog.text

    def test_a_link_that_moves_after_the_plan_takes_nobody_with_it(
        self, sets: Callable[[int], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = sets(2)
        first, second = (tmp_path / "run" / f"checkpoint-{number}000" for number in range(2))
        best = tmp_path / "best"
        best.symlink_to(first)
        config["datasets"] = [{"path": str(path)} for path in (best, first, second)]
        original = planning.plan

        def moved(*arguments: Any) -> Any:
            best.unlink()
            best.symlink_to(second)
            return original(*arguments)

        monkeypatch.setattr("flows.extraction.plan", moved)
        found = {one.name: one.features for one in table_of(evaluated(config)).datasets}
        assert found["best"] == found["checkpoint-1000"]
        assert found["checkpoint-0000"].key == feature_key(
            FolderDataset(str(first)), suffix="resnet18_random0_32px", batch_size=4
        )

    def test_a_dataset_that_fails_in_an_unknown_way_fails_alone(
        self, sets: Callable[[int], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = planning.plan

        def broken(one: Any, *arguments: Any) -> Any:
            if one.name == "checkpoint-0000":
                raise ZeroDivisionError("no reason")
            return original(one, *arguments)

        monkeypatch.setattr("flows.extraction.plan", broken)
        first, second = table_of(evaluated(sets(2))).datasets
        assert first.error == "unexpected ZeroDivisionError: no reason"
        assert second.measured

    def test_manifests_that_nobody_can_read_stop_nothing(
        self, sets: Callable[[int], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = sets(1)
        store = FeatureStore(config["cache_dir"])
        store.path("f" * 32).write_bytes(b"of a later version")
        store.path("f" * 32).with_suffix(".json").write_text(json.dumps({"format": 999}))
        assert evaluated(config).is_completed()

        def unreadable(self: FeatureStore, key: str) -> Any:
            raise StoreError("cannot read: Stale file handle")

        monkeypatch.setattr("flows.extraction.FeatureStore.manifest", unreadable)
        (one,) = table_of(evaluated(config)).datasets
        assert one.measured


class TestPlan:
    def test_a_plan_says_what_is_there_and_runs_nothing(
        self, sets: Callable[[int], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sets(3)
        config = tmp_path / "config.yaml"
        config.write_text(
            "reference: {path: real}\ndatasets: [{glob: 'run/checkpoint-{step}'}]\nmetrics: [kid]\n"
            "extractor: {name: resnet18, weights: random, image_size: 32}\n"
        )
        assert main([str(config), "--plan"]) == 0
        said = capsys.readouterr().out
        assert "plan: 4 feature sets: 4 missing" in said
        assert "to extract with resnet18_random0_32px: 48 images" in said
        assert "values: 0 of 3 cached" in said
        assert not (tmp_path / "cache").exists()
        assert not (tmp_path / "results").exists()

    def test_a_plan_fails_where_a_set_cannot_be_used_and_says_which_and_why(
        self, sets: Callable[[int], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "config.yaml"
        config.write_text(json.dumps(sets(3)))
        (tmp_path / "run" / "checkpoint-1000" / "0003.png").write_bytes(b"no image")
        assert main([str(config), "--plan"]) == 1
        said = capsys.readouterr().out
        assert "plan: 4 feature sets: 3 missing, 1 cannot be used" in said
        assert "checkpoint-1000 (resnet18_random0_32px): cannot read image" in said
        assert main([str(config), "--plan", "--set", "on_bad_image=skip"]) == 0
        capsys.readouterr()
        shutil.rmtree(tmp_path / "run" / "checkpoint-1000")
        (tmp_path / "run" / "checkpoint-1000").mkdir()
        assert main([str(config), "--plan"]) == 1
        assert "checkpoint-1000 (resnet18_random0_32px): no image in" in capsys.readouterr().out

    @pytest.mark.usefixtures("prefect_server")
    def test_a_plan_fails_where_stale_features_stop_the_run(
        self, sets: Callable[[int], dict[str, Any]], images: Callable[..., Path], tmp_path: Path
    ) -> None:
        config = tmp_path / "config.yaml"
        config.write_text(json.dumps(sets(1)))
        evaluated(sets(1))
        assert main([str(config), "--plan", "--set", "on_stale=error"]) == 0
        shutil.rmtree(tmp_path / "run" / "checkpoint-0000")
        images("run/checkpoint-0000", seed=77)
        assert main([str(config), "--plan"]) == 0
        assert main([str(config), "--plan", "--set", "on_stale=error"]) == 1

    @pytest.mark.usefixtures("prefect_server")
    def test_what_is_passed_over_is_one_line_and_is_kept(
        self,
        sets: Callable[[int], dict[str, Any]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        config = sets(2)
        (tmp_path / "run" / "checkpoint-last").mkdir()
        (tmp_path / "run" / "checkpoint-1000" / "latents.npy").touch()
        (tmp_path / "real" / ".DS_Store").touch()
        with caplog.at_level(logging.INFO):
            results = results_of(evaluated(config))
        line = (
            f"passed over: beside {tmp_path}/run/checkpoint-{{step}}: checkpoint-last; real: 1 hidden (.DS_Store);"
            " checkpoint-1000: 1 not named like an image (latents.npy)"
        )
        assert caplog.text.count(line) == 1
        assert f"\n{line}; results.json has them by set\n" in capsys.readouterr().out
        assert [len(one.passed_over) for one in results.tables[0].datasets] == [0, 1]
        data = json.loads((tmp_path / "results" / "results.json").read_text())
        (beside,) = data["plan"]["beside_globs"]
        assert beside["paths"] == [f"{tmp_path}/run/checkpoint-last"]

    @pytest.mark.usefixtures("prefect_server")
    def test_a_plan_knows_what_earlier_runs_have_measured(
        self,
        sets: Callable[[int], dict[str, Any]],
        images: Callable[..., Path],
        caplog: pytest.LogCaptureFixture,
        tmp_path: Path,
    ) -> None:
        evaluated(sets(2))
        images("run/checkpoint-9000", 7, seed=9)
        shutil.rmtree(tmp_path / "run" / "checkpoint-1000")
        images("run/checkpoint-1000", seed=77)
        with caplog.at_level(logging.INFO):
            results = results_of(evaluated(sets(2)))
        assert results.plan["feature_sets"] == {"hit": 2, "stale": 1, "miss": 1}
        (cost,) = results.plan["to_extract"]
        assert cost["images"] == 19
        assert cost["bytes"] == 19 * 512 * 4
        assert cost["seconds"] > 0
        assert results.plan["values"] == {"cached": 2, "needed": 6}
        assert "1 stale" in caplog.text
        assert "checkpoint-1000 (resnet18_random0_32px)" in caplog.text


WHO_STORES = """
import os, sys
def heard(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(".pkl"):
        with open(os.environ["WHO_STORES"], "a") as file:
            file.write(f"{os.getpid()}\\n")
sys.addaudithook(heard)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("prefect_dask") is None, reason="prefect-dask is not installed: simet-cache[dask]")
class TestOnDask:
    def test_the_results_are_those_of_threads_to_the_last_bit_and_both_workers_extract(
        self, sets: Callable[[int], dict[str, Any]], run: Callable[..., Any], tmp_path: Path
    ) -> None:
        (tmp_path / "sweep.yaml").write_text(json.dumps({**sets(4), "shard_size": 4, "intervals": True}))
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(WHO_STORES)
        read = {}
        for name, options in (("threads", []), ("dask", ["task_runner={kind: dask, workers: 2}", "keep_shards=true"])):
            overrides = [f"cache_dir={tmp_path / name}", f"output={tmp_path / name}-results", *options]
            who = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'site'}", "WHO_STORES": str(tmp_path / name) + ".pids"}
            done = run(SCRIPT, tmp_path / "sweep.yaml", "--set", *overrides, cwd=tmp_path, **who)
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr
            read[name] = json.loads((tmp_path / f"{name}-results" / "results.json").read_text())
        for one, other in zip(*(found["tables"][0]["datasets"] for found in read.values()), strict=True):
            assert one["features"]["digest"] == other["features"]["digest"]
            assert one["values"] == other["values"]
        assert read["threads"]["tables"][0]["rankings"] == read["dask"]["tables"][0]["rankings"]
        assert len({*(tmp_path / "threads.pids").read_text().split()}) == 1
        assert len({*(tmp_path / "dask.pids").read_text().split()}) >= 2, "one worker has done it all"
        assert len(FeatureStore(tmp_path / "dask").keys()) == 5 * (1 + 3)

    def test_a_scheduler_that_does_not_answer_is_bad_input(
        self, sets: Callable[[int], dict[str, Any]], run: Callable[..., Any], tmp_path: Path
    ) -> None:
        (tmp_path / "sweep.yaml").write_text(json.dumps(sets(1)))
        address = "task_runner={kind: dask, address: 'tcp://127.0.0.1:1'}"
        done = run(SCRIPT, tmp_path / "sweep.yaml", "--set", address, cwd=tmp_path)
        assert done.returncode == 2
        assert "no Dask scheduler answers at tcp://127.0.0.1:1; start one with" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("places", [1, 8])
def test_weights_that_are_overwritten_during_a_run_fail_the_sets_that_come_after(
    sets: Callable[[int], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: int
) -> None:
    """Whether a set was planned once more after that, or had been before. The next run is on the new ones alone."""
    latest, extract, done = tmp_path / "latest.pth", extracting.extract, Counter[str]()

    def train() -> None:
        torch.save(resnet18().state_dict(), latest)

    def extract_while_training(*arguments: Any, **options: Any) -> Any:
        found = extract(*arguments, **options)
        done["sets"] += 1
        if done["sets"] == 2:
            train()
        return found

    train()
    monkeypatch.setattr(extracting, "extract", extract_while_training)
    config = {**sets(2), "extractor": {**SMALL, "weights": str(latest)}, "max_in_flight": places, "metrics": ["kid"]}
    first = results_of(evaluated(config))
    assert not first.passed
    failed = [one for table in first.tables for one in (table.reference, *table.datasets) if one.features is None]
    assert len(failed) == 1
    assert "Run again, and give each checkpoint a file of its own" in (failed[0].error or "")
    assert len(FeatureStore(config["cache_dir"]).keys()) == 2
    again = results_of(evaluated(config))
    assert again.passed
    assert not any(one.cached for table in again.tables for one in (table.reference, *table.datasets))
