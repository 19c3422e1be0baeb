"""A fingerprint changes when a file's name, size or time of change does."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from simet_cache.fingerprint import fingerprint

FILES = ["a.png", "b.png", "c/d.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "c").mkdir()
    for name in FILES:
        (tmp_path / name).write_bytes(name.encode())
        os.utime(tmp_path / name, ns=(1, 10**18))
    return tmp_path


def test_it_is_the_same_for_the_same_files_wherever_they_are(root: Path) -> None:
    before = fingerprint(root, FILES)
    assert re.fullmatch("stat:[0-9a-f]{32}", before)
    moved = root.rename(root.with_name("moved"))
    assert fingerprint(moved, iter(FILES)) == before


def test_the_value_stays_from_version_to_version(root: Path) -> None:
    assert fingerprint(root, FILES) == "stat:b1adce7d1d19b1058fa300727d6c429d"


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a.png").write_bytes(b"longer than before"),
        lambda root: os.utime(root / "a.png", ns=(1, 10**18 + 1)),
        lambda root: (root / "a.png").rename(root / "z.png"),
        lambda root: (root / "e.png").touch(),
        lambda root: (root / "b.png").unlink(),
    ],
    ids=["size", "time", "name", "one more", "one less"],
)
def test_every_change_changes_it(root: Path, change: Callable[[Path], object]) -> None:
    def now() -> str:
        return fingerprint(root, sorted(str(path.relative_to(root)) for path in root.rglob("*.png")))

    before = now()
    change(root)
    assert now() != before


def test_the_content_alone_and_the_time_of_reading_do_not_change_it(root: Path) -> None:
    before = fingerprint(root, FILES)
    (root / "a.png").write_bytes(b"A.PNG")
    os.utime(root / "a.png", ns=(999, 10**18))
    assert fingerprint(root, FILES) == before


def test_the_order_of_the_dataset_counts(root: Path) -> None:
    assert fingerprint(root, FILES) != fingerprint(root, FILES[::-1])


def test_names_and_sizes_do_not_run_into_each_other(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    (tmp_path / "a1").write_bytes(b"x")
    for name in ("a", "a1"):
        os.utime(tmp_path / name, ns=(1, 1))
    assert fingerprint(tmp_path, ["a"]) != fingerprint(tmp_path, ["a1"])


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    (tmp_path / name).touch()
    assert fingerprint(tmp_path, [name]).startswith("stat:")


def test_that_a_file_is_missing_is_part_of_it(tmp_path: Path) -> None:
    """Like a link that leads nowhere: a bad image, whose dataset has a fingerprint all the same."""
    (tmp_path / "a.png").write_bytes(b"1")
    both = fingerprint(tmp_path, ["a.png", "b.png"])
    assert both != fingerprint(tmp_path, ["a.png"])
    (tmp_path / "b.png").write_bytes(b"")
    assert both != fingerprint(tmp_path, ["a.png", "b.png"])
