"""The digits: written once, all at once, the same for a seed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from simet_cache.datasets.digits import CLASSES, PARTS, digits_folder
from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import DatasetError

SIZES = {"reference": 898, "held-out": 899, "noise": 899, "blur": 899}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stack(folder: Path) -> NDArray[np.float64]:
    return np.stack([np.asarray(Image.open(path), dtype=float) for path in sorted(folder.iterdir())])


def test_each_part_is_a_folder_of_gray_pngs(home: Path) -> None:
    for part in PARTS:
        folder = digits_folder(home, part)
        assert folder == home / "seed-0" / part
        with Image.open(folder / min(names(folder))) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (32, 32))
        assert len(FolderDataset(folder)) == SIZES.get(part, len(names(folder)))
    assert names(home / "seed-0") == set(PARTS)


def test_reference_and_held_out_share_nothing_and_leave_nothing(home: Path) -> None:
    reference, held_out = names(digits_folder(home, "reference")), names(digits_folder(home, "held-out"))
    assert not reference & held_out
    assert reference | held_out == {f"{i:04d}_{digit}.png" for i, digit in enumerate(load_digits().target)}


def test_an_image_shows_its_digit(home: Path) -> None:
    folder = digits_folder(home, "held-out")
    small = load_digits().images
    for name in sorted(names(folder))[::100]:
        shrunk = np.asarray(Image.open(folder / name).resize((8, 8), Image.Resampling.BOX), dtype=float)
        assert np.corrcoef(shrunk.ravel(), small[int(name[:4])].ravel())[0, 1] > 0.95


def test_noise_and_blur_spoil_the_held_out_images(home: Path) -> None:
    held_out = digits_folder(home, "held-out")
    clean = stack(held_out)
    for part in ("noise", "blur"):
        folder = digits_folder(home, part)
        assert names(folder) == names(held_out)
        assert np.abs(stack(folder) - clean).mean() > 10
    assert stack(home / "seed-0/blur").std() < clean.std()


def test_three_classes_are_held_out_images_as_they_are(home: Path) -> None:
    three, held_out = content(digits_folder(home, "three-classes")), content(digits_folder(home, "held-out"))
    assert {int(name[5]) for name in three} == set(CLASSES)
    assert three == {name: data for name, data in held_out.items() if int(name[5]) in CLASSES}


def test_the_bytes_follow_from_the_seed(home: Path, tmp_path: Path) -> None:
    for part in ("noise", "blur"):
        assert content(digits_folder(tmp_path, part)) == content(digits_folder(home, part))
    assert names(digits_folder(tmp_path, "reference", seed=1)) != names(digits_folder(home, "reference"))


def test_a_written_folder_is_left_alone_and_needs_no_scikit_learn(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = digits_folder(home, "held-out")
    before = folder.stat().st_mtime_ns
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert digits_folder(home, "held-out") == folder
    assert folder.stat().st_mtime_ns == before


def test_a_missing_scikit_learn_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DatasetError, match="pip install scikit-learn"):
        digits_folder(tmp_path, "noise")


@pytest.mark.parametrize(("part", "seed"), [("heldout", 0), ("../noise", 0), ("noise", -1)])
def test_a_part_or_seed_that_does_not_exist_is_refused(tmp_path: Path, part: str, seed: int) -> None:
    with pytest.raises(DatasetError, match="expected"):
        digits_folder(tmp_path, part, seed)
    assert names(tmp_path) == set()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"cannot write the digits: .*file"):
        digits_folder(tmp_path / "file", "noise")


# Many writers, and writers that die


def test_writers_at_the_same_time_agree(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = content(digits_folder(home, "three-classes"))
    barrier = threading.Barrier(4)
    rename = Path.rename

    def together(path: Path, target: Any) -> Path:
        barrier.wait(timeout=10)  # all four have written, none has renamed
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", together)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: digits_folder(tmp_path, "three-classes"), range(4)))
    assert folders == {tmp_path / "seed-0/three-classes"}
    assert content(folders.pop()) == expected
    assert names(tmp_path / "seed-0") == {"three-classes"}


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_writer_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    save, saves = Image.Image.save, iter(range(1000))

    def failing(image: Image.Image, path: Path) -> None:
        if next(saves) == 100:
            raise failure
        save(image, path)

    monkeypatch.setattr(Image.Image, "save", failing)
    with pytest.raises((DatasetError, KeyboardInterrupt)):
        digits_folder(tmp_path, "reference")
    assert names(tmp_path / "seed-0") == set()
    assert len(names(digits_folder(tmp_path, "reference"))) == SIZES["reference"]


def die_while_writing(home: Path) -> None:
    save, saves = Image.Image.save, iter(range(1000))

    def dying(image: Image.Image, path: Path) -> None:
        save(image, path)
        if next(saves) == 100:
            os.kill(os.getpid(), signal.SIGKILL)

    Image.Image.save = dying  # type: ignore[method-assign, assignment]
    digits_folder(home, "reference")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_writer_leaves_no_half_full_folder(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("fork").Process(target=die_while_writing, args=(tmp_path,))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    (scratch,) = (tmp_path / "seed-0").iterdir()
    assert len(names(scratch)) == 101
    assert not (tmp_path / "seed-0/reference").exists()
    assert len(names(digits_folder(tmp_path, "reference"))) == SIZES["reference"]
