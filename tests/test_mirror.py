"""The remote tier: fetched and put there, believed in nothing, and never in the way."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from simet_cache import mirror
from simet_cache.config import EvaluationConfig
from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import ConfigError, RemoteError
from simet_cache.remote import Remote
from simet_cache.sources import source_of
from simet_cache.store import FeatureStore

KEY = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32
FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """A remote remembers that it was down."""
    mirror.remote_at.cache_clear()
    yield
    mirror.remote_at.cache_clear()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/remote"


@pytest.fixture
def here(tmp_path: Path, url: str) -> FeatureStore:
    return FeatureStore(tmp_path / "here", remote=url)


@pytest.fixture
def there(tmp_path: Path, url: str) -> FeatureStore:
    """Another machine with the same remote."""
    return FeatureStore(tmp_path / "there", remote=url)


def remote_files(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((tmp_path / "remote").iterdir())}


def pending(store: FeatureStore) -> list[str]:
    return sorted(path.name for path in (store.cache_dir / "pending").glob("*"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A remote that is down while this list holds a reason."""
    reasons = ["no route to host"]
    for name in ("read", "upload", "download"):
        real = getattr(Remote, name)

        def call(self: Remote, *arguments: Any, real: Any = real, name: str = name, **options: Any) -> Any:
            if reasons:
                raise RemoteError(f"cannot {name}: {reasons[0]}")
            return real(self, *arguments, **options)

        monkeypatch.setattr(Remote, name, call)
    return reasons


