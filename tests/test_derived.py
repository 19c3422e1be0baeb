"""What is derived from features is kept, checked, and never trusted further than it should be."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import pickle
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simet_cache import sealed
from simet_cache.derived import Derived, Recipe, damage, kept
from simet_cache.metrics import Interval, MetricValue
from simet_cache.metrics.fid import Gaussian
from simet_cache.metrics.metric import Noise
from simet_cache.metrics.neighbours import Radii
from simet_cache.metrics.packing import pack

DATA = Path(__file__).parent / "data"
NOISE = Noise(np.arange(4.0), count=4, own=0.25, reference="some rows, seed 0")
VALUE = MetricValue(
    value=np.float64(1.5),
    metric="fid",
    version=2,
    direction="lower",
    parameters={"k": 3, "classifier": "mlp"},
    n_real=10,
    n_synth=20,
    width=4,
    warnings=("one", "two"),
    details={"bias": -0.0, "most": float("inf")},
    interval=Interval(1.0, 2.0, 0.95, "delta method", 0.25),
    noise=NOISE,
)
VALUE = dataclasses.replace(VALUE, per_class={"cat": VALUE})
GAUSSIAN = Gaussian(np.arange(3.0), np.asfortranarray(np.triu(np.arange(9.0).reshape(3, 3))))
OF_A_VALUE, OF_A_SUMMARY = Recipe("values", {"about": "a value"}), Recipe("summaries", {"about": "a summary"})


@pytest.fixture
def derived(tmp_path: Path) -> Derived:
    return Derived(tmp_path)


def keep_both(derived: Derived) -> tuple[Path, Path]:
    derived.keep_value(OF_A_VALUE, VALUE)
    derived.keep_summary(OF_A_SUMMARY, GAUSSIAN)
    return derived.path("values", OF_A_VALUE.key), derived.path("summaries", OF_A_SUMMARY.key)


def test_nothing_is_there_and_nothing_is_made_by_looking(derived: Derived) -> None:
    assert derived.value("0" * 32) is derived.summary("0" * 32) is derived.noise("0" * 32) is None
    assert not derived.has("values", "0" * 32)
    assert not derived.is_sound("values", "0" * 32)
    assert list(derived.cache_dir.iterdir()) == []
    assert kept(derived.cache_dir) == []


def test_what_is_kept_is_found(derived: Derived) -> None:
    keep_both(derived)
    fresh = Derived(derived.cache_dir)
    found = fresh.value(OF_A_VALUE.key)
    assert found == VALUE
    assert found.noise is None
    assert pack(fresh.value(OF_A_VALUE.key, noise=True))[0] == pack(VALUE)[0]
    noise = fresh.noise(OF_A_VALUE.key)
    assert noise.shared.tolist() == NOISE.shared.tolist()
    assert dataclasses.replace(noise, shared=NOISE.shared) == NOISE
    summary = fresh.summary(OF_A_SUMMARY.key)
    assert summary.factor.flags.f_contiguous
    assert summary.factor.tolist() == GAUSSIAN.factor.tolist()
    assert [fresh.has(kind, key) for kind, key in (("values", OF_A_VALUE.key), ("summaries", OF_A_SUMMARY.key))]
    assert not fresh.has("summaries", OF_A_VALUE.key)


def test_why_there_is_no_noise_is_kept(derived: Derived) -> None:
    for noise in ("expected more rows", None):
        derived.keep_value(OF_A_VALUE, dataclasses.replace(VALUE, noise=noise))
        assert derived.noise(OF_A_VALUE.key) == noise


def test_a_value_is_read_without_the_arrays_of_its_noise(derived: Derived) -> None:
    long = dataclasses.replace(VALUE, noise=dataclasses.replace(NOISE, shared=np.zeros(10_000)), per_class={})
    derived.keep_value(OF_A_VALUE, long)
    path = derived.path("values", OF_A_VALUE.key)
    content = bytearray(path.read_bytes())
    assert len(content) > 80_000
    content[-1] ^= 1
    path.write_bytes(content)
    assert derived.value(OF_A_VALUE.key) == long
    assert derived.is_sound("values", OF_A_VALUE.key)
    assert derived.noise(OF_A_VALUE.key) is None


def test_files_of_format_1_are_still_read(derived: Derived) -> None:
    """Made by ``keep_both`` when the format was new; values have got the field ``copies`` since."""
    for name, recipe in (("derived-value", OF_A_VALUE), ("derived-summary", OF_A_SUMMARY)):
        path = derived.path(recipe.kind, recipe.key)
        path.parent.mkdir(parents=True)
        shutil.copy(DATA / f"{name}.safetensors", path)
    assert pack(derived.value(OF_A_VALUE.key, noise=True))[0] == pack(VALUE)[0]
    assert derived.noise(OF_A_VALUE.key).shared.tolist() == NOISE.shared.tolist()
    found = derived.summary(OF_A_SUMMARY.key)
    assert (found.mean.tolist(), found.factor.tolist()) == (GAUSSIAN.mean.tolist(), GAUSSIAN.factor.tolist())
    golden = (DATA / "derived-value-with-copies.safetensors").read_bytes()
    derived.keep_value(OF_A_VALUE, VALUE)
    assert derived.path("values", OF_A_VALUE.key).read_bytes() == golden


def test_keys_do_not_change() -> None:
    assert OF_A_VALUE.key == "39d210da553e3f8b7ef3e236a6f2f163"
    assert Recipe("values", {"b": 1, "a": [None, "x"]}).key == Recipe("values", {"a": [None, "x"], "b": 1}).key
    assert Recipe("values", {"a": 1}).key != Recipe("summaries", {"a": 1}).key


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_damaged_is_missing_and_made_again(
    derived: Derived, which: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = keep_both(derived)[which]
    good = path.read_bytes()

    def read() -> Any:
        return (derived.value(OF_A_VALUE.key, noise=True), derived.summary(OF_A_SUMMARY.key))[which]

    assert read() is not None
    wrong = [good[:-1], good[:100], b"", good + b"x", pickle.dumps(VALUE)]
    wrong += [good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :] for place in range(0, len(good), 53)]
    for content in wrong:
        caplog.clear()
        path.write_bytes(content)
        assert read() is None
        assert "it counts as missing" in caplog.text
        (one,) = [one for one in kept(derived.cache_dir) if one.path == path]
        assert damage(one, full=True)
    keep_both(derived)
    assert path.read_bytes() == good
    assert read() is not None


def test_a_file_under_another_name_is_missing(derived: Derived, caplog: pytest.LogCaptureFixture) -> None:
    value, summary = keep_both(derived)
    other = Recipe("values", {"about": "another value"})
    path = derived.path("values", other.key)
    path.parent.mkdir(exist_ok=True)
    shutil.copy(value, path)
    assert derived.value(other.key) is None
    assert "is about something else" in caplog.text
    shutil.copy(summary, value)
    assert derived.value(OF_A_VALUE.key) is None


def test_a_file_of_another_format_is_missing(derived: Derived, caplog: pytest.LogCaptureFixture) -> None:
    path, _ = keep_both(derived)
    texts = {"format": "2", "kind": "values", "key": OF_A_VALUE.key, "recipe": OF_A_VALUE.text}
    tree, arrays = pack(VALUE)
    with path.open("wb") as file:
        sealed.write(file, {**texts, "tree": json.dumps(tree)}, arrays)
    assert derived.value(OF_A_VALUE.key) is None
    assert "was written by another version of simet-cache" in caplog.text
    derived.keep_value(OF_A_VALUE, VALUE)
    assert derived.value(OF_A_VALUE.key) == VALUE


def test_a_tree_that_holds_something_else_is_missing(
    derived: Derived, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for tree in ({"kind": "os.system", "fields": {}}, {"array": 7}, {"array": "x"}, {"tuple": 5}, {}):
        derived._write(OF_A_SUMMARY, tree, [])
        caplog.clear()
        assert derived.summary(OF_A_SUMMARY.key) is None
        assert "holds something else than it should" in caplog.text


def test_what_cannot_be_read_is_missing(derived: Derived, caplog: pytest.LogCaptureFixture) -> None:
    path = derived.path("values", OF_A_VALUE.key)
    path.mkdir(parents=True)
    assert derived.value(OF_A_VALUE.key) is None
    assert f"cannot read {path}: Is a directory" in caplog.text
    assert kept(derived.cache_dir) == []


def test_a_full_disk_loses_nothing_and_says_so_once(
    derived: Derived, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("simet_cache.atomic.Staged", refuse)
    keep_both(derived)
    keep_both(derived)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "No space left on device. It is used all the same" in warnings[0].getMessage()


def test_a_failed_write_leaves_the_older_file(derived: Derived, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = keep_both(derived)

    def fail(file: Any, *_: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("simet_cache.sealed.write", fail)
    derived.keep_value(OF_A_VALUE, VALUE)
    assert derived.value(OF_A_VALUE.key) == VALUE
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_summary_that_is_not_worth_keeping_is_noted(derived: Derived) -> None:
    derived.keep_summary(OF_A_SUMMARY, None)
    assert derived.summary(OF_A_SUMMARY.key) is None
    assert derived.is_sound("summaries", OF_A_SUMMARY.key)
    derived.keep_summary(OF_A_SUMMARY, GAUSSIAN)
    assert derived.summary(OF_A_SUMMARY.key) is not None


def test_reading_is_a_use_and_counting_is_not(derived: Derived) -> None:
    for path in keep_both(derived):
        os.utime(path, (1000, 1000))
    derived.has("values", OF_A_VALUE.key)
    assert {one.last_used for one in kept(derived.cache_dir)} == {1000}
    derived.value(OF_A_VALUE.key)
    derived.summary(OF_A_SUMMARY.key)
    assert all(time.time() - one.last_used < 100 for one in kept(derived.cache_dir))


def test_one_computes_and_no_lock_stays(derived: Derived) -> None:
    inside, most, order = [0], [0], threading.Lock()

    def compute() -> None:
        with derived.computing("a digest"):
            with order:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            with order:
                inside[0] -= 1

    threads = [threading.Thread(target=compute) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert list((derived.cache_dir / "summaries" / "locks").iterdir()) == []
    assert kept(derived.cache_dir) == []


def test_kept_tells_what_is_there(derived: Derived) -> None:
    paths = keep_both(derived)
    derived.keep_summary(Recipe("summaries", {"about": "radii"}), Radii(np.ones(2), 1, np.ones((2, 1), int)))
    (derived.cache_dir / "values" / "notes").mkdir()
    (derived.cache_dir / "values" / "file").write_bytes(b"")
    (paths[0].parent / f".{paths[0].name}.abcd1234.tmp").write_bytes(b"half")
    found = kept(derived.cache_dir)
    assert [one.kind for one in found] == ["summaries", "summaries", "values"]
    assert {one.path for one in found} >= set(paths)
    assert [one.bytes for one in found] == [one.path.stat().st_size for one in found]
    assert not any(damage(one, full=True) for one in found)
