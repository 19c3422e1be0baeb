"""The main job end to end: in this process against a test server, and as the command that the README shows."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal

from flows.evaluate import EXAMPLE, ROOT, evaluate, main
from simet_cache import FeatureSet, load_config
from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import StoreError
from simet_cache.key import feature_key
from tests.flows.evaluated import evaluated, results_of, table_of

SCRIPT = ROOT / "flows" / "evaluate.py"
SMALL = {"name": "resnet18", "weights": "random", "image_size": 32}


@pytest.fixture
def config(tmp_path: Path, images: Callable[..., Path]) -> dict[str, Any]:
    """Two small datasets against a reference, as a plain mapping."""
    for number, name in enumerate(["real", "a", "b"]):
        images(name, seed=number)
    return {
        "cache_dir": str(tmp_path / "cache" / "features"),
        "reference": {"path": str(tmp_path / "real")},
        "datasets": [{"path": str(tmp_path / "a")}, {"path": str(tmp_path / "b")}],
        "extractor": SMALL,
        "output": str(tmp_path / "results"),
    }


@pytest.mark.usefixtures("prefect_server")
class TestFlow:
    def test_a_second_run_reads_no_image_and_says_the_same(
        self, config: dict[str, Any], images_read: list[str]
    ) -> None:
        first = table_of(evaluated(config))
        assert len(images_read) == 36
        assert [one.cached for one in first.datasets] == [False, False]
        second = table_of(evaluated(config))
        assert len(images_read) == 36
        assert second.reference.cached
        assert [one.cached for one in second.datasets] == [True, True]
        assert [one.plain_values() for one in first.datasets] == [one.plain_values() for one in second.datasets]

    def test_images_that_changed_are_extracted_again(
        self, config: dict[str, Any], tmp_path: Path, images: Callable[..., Path], images_read: list[str]
    ) -> None:
        before = table_of(evaluated(config))
        images("other", seed=9)
        for name in ("0003.png", "0007.png"):
            shutil.copy(tmp_path / "other" / name, tmp_path / "a" / name)
        refused = table_of(evaluated({**config, "on_stale": "error"}))
        assert "are stale: the images have changed since (0003.png" in str(refused.datasets[0].error)
        assert refused.datasets[1].error is None
        reused = table_of(evaluated({**config, "on_stale": "reuse"}))
        assert reused.datasets[0].cached
        assert len(images_read) == 36
        after = table_of(evaluated(config))
        assert len(images_read) == 48
        assert [one.cached for one in after.datasets] == [False, True]
        assert after.datasets[0].plain_values() != before.datasets[0].plain_values()
        assert table_of(evaluated(config)).datasets[0].cached

    def test_a_full_disk_costs_the_cache_and_not_the_results(
        self, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, images_read: list[str], tmp_path: Path
    ) -> None:
        expected = [
            one.plain_values() for one in table_of(evaluated({**config, "cache_dir": str(tmp_path / "x")})).datasets
        ]
        real = tempfile.mkstemp

        def full(*arguments: Any, **options: Any) -> Any:
            if "cache" in str(options.get("dir")):
                raise OSError(28, "No space left on device")
            return real(*arguments, **options)

        monkeypatch.setattr(tempfile, "mkstemp", full)
        state = evaluated(config)
        results = table_of(state)
        assert results_of(state).passed
        assert [one.extraction_seconds for one in results.datasets] == [None, None]
        assert [one.plain_values() for one in results.datasets] == expected
        assert not any(one.cached for one in results.datasets)
        monkeypatch.undo()
        assert not any(one.cached for one in table_of(evaluated(config)).datasets)

    def test_flipped_bits_are_found_by_a_full_check(self, config: dict[str, Any], images_read: list[str]) -> None:
        first = table_of(evaluated(config)).datasets[0].features
        assert first is not None
        path = Path(first.path)
        status, content = path.stat(), bytearray(path.read_bytes())
        content[200] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        again = table_of(evaluated({**config, "verify": "full"}))
        assert [one.cached for one in again.datasets] == [False, True]
        assert again.datasets[0].features == first

    def test_features_travel_through_a_remote(
        self, config: dict[str, Any], tmp_path: Path, images_read: list[str]
    ) -> None:
        remote = f"file://{tmp_path}/remote"
        evaluated({**config, "remote": remote})
        elsewhere = table_of(evaluated({**config, "remote": remote, "cache_dir": str(tmp_path / "elsewhere" / "x")}))
        assert len(images_read) == 36
        assert elsewhere.reference.cached
        assert [one.cached for one in elsewhere.datasets] == [True, True]

    def test_force_recompute_reads_every_image_again(self, config: dict[str, Any], images_read: list[str]) -> None:
        evaluated(config)
        state = evaluated({**config, "force_recompute": True})
        assert state.is_completed()
        assert len(images_read) == 72
        assert not any(one.cached for one in table_of(state).datasets)

    def test_removed_features_alone_are_extracted_again(self, config: dict[str, Any], images_read: list[str]) -> None:
        gone = table_of(evaluated(config)).datasets[1].features
        assert gone is not None
        Path(gone.path).unlink()
        again = table_of(evaluated(config))
        assert len(images_read) == 48
        assert [one.cached for one in again.datasets] == [True, False]

    def test_equal_feature_sets_are_extracted_once(self, config: dict[str, Any], images_read: list[str]) -> None:
        config["datasets"] = [{"name": name, "path": config["datasets"][0]["path"]} for name in ("x", "y", "z")]
        results = table_of(evaluated({**config, "force_recompute": True}))
        assert len(images_read) == 24
        assert len({json.dumps(one.plain_values()) for one in results.datasets}) == 1

    def test_keys_are_the_documented_ones(self, config: dict[str, Any]) -> None:
        results = table_of(evaluated(config))
        folder = FolderDataset(config["datasets"][0]["path"])
        assert results.datasets[0].suffix == "resnet18_random0_32px"
        assert results.datasets[0].features is not None
        assert results.datasets[0].features.key == feature_key(folder, suffix="resnet18_random0_32px", batch_size=128)

    def test_a_dataset_that_fails_fails_alone(self, config: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "a" / "0005.png").write_bytes(b"no image")
        (tmp_path / "empty").mkdir()
        config["datasets"].append({"path": str(tmp_path / "empty")})
        state = evaluated(config)
        assert state.is_failed()
        assert "1 of 3 datasets measured" in state.message
        a, b, empty = table_of(state).datasets
        assert a.error is not None
        assert str(tmp_path / "a" / "0005.png") in a.error
        assert b.error is None
        assert set(b.values) == {"fid", "kid", "precision", "recall"}
        assert empty.error is not None
        assert "no image in" in empty.error

    def test_bad_images_are_skipped_when_told_and_remembered(
        self, config: dict[str, Any], tmp_path: Path, images_read: list[str]
    ) -> None:
        (tmp_path / "a" / "0005.png").write_bytes(b"no image")
        config["on_bad_image"] = "skip"
        first = table_of(evaluated(config)).datasets[0]
        read = len(images_read)
        second = table_of(evaluated(config)).datasets[0]
        assert set(images_read[read:]) == {"a/0005.png"}  # still bad, as the plan and the task find
        assert (first.cached, second.cached) == (False, True)
        for one in (first, second):
            assert one.features is not None
            assert one.features.shape[0] == 11
            assert [Path(image["path"]).name for image in one.skipped] == ["0005.png"]

    def test_without_a_reference_nothing_is_measured_and_the_reason_is_given(
        self, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "real" / "0000.png").write_bytes(b"no image")
        state = evaluated(config)
        assert state.is_failed()
        assert str(tmp_path / "real" / "0000.png") in capsys.readouterr().out
        assert all(one.error == "the reference has no features" for one in table_of(state).datasets)

    def test_every_restraint_is_judged_and_the_files_are_written_before_the_verdict(
        self, config: dict[str, Any], tmp_path: Path
    ) -> None:
        config["restraints"] = {
            "fid": {"upper_bound": 0.0},
            "recall": {"lower_bound": 0.0, "upper_bound": 1.0},
            "precision": {"lower_bound": 2.0, "datasets": ["b*"]},
        }
        state = evaluated(config)
        assert state.is_failed()
        assert "2 of 2 datasets measured; 2 of 5 restraints hold" in state.message
        written = json.loads((tmp_path / "results" / "results.json").read_text())
        assert written["passed"] is False
        assert [(v["dataset"], v["metric"], v["passed"]) for v in written["restraints"]] == [
            ("a", "fid", False),
            ("a", "recall", True),
            ("b", "fid", False),
            ("b", "recall", True),
            ("b", "precision", False),
        ]

    def test_a_copy_of_a_real_image_breaks_what_is_said_of_copies(
        self, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(tmp_path / "real" / "0003.png", tmp_path / "a" / "0005.png")
        config |= {"metrics": ["precision"], "restraints": {"max_copies": 0}}
        state = evaluated(config)
        assert state.is_failed()
        assert "2 of 2 datasets measured; 1 of 2 restraints hold" in state.message
        printed = capsys.readouterr().out
        assert "FAIL max_copies" in printed
        assert "restraint broken: a: copies of real rows are 1 (max_copies 0)" in printed
        assert "possible leakage: copies of real rows, so that no ranking has these sets: a (1 of 12 rows)" in printed
        assert evaluated({**config, "restraints": {"max_copies": {"upper_bound": 1}}}).is_completed()

    def test_a_run_that_measured_nothing_leaves_the_good_results_alone(
        self, config: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        evaluated(config)
        good = {path.name: path.read_bytes() for path in (tmp_path / "results").glob("results.*")}
        assert len(good) == 2
        (tmp_path / "real" / "0000.png").write_bytes(b"no image")
        caplog.clear()
        state = evaluated(config)
        assert state.is_failed()
        assert {path.name: path.read_bytes() for path in (tmp_path / "results").glob("results.*")} == good
        runs = sorted((tmp_path / "results" / "runs").glob("*/results.json"))
        assert [json.loads(one.read_bytes())["passed"] for one in runs] == [True, False]
        assert runs[1].parent.name.endswith(f"-{str(state.state_details.flow_run_id)[:8]}")
        said = [line for line in caplog.messages if "results of this run are in" in line]
        assert [str(runs[1].parent) in line for line in said] == [True]

    def test_the_runs_that_are_kept_are_bounded(self, config: dict[str, Any], tmp_path: Path) -> None:
        for _ in range(3):
            evaluated({**config, "keep_runs": 2})
        assert len(list((tmp_path / "results" / "runs").glob("*/results.json"))) == 2

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (ZeroDivisionError("by chance"), "unexpected ZeroDivisionError: by chance"),
            (StoreError("a disk that is gone"), "a disk that is gone"),
            (KeyboardInterrupt(), "stopped by Ctrl-C"),
            (TerminationSignal(signal.SIGTERM), "stopped by SIGTERM"),
        ],
    )
    def test_whatever_ends_a_run_is_written_down(
        self,
        config: dict[str, Any],
        tmp_path: Path,
        error: BaseException,
        said: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        evaluated(config)
        good = (tmp_path / "results" / "results.json").read_bytes()

        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr("flows.evaluate.compare_all", fail)
        assert not evaluated(config).is_completed()
        assert (tmp_path / "results" / "results.json").read_bytes() == good
        _, last = sorted((tmp_path / "results" / "runs").glob("*/results.json"))
        found = json.loads(last.read_bytes())
        assert (found["passed"], found["error"], found["tables"]) == (False, said, [])
        assert (last.parent / "results.csv").exists()

    @pytest.mark.parametrize(("device_locks", "files"), [(None, []), ("all", ["cpu.lock", "cpu.next"]), ("none", [])])
    def test_the_cpu_is_locked_where_the_configuration_asks_for_that(
        self,
        config: dict[str, Any],
        tmp_path: Path,
        device_locks: str | None,
        files: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "tmp").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
        asked = {} if device_locks is None else {"device_locks": device_locks}
        assert evaluated({**config, **asked}).is_completed()
        assert sorted(path.name for path in (tmp_path / "tmp").glob("simet-cache-*/*")) == files

    def test_a_run_does_not_wait_for_another_one_on_the_cpu(
        self, config: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The other one extracts for as long as this one runs."""
        script = (
            "import sys; from simet_cache.devices import taken\n"
            "with taken(['cpu']):\n print('taken', flush=True); sys.stdin.read()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        give_up = threading.Timer(120, other.kill)
        give_up.start()
        with other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"taken\n"
            assert evaluated(config).is_completed()
            assert other.poll() is None, "it was waited for"
            give_up.cancel()
            other.kill()
        assert not [line for line in caplog.messages if "Waiting" in line]

    def test_results_hold_what_it_takes_to_trust_them(self, config: dict[str, Any], tmp_path: Path) -> None:
        evaluated({**config, "metrics": ["fid", {"precision": {"k": 5}}]})
        written = json.loads((tmp_path / "results" / "results.json").read_text())
        value = written["tables"][0]["datasets"][0]["values"]["precision"]
        assert (value["version"], value["parameters"], value["n_real"], value["n_synth"]) == (1, {"k": 5}, 12, 12)
        assert value["width"] == 512
        assert written["tables"][0]["labels"]["fid"] == "FD (resnet18_random0_32px)"
        assert written["config"]["extractor"]["seed"] == 0
        assert {"torch", "torchvision", "numpy", "prefect", "python", "simet-cache"} <= written["versions"].keys()
        assert written["platform"]
        assert written["tables"][0]["datasets"][0]["device"] == "cpu"
        assert written["tables"][0]["datasets"][0]["extraction_seconds"] > 0
        with (tmp_path / "results" / "results.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(row["dataset"], row["metric"]) for row in rows] == [
            ("a", "fid"),
            ("a", "precision"),
            ("b", "fid"),
            ("b", "precision"),
        ]

    def test_labels_intervals_and_classes(self, config: dict[str, Any], tmp_path: Path) -> None:
        for name in ("real", "a", "b"):
            for number in range(12):
                folder = tmp_path / name / ("cat", "dog")[number % 2]
                folder.mkdir(exist_ok=True)
                (tmp_path / name / f"{number:04d}.png").rename(folder / f"{number:04d}.png")
        (tmp_path / "a" / "dog" / "0005.png").write_bytes(b"no image")
        for one in (config["reference"], *config["datasets"]):
            one["classes"] = True
        config |= {"metrics": ["kid", "tstr"], "per_class": True, "intervals": True, "on_bad_image": "skip"}
        for _ in range(2):  # extracted, and cached
            results = table_of(evaluated(config))
            written = json.loads((tmp_path / "results" / "results.json").read_text())
            a = results.datasets[0]
            assert a.error is None
            values = written["tables"][0]["datasets"][0]["values"]
            assert {label: value["n_synth"] for label, value in values["kid"]["per_class"].items()} == {
                "cat": 6,
                "dog": 5,
            }
            assert 0 <= values["tstr"]["value"] <= 1
            assert values["kid"]["interval"]["low"] < values["kid"]["value"] < values["kid"]["interval"]["high"]
            ranking = written["tables"][0]["rankings"]["kid"]
            first, other = ranking["order"]
            assert {first, other} == {"a", "b"}
            assert ranking["first"] == [first]
            assert set(ranking["differences"]) == {*ranking["separated"], *ranking["open"]} == {other}
            assert ranking["best"] == (first if ranking["separated"] else None)

    def test_cached_features_are_measured_where_there_is_no_device_like_theirs(self, config: dict[str, Any]) -> None:
        config["metrics"] = ["fid", "precision"]
        before = table_of(evaluated(config)).datasets
        shutil.rmtree(Path(config["cache_dir"]) / "values")
        elsewhere = table_of(evaluated({**config, "extractor": {**SMALL, "device": "cuda:99"}})).datasets
        assert [one.cached for one in elsewhere] == [True, True]
        assert [one.plain_values() for one in elsewhere] == [one.plain_values() for one in before]

    def test_a_metric_that_cannot_be_had_fails_alone(self, config: dict[str, Any], images: Callable[..., Path]) -> None:
        config["datasets"] = [{"path": str(images("few", 3, seed=5))}, config["datasets"][0]]
        state = evaluated({**config, "metrics": ["fid", "roc_auc"]})
        assert state.is_failed()
        few, a = table_of(state).datasets
        assert set(few.values) == {"fid"}
        assert "expected at least" in few.failures["roc_auc"]
        assert set(a.values) == {"fid", "roc_auc"}

    def test_the_table_is_published_as_an_artifact(self, config: dict[str, Any]) -> None:
        evaluated(config)
        with get_client(sync_client=True) as client:
            artifacts = client._client.post("/artifacts/latest/filter", json={}).json()
        markdown = next(one["data"] for one in artifacts if one["key"] == "evaluation")
        assert "| dataset | images |" in markdown
        assert "PASS" in markdown

    def test_workers_decode_images(self, config: dict[str, Any]) -> None:
        plain = table_of(evaluated(config)).datasets[0]
        config["extractor"] = {**config["extractor"], "workers": 2}
        again = table_of(evaluated({**config, "force_recompute": True})).datasets[0]
        assert again.error is None
        assert plain.features is not None
        assert again.features is not None
        assert plain.features.digest == again.features.digest

    def test_features_that_are_damaged_after_they_were_found_are_extracted_by_the_next_run(
        self, config: dict[str, Any], images_read: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        damaged = table_of(evaluated(config)).datasets[0].features
        assert damaged is not None
        load = FeatureSet.load

        def truncated(self: FeatureSet, **options: Any) -> Any:
            if self.key == damaged.key:
                monkeypatch.undo()
                os.truncate(self.path, 100)
            return load(self, **options)

        monkeypatch.setattr(FeatureSet, "load", truncated)
        a, b = table_of(evaluated({**config, "metrics": ["vendi"]})).datasets
        assert "the next run extracts it again" in str(a.error)
        assert b.error is None
        again = table_of(evaluated(config)).datasets[0]
        assert again.features == damaged

    def test_parameters_may_come_as_plain_values_from_a_deployment(self, config: dict[str, Any]) -> None:
        assert evaluate(config, return_state=True).is_completed()

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_example_tells_the_story_that_the_metrics_promise(self, tmp_path: Path, seed: int) -> None:
        overrides = [f"cache_dir={tmp_path / 'features'}", f"output={tmp_path / 'results'}"]
        places = ["extractor", "reference", *(f"datasets.{number}" for number in range(4))]
        overrides += [f"{place}.seed={seed}" for place in places]
        state = evaluate(load_config(EXAMPLE, overrides), return_state=True)
        results = table_of(state)
        value = {one.name: one.plain_values() for one in results.datasets}
        for metric in ("fid", "kid", "recall"):
            assert results.rankings[metric].first == {"held-out"}
        assert abs(value["three-classes"]["precision"] - value["held-out"]["precision"]) < 0.1
        assert value["three-classes"]["recall"] < value["held-out"]["recall"] / 2
        for spoiled in ("noise", "blur"):
            assert value[spoiled]["precision"] < value["held-out"]["precision"] / 2
        assert results_of(state).passed
        assert sorted(path.name for path in (tmp_path / "datasets" / "digits" / f"seed-{seed}").iterdir()) == [
            "blur",
            "held-out",
            "noise",
            "reference",
            "three-classes",
        ]


def write_config(folder: Path, *, bound: float = 1e9) -> Path:
    """As a person would write it: paths relative to the file."""
    file = folder / "config.yaml"
    file.write_text(
        f"""
reference: {{name: real, path: real}}
datasets:
  - {{path: a}}
  - {{glob: sets/*, subset: {{size: 10, seed: 0}}}}
extractor: {{name: resnet18, weights: random, image_size: 32}}
restraints: {{fid: {{upper_bound: {bound}}}}}
"""
    )
    return file


@pytest.fixture
def project(tmp_path: Path, images: Callable[..., Path]) -> Path:
    """A user's folder with images and a configuration."""
    for number, name in enumerate(["project/real", "project/a", "project/sets/one", "project/sets/two words"]):
        images(name, seed=number)
    write_config(tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.slow
class TestCommand:
    def test_two_runs_from_another_directory(
        self, project: Path, run: Callable[..., Any], tmp_path: Path, task_states: Callable[[], dict[str, list[str]]]
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        runs = [run(SCRIPT, project / "config.yaml", cwd=elsewhere, PYTHONPATH="") for _ in range(2)]
        for done in runs:
            assert done.returncode == 0, done.stderr
            for word in ("ERROR", "Traceback", "WARNING"):
                assert word not in done.stdout + done.stderr
            assert "PASS 3 of 3 datasets measured" in done.stdout
            assert "two words" in done.stdout
        assert runs[0].stderr.count("Cached") == 0
        extractions = [line for line in runs[1].stderr.splitlines() if "Task run 'extract" in line]
        assert len(extractions) == 4
        assert all("Cached" in line for line in extractions)
        assert not list(elsewhere.iterdir())  # the cache and the results are where the configuration is
        assert (project / "cache" / "features").is_dir()
        assert (project / "results" / "results.json").exists()
        recorded = task_states()
        for name in ("real", "a", "one", "two words"):
            assert recorded[f"extract {name}"][-2:] == ["Completed", "Cached"]
        assert recorded["measure two words"][-2:] == ["Completed", "Cached"]
        assert recorded["report"][-2:] == ["Completed", "Completed"]

    def test_folders_without_a_configuration(self, project: Path, run: Callable[..., Any]) -> None:
        arguments = ["--real", "real", "--synth", "a", "sets/one", "--set", "extractor.name=resnet18"]
        arguments += ["extractor.weights=random", "extractor.image_size=32", "metrics=[fid]"]
        done = run(SCRIPT, *arguments, cwd=project)
        assert done.returncode == 0, done.stderr
        assert "PASS 2 of 2 datasets measured" in done.stdout
        assert (project / "results" / "results.csv").exists()
        (own,) = (project / "results" / "runs").glob("*-*")
        assert f"results are in {project / 'results'}, and also in {own}" in done.stderr

    def test_a_broken_restraint_is_exit_code_1(self, project: Path, run: Callable[..., Any]) -> None:
        done = run(SCRIPT, "config.yaml", "--set", "restraints.fid.upper_bound=0.001", cwd=project)
        assert done.returncode == 1
        assert "restraint broken: a: FD (resnet18_random0_32px) is" in done.stdout
        assert "FAIL 3 of 3 datasets measured; 0 of 3 restraints hold" in done.stdout
        assert "Traceback" not in done.stderr

    def test_a_corrupt_image_is_one_sentence_and_exit_code_1(self, project: Path, run: Callable[..., Any]) -> None:
        (project / "a" / "0003.png").write_bytes(b"")
        done = run(SCRIPT, "config.yaml", cwd=project)
        assert done.returncode == 1
        assert f"a was not measured: cannot read image {project / 'a' / '0003.png'}" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr
        assert "PASS" not in done.stdout
        assert (project / "results" / "results.json").exists()

    @pytest.mark.parametrize("plan", [[], ["--plan"]])
    def test_weights_that_do_not_fit_are_found_before_anything_begins(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plan: list[str]
    ) -> None:
        monkeypatch.setattr("flows.evaluate.quiet_server", None)  # there is no server to start
        weights = project / "w.pth"
        torch.save({"conv1.weight": torch.zeros(3)}, weights)
        monkeypatch.chdir(project)
        wrong = ["--set", "extractor={name: resnet18, weights: w.pth}"]
        assert main(["--real", "real", "--synth", "a", *plan, *wrong]) == 2
        said = capsys.readouterr()
        assert said.err.startswith(
            f"extractor.weights: the weights of {weights} do not fit: 'conv1.weight' has shape (3,)"
        )
        assert said.err.count("\n") == 1
        assert said.out == ""
        assert not (project / "cache").exists()

    def test_weights_that_cannot_be_had_name_the_ways_out(
        self, project: Path, run: Callable[..., Any], tmp_path: Path
    ) -> None:
        done = run(
            SCRIPT,
            *["--real", "real", "--synth", "a"],
            cwd=project,
            TORCH_HOME=str(tmp_path / "torch"),
            https_proxy="http://127.0.0.1:9",  # nobody listens there
        )
        assert done.returncode == 1
        (line,) = (line for line in done.stdout.splitlines() if "cannot download" in line)
        assert line.startswith("real, the reference, has no features: cannot download the weights from https://")
        for way_out in (
            "=path/to/weights-inception-2015-12-05-6726825d.pth",
            "put it into",
            "extractor.weights=random",
        ):
            assert way_out in line
        assert "Traceback" not in done.stdout + done.stderr

    def test_a_checkout_runs_its_own_tasks_whatever_is_installed(self, project: Path, tmp_path: Path) -> None:
        copy = tmp_path / "another checkout"
        for name in ("flows", "tasks", "simet_cache", "examples"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        with (copy / "tasks" / "report.py").open("a") as file:
            file.write("print('the tasks of this checkout')\n")
        done = subprocess.run(
            [sys.executable, str(copy / "flows" / "evaluate.py"), str(project / "config.yaml")],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "the tasks of this checkout" in done.stdout

    def test_a_reader_that_sees_no_more_changes_nothing(self, project: Path) -> None:
        command = f"{sys.executable} {SCRIPT} config.yaml | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "ERROR" not in done.stderr
        assert json.loads((project / "results" / "results.json").read_text())["passed"]

    @pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_an_interrupted_run_ends_soon_and_keeps_what_was_extracted(
        self,
        project: Path,
        images: Callable[..., Path],
        task_states: Callable[[], dict[str, list[str]]],
        sent: signal.Signals,
        code: int,
    ) -> None:
        """As from a terminal, whose Ctrl-C reaches every process of the group."""
        images("project/many", 4000)
        arguments = ["--real", "real", "--synth", "many", "--set", "extractor.name=resnet18"]
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments, "extractor.weights=random", "extractor.image_size=96"],
            cwd=project,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "extract real" in line:
                break
        time.sleep(1)
        os.killpg(process.pid, sent)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == code, rest
        assert "Error logging to API" not in rest
        assert f"stopped by {'Ctrl-C' if sent is signal.SIGINT else 'SIGTERM'}" in rest
        assert "the next run goes on from there" in rest
        assert len(list((project / "cache" / "features").glob("*.pkl"))) == 1
        assert not list((project / "cache" / "features").glob(".*.tmp"))
        (own,) = (project / "results" / "runs").glob("*/results.json")
        assert json.loads(own.read_bytes())["error"].startswith("stopped by ")
        assert not (project / "results" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml"], "missing.yaml: cannot read the configuration: No such file or directory"),
        (["config.yaml", "--set", "extractor.nme=x"], "extractor.nme: unknown key. Did you mean 'name'?"),
        (["--real", "reel", "--synth", "a"], "no such folder"),
    ],
)
def test_bad_input_is_exit_code_2_and_a_line(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(project)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not captured.out
    assert not (project / "cache").exists()


@pytest.mark.parametrize("arguments", [["--real", "real"], ["config.yaml", "--real", "real", "--synth", "a"]])
def test_arguments_that_do_not_go_together(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "evaluate.py: error:" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_folder_that_cannot_be_written_is_bad_input(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "locked").mkdir(mode=0o500)
    assert main([str(project / "config.yaml"), "--set", f"cache_dir={project / 'locked' / 'cache'}"]) == 2
    assert "cannot create the cache folder" in capsys.readouterr().err


def test_a_cache_folder_that_is_a_file_is_bad_input(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(project / "config.yaml"), "--set", f"cache_dir={project / 'config.yaml'}"]) == 2
    assert "cannot create the cache folder" in capsys.readouterr().err
