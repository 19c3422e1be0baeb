"""Links that somebody has put into a cache: nothing outside of it is written, moved or removed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from simet_cache import locks
from simet_cache.derived import Derived, Recipe
from simet_cache.errors import StoreError
from simet_cache.listing import Fingerprint
from simet_cache.manifest import Source
from simet_cache.prune import Limits, prune
from simet_cache.store import FeatureStore
from simet_cache.upkeep import verify

KEY, OTHER = "a" * 32, "b" * 32
FEATURES = np.ones((4, 3), np.float32)
SOURCE = Source(dataset={"class": "Folder"}, fingerprint=Fingerprint.of([(1, 2, "-", "a.png")]))
RECIPE = Recipe("summaries", {"of": 1})
LIMITS = Limits(max_size=0, older_than=10.0, quarantine=True)

FOLDERS = [
    "prefect",
    "prefect/derived",
    "prefect/records",
    "prefect/results",
    "prefect/values",
    f"prefect/values/{KEY}",
    "values",
    "values/ab",
    "summaries",
    f"summaries/{RECIPE.key[:2]}",
    "summaries/locks",
    "quarantine",
    "pending",
    "locks",
]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache", remote=f"file://{tmp_path}/remote")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of somebody's with every name that a file of a cache may have, and old."""
    folder = tmp_path / "thesis"
    names = ["chapter.tex", KEY, OTHER, f"{OTHER}.holder", f"{OTHER}.lock", f"{OTHER}.safetensors", "entries.lock"]
    names += [f"{'0' * 16}.record", f"{'0' * 16}.result"]
    names += [f"{OTHER}.1000.pkl", f".{OTHER}.abcdefgh.tmp", f"{RECIPE.key}.safetensors", "entries.holder", "used.lock"]
    for sub in ("", "ab", "derived", "records", "results", f"values/{KEY}", "locks", RECIPE.key[:2]):
        for name in names:
            (folder / sub).mkdir(exist_ok=True, parents=True)
            (folder / sub / name).write_bytes(b"my work")
            os.utime(folder / sub / name, (1000, 1000))
    return folder


def everything(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(one): (one.read_bytes(), one.stat().st_mtime_ns, one.stat().st_mode) for one in files}


def live(store: FeatureStore) -> None:
    """All that is ever done with a cache, and that changes it."""
    steps: list[Callable[[], object]] = [
        *(partial(store.put, key, FEATURES) for key in (KEY, OTHER)),
        lambda: store.find(KEY),
        lambda: Derived(store.cache_dir).keep_summary(RECIPE, None),
        lambda: Derived(store.cache_dir).computing("digest").__enter__(),
        lambda: records(store),
        lambda: store.path(OTHER).write_bytes(b"damaged"),
        lambda: store.get_or_compute(OTHER, lambda: FEATURES),
        lambda: store.get_or_compute(KEY, lambda: FEATURES, force=True),
        store.catch_up,
        lambda: verify(store, full=True, repair=True),
        locks.end_uses,
        lambda: prune(store, LIMITS, dry_run=True),
        lambda: prune(store, LIMITS),
    ]
    for step in steps:
        with suppress(StoreError):  # where there can be no locks, nothing is stored
            step()


def records(store: FeatureStore) -> None:
    """What is kept of tasks: of one that returns its FeatureSet, and of one that returns something else."""
    from simet_cache.records import FeatureResultSerializer, Records
    from simet_cache.request import FeatureRequest

    found = store.find(KEY) or store.put(KEY, FEATURES)
    for promised, value in ((True, found), (False, 5)):
        run = Records.of(FeatureRequest(store, KEY, None, SOURCE), promised=promised)
        run.keep_result(run.place(KEY), FeatureResultSerializer().dumps(value))
        run.write_path(run.place(KEY), b"{}")


@pytest.mark.parametrize("name", FOLDERS)
def test_nothing_is_done_in_a_folder_that_is_a_link(store: FeatureStore, theirs: Path, name: str) -> None:
    link = store.cache_dir / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(theirs)
    before = everything(theirs)
    live(store)
    assert everything(theirs) == before
    assert link.is_symlink()


