"""Folders of images: which files count, in which order, and what is said when something is wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from torch.utils.data import DataLoader

from simet_cache.datasets import passed_over
from simet_cache.datasets.folder import FolderDataset, has_images, image_files
from simet_cache.datasets.suffixes import IMAGE_SUFFIXES, VERSION
from simet_cache.errors import DatasetError, ImageReadError


def put(root: Path, *names: str) -> Path:
    """Write one-pixel PNGs, whatever their suffix; the shade is the position in ``names``."""
    for shade, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1, 1), shade).save(path, format="PNG")
    return root


def size(image: Image.Image) -> tuple[int, int]:
    return image.size


def shade(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


class ShuffledScan:
    """`os.scandir` of a system that lists in another order."""

    def __init__(self, scandir: Any, seed: int) -> None:
        self.scandir = scandir
        self.random = random.Random(seed)

    def __call__(self, folder: str) -> Any:
        with self.scandir(folder) as found:
            entries = list(found)
        self.random.shuffle(entries)
        return self.Closing(entries)

    class Closing(list[Any]):
        def __enter__(self) -> Iterator[Any]:
            return iter(self)

        def __exit__(self, *_: object) -> None:
            pass


# Which files


def test_files_are_found_to_the_bottom_and_sorted_by_code_point(tmp_path: Path) -> None:
    names = ["b.png", "a/z.jpg", "a.png", "a/b/c/d.webp", "B.png", "10.png", "9.png", "é.png", "a-b/x.png"]
    put(tmp_path, *names)
    assert image_files(tmp_path) == sorted(names)
    assert image_files(tmp_path)[:2] == ["10.png", "9.png"]


@pytest.mark.parametrize("name", ["a.JPG", "a.Jpeg", "a.tiff", "a.webp", "a.gif", "a.BMP", "a.ppm", "a.mpo", "a.b.png"])
def test_suffixes_count_in_any_case(tmp_path: Path, name: str) -> None:
    assert image_files(put(tmp_path, name)) == [name]
    assert has_images(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "png", "a.", "a", "a.png.txt", "a.eps", "a.ps", "a.WMF", "a.emf", "a.h5"])
def test_other_files_do_not_count(tmp_path: Path, name: str) -> None:
    assert image_files(put(tmp_path, name)) == []
    assert not has_images(tmp_path)


def test_no_suffix_of_a_program_or_a_stub() -> None:
    wanted = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".mpo"}
    assert wanted <= IMAGE_SUFFIXES
    assert not {".eps", ".ps", ".wmf", ".emf", ".h5", ".hdf", ".grib", ".bufr", ".mpg", ".pdf"} & IMAGE_SUFFIXES


def test_the_list_of_suffixes_is_part_of_keys() -> None:
    """A number of images is in every key: raise VERSION with the list, and say which keys change."""
    listed = " ".join(sorted(IMAGE_SUFFIXES))
    assert (VERSION, hashlib.md5(listed.encode()).hexdigest()) == (1, "d6f0cfb26678be54844983e3718b4954")


_COUNTING = """
import sys
from PIL import Image

Image.init()
if sys.argv[2] == "older":
    for known in (Image.OPEN, Image.SAVE, Image.MIME):
        known.pop("AVIF", None)
    Image.ID.remove("AVIF")
    for suffix in (".avif", ".avifs"):
        Image.EXTENSION.pop(suffix)
elif sys.argv[2] == "plugin":
    Image.register_open("HEIF", Image.OPEN["PNG"][0], lambda start: start[4:8] == b"ftyp")
    Image.register_extensions("HEIF", [".heic", ".hif"])

from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import ImageReadError

dataset = FolderDataset(sys.argv[1])
print(len(dataset), dataset.files)
try:
    dataset[dataset.files.index("b.avif")]
    print("read")
except ImageReadError as error:
    print(error.reason)
