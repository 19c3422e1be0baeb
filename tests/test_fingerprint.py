"""A fingerprint changes when the data do, is unknown where nobody can tell, and never fails."""

from __future__ import annotations

import bz2
import contextlib
import json
import os
import pickle
import pickletools
import struct
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import torchvision.datasets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import ChainDataset, ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split

import simet_cache.fingerprint as module
from simet_cache import listing as listings
from simet_cache.datasets import torchvision_sets
from simet_cache.datasets.folder import FolderDataset
from simet_cache.fingerprint import fingerprint
from simet_cache.listing import Fingerprint, differences

FILES = ["a.png", "b.png", "c/d.png"]
UNKNOWN = Fingerprint()
HEX = "0123456789abcdef" * 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "root", *FILES)


def write(root: Path, *names: str, time: int = 10**18) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
        os.utime(path, ns=(1, time))
    return root


def folder(root: Path, files: list[str] | None = None) -> FolderDataset:
    """With just these files, whether they are there or not."""
    dataset = FolderDataset.__new__(FolderDataset)
    dataset.root, dataset.files, dataset.transform = root, FILES if files is None else files, None
    return dataset


class Items(Dataset[Any]):
    """Somebody's dataset: attributes, as many items as they say, and none of them may be read."""

    def __init__(self, length: int = len(FILES), **attributes: Any) -> None:
        self.length = length
        vars(self).update(attributes)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an item was read")

    def transform(self, image: Any) -> Any:
        raise AssertionError("a transform ran")


def stat(dataset: Any) -> str | None:
    return fingerprint(dataset).stat


def names(found: Fingerprint) -> list[str]:
    return [name for *_, name in listings.entries_of(found.listing)]


def flip(path: Path) -> None:
    """Other content of the same size, at the same time."""
    before = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(path: Path) -> None:
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


# --- files, by stat -------------------------------------------------------------------------------------------------


def test_it_is_the_same_for_the_same_files_wherever_they_are(root: Path) -> None:
    before = fingerprint(FolderDataset(root))
    assert before.known
    assert before.content is None
    moved = fingerprint(FolderDataset(root.rename(root.with_name("moved"))))
    assert moved == before
    assert moved.same_as(before) is True
    assert names(moved) == FILES


def test_the_values_stay_from_version_to_version(root: Path) -> None:
    """Else increase VERSION: features that were made before must not seem stale."""
    assert fingerprint(FolderDataset(root), content=True) == Fingerprint(
        "43e797029fafefcdef64cdde2c095066", "ba3f98c1e89355299a45b65d9bb71ad2"
    )
    assert fingerprint(TensorDataset(torch.arange(12.0).reshape(2, 6))).content == "7cf4ae0a01e6d21b994540f790c5e8c1"
    assert listings.VERSION == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a.png").write_bytes(b"longer than before"),
        lambda root: touch(root / "a.png"),
        lambda root: (root / "a.png").rename(root / "z.png"),
        lambda root: (root / "e.png").touch(),
        lambda root: (root / "b.png").unlink(),
        lambda root: (root / "c").rename(root / "d"),
    ],
    ids=["size", "time", "name", "one more", "one less", "folder"],
)
@pytest.mark.parametrize("content", [False, True])
def test_every_change_changes_it(root: Path, change: Callable[[Path], object], content: bool) -> None:
    before = fingerprint(FolderDataset(root), content=content)
    change(root)
    now = fingerprint(FolderDataset(root), content=content)
    assert now.stat != before.stat
    assert now != before


def test_the_content_alone_and_the_time_of_reading_do_not_change_stat(root: Path) -> None:
    before = fingerprint(FolderDataset(root))
    flip(root / "a.png")
    os.utime(root / "a.png", ns=(999, 10**18))
    assert fingerprint(FolderDataset(root)).same_as(before) is True


def test_the_order_of_the_dataset_counts(root: Path) -> None:
    ahead, back = (fingerprint(folder(root, files), content=True) for files in (FILES, FILES[::-1]))
    assert ahead.stat != back.stat
    assert ahead.content != back.content