def test_what_is_stored_here_is_found_there(
    here: FeatureStore, there: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    put = here.put(KEY, FEATURES, suffix="x")
    found = there.find(KEY, rows=4)
    assert found is not None
    assert (found.digest, found.shape) == (put.digest, (4, 3))
    assert Path(found.path).parent == there.cache_dir
    assert np.array_equal(found.load(copy=True), FEATURES)
    assert Path(found.path).read_bytes() == Path(put.path).read_bytes()
    assert there.manifest(KEY)["suffix"] == "x"
    assert (pending(here), pending(there)) == ([], [])
    assert warnings(caplog) == []


def test_what_is_here_is_not_fetched(here: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put = here.put(KEY, FEATURES)
    monkeypatch.setattr(Remote, "read", lambda *_, **__: pytest.fail("asked"))
    assert here.find(KEY) == put


def test_what_is_nowhere_is_computed_and_put_there(here: FeatureStore, tmp_path: Path) -> None:
    here.get_or_compute(KEY, lambda: FEATURES)
    assert sorted(remote_files(tmp_path)) == [f"{KEY}.files", f"{KEY}.json", f"{KEY}.pkl"]


def test_damage_here_is_mended_from_there(here: FeatureStore) -> None:
    put = here.put(KEY, FEATURES)
    Path(put.path).write_bytes(b"damage")
    found = here.find(KEY)
    assert found is not None
    assert np.array_equal(found.load(copy=True), FEATURES)


def test_the_manifest_goes_last(here: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(Remote, "upload", lambda self, path, name: sent.append(name))
    here.put(KEY, FEATURES)
    assert sent == [f"{KEY}.pkl", f"{KEY}.files", f"{KEY}.json"]


# Believed in nothing


def spoilt() -> dict[str, Callable[[dict[str, bytes]], dict[str, bytes]]]:
    def manifest(**changes: Any) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
        def spoil(files: dict[str, bytes]) -> dict[str, bytes]:
            said = json.loads(files[f"{KEY}.json"])
            return {f"{KEY}.json": json.dumps({**said, **changes}).encode()}

        return spoil

    return {
        "cut short": lambda files: {f"{KEY}.pkl": files[f"{KEY}.pkl"][:-20]},
        "empty": lambda files: {f"{KEY}.pkl": b""},
        "a flipped bit": lambda files: {
            f"{KEY}.pkl": files[f"{KEY}.pkl"][:70] + b"\xff" + files[f"{KEY}.pkl"][71:],
        },
        "other features": lambda files: {f"{KEY}.pkl": pickle.dumps(FEATURES + 1)},
        "an attack": lambda files: {f"{KEY}.pkl": b"cos\nsystem\n(S'true'\ntR."},
        "no manifest": lambda files: {f"{KEY}.json": b"{"},
        "a manifest of another key": manifest(key=OTHER),
        "a newer manifest": manifest(format=99),
        "a manifest without features": manifest(features=None),
        "a manifest without a file": manifest(file=None),
        "a manifest with another shape": manifest(features={"shape": [1, 1], "dtype": "float32", "digest": "0" * 32}),
        "a manifest that is a list": lambda files: {f"{KEY}.json": b"[]"},
    }


@pytest.mark.parametrize("kind", spoilt())
def test_nothing_from_there_is_believed(
    here: FeatureStore, there: FeatureStore, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    here.put(KEY, FEATURES)
    for name, content in spoilt()[kind](remote_files(tmp_path)).items():
        (tmp_path / "remote" / name).write_bytes(content)
    assert there.find(KEY) is None
    assert len(warnings(caplog)) == 1
    assert there.keys() == []
    assert list(there.cache_dir.glob(".*")) == []
    assert np.array_equal(there.get_or_compute(KEY, lambda: FEATURES).load(), FEATURES)
    shutil.rmtree(here.cache_dir)
    assert FeatureStore(here.cache_dir, remote=here.remote).find(KEY) is not None, "and it is mended there"


def test_a_pickle_of_another_program_is_fetched_too(there: FeatureStore, tmp_path: Path, here: FeatureStore) -> None:
    here.path(KEY).write_bytes(pickle.dumps(FEATURES))
    assert here.find(KEY) is not None
    assert mirror.push(here, KEY, url=str(here.remote))
    found = there.find(KEY)
    assert found is not None
    assert np.array_equal(found.load(), FEATURES)
    assert there.look(KEY, full=True).status == "hit"


def test_stale_features_are_not_fetched(
    here: FeatureStore, there: FeatureStore, images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = images("images", 4)
    here.put(KEY, FEATURES, source=source_of(FolderDataset(folder), suffix="", batch_size=1))
    (folder / "0001.png").write_bytes(b"changed")
    changed = source_of(FolderDataset(folder), suffix="", batch_size=1)
    monkeypatch.setattr(Remote, "download", lambda *_: pytest.fail("fetched"))
    assert there.find(KEY, source=changed) is None
    assert there.find(KEY, rows=5) is None


def test_files_that_differ_are_named_after_a_fetch(
    here: FeatureStore, there: FeatureStore, images: Callable[..., Path]
) -> None:
    folder = images("images", 4)
    here.put(KEY, FEATURES, source=source_of(FolderDataset(folder), suffix="", batch_size=1))
    there.find(KEY)
    (folder / "0001.png").write_bytes(b"changed")
    seen = there.look(KEY, source=source_of(FolderDataset(folder), suffix="", batch_size=1))
    assert "0001.png changed" in seen.reason


# Never in the way


def test_a_remote_that_is_down_is_a_warning_and_caught_up(
    here: FeatureStore, down: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = here.get_or_compute(KEY, lambda: FEATURES)
    assert np.array_equal(made.load(), FEATURES)
    assert [line.split(":")[0] for line in warnings(caplog)] == ["cannot read", "cannot read", "cannot upload"]
    assert all(line.endswith("no route to host. It goes on without the remote") for line in warnings(caplog))
    assert pending(here) == [KEY]
    here.catch_up()
    assert pending(here) == [KEY]
    down.clear()
    FeatureStore(here.cache_dir, remote=here.remote).catch_up()
    assert pending(here) == []
    assert f"{KEY}.json" in remote_files(tmp_path)


def test_the_next_entry_that_gets_through_takes_the_others_along(
    here: FeatureStore, down: list[str], tmp_path: Path
) -> None:
    here.put(KEY, FEATURES)
    down.clear()
    here.put(OTHER, FEATURES)
    assert pending(here) == []
    assert f"{KEY}.json" in remote_files(tmp_path)


def test_what_is_being_made_is_left_to_who_makes_it(here: FeatureStore, down: list[str], tmp_path: Path) -> None:
    here.put(KEY, FEATURES)
    down.clear()
    with here.lock(KEY):
        here.put(OTHER, FEATURES)
        assert pending(here) == [KEY]
    here.catch_up()
    assert pending(here) == []
    assert f"{KEY}.json" in remote_files(tmp_path)


def test_who_comes_by_while_an_entry_is_written_does_not_lose_it(
    here: FeatureStore, down: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its note is there, its features are not yet: as if they had been removed."""
    place = here.place

    def slowly(*arguments: Any, **options: Any) -> Any:
        FeatureStore(here.cache_dir, remote=here.remote).catch_up()
        assert pending(here) == []
        return place(*arguments, **options)

    monkeypatch.setattr(here, "place", slowly)
    here.put(KEY, FEATURES)
    assert pending(here) == [KEY]


def test_what_was_said_is_not_said_again(
    here: FeatureStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RemoteError("left alone for 50 s more", repeated=True)

    monkeypatch.setattr(Remote, "read", refuse)
    monkeypatch.setattr(Remote, "upload", refuse)
    here.get_or_compute(KEY, lambda: FEATURES)
    assert warnings(caplog) == []
    assert pending(here) == [KEY]


def test_what_waits_for_another_remote_stays(here: FeatureStore, down: list[str], tmp_path: Path) -> None:
    here.put(KEY, FEATURES)
    down.clear()
    FeatureStore(here.cache_dir, remote=f"file://{tmp_path}/another").catch_up()
    assert pending(here) == [KEY]
    assert not (tmp_path / "another").exists()


def test_what_waits_and_is_gone_is_forgotten(here: FeatureStore, down: list[str], tmp_path: Path) -> None:
    here.put(KEY, FEATURES)
    here.path(KEY).unlink()
    down.clear()
    here.catch_up()
    assert pending(here) == []
    assert not (tmp_path / "remote").exists()


def test_a_connection_that_is_cut_leaves_nothing_half(
    here: FeatureStore, there: FeatureStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here.put(KEY, FEATURES)

    def cut(self: Remote, name: str, file: IO[bytes], **_: object) -> None:
        file.write(b"half")
        raise RemoteError("the connection was cut")

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "download", cut)
        assert there.find(KEY) is None
    assert warnings(caplog) == ["the connection was cut. It goes on without the remote"]
    assert [path.name for path in there.cache_dir.iterdir() if path.is_file()] == []
    assert there.find(KEY) is not None


def test_a_url_that_is_none_is_bad_input(tmp_path: Path, images: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="knows no protocol 'nowhere'"):
        FeatureStore(tmp_path / "cache", remote="nowhere://x")
    images("real")
    config = {"reference": {"path": str(tmp_path / "real")}, "datasets": [{"path": str(tmp_path / "real")}]}
    with pytest.raises(ValueError, match="knows no protocol 'nowhere'"):
        EvaluationConfig.model_validate({**config, "remote": "nowhere://x"})
    assert EvaluationConfig.model_validate({**config, "remote": f"file://{tmp_path}"}).remote == f"file://{tmp_path}"


def test_a_store_without_a_remote_needs_no_fsspec(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = (
        f"import sys, numpy as np; from simet_cache.store import FeatureStore; s = FeatureStore({str(tmp_path)!r});"
        f" s.put({KEY!r}, np.ones((2, 2))); s.find({OTHER!r}); print('fsspec' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