"""


@pytest.mark.parametrize("pillow", ["as it is", "older", "plugin"])
def test_which_files_count_does_not_depend_on_pillow(tmp_path: Path, pillow: str) -> None:
    if "avif" not in features.get_supported():
        pytest.skip("this Pillow reads no AVIF")
    root = put(tmp_path / "root", "a.png", "c.heic")
    Image.new("RGB", (8, 8)).save(root / "b.avif")
    done = subprocess.run(
        [sys.executable, "-c", _COUNTING, str(root), pillow], capture_output=True, text=True, check=True
    )
    files, read = done.stdout.splitlines()
    assert files == "2 ['a.png', 'b.avif']"
    without = "an image in AVIF format, which Pillow .* does not decode; pip install 'pillow>=11.3' has it"
    assert re.fullmatch(without if pillow == "older" else "read", read)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\0\0\0\x20ftypheic\0\0\0\0mif1heic", "in HEIF format, which .* convert it"),
        (b"\xff\x0a" + b"jxl" * 9, "in JPEG XL format, which .* convert it"),
        (b"no image", "^not an image that Pillow can decode"),
    ],
)
def test_a_format_without_a_decoder_is_named(tmp_path: Path, start: bytes, said: str) -> None:
    (tmp_path / "a.png").write_bytes(start)
    with pytest.raises(ImageReadError) as caught:
        FolderDataset(tmp_path)[0]
    assert re.search(said, caught.value.reason)


@pytest.mark.parametrize("codec", ["jpeg2k_decoder", "jpeg_decoder", "zip_decoder"])
def test_a_codec_that_was_not_compiled_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    suffix = {"jpeg2k_decoder": "jp2", "jpeg_decoder": "jpg", "zip_decoder": "png"}[codec]
    Image.new("RGB", (8, 8)).save(tmp_path / f"a.{suffix}")
    monkeypatch.delattr(f"PIL.Image.core.{codec}")
    with pytest.raises(ImageReadError, match=r"this Pillow has no decoder \w+; pip install --force-reinstall pillow"):
        FolderDataset(tmp_path)[0]


@pytest.mark.parametrize("name", [".a.png", "._a.png", ".git/a.png", "x/.y/a.png", "__MACOSX/a.png", "Thumbs.db"])
def test_hidden_files_are_left_out(tmp_path: Path, name: str) -> None:
    assert image_files(put(tmp_path, name)) == []


def test_a_hidden_root_is_searched(tmp_path: Path) -> None:
    assert image_files(put(tmp_path / ".cache", "a.png")) == ["a.png"]


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    assert image_files(put(tmp_path, "a.png/b.png")) == ["a.png/b.png"]


def test_a_pipe_named_like_an_image_is_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert image_files(tmp_path) == []


@pytest.mark.parametrize("name", ["a\nb.png", " .png", "a\\b.png", "%s{}.png", "🖼.png", "-rf.png", "a" * 250 + ".png"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    assert FolderDataset(put(tmp_path, name)).files == [name]
    assert shade(FolderDataset(tmp_path)[0]) == 0


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    try:
        put(tmp_path, "a.png").joinpath("a.png").rename(tmp_path / os.fsdecode(b"\xff\xfe.png"))
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    assert [os.fsencode(name) for name in image_files(tmp_path)] == [b"\xff\xfe.png"]
    assert shade(FolderDataset(tmp_path)[0]) == 0


@settings(max_examples=15)
@given(st.sets(st.from_regex(r"([ab]{1,2}/){0,2}[a-c-]\.png", fullmatch=True), max_size=12))
def test_files_are_what_a_plain_search_finds(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    root = tmp_path_factory.mktemp("root")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert image_files(root) == sorted(PurePosixPath(p.relative_to(root)).as_posix() for p in root.rglob("*.png"))


# Links


def test_links_to_files_count_as_files(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "a.png")
    root = put(tmp_path / "root", "b.png")
    (root / "link.png").symlink_to(tmp_path / "elsewhere/a.png")
    assert image_files(root) == ["b.png", "link.png"]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "deep/a.png")
    root = put(tmp_path / "root", "b.png")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    assert image_files(root) == ["b.png", "link/deep/a.png"]
    assert shade(FolderDataset(root)[1]) == 0


@pytest.mark.parametrize("target", [".", "..", "../..", "loop"])
def test_link_loops_end(tmp_path: Path, target: str) -> None:
    root = put(tmp_path / "root/sub", "x/a.png")
    (root / "x/loop").symlink_to(target)
    assert image_files(root) == ["x/a.png"]


def test_two_folders_that_link_to_each_other(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    assert image_files(tmp_path) == ["a/1.png", "b/2.png"]
    assert image_files(tmp_path / "a") == ["1.png", "to_b/2.png"]


def test_a_folder_is_listed_where_it_really_lies(tmp_path: Path) -> None:
    put(tmp_path, "z/real/1.png")
    (tmp_path / "a").symlink_to(tmp_path / "z/real")
    assert image_files(tmp_path) == ["z/real/1.png"]


def test_of_several_links_to_a_folder_the_first_counts(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "1.png")
    root = put(tmp_path / "root", "0.png")
    for name in ("b", "a", "c"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    assert image_files(root) == ["0.png", "a/1.png"]


def test_a_dangling_image_fails_when_read_instead_of_vanishing(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    dataset = FolderDataset(tmp_path)
    assert dataset.files == ["a.png", "gone.png", "self.png"]
    for index in (1, 2):
        with pytest.raises(ImageReadError, match=r"gone\.png|self\.png"):
            dataset[index]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    put(tmp_path / "elsewhere", "p/1.png", "q/r/2.png")
    root = put(tmp_path / "root", *[f"{folder}/{i}.png" for folder in "xyz" for i in range(4)])
    for name, target in [("m", "elsewhere"), ("l", "elsewhere/q"), ("x/n", "elsewhere/q/r"), ("y/n", "root/z")]:
        (root / name).symlink_to(tmp_path / target)
    (tmp_path / "elsewhere/p/back").symlink_to(root)
    expected = image_files(root)
    assert len({os.path.realpath(root / file) for file in expected}) == len(expected) == 14
    monkeypatch.setattr(os, "scandir", ShuffledScan(os.scandir, seed))
    assert image_files(root) == expected


# What cannot be listed


def test_an_unreadable_subfolder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def forbidding(folder: str) -> Any:
        if folder.endswith("b"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidding)
    with pytest.raises(DatasetError, match=r"cannot list folder .*/b: permission denied"):
        image_files(tmp_path)


def test_a_forbidden_subfolder_is_named(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b").chmod(0)
    if os.access(tmp_path / "b", os.R_OK):
        pytest.skip("nothing is forbidden to this user")
    with pytest.raises(DatasetError, match=r"cannot list folder .*/b: permission denied"):
        image_files(tmp_path)
    (tmp_path / "b").chmod(0o700)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot list folder .*nowhere: no such file"):
        image_files(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="nowhere"):
        has_images(tmp_path / "nowhere")


def test_has_images_stops_at_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "0.png", *[f"{i}/a.png" for i in range(5)])
    visited: list[str] = []
    scandir = os.scandir

    def noting(folder: str) -> Any:
        visited.append(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", noting)
    assert has_images(tmp_path)
    assert len(visited) == 1


# The dataset


def test_items_are_transformed_images(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b/c.png")
    dataset = FolderDataset(str(tmp_path), transform=shade)
    assert (len(dataset), dataset[0], dataset[1]) == (2, 0, 1)
    assert dataset.root == tmp_path.resolve()
    assert dataset.files == ["a.png", "b/c.png"]
    assert FolderDataset(tmp_path)[0].mode == "RGB"


def test_positions_behave_as_those_of_a_list(tmp_path: Path) -> None:
    dataset = FolderDataset(put(tmp_path, "a.png", "b.png"), transform=shade)
    assert (dataset[-1], dataset[-2], dataset[np.int64(1)]) == (1, 0, 1)
    for index in (2, -3):
        with pytest.raises(IndexError):
            dataset[index]
    assert [dataset[i] for i in range(-2, 2)] == [0, 1, 0, 1]


def test_classes_are_the_first_folders(tmp_path: Path) -> None:
    put(tmp_path, "dog/1.png", "cat/x/2.png", "cat/1.png", "ant-eater/1.png")
    (tmp_path / "empty").mkdir()
    dataset = FolderDataset(tmp_path, transform=size, classes=True)
    assert dataset.classes == ["ant-eater", "cat", "dog"]
    assert dataset.files == ["ant-eater/1.png", "cat/1.png", "cat/x/2.png", "dog/1.png"]
    assert dataset.targets == [0, 1, 1, 2]
    assert [dataset[i] for i in (0, -1)] == [((1, 1), 0), ((1, 1), 2)]


def test_without_classes_there_are_no_labels(tmp_path: Path) -> None:
    dataset = FolderDataset(put(tmp_path, "dog/1.png"))
    assert (dataset.classes, dataset.targets) == ([], [])


def test_an_image_without_a_class_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "dog/1.png", "stray.png")
    with pytest.raises(DatasetError, match=r"one folder for each class .* found the image stray\.png directly in it"):
        FolderDataset(tmp_path, classes=True)


def test_a_root_that_is_no_folder_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected a folder of images at .*nowhere, found nothing"):
        FolderDataset(tmp_path / "nowhere")
    put(tmp_path, "a.png")
    with pytest.raises(DatasetError, match="found something that is no folder"):
        FolderDataset(tmp_path / "a.png")
    (tmp_path / "bare/.hidden").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"no image in .*bare: expected .* Check the path"):
        FolderDataset(tmp_path / "bare")


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    (put(tmp_path, "a.png") / "b.png").write_bytes(b"no image")
    with pytest.raises(ImageReadError) as caught:
        FolderDataset(tmp_path)[1]
    assert caught.value.path == str(tmp_path.resolve() / "b.png")


def test_it_can_be_pickled(tmp_path: Path) -> None:
    dataset = FolderDataset(put(tmp_path, "x/a.png", "y/b.png"), transform=shade, classes=True)
    copy = pickle.loads(pickle.dumps(dataset))
    assert vars(copy) == vars(dataset)
    assert copy[1] == (1, 1)


def test_it_feeds_a_loader(tmp_path: Path) -> None:
    dataset = FolderDataset(put(tmp_path, *[f"{i}.png" for i in range(5)]), transform=shade)
    assert [batch.tolist() for batch in DataLoader(dataset, batch_size=2)] == [[0, 1], [2, 3], [4]]


# What does not count is counted


def counted(dataset: FolderDataset) -> dict[str, tuple[int, str]]:
    return {one.why: (one.count, one.first) for one in dataset.passed_over}


def test_what_is_passed_over_is_counted_by_reason(tmp_path: Path) -> None:
    root = put(tmp_path / "root", "a.png", "x/b.jpg", ".c.png", ".git/d.png", "x/._b.jpg", "notes.txt", "x/e.npy", "f")
    os.mkfifo(root / "pipe.png")
    (root / "again").symlink_to(root / "x")
    (root / "x" / "loop").symlink_to("..")
    assert counted(FolderDataset(root)) == {
        "hidden": (3, ".c.png"),
        "not named like an image": (3, "f"),
        "neither file nor folder": (1, "pipe.png"),
        "a link to a folder that counts already": (2, "again"),
    }


def test_what_is_not_named_like_an_image_is_counted_by_suffix_in_one_line(tmp_path: Path) -> None:
    names = ["a.png", "sample_1", "sample_2", "x/sample_3", "b.NPY", "c.npy", "d.heic"]
    (others,) = FolderDataset(put(tmp_path, *names)).passed_over
    said = "6 not named like an image (3 without a suffix, 2 .npy, 1 .heic; first b.NPY)"
    assert str(others) == said
    assert passed_over.in_one_line([("real", (others,))], []) == f"passed over: real: {said}"
    assert others.to_json() == {
        "why": "not named like an image",
        "count": 6,
        "first": "b.NPY",
        "suffixes": {"": 3, ".npy": 2, ".heic": 1},
    }


def test_thousands_of_suffixes_are_not_kept_one_by_one() -> None:
    notes = passed_over.Notes()
    for number in range(5000):
        notes.add(passed_over.OTHER, f"a.{number}", suffix=f".{number}")
    (others,) = notes.all()
    assert (others.count, len(others.suffixes)) == (5000, 1000)
    assert len(str(others)) < 200


def test_nothing_is_said_where_everything_counts(tmp_path: Path) -> None:
    assert FolderDataset(put(tmp_path, "a.png", "x/b.jpg")).passed_over == ()


def test_classes_without_an_image_are_counted(tmp_path: Path) -> None:
    root = put(tmp_path / "root", "cat/a.png", "dog/b.png", "emu/c.txt")
    (root / "yak").mkdir()
    (root / "kitten").symlink_to(root / "cat")
    dataset = FolderDataset(root, classes=True)
    assert dataset.classes == ["cat", "dog"]
    assert counted(dataset)["a folder for a class without an image"] == (3, "emu")
    assert "a folder for a class without an image" not in counted(FolderDataset(root))


def test_a_folder_without_images_says_what_it_holds_instead(tmp_path: Path) -> None:
    put(tmp_path, ".a.png", "a.npy", "b.npy")
    with pytest.raises(DatasetError, match=r"found 1 hidden \(\.a\.png\), 2 not named like an image \(first a\.npy\)"):
        FolderDataset(tmp_path)


def test_a_folder_of_heic_says_to_convert_it(tmp_path: Path) -> None:
    put(tmp_path, "a.heic")
    with pytest.raises(DatasetError, match=r"\(a\.heic\)\. .* convert other formats, such as HEIC, to PNG"):
        FolderDataset(tmp_path)


def test_bad_headers_are_found_in_their_order_and_what_can_pass_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, *(f"{number:03d}.png" for number in range(200)))
    for number in (7, 150, 199):
        (tmp_path / f"{number:03d}.png").write_bytes(b"no image")
    dataset = FolderDataset(tmp_path)
    assert [Path(error.path).name for error in dataset.bad_headers(range(200))] == ["007.png", "150.png", "199.png"]
    assert [Path(error.path).name for error in dataset.bad_headers([199, 3, 7])] == ["199.png", "007.png"]

    def stumbling(path: str, **_: Any) -> None:
        raise ImageReadError(path, "stale file handle", errno=errno.ESTALE)

    monkeypatch.setattr("simet_cache.datasets.folder.check_header", stumbling)
    assert dataset.bad_headers(range(200)) == []