def test_names_and_sizes_do_not_run_into_each_other(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    (tmp_path / "a1").write_bytes(b"x")
    for name in ("a", "a1"):
        os.utime(tmp_path / name, ns=(1, 1))
    assert stat(folder(tmp_path, ["a"])) != stat(folder(tmp_path, ["a1"]))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    before = fingerprint(folder(write(tmp_path, name), [name]), content=True)
    assert names(before) == [name]
    (tmp_path / name).write_bytes(b"changed")
    now = fingerprint(folder(tmp_path, [name]), content=True)
    assert differences(before.listing, now.listing) == [r"\xff\xfe.png changed"]


def test_links_are_followed(tmp_path: Path) -> None:
    write(tmp_path, "long.png", "b.png")
    (tmp_path / "link.png").symlink_to("long.png")
    before = fingerprint(folder(tmp_path, ["link.png"]), content=True)
    (tmp_path / "link.png").unlink()
    (tmp_path / "link.png").symlink_to("b.png")
    now = fingerprint(folder(tmp_path, ["link.png"]), content=True)
    assert now.stat != before.stat
    assert now.content != before.content


@pytest.mark.parametrize("content", [False, True])
def test_that_a_file_is_missing_is_part_of_it(tmp_path: Path, content: bool) -> None:
    """Like a link that leads nowhere: a bad image, whose dataset has a fingerprint all the same."""

    def now(*files: str) -> Fingerprint:
        return fingerprint(folder(tmp_path, list(files)), content=content)

    write(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to("nowhere")
    both = now("a.png", "b.png")
    assert both.known
    assert (both.content is not None) == content
    assert both != now("a.png")
    (tmp_path / "nowhere").write_bytes(b"")
    os.utime(tmp_path / "nowhere", ns=(0, 0))
    assert now("a.png", "b.png").same_as(both) is False
    assert now("gone.png").known


@pytest.mark.parametrize("content", [False, True])
def test_what_is_no_file_counts_as_missing(tmp_path: Path, content: bool) -> None:
    """A folder changes with what is in it, and a pipe would be read forever."""
    missing = fingerprint(folder(tmp_path, ["a.png", "b.png"]), content=content)
    (tmp_path / "a.png").mkdir()
    os.mkfifo(tmp_path / "b.png")
    assert fingerprint(folder(tmp_path, ["a.png", "b.png"]), content=content) == missing


def test_no_files_are_known_files(tmp_path: Path) -> None:
    assert fingerprint(folder(tmp_path, []), content=True).known


TRICKY = ["a", "a\tb", "a\nb", "1 1\ta", "-", "é", os.fsdecode(b"\xff")]
STATES = st.lists(st.tuples(st.sampled_from(TRICKY), st.integers(0, 2), st.integers(0, 2)), max_size=3)


@given(STATES, STATES)
def test_it_is_equal_if_and_only_if_names_sizes_and_times_are(one: Any, two: Any) -> None:
    def looked_at(files: list[tuple[str, int, int]]) -> tuple[Fingerprint, list[tuple[str, int, int]]]:
        with tempfile.TemporaryDirectory() as home:
            for name, size, time in files:
                path = os.path.join(home, name)
                with open(path, "wb") as file:
                    file.truncate(size)
                os.utime(path, ns=(0, time))
            last = {name: (size, time) for name, size, time in files}  # of a name that comes twice
            seen = [(name, *last[name]) for name, _, _ in files]
            return fingerprint(folder(Path(home), [name for name, _, _ in files])), seen

    (a, seen_a), (b, seen_b) = looked_at(one), looked_at(two)
    assert (a.stat == b.stat) == (seen_a == seen_b) == (a.listing == b.listing)


# --- files, by content ----------------------------------------------------------------------------------------------


def test_content_sees_what_stat_does_not(root: Path) -> None:
    before = fingerprint(FolderDataset(root), content=True)
    flip(root / "a.png")
    now = fingerprint(FolderDataset(root), content=True)
    assert now.stat == before.stat
    assert now.same_as(before) is False
    assert differences(before.listing, now.listing) == ["a.png changed"]


def test_a_touched_file_is_no_other_content(root: Path) -> None:
    before = fingerprint(FolderDataset(root), content=True)
    touch(root / "a.png")
    now = fingerprint(FolderDataset(root), content=True)
    assert now.stat != before.stat
    assert now.same_as(before) is True
    assert differences(before.listing, now.listing) == []
    only_stat = fingerprint(FolderDataset(root))
    assert only_stat.same_as(before) is False  # nobody has looked inside
    assert differences(before.listing, only_stat.listing) == ["a.png touched"]


def test_names_are_part_of_the_content(root: Path) -> None:
    before = fingerprint(FolderDataset(root), content=True).content
    (root / "a.png").rename(root / "a0.png")
    assert fingerprint(FolderDataset(root), content=True).content != before


def test_files_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(3 * module._CHUNK + 5))
    before = fingerprint(folder(tmp_path, ["a.png"]), content=True).content
    flip(tmp_path / "a.png")
    with (tmp_path / "a.png").open("r+b") as file:
        file.write(bytes(3 * module._CHUNK + 4))
    assert fingerprint(folder(tmp_path, ["a.png"]), content=True).content != before


def test_many_files_keep_their_order(tmp_path: Path) -> None:
    files = [f"{number}.png" for number in range(300)]
    write(tmp_path, *files[:-1])
    found = fingerprint(folder(tmp_path, files), content=True)
    digests = {name: digest for _, _, digest, name in listings.entries_of(found.listing)}
    assert len(set(digests.values())) == 300
    assert digests["299.png"] == "missing"
    for name in ("0.png", "130.png", "299.png"):
        alone = listings.entries_of(fingerprint(folder(tmp_path, [name]), content=True).listing)
        assert alone == [(*alone[0][:2], digests[name], name)]


def test_what_may_not_be_read_counts_by_size_and_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *args: Any, **kwargs: Any) -> Any:
        if path.endswith("a.png"):
            raise PermissionError
        return open(path, *args, **kwargs)

    readable = fingerprint(FolderDataset(root), content=True)
    monkeypatch.setattr(module, "open", refuse, raising=False)
    before = fingerprint(FolderDataset(root), content=True)
    assert before.content not in (None, readable.content)
    assert fingerprint(FolderDataset(root), content=True) == before
    touch(root / "a.png")
    assert fingerprint(FolderDataset(root), content=True).content != before.content


# --- subsets and concatenations -------------------------------------------------------------------------------------


def test_of_a_subset_only_its_files_count(root: Path) -> None:
    dataset = FolderDataset(root)
    two = Subset(dataset, [0, 2])
    before = fingerprint(two, content=True)
    assert names(before) == ["a.png", "c/d.png"]
    touch(root / "b.png")
    flip(root / "b.png")
    assert fingerprint(two, content=True) == before
    touch(root / "c/d.png")
    assert fingerprint(two).same_as(before) is False


def test_a_subset_is_looked_at_in_the_order_of_the_key(root: Path) -> None:
    dataset = FolderDataset(root)
    assert fingerprint(Subset(dataset, [2, 0])) == fingerprint(Subset(dataset, [0, 2]))
    assert names(fingerprint(Subset(dataset, [-1, 0]))) == ["a.png", "c/d.png"]
    assert names(fingerprint(Subset(Subset(dataset, [2, 1, 0]), torch.tensor([0, 1])))) == ["b.png", "c/d.png"]
    assert names(fingerprint(Subset(dataset, [1, 1]))) == ["b.png", "b.png"]
    assert names(fingerprint(random_split(dataset, [3, 0])[0])) == FILES


def test_a_concatenation_is_all_of_its_parts(root: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", "a.png")
    both = ConcatDataset([FolderDataset(root), FolderDataset(other)])
    before = fingerprint(both, content=True)
    assert names(before) == ["0:a.png", "0:b.png", "0:c/d.png", "1:a.png"]
    assert before.content is not None
    assert fingerprint(ConcatDataset([FolderDataset(other), FolderDataset(root)])).same_as(before) is False
    touch(other / "a.png")
    assert fingerprint(both).same_as(before) is False
    assert fingerprint(both, content=True).same_as(before) is True


def test_a_subset_of_a_concatenation(root: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", "a.png", "b.png")
    both = ConcatDataset([Subset(FolderDataset(root), [2, 0]), FolderDataset(other)])
    assert names(fingerprint(both)) == ["0:c/d.png", "0:a.png", "1:a.png", "1:b.png"]  # rows come in this order
    assert names(fingerprint(Subset(both, [3, 1]))) == ["0:a.png", "1:b.png"]
    assert names(fingerprint(Subset(both, [2]))) == ["1:a.png"]


def test_a_concatenation_of_files_and_memory(root: Path) -> None:
    data = torch.zeros(3, 2)
    both = ConcatDataset([FolderDataset(root), TensorDataset(data)])
    by_stat, by_content = fingerprint(both), fingerprint(both, content=True)
    assert by_stat.content is None
    assert by_content.content is not None
    data[0, 0] = 1
    now = fingerprint(both)
    assert now.same_as(by_stat) is False
    assert fingerprint(both, content=True).same_as(by_content) is False
    assert differences(by_stat.listing, now.listing) == ["1:the data in memory changed"]


@pytest.mark.parametrize("content", [False, True])
def test_rows_of_a_fingerprint_are_that_of_the_subset(root: Path, content: bool) -> None:
    tensors = TensorDataset(torch.zeros(3, 2))
    for dataset in (
        FolderDataset(root),
        tensors,
        ConcatDataset([FolderDataset(root), Subset(FolderDataset(root), [1])]),
    ):
        whole = fingerprint(dataset, content=content)
        part = fingerprint(Subset(dataset, [0, 2]), content=content)
        rows = whole.of_rows([0, 2], total=len(dataset))
        assert (rows, rows.listing) == (part, part.listing)


def test_a_part_that_is_unknown_makes_the_whole_unknown(root: Path) -> None:
    both = ConcatDataset([FolderDataset(root), Items(3)])
    assert fingerprint(both) == UNKNOWN


# --- data in memory -------------------------------------------------------------------------------------------------


def test_tensors_count_by_content() -> None:
    data = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    before = fingerprint(TensorDataset(data))
    assert before.known
    assert fingerprint(TensorDataset(data.clone())) == before
    assert fingerprint(TensorDataset(data.transpose(1, 2).contiguous().transpose(1, 2))) == before  # however it lies
    data[1, 2, 3] += 1
    now = fingerprint(TensorDataset(data))
    assert now.same_as(before) is False
    assert differences(before.listing, now.listing) == ["the data in memory changed"]


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(2, 6, dtype=torch.int32),
        torch.zeros(2, 3, 2),
        torch.zeros(2, 6, dtype=torch.float64)[:, ::2],
        torch.zeros(2, 6).requires_grad_(),
        torch.zeros(2, 6, dtype=torch.bfloat16),
        torch.zeros(2, 6, dtype=torch.bool),
        torch.zeros(1, 6).expand(2, 6),
        torch.zeros(2, 0),
        torch.zeros(0, 6),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}",
)
def test_dtype_and_shape_are_part_of_a_tensor(other: torch.Tensor) -> None:
    zeros = torch.zeros(2, 6)
    same = other.shape == zeros.shape and other.dtype == zeros.dtype
    found = fingerprint(TensorDataset(other))
    assert found.known
    assert found.same_as(fingerprint(TensorDataset(zeros))) is same


