"""Files are seen whole or not at all; what dead writers leave is swept; what goes wrong is a sentence."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from simet_cache import folders
from simet_cache.atomic import reported, size, staged, sweep, write_atomically
from simet_cache.errors import StoreError

ROOT = Path(__file__).resolve().parents[1]
WRITER = """
import sys
from pathlib import Path
from simet_cache.atomic import Staged
new = Staged(Path(sys.argv[1]))
new.file.write(b"half")
new.file.flush()
print(new.path, flush=True)
sys.stdin.read()
"""


@contextmanager
def writer(path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that is in the middle of writing a file, and the file's temporary name."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def later() -> float:
    return time.time() + 100


def temporary(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


# Writing


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, lambda file: file.write(b"old"))
    inode = path.stat().st_ino
    with path.open("rb") as reader:
        write_atomically(path, lambda file: file.write(b"new"))
        assert reader.read() == b"old", "who reads the old one goes on reading it"
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != inode
    assert temporary(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    def fails(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_atomically(path, fails)
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"old"


def test_it_is_written_beside_its_place(tmp_path: Path) -> None:
    with staged(tmp_path / "a") as new:
        assert new.path.parent == tmp_path, "a rename from elsewhere may be a copy"
        assert temporary(tmp_path) == [new.path.name]
    assert temporary(tmp_path) == []


def test_it_has_the_permissions_of_an_ordinary_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_its_status_is_that_of_the_file_in_its_place(tmp_path: Path) -> None:
    with staged(tmp_path / "a") as new:
        new.file.write(b"x" * 100_000)
        status = new.finish()
        new.replace()
    placed = (tmp_path / "a").stat()
    assert (status.st_size, status.st_mtime_ns, status.st_ino) == (100_000, placed.st_mtime_ns, placed.st_ino)


def test_content_and_name_are_brought_to_the_disk_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        status = os.fstat(handle)
        steps.append("folder" if os.path.samestat(status, tmp_path.stat()) else f"{status.st_size} bytes")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: steps.append("rename") or replace(*names))
    write_atomically(tmp_path / "a", lambda file: file.write(b"12345"))
    assert steps == ["5 bytes", "rename", "folder"]


# Leftovers


def test_leftovers_of_the_dead_are_swept(tmp_path: Path) -> None:
    with writer(tmp_path / "a") as (process, path):
        assert sweep(tmp_path, now=later()) == [], "its writer lives"
        process.kill()
        process.wait()
        assert path.exists()
        assert sweep(tmp_path) == [], "it is young: a writer may be about to lock it"
        assert sweep(tmp_path, now=later()) == [path]
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_a_leftover_tells_its_age(tmp_path: Path) -> None:
    with writer(tmp_path / "a") as (process, path):
        os.utime(path, (1, 1))
        assert sweep(tmp_path) == [], "old, but its writer lives"
        process.kill()
        process.wait()
        assert sweep(tmp_path) == [path]


def test_a_file_of_this_process_is_not_swept(tmp_path: Path) -> None:
    with staged(tmp_path / "a") as new:
        new.file.write(b"x")
        assert sweep(tmp_path, now=later()) == []
        new.finish()
        new.replace()
    assert (tmp_path / "a").read_bytes() == b"x"


def test_only_leftovers_are_swept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    names = ["a", "a.tmp", ".a.tmp", ".a.abcdefg.tmp", ".a.ABCDEFGH.tmp", "a.abcdefgh.tmp", ".a.abcdefgh.tmp.pkl"]
    for name in ["target", *names]:
        (tmp_path / name).touch()
    (tmp_path / ".b.abcdefgh.tmp").symlink_to(target)
    (tmp_path / ".c.abcdefgh.tmp").mkdir()
    (tmp_path / ".d.abcdefgh.tmp").touch()
    before = {path.name for path in tmp_path.iterdir()}
    assert sweep(tmp_path, now=later()) == [tmp_path / ".d.abcdefgh.tmp"]
    assert {path.name for path in tmp_path.iterdir()} == before - {".d.abcdefgh.tmp"}


# Sentences


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_a_sentence_that_says_what_to_do(tmp_path: Path, code: int) -> None:
    with pytest.raises(StoreError) as caught, reported("cannot write", tmp_path / "a", needed=3 << 20):
        raise OSError(code, os.strerror(code))
    assert re.fullmatch(
        rf"cannot write {tmp_path}/a: {os.strerror(code)}; 3\.0 MiB are needed, [0-9.]+ [KMGT]iB are free\."
        r" Make room there, for example with 'simet-cache prune'",
        str(caught.value),
    )
    with pytest.raises(StoreError, match=r"/a: [^;]*\. Make room there"), reported("cannot write", tmp_path / "a"):
        raise OSError(code, os.strerror(code))


def test_other_trouble_is_a_sentence_too(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught, reported("cannot read", tmp_path / "a"):
        (tmp_path / "a").read_bytes()
    assert str(caught.value) == f"cannot read {tmp_path}/a: No such file or directory"
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(ZeroDivisionError), reported("cannot read", tmp_path):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (10240, "10 KiB"), (409_600_000, "391 MiB"),
     (1 << 30, "1.0 GiB"), (5 << 40, "5.0 TiB"), (5000 << 40, "5000.0 TiB")],
)  # fmt: skip
def test_sizes_as_people_read_them(count: int, text: str) -> None:
    assert size(count) == text


def test_the_umask_is_read_without_changing_it() -> None:
    before = os.umask(0o027)
    try:
        assert folders._read_umask() == 0o027
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
