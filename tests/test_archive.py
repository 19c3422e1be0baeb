"""Entries move from one cache to another whole, and nothing else comes along."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simet_cache import archive, codec
from simet_cache.archive import export, import_archive, import_folder
from simet_cache.errors import ConfigError, StoreError
from simet_cache.listing import Fingerprint
from simet_cache.manifest import DATASET_ORDER, Source
from simet_cache.store import FeatureStore

KEY, OTHER, THIRD = (character * 32 for character in "abc")
FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)
SOURCE = Source(
    components={"dataset": "/data/real", "subset": None, "suffix": "x", "length": 4, "batch_size": 2},
    dataset={"name": "real", "class": "FolderDataset"},
    fingerprint=Fingerprint(stat="1" * 32, listing=b"the files"),
    extractor={"name": "resnet18"},
    row_order=DATASET_ORDER,
)
ATTACK = b"cos\nsystem\n(S'true'\ntR."


@pytest.fixture
def here(tmp_path: Path) -> FeatureStore:
    """A cache with an entry of ours and one of simet."""
    store = FeatureStore(tmp_path / "here")
    store.put(KEY, FEATURES, source=SOURCE, seconds=2.5, suffix="x", created_at="2020-01-01T00:00:00+00:00")
    store.path(OTHER).write_bytes(pickle.dumps(FEATURES + 1))
    os.utime(store.path(OTHER), (1_000_000_000, 1_000_000_000))
    return store


@pytest.fixture
def there(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "there")


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return tmp_path / "entries.tar"


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Each file with its content and time, but for the locks."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "locks" not in file.parts]
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def outcomes(moved: Any) -> list[tuple[str, str]]:
    return [(one.key, one.outcome) for one in getattr(moved, "entries", moved)]


def facts_of(store: FeatureStore, key: str) -> dict[str, Any]:
    """What a manifest says, but for where the file is and who wrote it."""
    return {name: value for name, value in store.manifest(key).items() if name not in ("file", "written_by")}


def assert_arrived(here: FeatureStore, there: FeatureStore) -> None:
    """Both entries are there, consistent, and with all that was known of them."""
    for key, features in ((KEY, FEATURES), (OTHER, FEATURES + 1)):
        seen = there.look(key, full=True)
        assert (seen.status, seen.described) == ("hit", True)
        found = there.find(key)
        assert found is not None
        assert np.array_equal(found.load(), features)
        assert codec.inspect(there.path(key)), "it can be mapped, whoever wrote it"
        assert np.array_equal(pickle.loads(there.path(key).read_bytes()), features)
    assert facts_of(there, KEY) == facts_of(here, KEY)
    assert there.path(KEY).with_suffix(".files").read_bytes() == b"the files"
    assert there.manifest(OTHER)["adopted"] is True
    assert there.manifest(OTHER)["created_at"] == "2001-09-09T01:46:40+00:00"
    assert [path for path in there.cache_dir.iterdir() if path.name.endswith(".tmp")] == []


# Folders


def test_a_folder_is_adopted_and_stays_as_it_is(here: FeatureStore, there: FeatureStore) -> None:
    (here.cache_dir / "notes.txt").touch()
    (here.cache_dir / f"{THIRD}.json").touch()
    before = everything(here.cache_dir)
    done = import_folder(there, here.cache_dir)
    assert outcomes(done) == [(KEY, "imported"), (OTHER, "imported")]
    assert done.ignored == 2
    assert everything(here.cache_dir) == before
    assert_arrived(here, there)
    assert outcomes(import_folder(there, here.cache_dir)) == [(KEY, "already there"), (OTHER, "already there")]


def test_a_folder_of_simet_gets_no_files_of_ours(tmp_path: Path, there: FeatureStore) -> None:
    simet = tmp_path / "simet"
    simet.mkdir()
    (simet / f"{KEY}.pkl").write_bytes(pickle.dumps(FEATURES))
    import_folder(there, simet)
    assert [path.name for path in simet.rglob("*")] == [f"{KEY}.pkl"]


def test_what_is_there_stays_unless_forced(here: FeatureStore, there: FeatureStore, tar: Path) -> None:
    there.put(KEY, FEATURES * 2)
    export(here, [KEY], tar)
    before = everything(there.cache_dir)
    for done in (import_folder(there, here.cache_dir), import_archive(there, tar)):
        (mine,) = [one for one in done.entries if one.key == KEY]
        assert (mine.outcome, "--force replaces it" in mine.reason) == ("kept", True)
        assert {name: everything(there.cache_dir)[name] for name in before} == before
    assert outcomes(import_archive(there, tar, force=True)) == [(KEY, "replaced")]
    assert there.look(KEY).features.digest == codec.digest(FEATURES)  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [b"damage", ATTACK], ids=["damaged", "unsafe"])
def test_what_is_there_stays_even_if_it_is_bad(here: FeatureStore, there: FeatureStore, content: bytes) -> None:
    there.path(KEY).write_bytes(content)
    assert outcomes(import_folder(there, here.cache_dir))[0] == (KEY, "kept")
    assert there.path(KEY).read_bytes() == content
    assert outcomes(import_folder(there, here.cache_dir, force=True))[0] == (KEY, "replaced")
    assert there.look(KEY, full=True).status == "hit"


BAD = {
    "unsafe": (ATTACK, "asks for os.system"),
    "no pickle": (b"\x89PNG", "is no readable pickle"),
    "cut short": (pickle.dumps(FEATURES)[:-20], "is no readable pickle"),
    "a list": (pickle.dumps([1]), "not a 2-D float array"),
    "NaN": (pickle.dumps(FEATURES * np.nan), "expected finite features"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_and_the_others_imported(here: FeatureStore, there: FeatureStore, kind: str) -> None:
    content, reason = BAD[kind]
    here.path(THIRD).write_bytes(content)
    done = import_folder(there, here.cache_dir)
    assert outcomes(done) == [(KEY, "imported"), (OTHER, "imported"), (THIRD, "refused")]
    assert reason in done.entries[2].reason
    assert str(here.path(THIRD)) in done.entries[2].reason
    assert ".tmp" not in done.entries[2].reason
    assert here.path(THIRD).read_bytes() == content
    assert there.keys() == [KEY, OTHER]


def test_pipes_and_folders_under_the_name_of_an_entry_are_nothing(there: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / f"{KEY}.pkl")
    (tmp_path / "odd" / f"{OTHER}.pkl").mkdir()
    assert import_folder(there, tmp_path / "odd").entries == ()


def test_an_entry_of_ours_that_is_not_what_its_manifest_says_is_refused(
    here: FeatureStore, there: FeatureStore
) -> None:
    content = bytearray(here.path(KEY).read_bytes())
    content[70] ^= 1
    here.path(KEY).write_bytes(content)
    done = import_folder(there, here.cache_dir)
    assert outcomes(done)[0] == (KEY, "refused")
    assert "does not hold what its manifest says" in done.entries[0].reason


def test_a_manifest_that_is_none_is_not_believed(here: FeatureStore, there: FeatureStore) -> None:
    here.path(KEY).with_suffix(".json").write_text("{")
    import_folder(there, here.cache_dir)
    assert there.manifest(KEY)["adopted"] is True
    assert there.manifest(KEY)["features"]["row_order"] == "unknown"


def test_a_folder_that_is_gone(there: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot list .*: No such file or directory"):
        import_folder(there, tmp_path / "nothing")


# Archives


def test_a_round_trip(here: FeatureStore, there: FeatureStore, tar: Path) -> None:
    before = everything(here.cache_dir)
    assert outcomes(export(here, [OTHER, KEY, OTHER], tar)) == [(OTHER, "exported"), (KEY, "exported")]
    assert everything(here.cache_dir) == before
    with tarfile.open(tar, "r:") as plain:
        assert [one.name for one in plain.getmembers()][:2] == [f"{OTHER}.pkl", f"{OTHER}.json"]
    assert outcomes(import_archive(there, tar)) == [(OTHER, "imported"), (KEY, "imported")]
    assert_arrived(here, there)
    assert outcomes(import_archive(there, tar)) == [(OTHER, "already there"), (KEY, "already there")]


def test_an_archive_is_not_overwritten_by_mistake(here: FeatureStore, tar: Path) -> None:
    tar.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="is there already; choose another name, or replace it with --force"):
        export(here, [KEY], tar)
    assert tar.read_bytes() == b"precious"
    export(here, [KEY], tar, force=True)
    assert tarfile.is_tarfile(tar)


def test_only_what_is_whole_is_exported(here: FeatureStore, there: FeatureStore, tar: Path) -> None:
    status, content = here.path(KEY).stat(), bytearray(here.path(KEY).read_bytes())
    content[70] ^= 1
    here.path(KEY).write_bytes(content)
    os.utime(here.path(KEY), ns=(status.st_atime_ns, status.st_mtime_ns))
    here.path(THIRD).write_bytes(ATTACK)
    assert [one.outcome for one in export(here, [KEY, THIRD], tar)] == ["refused", "refused"]
    assert not tar.exists()
    assert [one.outcome for one in export(here, [KEY, OTHER, THIRD], tar)] == ["refused", "exported", "refused"]
    assert outcomes(import_archive(there, tar)) == [(OTHER, "imported")]
    assert sorted(path.name for path in tar.parent.iterdir()) == ["entries.tar", "here", "there"]


def test_what_is_replaced_while_it_is_read_is_refused(
    here: FeatureStore, tar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FeatureStore.look

    def replaced(self: FeatureStore, key: str, **options: Any) -> Any:
        seen = original(self, key, **options)
        self.put(key, FEATURES + 5)
        return seen

    monkeypatch.setattr(FeatureStore, "look", replaced)
    (done,) = export(here, [KEY], tar)
    assert (done.outcome, "was replaced while it was read" in done.reason) == ("refused", True)


def test_a_folder_that_does_not_exist_takes_no_archive(here: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*: No such file or directory"):
        export(here, [KEY], tmp_path / "nothing" / "a.tar")


# Hostile archives


def parts(key: str = KEY, array: np.ndarray = FEATURES, **changes: Any) -> dict[str, bytes]:
    """The three files of a good entry, with a manifest that says something else where that is asked for."""
    file = io.BytesIO()
    digest = codec.write(array, file)
    said = {"shape": list(array.shape), "dtype": str(array.dtype), "digest": digest}
    entry = {"format": 1, "key": key, "features": said, **changes}
    return {f"{key}.pkl": file.getvalue(), f"{key}.json": json.dumps(entry).encode(), f"{key}.files": b""}


def packed(
    tar: Path, files: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None, **options: Any
) -> None:
    with tarfile.open(tar, "w", format=options.get("format", tarfile.GNU_FORMAT)) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change and name.endswith(".pkl"):
                change(member)
            archive.addfile(member, io.BytesIO(content))


def typed(kind: bytes, target: str = "") -> Callable[[tarfile.TarInfo], None]:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname = kind, target

    return change


def named(name: str) -> Callable[[tarfile.TarInfo], None]:
    return lambda member: setattr(member, "name", name)


STRANGE = {
    "absolute": (named(f"/tmp/{KEY}.pkl"), "which is no file of an entry"),
    "upwards": (named(f"../{KEY}.pkl"), "which is no file of an entry"),
    "below": (named(f"a/{KEY}.pkl"), "which is no file of an entry"),
    "dotted": (named(f"./{KEY}.pkl"), "which is no file of an entry"),
    "upper": (named(f"{KEY.upper()}.pkl"), "which is no file of an entry"),
    "newline": (named(f"{KEY}.pkl\n"), "which is no file of an entry"),
    "next": (named(f"{KEY}.next.json"), "which is no file of an entry"),
    "user": (named("notes.txt"), "which is no file of an entry"),
    "long": (named("x" * 300), "which is no file of an entry"),
    "symlink": (typed(tarfile.SYMTYPE, "/etc/passwd"), "which is no regular file"),
    "hard link": (typed(tarfile.LNKTYPE, f"{OTHER}.pkl"), "which is no regular file"),
    "device": (typed(tarfile.CHRTYPE), "which is no regular file"),
    "pipe": (typed(tarfile.FIFOTYPE), "which is no regular file"),
    "folder": (typed(tarfile.DIRTYPE), "which is no regular file"),
    "sparse": (typed(tarfile.GNUTYPE_SPARSE), "which is no regular file"),
    "continuous": (typed(tarfile.CONTTYPE), "which is no regular file"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_an_archive_with_anything_strange_in_it_changes_nothing(
    there: FeatureStore, tar: Path, tmp_path: Path, kind: str
) -> None:
    change, reason = STRANGE[kind]
    packed(tar, {**parts(OTHER), **parts()}, lambda m: change(m) if m.name.startswith(KEY) else None)
    before = sorted(tmp_path.rglob("*"))
    done = import_archive(there, tar)
    assert done.entries == ()
    assert any(reason in problem for problem in done.problems), done.problems
    assert sorted(tmp_path.rglob("*")) == before
    assert there.keys() == []


def test_pax_headers_cannot_rename_what_follows(there: FeatureStore, tar: Path) -> None:
    def renamed(member: tarfile.TarInfo) -> None:
        member.pax_headers = {"path": "../../evil", "size": "99999999999"}

    packed(tar, parts(), renamed, format=tarfile.PAX_FORMAT)
    done = import_archive(there, tar)
    assert done.problems
    assert there.keys() == []


@pytest.mark.parametrize("size", [10**6, 1 << 45, (1 << 62)])
def test_a_declared_size_is_not_believed(there: FeatureStore, tar: Path, size: int) -> None:
    packed(tar, parts())
    content = bytearray(tar.read_bytes())
    head = tarfile.TarInfo.frombuf(bytes(content[:512]), "utf-8", "strict")
    head.size = size
    content[:512] = head.tobuf(tarfile.GNU_FORMAT)
    tar.write_bytes(content)
    done = import_archive(there, tar)
    assert re.search(f"declares {size} bytes, and [0-9]+ are left: it is cut short", done.problems[0])
    assert there.keys() == []


def test_a_manifest_of_a_gigabyte_is_not_read(there: FeatureStore, tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(archive._LARGEST, "json", 1000)
    packed(tar, {**parts(), f"{KEY}.json": b" " * 1001})
    assert "which is too large" in import_archive(there, tar).problems[0]


def test_two_files_of_one_name(there: FeatureStore, tar: Path) -> None:
    packed(tar, parts())
    with tarfile.open(tar, "a") as more:
        member = tarfile.TarInfo(f"{KEY}.pkl")
        member.size = len(ATTACK)
        more.addfile(member, io.BytesIO(ATTACK))
    assert import_archive(there, tar).problems == (f"{tar} has two files called {KEY}.pkl",)
    assert there.keys() == []


@pytest.mark.parametrize("kind", ["pkl", "json"])
def test_an_entry_that_is_not_whole(there: FeatureStore, tar: Path, kind: str) -> None:
    files = {**parts(), **parts(OTHER)}
    del files[f"{KEY}.{kind}"]
    packed(tar, files)
    assert import_archive(there, tar).problems == (
        f"{tar} has no {KEY}.{kind}, though it has other files of the entry",
    )
    assert there.keys() == []


def test_many_problems_are_not_listed_for_ever(there: FeatureStore, tar: Path) -> None:
    packed(tar, {f"x{number}": b"" for number in range(1000)})
    done = import_archive(there, tar)
    assert len(done.problems) == 21
    assert done.problems[-1] == f"{tar} is not read any further"


@settings(max_examples=150)
@given(data=st.data())
def test_an_archive_that_is_cut_short_changes_nothing(data: st.DataObject, there: FeatureStore, tar: Path) -> None:
    packed(tar, {**parts(), **parts(OTHER)})
    whole = tar.read_bytes()
    members = 512 * 12  # six files, each with its header; .files are empty
    last = len(whole.rstrip(b"\0"))
    cut = data.draw(st.integers(0, last - 1) | st.sampled_from([512 * n for n in range(last // 512)]))
    assert last < members
    tar.write_bytes(whole[:cut])
    if cut < 512:
        with pytest.raises(ConfigError, match="expected an archive of 'simet-cache export'"):
            import_archive(there, tar)
    else:
        assert import_archive(there, tar).problems
    assert there.keys() == []


@settings(max_examples=150)
@given(at=st.integers(0, 3000), bit=st.integers(0, 7))
def test_an_archive_with_a_flipped_bit_brings_nothing_wrong(
    at: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    there, tar = FeatureStore(folder / "there"), folder / "a.tar"
    packed(tar, parts())
    content = bytearray(tar.read_bytes())
    content[at] ^= 1 << bit
    tar.write_bytes(content)
    try:
        done = import_archive(there, tar)
    except ConfigError:
        done = None
    keys = there.keys()
    for key in keys:
        found = there.find(key)
        assert found is not None
        assert np.array_equal(found.load(copy=True), FEATURES)
    assert done is None or done.problems or done.entries
    assert [path for path in there.cache_dir.iterdir() if path.name.endswith(".tmp")] == []


WRONG = {
    "unsafe": ({f"{KEY}.pkl": ATTACK}, "asks for os.system"),
    "no pickle": ({f"{KEY}.pkl": b"junk"}, "is no readable pickle"),
    "other features": ({f"{KEY}.pkl": parts(array=FEATURES + 1)[f"{KEY}.pkl"]}, "does not hold what its manifest"),
    "NaN": (parts(array=FEATURES * np.nan), "expected finite features"),
    "no manifest": ({f"{KEY}.json": b"[]"}, "is no manifest"),
    "deep": ({f"{KEY}.json": b"[" * 100_000}, "is no manifest"),
    "other key": ({f"{KEY}.json": parts(OTHER)[f"{OTHER}.json"]}, "is the manifest of another key"),
    "newer": ({f"{KEY}.json": b'{"format": 99}'}, "was written by a newer simet-cache"),
    "no features": (parts(features={}), "does not say what the features are"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_entry_is_refused_and_the_others_imported(there: FeatureStore, tar: Path, kind: str) -> None:
    files, reason = WRONG[kind]
    packed(tar, {**parts(), **files, **parts(OTHER)})
    done = import_archive(there, tar)
    assert outcomes(done) == [(KEY, "refused"), (OTHER, "imported")]
    assert reason in done.entries[0].reason
    assert str(tar) in done.entries[0].reason
    assert there.keys() == [OTHER]
    assert [path for path in there.cache_dir.iterdir() if path.name.endswith(".tmp")] == []


def test_what_a_manifest_says_of_itself_does_not_count(there: FeatureStore, tar: Path) -> None:
    said = parts(file={"bytes": 1, "mtime_ns": 2}, source="x", self="y", digest="z")
    packed(tar, said)
    assert outcomes(import_archive(there, tar)) == [(KEY, "imported")]
    assert there.look(KEY, full=True).described
    assert there.manifest(KEY)["features"]["row_order"] == "unknown"


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\0" * 10240, b"\x1f\x8b" + b"x" * 600], ids=["empty", "text", "zeros", "gzip"]
)
def test_what_is_no_archive(there: FeatureStore, tar: Path, content: bytes) -> None:
    tar.write_bytes(content)
    with pytest.raises(ConfigError, match="expected an archive of 'simet-cache export', found"):
        import_archive(there, tar)


def test_a_full_disk_is_a_sentence(
    here: FeatureStore, there: FeatureStore, tar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(here, [KEY], tar)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = import_archive(there, tar)
    assert outcomes(done) == [(KEY, "refused")]
    assert "No space left on device" in done.entries[0].reason
    assert there.keys() == []