def test_every_tensor_counts() -> None:
    one, two = torch.zeros(2, 6), torch.ones(2, 6)
    assert len({stat(TensorDataset(*tensors)) for tensors in ([one], [one, one], [one, two], [two, one])}) == 4


def test_tensors_longer_than_what_is_digested_at_once() -> None:
    data = torch.zeros(5, module._CHUNK, dtype=torch.uint8)
    before = stat(TensorDataset(data))
    for item in range(5):
        data[item, -1] = 1
        assert stat(TensorDataset(data)) != before
        data[item, -1] = 0


def test_a_subset_of_tensors_is_all_of_them() -> None:
    data = torch.zeros(3, 2)
    dataset = TensorDataset(data)
    before = fingerprint(dataset)
    assert fingerprint(Subset(dataset, [1])) == before
    data[2, 0] = 1
    assert fingerprint(Subset(dataset, [1])).same_as(before) is False


def test_tensors_that_cost_too_much_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = TensorDataset(torch.zeros(4), torch.zeros(4))
    monkeypatch.setattr(module, "_MEMORY_LIMIT", 32)
    assert fingerprint(dataset).known
    monkeypatch.setattr(module, "_MEMORY_LIMIT", 31)
    assert fingerprint(dataset) == UNKNOWN


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, 3, device="meta"), torch.zeros(2, 3).to_sparse()],
    ids=["another device", "sparse"],
)
def test_tensors_that_are_no_plain_bytes_here_are_unknown(tensor: torch.Tensor) -> None:
    assert fingerprint(TensorDataset(tensor)) == UNKNOWN


# --- datasets of other people ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attribute",
    [
        *("files", "samples", "imgs", "images", "paths", "image_paths", "data"),
        *("_samples", "_images", "_image_files", "_image_list"),
    ],
)
@pytest.mark.parametrize(
    "values",
    [
        lambda root: [root / name for name in FILES],
        lambda root: [(f"{root}/{name}", 7) for name in FILES],
        lambda root: [[f"{root}/{name}", f"{root}/mask"] for name in FILES],
        lambda root: tuple(f"{root}/{name}" for name in FILES),
        lambda root: np.array([f"{root}/{name}" for name in FILES]),
        lambda root: np.array([root / name for name in FILES]),
        lambda root: FILES,
    ],
    ids=["paths", "with classes", "with masks", "tuple", "array", "array of objects", "below the root"],
)
def test_a_list_of_files_counts(root: Path, attribute: str, values: Callable[[Path], Any]) -> None:
    dataset = Items(root=root, **{attribute: values(root)})
    before = fingerprint(dataset)
    assert names(before) == FILES
    assert fingerprint(Subset(dataset, [2, 1])) == fingerprint(folder(root, FILES[1:]))
    touch(root / "c/d.png")
    assert fingerprint(dataset).same_as(before) is False


def test_files_without_a_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for dataset in (Items(files=FILES), Items(root=None, files=FILES), Items(root="elsewhere", files=FILES)):
        assert names(fingerprint(dataset)) == FILES
    assert names(fingerprint(Items(paths=[f"{root}/{name}" for name in FILES]))) == [f"{root}/{f}" for f in FILES]


def test_files_below_the_root_are_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "root", "a.png", time=1)
    write(tmp_path, "a.png", time=2)
    monkeypatch.chdir(tmp_path)
    assert fingerprint(Items(1, root="root", files=["a.png"])) == fingerprint(folder(tmp_path / "root", ["a.png"]))


def test_it_does_not_matter_how_the_root_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.parent / "link").symlink_to("root")
    monkeypatch.chdir(root.parent)
    write(root / "root", *FILES, time=7)  # files that are not meant
    roots = [str(root), f"{root}/", "root", "root/", "./root", "root/../root", "link"]
    found = {fingerprint(Items(root=one, imgs=[os.path.join(one, name) for name in FILES])) for one in roots}
    found |= {fingerprint(Items(root=one, imgs=[Path(one) / name for name in FILES])) for one in roots}
    found |= {fingerprint(Items(root=Path(one), imgs=[Path(one) / name for name in FILES])) for one in roots}
    found |= {fingerprint(Items(root=one, imgs=[os.path.abspath(one) + f"/{name}" for name in FILES])) for one in roots}
    assert found == {fingerprint(folder(root))}


def test_every_list_of_files_counts(root: Path) -> None:
    """Nobody can tell which of them the images are."""
    write(root, "1.txt", "2.txt", "3.txt")
    files = ["1.txt", "2.txt", "3.txt"]
    dataset = Items(root=root, files=files, images=FILES, imgs=FILES)
    assert names(fingerprint(dataset)) == [*files, *FILES]
    assert names(fingerprint(Subset(dataset, [0]))) == ["1.txt", "a.png"]


def test_lists_of_something_else_do_not_count(root: Path) -> None:
    others = {
        "images": [b"x", 1, "a.png"],
        "imgs": torch.zeros(3),
        "samples": [(1, "a.png")] * 3,
        "data": ["x", "y", "z"],
    }
    assert names(fingerprint(Items(root=root, files=FILES, **others))) == FILES


def test_one_file_that_exists_makes_a_list_of_files(root: Path) -> None:
    files = ["gone.png", "a.png", "gone too.png"]
    before = fingerprint(Items(root=root, files=files))
    assert names(before) == files
    write(root, "gone.png")
    assert fingerprint(Items(root=root, files=files)).same_as(before) is False


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"files": ["x.png", "y.png", "z.png"]},  # not there: perhaps members of an archive
        {"files": ["", "", ""]},
        {"files": FILES[:2]},
        {"files": [1, 2, 3]},
        {"files": [*FILES[:2], None]},
        {"files": [(), (), ()]},
        {"files": dict.fromkeys(FILES)},
        {"files": iter(FILES)},
        {"files": [os.fsencode(name) for name in FILES]},
        {"files": [*FILES[:2], "a\0b"]},
        {"files": [*FILES[:2], "\ud800"]},
        {"files": FILES, "root": 5},
        {"files": FILES, "root": b"root"},
        {"data": torch.zeros(3)},  # numbers of images, perhaps
        {"data": np.zeros(3)},
        {"tensors": (torch.zeros(3),)},
        {"length": -1, "files": FILES},
        {"length": "3", "files": FILES},
    ],
    ids=str,
)
def test_what_is_no_list_of_files_is_unknown(root: Path, attributes: dict[str, Any]) -> None:
    assert fingerprint(Items(**{"root": root, **attributes}), content=True) == UNKNOWN


