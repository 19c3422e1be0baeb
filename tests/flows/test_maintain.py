"""Looking after the cache on a schedule, end to end."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.client.orchestration import get_client

from flows.maintain import ROOT, main, maintain
from simet_cache.store import FeatureStore

SCRIPT = ROOT / "flows" / "maintain.py"
KEYS = [f"{digit}" * 32 for digit in "12345"]
FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)
ATTACK = b"cos\nsystem\n(S'true'\ntR."


@pytest.fixture
def cache(tmp_path: Path) -> FeatureStore:
    """Two good entries, one to adopt, one that is damaged; the older the smaller the key."""
    store = FeatureStore(tmp_path / "cache" / "features")
    for key in KEYS[:2]:
        store.put(key, FEATURES)
    store.path(KEYS[2]).write_bytes(pickle.dumps(FEATURES))
    store.path(KEYS[3]).write_bytes(b"damage ~~~ <b>")
    for number, key in enumerate(KEYS[:4]):
        for path in (store.path(key), store.path(key).with_suffix(".json")):
            if path.exists() and (path.suffix == ".json" or number > 1):
                os.utime(path, (1000 + number, 1000 + number))
    return store


@pytest.mark.usefixtures("prefect_server")
class TestFlow:
    def test_it_repairs_and_prunes_what_it_has_adopted_too(self, cache: FeatureStore) -> None:
        state = maintain(cache.cache_dir, max_size="0", return_state=True)
        assert state.is_completed()
        assert state.message.startswith("entries checked: 4, repaired: 2, left for a person: 0, freed: ")
        assert "less than was asked for" not in state.message
        assert cache.keys() == []
        assert len(list((cache.cache_dir / "quarantine").glob("*.pkl"))) == 1

    def test_without_limits_nothing_is_pruned(self, cache: FeatureStore) -> None:
        state = maintain(cache.cache_dir, full=True, return_state=True)
        assert state.message == "entries checked: 4, repaired: 2, left for a person: 0"
        assert cache.keys() == KEYS[:3]
        assert cache.manifest(KEYS[2])["adopted"] is True
        state = maintain(cache.cache_dir, return_state=True)
        assert state.message == "entries checked: 3, repaired: 0, left for a person: 0"

    def test_the_latest_are_kept(self, cache: FeatureStore) -> None:
        maintain(cache.cache_dir, keep_latest=2)
        assert cache.keys() == KEYS[1:3]

    def test_only_a_full_check_sees_a_flipped_bit(self, cache: FeatureStore) -> None:
        path = cache.path(KEYS[0])
        status, content = path.stat(), bytearray(path.read_bytes())
        content[70] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        maintain(cache.cache_dir)
        assert path.exists()
        maintain(cache.cache_dir, full=True)
        assert not path.exists()

    def test_what_needs_a_person_is_a_failed_run_after_all_else_is_done(self, cache: FeatureStore) -> None:
        cache.path(KEYS[4]).write_bytes(ATTACK)
        state = maintain(cache.cache_dir, keep_latest=1, return_state=True)
        assert state.is_failed()
        assert "left for a person: 1" in state.message
        assert cache.keys() == KEYS[4:]
        assert cache.path(KEYS[4]).read_bytes() == ATTACK

    def test_an_artifact_says_what_was_found_and_done(self, cache: FeatureStore) -> None:
        maintain(cache.cache_dir, keep_latest=2)
        with get_client(sync_client=True) as client:
            artifacts: Any = client._client.post("/artifacts/latest/filter", json={}).json()
        (one,) = [one for one in artifacts if one["key"] == "maintenance"]
        lines = one["data"].splitlines()
        assert lines[0] == f"### {one['description']}"
        assert (lines[2], lines[-1]) == ("~~~", "~~~")
        assert any(line.startswith("- damaged: ") and line.endswith("moved to quarantine") for line in lines)
        assert any(line.startswith(f"- {KEYS[0]} removed: ") for line in lines)
        assert all(line.startswith("- ") for line in lines[3:-1])

    def test_a_cache_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        state = maintain(tmp_path / "nothing", return_state=True)
        assert state.is_failed()
        assert "there is no cache folder" in state.message
        assert list(tmp_path.iterdir()) == []

    def test_parameters_may_come_as_plain_values_from_a_deployment(self, cache: FeatureStore) -> None:
        parameters: dict[str, Any] = {"cache_dir": str(cache.cache_dir), "max_size": "1GB", "older_than": "9999w"}
        assert maintain(**parameters, return_state=True).is_completed()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cache-dir", "nothing"], "there is no cache folder"),
        (["--max-size", "big"], "expected a size like 50GB"),
        (["--older-than", "30"], "expected an age like 30d"),
        (["--keep-latest", "-1"], "expected 0 or more"),
    ],
)
def test_bad_input_is_exit_code_2_and_a_line(
    cache: FeatureStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(cache.cache_dir.parents[1])
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert cache.keys() == KEYS[:4]


@pytest.mark.slow
class TestCommand:
    def test_from_another_directory(
        self, cache: FeatureStore, run: Callable[..., Any], tmp_path: Path, task_states: Callable[[], Any]
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        done = run(SCRIPT, "--cache-dir", cache.cache_dir, "--max-size", "0", cwd=elsewhere, PYTHONPATH="")
        assert done.returncode == 0, done.stderr
        assert "entries checked: 4, repaired: 2, left for a person: 0, freed: " in done.stdout
        for word in ("ERROR", "Traceback"):
            assert word not in done.stdout + done.stderr
        assert cache.keys() == []
        assert list(elsewhere.iterdir()) == []
        recorded = task_states()
        assert recorded["verify"][-1] == recorded["prune"][-1] == "Completed"

    def test_an_attack_is_exit_code_1(self, cache: FeatureStore, run: Callable[..., Any], tmp_path: Path) -> None:
        cache.path(KEYS[4]).write_bytes(ATTACK)
        done: subprocess.CompletedProcess[str] = run(SCRIPT, cwd=tmp_path)
        assert done.returncode == 1
        assert "left for a person: 1" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr
        assert cache.path(KEYS[4]).read_bytes() == ATTACK