def test_a_folder_that_is_a_link_is_told(store: FeatureStore, theirs: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody may have linked it on purpose, to another disk."""
    (store.cache_dir / "prefect").mkdir()
    (store.cache_dir / "prefect" / "derived").symlink_to(theirs)
    (finding,) = verify(store, repair=True).left
    sentence = (
        "derived is a link, which is not followed: what it leads to is not this cache's alone. Put a folder in its"
        " place, or link the cache folder as a whole"
    )
    assert str(finding) == f"linked: in {store.cache_dir}, {sentence}"
    caplog.clear()
    prune(store, Limits(older_than=10.0))
    assert caplog.messages == [f"{store.cache_dir}/prefect/derived: {sentence}"]


def test_the_cache_folder_may_be_a_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "scratch")
    caplog.set_level(logging.WARNING)
    live(FeatureStore(tmp_path / "cache"))
    assert [line for line in caplog.messages if "link" in line] == []
    assert FeatureStore(tmp_path / "scratch").keys() == []


def holder(store: FeatureStore, file: Path) -> None:
    _planted(store, f"locks/{KEY}.holder", file)
    store.get_or_compute(KEY, lambda: FEATURES, force=True)


def entries_holder(store: FeatureStore, file: Path) -> None:
    _planted(store, "locks/entries.holder", file)
    store.put(KEY, FEATURES)


def pending(store: FeatureStore, file: Path) -> None:
    _planted(store, f"pending/{KEY}", file)
    store.put(KEY, FEATURES)


def entry(store: FeatureStore, file: Path) -> None:
    for suffix in ("pkl", "json", "next.json", "files", "skipped.json"):
        _planted(store, f"{KEY}.{suffix}", file)
    store.put(KEY, FEATURES)


def used(store: FeatureStore, file: Path) -> None:
    """A hit notes its time in the manifest."""
    store.put(KEY, FEATURES)
    said = store.path(KEY).with_suffix(".json")
    file.write_bytes(said.read_bytes())
    os.utime(file, (1000, 1000))
    said.unlink()
    _planted(store, said.name, file)
    assert store.find(KEY) is not None
    file.write_bytes(b"mine" if file.stat().st_mtime == 1000 else b"touched")
    os.utime(file, (1000, 1000))


def _planted(store: FeatureStore, name: str, file: Path) -> None:
    place = store.cache_dir / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(file)


@pytest.mark.parametrize("act", [holder, entries_holder, pending, entry, used])
@pytest.mark.parametrize("hard", [False, True], ids=["symbolic", "hard"])
def test_nothing_is_written_through_a_link(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[..., None], hard: bool
) -> None:
    file = tmp_path / "bashrc"
    file.write_bytes(b"mine")
    os.utime(file, (1000, 1000))
    if hard:
        monkeypatch.setattr(Path, "symlink_to", lambda self, other: os.link(other, self))
        if act is used:
            pytest.skip("a hard link to a manifest is that manifest")
    act(store, file)
    assert file.read_bytes() == b"mine"
    assert file.stat().st_mtime == 1000
    if act is not used:
        assert store.look(KEY).status == "hit"


def test_what_prune_removes_is_listed_and_nothing_else_goes(store: FeatureStore) -> None:
    Derived(store.cache_dir).keep_summary(RECIPE, None)
    folder = store.cache_dir / "prefect" / "derived"
    folder.mkdir(parents=True)
    (folder / KEY).write_bytes(b"{}")  # of an earlier version
    mine = [folder / "notes.txt", folder / f"{KEY}.bak", store.cache_dir / "values" / "ab" / "mine.safetensors"]
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"mine")
    for dry_run in (True, False):
        done = prune(store, Limits(max_size=0), dry_run=dry_run)
        assert {str(file.relative_to(store.cache_dir)) for file in done.files} == {
            f"summaries/{RECIPE.key[:2]}/{RECIPE.key}.safetensors",
            f"prefect/derived/{KEY}",
        }
        assert [file.exists() for file in done.files] == [dry_run, dry_run]
    assert all(file.exists() for file in mine)


def test_the_command_lists_what_it_removes(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    from simet_cache import cli

    (store.cache_dir / "prefect" / "derived").mkdir(parents=True)
    (store.cache_dir / "prefect" / "derived" / KEY).write_bytes(b"{}")
    for json_too in ([], ["--json"]):
        arguments = ["prune", "--cache-dir", str(store.cache_dir), "--max-size", "0", "--dry-run", *json_too]
        assert cli.main(arguments) == 0
        out = capsys.readouterr().out
        if json_too:
            assert json.loads(out)["files"] == [str(store.cache_dir / "prefect" / "derived" / KEY)]
        else:
            assert out.splitlines()[0] == f"prefect/derived/{KEY} would be removed"