class Broken(Items):
    @property
    def files(self) -> list[str]:
        raise RuntimeError("not today")


class BrokenRoot(Items):
    files = FILES

    @property
    def root(self) -> str:
        raise OSError("not mounted")


class Without(Dataset[Any]):
    files = FILES


class Endless(IterableDataset[Any]):
    files = FILES

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("an item was read")


def around_itself() -> ConcatDataset[Any]:
    dataset = ConcatDataset([Items()])
    dataset.datasets[0] = dataset
    return dataset


@pytest.mark.parametrize(
    "dataset",
    [
        *(None, 5, FILES, Items, object(), MagicMock(), Broken(), BrokenRoot(), Without(), Endless(), around_itself()),
        *(ChainDataset([Endless()]), Subset(Items(), [9]), Subset(Items(), ["a"]), Subset(Without(), [0])),
        *(Subset(Items(), [0]), ConcatDataset([Items()]), TensorDataset.__new__(TensorDataset)),
    ],
    ids=lambda dataset: type(dataset).__name__,
)
def test_odd_datasets_are_unknown(dataset: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert fingerprint(dataset) == UNKNOWN
    assert fingerprint(dataset, content=True) == UNKNOWN


def test_a_class_that_is_called_like_a_known_one_is_another(tmp_path: Path) -> None:
    for name in ("MNIST", "FolderDataset"):
        kind = type(name, (Items,), {})
        assert fingerprint(kind(data=torch.zeros(3), root=tmp_path, files=FILES)) == UNKNOWN


def test_it_can_be_interrupted() -> None:
    class Interrupted(Items):
        @property
        def files(self) -> list[str]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fingerprint(Interrupted())


# --- torchvision's datasets -----------------------------------------------------------------------------------------

# Every dataset of torchvision stands in one of four tables: its files are known, a class that it is derived from has
# known files, it lies in memory, or it is unknown.

FAMILY = {
    **dict.fromkeys(
        ("CarlaStereo", "CREStereo", "ETH3DStereo", "FallingThingsStereo", "InStereo2k", "Kitti2015Stereo"),
        "Kitti2012Stereo",
    ),
    **dict.fromkeys(
        ("Middlebury2014Stereo", "SceneFlowStereo", "SintelStereo"),
        "Kitti2012Stereo",
    ),
    **dict.fromkeys(["FlyingChairs", "FlyingThings3D", "HD1K", "Sintel"], "KittiFlow"),
    **dict.fromkeys(["EMNIST", "KMNIST", "QMNIST"], "MNIST"),
    "CocoCaptions": "CocoDetection",
}
UNKNOWN_SETS = {
    "FakeData": "made up item by item",
    "HMDB51": "clips of films: there are more items than files",
    "Kinetics": "the same",
    "UCF101": "the same",
}

PIXELS = 7


def images(root: Path, *names: str) -> None:
    """Tiny images, readable whatever they are called."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (PIXELS, PIXELS)).save(path, "png")


def text(root: Path, **files: str) -> None:
    """Files below the root; in a name ``__`` is a folder, and ``.txt`` is added."""
    for name, content in files.items():
        path = root / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def image_folder(root: Path) -> list[str]:
    images(root, "cat/1.png", "cat/2.png", "dog/1.png")
    return ["cat/1.png", "cat/2.png", "dog/1.png"]


def country211(root: Path) -> list[str]:
    images(root, "country211/train/AT/1.jpg", "country211/train/BE/1.jpg", "country211/test/AT/1.jpg")
    return ["country211/train/AT/1.jpg", "country211/train/BE/1.jpg"]


def eurosat(root: Path) -> list[str]:
    images(root, "eurosat/2750/Forest/1.jpg", "eurosat/2750/River/1.jpg")
    return ["eurosat/2750/Forest/1.jpg", "eurosat/2750/River/1.jpg"]


def imagenet(root: Path) -> list[str]:
    images(root, "train/n01/1.JPEG", "train/n02/1.JPEG")
    torch.save(({"n01": ("cat",), "n02": ("dog",)}, ["n01"]), root / "meta.bin")
    return ["train/n01/1.JPEG", "train/n02/1.JPEG"]


def gtsrb(root: Path) -> list[str]:
    names = [f"gtsrb/GTSRB/Training/0000{number}/1.ppm" for number in range(2)]
    images(root, *names)
    return names


def imagenette(root: Path) -> list[str]:
    names = [f"imagenette2/train/{wnid}/1.jpeg" for wnid in ("n01440764", "n02102040")]
    images(root, *names)
    return names


def rendered_sst2(root: Path) -> list[str]:
    names = ["rendered-sst2/train/negative/1.png", "rendered-sst2/train/positive/1.png"]
    images(root, *names)
    return names


def stanford_cars(root: Path) -> list[str]:
    images(root, "stanford_cars/cars_train/1.jpg", "stanford_cars/cars_train/2.jpg")
    (root / "stanford_cars/devkit").mkdir()
    cars = np.array([("1.jpg", 1), ("2.jpg", 2)], dtype=[("fname", "O"), ("class", "O")])
    savemat = pytest.importorskip("scipy.io").savemat
    savemat(root / "stanford_cars/devkit/cars_train_annos.mat", {"annotations": cars})
    savemat(root / "stanford_cars/devkit/cars_meta.mat", {"class_names": np.array(["a", "b"], dtype=object)})
    return ["stanford_cars/cars_train/1.jpg", "stanford_cars/cars_train/2.jpg"]


def places365(root: Path) -> list[str]:
    names = ["data_large_standard/a/abbey/1.jpg", "data_large_standard/b/bar/1.jpg"]
    images(root, *names)
    text(
        root,
        categories_places365="/a/abbey 0\n/b/bar 1\n",
        places365_train_standard="/a/abbey/1.jpg 0\n/b/bar/1.jpg 1\n",
    )
    return names


def cityscapes(root: Path) -> list[str]:
    names = [f"leftImg8bit/train/ulm/ulm_{number}_leftImg8bit.png" for number in range(2)]
    images(root, *names, "gtFine/train/ulm/ulm_0_gtFine_instanceIds.png")
    return names


def kitti(root: Path) -> list[str]:
    names = ["Kitti/raw/training/image_2/1.png", "Kitti/raw/training/image_2/2.png"]
    images(root, *names, "Kitti/raw/training/label_2/1.txt")
    return names


def sbd(root: Path) -> list[str]:
    images(root, "img/1.jpg", "img/2.jpg", "img/3.jpg")
    text(root, train="1\n3\n")
    return ["img/1.jpg", "img/3.jpg"]


def voc(root: Path) -> list[str]:
    names = [f"VOCdevkit/VOC2012/JPEGImages/{number}.jpg" for number in range(2)]
    images(root, *names)
    for part in ("Segmentation", "Main"):
        text(root, **{f"VOCdevkit__VOC2012__ImageSets__{part}__train": "0\n1\n"})
    return names


def pet(root: Path) -> list[str]:
    images(root, "oxford-iiit-pet/images/Abyssinian_1.jpg", "oxford-iiit-pet/images/pug_1.jpg")
    text(root, **{"oxford-iiit-pet__annotations__trainval": "pug_1 2 2 1\nAbyssinian_1 1 1 1\n"})
    return ["oxford-iiit-pet/images/pug_1.jpg", "oxford-iiit-pet/images/Abyssinian_1.jpg"]


def kitti_stereo(root: Path) -> list[str]:
    for part in ("colored_0", "colored_1", "disp_noc"):
        images(root, *(f"Kitti2012/training/{part}/{number}_10.png" for number in range(2)))
    return [f"Kitti2012/training/colored_0/{number}_10.png" for number in range(2)]


def kitti_flow(root: Path) -> list[str]:
    for part in ("image_2", "flow_occ"):
        images(root, *(f"KittiFlow/training/{part}/{number}_1{at}.png" for number in range(2) for at in range(2)))
    return [f"KittiFlow/training/image_2/{number}_10.png" for number in range(2)]


def clevr(root: Path) -> list[str]:
    names = [f"clevr/CLEVR_v1.0/images/train/{number}.png" for number in range(2)]
    images(root, *names)
    scenes = [{"image_filename": f"{number}.png", "objects": []} for number in range(2)]
    (root / "clevr/CLEVR_v1.0/scenes").mkdir()
    (root / "clevr/CLEVR_v1.0/scenes/CLEVR_train_scenes.json").write_text(json.dumps({"scenes": scenes}))
    return names


def dtd(root: Path) -> list[str]:
    images(root, "dtd/dtd/images/dots/1.jpg", "dtd/dtd/images/grid/1.jpg")
    text(root, dtd__dtd__labels__train1="grid/1.jpg\ndots/1.jpg\n")
    return ["dtd/dtd/images/grid/1.jpg", "dtd/dtd/images/dots/1.jpg"]


def aircraft(root: Path) -> list[str]:
    data = "fgvc-aircraft-2013b/data"
    images(root, f"{data}/images/1.jpg", f"{data}/images/2.jpg")
    (root / data / "variants.txt").write_text("DC-3\n")
    (root / data / "images_variant_trainval.txt").write_text("2 DC-3\n1 DC-3\n")
    return [f"{data}/images/2.jpg", f"{data}/images/1.jpg"]


def flowers(root: Path) -> list[str]:
    names = ["flowers-102/jpg/image_00002.jpg", "flowers-102/jpg/image_00001.jpg"]
    images(root, *names)
    savemat = pytest.importorskip("scipy.io").savemat
    savemat(root / "flowers-102/setid.mat", {"trnid": [2, 1]})
    savemat(root / "flowers-102/imagelabels.mat", {"labels": [1, 2]})
    return names


def food(root: Path) -> list[str]:
    images(root, "food-101/images/pie/1.jpg", "food-101/images/soup/1.jpg")
    (root / "food-101/meta").mkdir()
    (root / "food-101/meta/train.json").write_text(json.dumps({"pie": ["pie/1"], "soup": ["soup/1"]}))
    return ["food-101/images/pie/1.jpg", "food-101/images/soup/1.jpg"]


def sun(root: Path) -> list[str]:
    images(root, "SUN397/a/abbey/sun_1.jpg", "SUN397/b/bar/sun_2.jpg")
    text(root, SUN397__ClassName="/a/abbey\n/b/bar\n")
    return ["SUN397/a/abbey/sun_1.jpg", "SUN397/b/bar/sun_2.jpg"]


def lfw(root: Path) -> list[str]:
    faces = [f"lfw_funneled/{name}/{name}_000{number}.jpg" for name in ("Ada", "Bob") for number in (1, 2)]
    images(root / "lfw-py", *faces)
    (root / "lfw-py/lfw-names.txt").write_text("Ada 2\nBob 2\n")
    (root / "lfw-py/people.txt").write_text("1\n2\nAda\t2\nBob\t2\n")
    (root / "lfw-py/pairs.txt").write_text("1\t1\nBob\t1\t2\nAda\t2\tBob\t1\n")
    return faces


def lfw_pairs(root: Path) -> list[str]:
    faces = lfw(root)
    return [faces[2], faces[1]]


def caltech101(root: Path) -> list[str]:
    names = ["ant/image_0001.jpg", "ant/image_0002.jpg", "crab/image_0001.jpg"]
    images(root / "caltech101/101_ObjectCategories", *names, "BACKGROUND_Google/image_0001.jpg")
    (root / "caltech101/Annotations").mkdir()
    return [f"101_ObjectCategories/{name}" for name in names]


def caltech256(root: Path) -> list[str]:
    names = ["001.ak47/001_0001.jpg", "002.flag/002_0001.jpg", "002.flag/002_0002.jpg"]
    images(root / "caltech256/256_ObjectCategories", *names)
    return [f"256_ObjectCategories/{name}" for name in names]


def celeba(root: Path) -> list[str]:
    images(root / "celeba/img_align_celeba", "1.jpg", "2.jpg", "3.jpg")
    rows = "1.jpg {}\n2.jpg {}\n3.jpg {}\n"
    text(root / "celeba", list_eval_partition=rows.format(0, 1, 0), identity_CelebA=rows.format(1, 2, 3))
    with_header = "3\nx\n" + rows.format(1, 1, 1)
    text(root / "celeba", list_bbox_celeba=with_header, list_landmarks_align_celeba=with_header)
    text(root / "celeba", list_attr_celeba=with_header)
    return ["celeba/img_align_celeba/1.jpg", "celeba/img_align_celeba/3.jpg"]


def coco(root: Path) -> list[str]:
    images(root, "1.jpg", "2.jpg")
    return ["2.jpg", "1.jpg"]


class Annotations:
    """In the place of pycocotools: two images, with numbers that have nothing to do with their names."""

    imgs = {10: {"file_name": "2.jpg"}, 20: {"file_name": "1.jpg"}}

    def __init__(self, path: str) -> None:
        pass

    def loadImgs(self, number: int) -> list[dict[str, str]]:  # noqa: N802 - theirs
        return [self.imgs[number]]


def flickr8k(root: Path) -> list[str]:
    images(root, "7_a.jpg", "8_a.jpg")
    page = "".join(f"<a>flickr/{number}/</a><ul><li>caption</li></ul>" for number in (8, 7))
    text(root, annotations=f"<table>{page}</table>")
    return ["7_a.jpg", "8_a.jpg"]


def flickr30k(root: Path) -> list[str]:
    images(root, "1.jpg", "2.jpg")
    text(root, annotations="2.jpg#0\tcaption\n2.jpg#1\tcaption\n1.jpg#0\tcaption\n")
    return ["1.jpg", "2.jpg"]


def inaturalist(root: Path) -> list[str]:
    names = [f"0000{number}_a_b_c_d_e_f_g{number}/1.jpg" for number in range(2)]
    images(root / "2021_train", *names)
    return names


def omniglot(root: Path) -> list[str]:
    names = ["images_background/Greek/character01/1_01.png", "images_background/Greek/character02/2_01.png"]
    images(root / "omniglot-py", *names)
    return names


def sbu(root: Path) -> list[str]:
    images(root, "dataset/1.jpg", "dataset/3.jpg")
    urls = "".join(f"http://example.org/{number}.jpg\n" for number in (3, 2, 1))
    text(
        root, dataset__SBU_captioned_photo_dataset_urls=urls, dataset__SBU_captioned_photo_dataset_captions="a\nb\nc\n"
    )
    return ["dataset/3.jpg", "dataset/1.jpg"]


def wider_face(root: Path) -> list[str]:
    names = ["WIDER_train/images/0--Parade/1.jpg", "WIDER_train/images/0--Parade/2.jpg"]
    images(root / "widerface", *names)
    for part in ("val", "test"):
        (root / "widerface" / f"WIDER_{part}").mkdir()
    lines = "".join(f"0--Parade/{number}.jpg\n1\n{'1 ' * 10}\n" for number in (1, 2))
    text(root, widerface__wider_face_split__wider_face_train_bbx_gt=lines)
    return names


FILE_SETS: dict[str, tuple[Callable[[Path], list[str]], dict[str, Any]]] = {
    "Caltech101": (caltech101, {}),
    "Caltech256": (caltech256, {}),
    "CelebA": (celeba, {}),
    "Cityscapes": (cityscapes, {}),
    "CLEVRClassification": (clevr, {}),
    "CocoDetection": (coco, {"annFile": ""}),
    "Country211": (country211, {}),
    "DatasetFolder": (image_folder, {"loader": Image.open, "extensions": ".png"}),
    "DTD": (dtd, {}),
    "EuroSAT": (eurosat, {}),
    "FGVCAircraft": (aircraft, {}),
    "Flickr8k": (flickr8k, {"ann_file": "annotations.txt"}),
    "Flickr30k": (flickr30k, {"ann_file": "annotations.txt"}),
    "Flowers102": (flowers, {}),
    "Food101": (food, {}),
    "GTSRB": (gtsrb, {}),
    "ImageFolder": (image_folder, {}),
    "ImageNet": (imagenet, {}),
    "Imagenette": (imagenette, {}),
    "INaturalist": (inaturalist, {}),
    "Kitti": (kitti, {}),
    "Kitti2012Stereo": (kitti_stereo, {}),
    "KittiFlow": (kitti_flow, {}),
    "LFWPairs": (lfw_pairs, {}),
    "LFWPeople": (lfw, {}),
    "Omniglot": (omniglot, {}),
    "OxfordIIITPet": (pet, {}),
    "Places365": (places365, {}),
    "RenderedSST2": (rendered_sst2, {}),
    "SBDataset": (sbd, {"mode": "segmentation"}),
    "SBU": (sbu, {"download": False}),
    "StanfordCars": (stanford_cars, {}),
    "SUN397": (sun, {}),
    "VOCDetection": (voc, {}),
    "VOCSegmentation": (voc, {}),
    "WIDERFace": (wider_face, {}),
}


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our tiny files do not have the digests of the real ones, nor are libraries for them installed."""
    for name, part in list(sys.modules.items()):
        if name.startswith("torchvision.datasets.") and hasattr(part, "check_integrity"):
            monkeypatch.setattr(part, "check_integrity", lambda *_, **__: True)
    monkeypatch.setitem(sys.modules, "pycocotools", types.ModuleType("pycocotools"))
    monkeypatch.setitem(sys.modules, "pycocotools.coco", types.SimpleNamespace(COCO=Annotations))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "h5py", types.SimpleNamespace(File=H5File))  # type: ignore[arg-type]


def first_image_opened(dataset: Any, index: int, files: list[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    opened: list[str] = []
    real = open

    def recorded(path: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(os.path.abspath(path) if isinstance(path, (str, os.PathLike)) else "")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch, contextlib.suppress(Exception):  # not all of them find their labels
        patch.setattr("builtins.open", recorded)
        dataset[index]
    return next((path for path in opened if path in files), None)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
@pytest.mark.parametrize("name", FILE_SETS)
def test_the_files_of_torchvision(name: str, relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, options = FILE_SETS[name]
    expected = make(tmp_path)
    monkeypatch.chdir(tmp_path)
    dataset = getattr(torchvision.datasets, name)("." if relative else str(tmp_path), **options)
    before = fingerprint(dataset, content=True)
    found = names(before)
    assert sorted(found) == sorted(expected)
    paths = [os.path.join(os.path.abspath(dataset.root), one) for one in found]
    assert [first_image_opened(dataset, i, paths, monkeypatch) for i in range(len(dataset))] == paths
    others = Subset(dataset, range(len(dataset) - 1))
    assert names(fingerprint(others)) == found[:-1]
    touch(Path(paths[-1]))
    assert fingerprint(dataset).same_as(before) is False
    assert fingerprint(dataset, content=True).same_as(before) is True
    flip(Path(paths[-1]))
    assert fingerprint(dataset, content=True).same_as(before) is False
    assert names(fingerprint(Subset(dataset, [len(dataset) - 1]))) == found[-1:]


@pytest.mark.usefixtures("trusting")
def test_one_set_has_one_fingerprint_wherever_it_is_opened_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = {name: make for name, (make, _) in FILE_SETS.items()}
    monkeypatch.chdir(tmp_path)
    for name, make in lists.items():
        make(tmp_path / name)
        options = FILE_SETS[name][1]
        if "ann_file" in options:
            options = {"ann_file": f"{tmp_path}/{name}/annotations.txt"}
        kind = getattr(torchvision.datasets, name)
        found = {fingerprint(kind(root, **options)) for root in (name, f"./{name}", f"{tmp_path}/{name}", f"{name}/")}
        assert len(found) == 1, name
        assert found != {UNKNOWN}


class H5File:
    """In the place of h5py: every file holds 3 images."""

    def __init__(self, path: Any) -> None:
        pass

    def __enter__(self) -> dict[str, Any]:
        return {"x": np.zeros((3, 2, 2, 3), np.uint8)}

    def __exit__(self, *_: object) -> None:
        pass


def lsun(root: Path) -> Any:
    dataset = torchvision.datasets.LSUN.__new__(torchvision.datasets.LSUN)
    dataset.root, dataset.length, dataset.dbs = str(root), 9, []
    for name in ("tower_train_lmdb", "bridge_train_lmdb"):
        db = torchvision.datasets.lsun.LSUNClass.__new__(torchvision.datasets.lsun.LSUNClass)
        db.root, db.length = f"{root}/{name}", 5
        dataset.dbs.append(db)
    return dataset


@pytest.mark.usefixtures("trusting")
def test_sets_in_a_few_big_files(tmp_path: Path) -> None:
    """A change of the file concerns every item."""
    files = ["pcam/camelyonpatch_level_2_split_test_x.h5", "tower_train_lmdb/data.mdb", "bridge_train_lmdb/data.mdb"]
    write(
        tmp_path, *files, *(f"pcam/camelyonpatch_level_2_split_{part}.h5" for part in ("test_y", "train_x", "train_y"))
    )
    pcam, bedrooms = torchvision.datasets.PCAM(tmp_path, "test"), lsun(tmp_path)
    for dataset, expected in [(pcam, files[:1]), (bedrooms, files[1:]), (bedrooms.dbs[0], ["data.mdb"])]:
        assert names(fingerprint(dataset)) == names(fingerprint(Subset(dataset, [1]))) == expected


def mnist(kind: str) -> Callable[[Path], Any]:
    def make(root: Path) -> Any:
        raw = root / kind / "raw"
        raw.mkdir(parents=True)
        for part, count in [("train", 3), ("t10k", 3)]:
            pixels = bytes([len(part)]) * (count * 4)
            (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 2, 2) + pixels)
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + bytes(count))
        return getattr(torchvision.datasets, kind)(root)

    return make


def cifar(root: Path, folder: str, batches: dict[str, int], meta: str) -> None:
    (root / folder).mkdir()
    for name, images in batches.items():
        batch = {"data": np.zeros((images, 3072), np.uint8), "labels": [1] * images}
        (root / folder / name).write_bytes(pickle.dumps(batch))
    (root / folder / meta).write_bytes(pickle.dumps({"label_names": ["a"], "fine_label_names": ["a"]}))


def cifar10(root: Path) -> Any:
    cifar(root, "cifar-10-batches-py", {f"data_batch_{number}": 1 for number in range(1, 6)}, "batches.meta")
    return torchvision.datasets.CIFAR10(root)


def cifar100(root: Path) -> Any:
    cifar(root, "cifar-100-python", {"train": 2}, "meta")
    return torchvision.datasets.CIFAR100(root)


def stl10(root: Path) -> Any:
    (root / "stl10_binary").mkdir()
    (root / "stl10_binary/train_X.bin").write_bytes(bytes(2 * 3 * 96 * 96))
    (root / "stl10_binary/train_y.bin").write_bytes(b"\1\2")
    return torchvision.datasets.STL10(root)


def svhn(root: Path) -> Any:
    arrays = {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((2, 1), np.uint8)}
    pytest.importorskip("scipy.io").savemat(root / "train_32x32.mat", arrays)
    return torchvision.datasets.SVHN(root)


def usps(root: Path) -> Any:
    line = "1 " + " ".join(f"{number}:0.5" for number in range(256)) + "\n"
    (root / "usps.bz2").write_bytes(bz2.compress(2 * line.encode()))
    return torchvision.datasets.USPS(root)


def semeion(root: Path) -> Any:
    np.savetxt(root / "semeion.data", np.ones((2, 266)))
    return torchvision.datasets.SEMEION(root)


def moving_mnist(root: Path) -> Any:
    (root / "MovingMNIST").mkdir()
    np.save(root / "MovingMNIST/mnist_test_seq.npy", np.zeros((20, 2, 4, 4), np.uint8))
    return torchvision.datasets.MovingMNIST(root)


def photo_tour(root: Path) -> Any:
    torch.save((torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2), torch.zeros(1, 3)), root / "liberty.pt")
    return torchvision.datasets.PhotoTour(root, "liberty")


def fer2013(root: Path) -> Any:
    (root / "fer2013").mkdir()
    (root / "fer2013/train.csv").write_text("emotion,pixels\n" + 2 * f"1,{'7 ' * 48 * 48}\n")
    return torchvision.datasets.FER2013(root)


MEMORY_SETS: dict[str, Callable[[Path], Any]] = {
    "CIFAR10": cifar10,
    "CIFAR100": cifar100,
    "FashionMNIST": mnist("FashionMNIST"),
    "FER2013": fer2013,
    "MNIST": mnist("MNIST"),
    "MovingMNIST": moving_mnist,
    "PhotoTour": photo_tour,
    "SEMEION": semeion,
    "STL10": stl10,
    "SVHN": svhn,
    "USPS": usps,
}


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("name", MEMORY_SETS)
def test_the_data_of_torchvision(name: str, tmp_path: Path) -> None:
    dataset = MEMORY_SETS[name](tmp_path)
    before = fingerprint(dataset)
    assert before.content is not None
    assert fingerprint(dataset) == before
    for labels in ("targets", "labels"):
        if hasattr(dataset, labels):
            setattr(dataset, labels, None)
    assert fingerprint(dataset) == before
    data = dataset._samples[-1][0] if name == "FER2013" else dataset.data
    data[(-1,) * data.ndim] ^= 1
    assert fingerprint(dataset).same_as(before) is False


def test_splits_and_sets_under_one_root_differ(tmp_path: Path) -> None:
    """They share a root, these even a length: nothing else in the key tells them apart."""
    mnist("MNIST")(tmp_path)
    for part in ("images-idx3", "labels-idx1"):
        fashion = tmp_path / "FashionMNIST/raw"
        fashion.mkdir(parents=True, exist_ok=True)
        for split in ("train", "t10k"):
            content = (tmp_path / f"MNIST/raw/{split}-{part}-ubyte").read_bytes()
            (fashion / f"{split}-{part}-ubyte").write_bytes(content[:-1] + b"\3")
    kinds = (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST)
    prints = [fingerprint(kind(tmp_path, train=train)) for kind in kinds for train in (True, False)]
    assert len({found.content for found in prints}) == 4


def test_objects_in_memory_are_unknown(tmp_path: Path) -> None:
    dataset = usps(tmp_path)
    dataset.data = np.array([[1], "2"], dtype=object)
    assert fingerprint(dataset) == UNKNOWN


@pytest.mark.parametrize("name", ["HMDB51", "Kinetics", "UCF101"])
def test_films_are_unknown(name: str, root: Path) -> None:
    """Their samples are the films, their items the clips."""
    kind = getattr(torchvision.datasets, name)
    dataset = kind.__new__(kind)
    dataset.root, dataset.samples = root, [(f"{root}/{file}", 0) for file in FILES]
    dataset.video_clips = types.SimpleNamespace(num_clips=lambda: 7)
    assert len(dataset) == 7
    assert fingerprint(dataset) == UNKNOWN


def test_what_is_made_up_is_unknown() -> None:
    assert fingerprint(torchvision.datasets.FakeData(3)) == UNKNOWN


def test_nothing_of_torchvision_is_forgotten() -> None:
    rest = {"LSUN", "LSUNClass", "PCAM"}
    assert set(torchvision_sets.names()) <= {*FILE_SETS, *FAMILY, *MEMORY_SETS, *UNKNOWN_SETS, *rest}
    for name, relative in FAMILY.items():
        kind, base = (getattr(torchvision.datasets, one) for one in (name, relative))
        shared = set(kind.__mro__[1:]) & set(base.__mro__[: base.__mro__.index(torchvision.datasets.VisionDataset)])
        assert shared, f"{name} is no relative of {relative}"


def test_a_class_derived_from_torchvision_is_like_it(tmp_path: Path) -> None:
    class Mine(torchvision.datasets.MNIST):
        raw_folder = f"{tmp_path}/MNIST/raw"

    assert fingerprint(mnist("MNIST")(tmp_path)) == fingerprint(Mine(tmp_path))
    wrapped = torchvision.datasets.wrap_dataset_for_transforms_v2(Mine(tmp_path))
    assert fingerprint(wrapped) == fingerprint(Mine(tmp_path))


# --- comparisons ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (("a", None), ("a", None), True),
        (("a", None), ("b", None), False),
        (("a", "x"), ("b", "x"), True),
        (("a", "x"), ("a", "y"), False),
        (("a", "x"), ("a", None), True),
        (("a", "x"), ("b", None), False),
        ((None, "x"), (None, "x"), True),
        ((None, "x"), ("a", None), None),
        ((None, None), ("a", "x"), None),
        ((None, None), (None, None), None),
    ],
)
def test_same_as(one: Any, two: Any, same: bool | None) -> None:
    assert Fingerprint(*one).same_as(Fingerprint(*two)) is same
    assert Fingerprint(*two).same_as(Fingerprint(*one)) is same


def test_known() -> None:
    assert [Fingerprint(*digests).known for digests in [(None, None), ("a", None), (None, "x")]] == [False, True, True]


def test_the_listing_is_no_part_of_a_comparison() -> None:
    assert Fingerprint("a", None, b"1") == Fingerprint("a", None, b"2")
    assert "listing" not in repr(Fingerprint("a", None, b"1"))


@pytest.mark.parametrize(
    "found", [UNKNOWN, Fingerprint(HEX), Fingerprint(None, HEX), Fingerprint(HEX, HEX[::-1], b"1")]
)
def test_json(found: Fingerprint) -> None:
    copy = Fingerprint.from_json(json.loads(json.dumps(found.to_json())))
    assert copy == found
    assert copy.listing == b""


@pytest.mark.parametrize(
    "data",
    [
        *(None, 5, "unknown", f"stat:{HEX}", [], {}, {"stat": HEX}),
        *({"version": version, "stat": HEX} for version in (0, 2, "1", None, [])),
        *(
            {"version": 1, "stat": digest}
            for digest in (None, 5, "", HEX[1:], HEX + "0", HEX.upper(), [HEX], HEX + "\n")
        ),
        {"version": 1, "stat": HEX, "content": "x"},
    ],
    ids=str,
)
def test_json_that_is_something_else_is_unknown(data: object) -> None:
    assert Fingerprint.from_json(data) == UNKNOWN


def test_a_fingerprint_travels_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """50,000 files: what goes from task to task must be small, and one value instead of 50,000."""
    times = iter(np.random.default_rng(0).integers(10**18, 10**18 + 10**15, 50_000).tolist())
    monkeypatch.setattr(module, "_seen", lambda path: (len(path) * 999, next(times)))
    files = [f"class{number % 10:02d}/{number:06d}.png" for number in range(50_000)]
    packed = pickle.dumps(fingerprint(folder(Path("root"), files)))
    assert len(packed) < 800_000
    assert len(list(pickletools.genops(packed))) < 50


# --- what differs ---------------------------------------------------------------------------------------------------


def listing(root: Path, files: list[str], *, content: bool = False) -> bytes:
    return fingerprint(folder(root, files), content=content).listing


def test_the_first_files_that_differ_are_named(tmp_path: Path) -> None:
    write(tmp_path, *(f"{number}.png" for number in range(9)))
    files = [f"{number}.png" for number in range(8)]
    before = listing(tmp_path, files)
    (tmp_path / "7.png").write_bytes(b"longer than before")
    touch(tmp_path / "6.png")
    (tmp_path / "5.png").unlink()
    now = listing(tmp_path, [*files[1:], "8.png"])
    found = ["0.png is gone", "5.png is missing", "6.png touched", "7.png changed", "8.png is new"]
    assert differences(before, now, limit=5) == differences(before, now, limit=9) == found
    assert differences(before, now) == [*found[:3], "and 2 more"]
    assert differences(before, now, limit=0) == ["and 5 more"]
    back = ["0.png is new", "5.png is no longer missing", "6.png touched", "7.png changed", "8.png is gone"]
    assert differences(now, before, limit=5) == back
    assert differences(now, now) == []


def test_files_in_another_order(root: Path) -> None:
    sentence = ["the same files in another order or number"]
    assert differences(listing(root, FILES), listing(root, FILES[::-1])) == sentence
    assert differences(listing(root, FILES[:1]), listing(root, FILES[:1] * 2)) == sentence
    assert differences(listing(root, FILES), listing(root, [*FILES[::-1], "x"])) == ["x is new"]


def test_nothing_is_said_of_unknown_or_damaged_listings(root: Path) -> None:
    known = listing(root, FILES)
    for damaged in (b"", b"x", known[:-9]):
        assert differences(damaged, known) == differences(known, damaged) == []


def test_names_that_are_no_text_can_be_printed(tmp_path: Path) -> None:
    files = [os.fsdecode(b"\xff"), "new\nline", "\x1b[31m", "Grüße"]
    assert sorted(differences(listing(tmp_path, []), listing(tmp_path, files), limit=4)) == sorted(
        [r"\xff is new", r"new\nline is new", r"\x1b[31m is new", "Grüße is new"]
    )


CONTENTS = st.one_of(st.none(), st.tuples(st.binary(max_size=1), st.integers(0, 1)))
WORLDS = st.dictionaries(st.sampled_from(TRICKY), CONTENTS, max_size=5)


def what_happened(name: str, before: Any, now: Any, *, read: bool) -> str | None:
    if name not in before or name not in now:
        return "is new" if name in now else "is gone"
    old, new = before[name], now[name]
    if old is None or new is None:
        return None if old == new else "is missing" if new is None else "is no longer missing"
    if read:
        return None if old[0] == new[0] else "changed"
    if len(old[0]) != len(new[0]):
        return "changed"
    return None if old[1] == new[1] else "touched"


@given(WORLDS, WORLDS, st.booleans(), st.booleans(), st.integers(0, 6))
def test_differences_against_a_model(before: Any, now: Any, read: bool, read_now: bool, limit: int) -> None:
    def looked_at(world: Any, content: bool) -> Fingerprint:
        with tempfile.TemporaryDirectory() as home:
            for name, file in world.items():
                if file is not None:
                    path = os.path.join(home, name)
                    with open(path, "wb") as handle:
                        handle.write(file[0])
                    os.utime(path, ns=(0, file[1]))
            return fingerprint(folder(Path(home), list(world)), content=content)

    old, new = looked_at(before, read), looked_at(now, read_now)
    every = [
        (name, what_happened(name, before, now, read=read and read_now))
        for name in sorted({*before, *now}, key=os.fsencode)
    ]
    expected = [f"{listings._printable(os.fsencode(name))} {what}" for name, what in every if what]
    found = differences(old.listing, new.listing, limit=limit)
    if expected:
        assert found[:limit] == expected[:limit]
        assert found[limit:] == ([f"and {len(expected) - limit} more"] if len(expected) > limit else [])
    elif list(before) != list(now):
        assert found == ["the same files in another order or number"]
    else:
        assert found == []
        assert old.same_as(new) is True


def test_parts_of_our_own_listing_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may be no longer is one that comes from elsewhere."""
    whole = Fingerprint.of([(1, number, "-", f"{number}.png") for number in range(9)])
    monkeypatch.setattr("simet_cache.listing._LONGEST", 10)
    assert whole.of_rows([3], total=9) == Fingerprint.of([(1, 3, "-", "3.png")])
    assert differences(whole.listing, Fingerprint.of([]).listing) == []
