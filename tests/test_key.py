"""The key is the documented md5, to the byte, and the same wherever and however it is asked for."""

from __future__ import annotations

import enum
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset, Subset, TensorDataset
from torchvision.datasets import VisionDataset

from simet_cache.errors import KeyInputError
from simet_cache.key import feature_key, resolve_subset

VECTORS = json.loads((Path(__file__).parent / "data" / "key-vectors.json").read_text(encoding="utf-8"))


class Rooted:
    def __init__(self, root: Any, n: int) -> None:
        self.root = root
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        return index


REAL = Rooted("/data/real", 50000)
DATASETS = {
    "Rooted('/data/real', n=50000)": REAL,
    "Rooted('/data/./x/../real', n=50000)": Rooted("/data/./x/../real", 50000),
    "Rooted(None, n=1000)": Rooted(None, 1000),
    "Subset(Rooted('/data/real', 50000), [5,3,1])": Subset(REAL, [5, 3, 1]),
    "Subset(Rooted('/data/real', 50000), [1,3,5])": Subset(REAL, [1, 3, 5]),
    "Subset(TensorDataset of 1000, range(0,1000,7))": Subset(TensorDataset(torch.zeros(1000)), range(0, 1000, 7)),
    "Subset(Rooted('/data/real', 50000), [])": Subset(REAL, []),
    "Rooted('/data/real', 10), batch_sampler given (batch_size None)": Rooted("/data/real", 10),
    "Subset(Rooted('/data/real',50000), random.Random(0).sample(range(50000),10000))": Subset(
        REAL, random.Random(0).sample(range(50000), 10000)
    ),
}


def key(dataset: Any, *, suffix: str = "s", batch_size: Any = 8) -> str:
    return feature_key(dataset, suffix=suffix, batch_size=batch_size)


def documented(dataset: Any, suffix: str, batch_size: int | None) -> str:
    """The rule as the issue states it, for plain input."""
    base = dataset.dataset if isinstance(dataset, Subset) else dataset
    rooted = getattr(base, "root", None) is not None
    identity = str(Path(base.root).resolve()) if rooted else f"{type(base).__name__}_{len(base)}"
    identity += f"_subset_{hash(tuple(sorted(dataset.indices)))}" if isinstance(dataset, Subset) else ""
    return hashlib.md5(str([identity, suffix, len(dataset), batch_size]).encode()).hexdigest()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['dataset'][:50]}-{v['batch_size']}")
def test_golden_vectors(vector: dict[str, Any]) -> None:
    dataset = DATASETS[vector["dataset"]]
    assert feature_key(dataset, suffix=vector["suffix"], batch_size=vector["batch_size"]) == vector["md5"]


indices = st.lists(st.integers(0, 99), max_size=20)
suffixes = st.text(max_size=12)
batch_sizes = st.none() | st.integers(1, 4096)
roots = st.none() | st.sampled_from(["/data/real", "/data/synth", "relative/images", "/data/ü 'quoted'"])


@given(root=roots, n=st.integers(100, 200), chosen=st.none() | indices, suffix=suffixes, batch_size=batch_sizes)
def test_agrees_with_the_rule_on_plain_input(
    root: str | None, n: int, chosen: list[int] | None, suffix: str, batch_size: int | None
) -> None:
    base = Rooted(root, n)
    dataset = base if chosen is None else Subset(base, chosen)
    assert feature_key(dataset, suffix=suffix, batch_size=batch_size) == documented(dataset, suffix, batch_size)


@given(chosen=indices, shuffler=st.randoms())
def test_order_of_indices_is_ignored(chosen: list[int], shuffler: random.Random) -> None:
    shuffled = list(chosen)
    shuffler.shuffle(shuffled)
    assert key(Subset(REAL, chosen)) == key(Subset(REAL, shuffled))


@given(chosen=indices.filter(bool), suffix=suffixes, batch_size=batch_sizes)
def test_every_documented_component_changes_the_key(chosen: list[int], suffix: str, batch_size: int | None) -> None:
    keys = [
        feature_key(dataset, suffix=s, batch_size=b)
        for dataset, s, b in [
            (Subset(REAL, chosen), suffix, batch_size),
            (Subset(Rooted("/data/other", 50000), chosen), suffix, batch_size),
            (Subset(REAL, [*chosen[1:], 100]), suffix, batch_size),
            (Subset(REAL, [*chosen, 100]), suffix, batch_size),
            (Subset(REAL, chosen), f"{suffix}x", batch_size),
            (Subset(REAL, chosen), suffix, (batch_size or 0) + 1),
            (REAL, suffix, batch_size),
            (Rooted("/data/real", 49999), suffix, batch_size),
            (Rooted(None, 50000), suffix, batch_size),
        ]
    ]
    assert len(set(keys)) == len(keys)


def test_no_batch_size_is_not_a_batch_size_of_zero() -> None:
    assert key(REAL, batch_size=None) != key(REAL, batch_size=0)


def test_the_class_name_is_the_identity_without_a_root() -> None:
    class Unrooted(Rooted):
        pass

    assert key(Rooted(None, 10)) != key(Unrooted(None, 10))
    assert key(Rooted("/data/real", 10)) == key(Unrooted("/data/real", 10))


def test_the_root_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to("images")
    monkeypatch.chdir(tmp_path)
    roots = [tmp_path / "images", str(tmp_path / "link"), "images", Path("link"), "./images/../link"]
    assert len({key(Rooted(root, 10)) for root in roots}) == 1


@pytest.mark.parametrize(
    "make",
    [
        tuple,
        np.array,
        lambda values: np.array(values, dtype=np.uint16),
        lambda values: [np.int64(value) for value in values],
        lambda values: [np.uint8(value) for value in values],
        torch.tensor,
        lambda values: torch.tensor(values, dtype=torch.int32),
        lambda values: [torch.tensor(value) for value in values],
        lambda values: [torch.tensor([value]) for value in values],
        lambda values: range(values[0], values[-1] + 1, values[1] - values[0]),
    ],
)
def test_indices_of_any_integer_type_give_the_key_of_plain_ones(make: Callable[[list[int]], Any]) -> None:
    assert key(Subset(REAL, make([7, 9, 11]))) == documented(Subset(REAL, [7, 9, 11]), "s", 8)


@pytest.mark.parametrize("size", [np.int64(16), np.uint8(16), torch.tensor(16), torch.tensor([16])])
def test_batch_sizes_of_any_integer_type_give_the_key_of_plain_ones(size: Any) -> None:
    assert key(REAL, batch_size=size) == documented(REAL, "s", 16)


def test_suffixes_of_any_string_type_give_the_key_of_plain_ones() -> None:
    class Model(enum.StrEnum):
        INCEPTION = "inception_v3"

    class OldModel(str, enum.Enum):  # noqa: UP042 - what people have
        INCEPTION = "inception_v3"

    plain = documented(REAL, "inception_v3", 8)
    assert {key(REAL, suffix=s) for s in (np.str_("inception_v3"), Model.INCEPTION, OldModel.INCEPTION)} == {plain}


@given(chosen=indices)
def test_negative_indices_are_the_positions_they_mean(chosen: list[int]) -> None:
    base = Rooted("/data/real", 100)
    assert key(Subset(base, [index - 100 for index in chosen])) == documented(Subset(base, chosen), "s", 8)


def test_indices_that_collide_in_the_reference_do_not() -> None:
    assert hash((-1,)) == hash((-2,))
    assert key(Subset(REAL, [-1])) != key(Subset(REAL, [-2]))


@given(data=st.data(), outer=indices.filter(bool))
def test_nested_subsets_are_flattened(data: st.DataObject, outer: list[int]) -> None:
    middle = data.draw(st.lists(st.integers(-len(outer), len(outer) - 1), min_size=1, max_size=10))
    inner = data.draw(st.lists(st.integers(-len(middle), len(middle) - 1), max_size=10))
    nested = Subset(Subset(Subset(REAL, outer), middle), inner)
    flat = [outer[middle[i]] for i in inner]
    assert [nested[i] for i in range(len(nested))] == flat
    assert resolve_subset(nested) == (REAL, flat)
    assert key(nested) == documented(Subset(REAL, flat), "s", 8)


@given(chosen=indices)
def test_a_subset_of_everything_is_still_a_subset(chosen: list[int]) -> None:
    assume(chosen)
    base = Rooted("/data/real", len(chosen))
    assert key(Subset(base, range(len(chosen)))) != key(base)


def test_the_key_is_the_same_in_a_fresh_process(run: Callable[..., Any], tmp_path: Path) -> None:
    script = """if True:
        from torch.utils.data import Subset
        from simet_cache import feature_key
        class Rooted(list):
            root = "/data/real"
        print(feature_key(Subset(Rooted(range(100)), [5, -1, 3]), suffix="s", batch_size=8))
    """
    done = run("-c", script, cwd=tmp_path, PYTHONHASHSEED="123")
    assert done.stdout.strip() == key(Subset(Rooted("/data/real", 100), [3, 5, 99])), done.stderr


class Endless(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: key(Subset(Rooted("/d", 10), [0, 10])), "subset index 10 is out of range for a dataset of 10"),
        (lambda: key(Subset(Rooted("/d", 10), [-11])), "subset index -11 is out of range for a dataset of 10"),
        (lambda: key(Subset(Subset(REAL, [1, 2]), [2])), "subset index 2 is out of range for a dataset of 2"),
        (lambda: key(Subset(REAL, [1.0])), "a subset index must be an integer, found 1.0 (float)"),
        (lambda: key(Subset(REAL, np.array([1.5]))), "a subset index must be an integer, found 1.5 (float)"),
        (lambda: key(Subset(REAL, torch.tensor([1.5]))), "a subset index must be an integer, found 1.5 (float)"),
        (lambda: key(Subset(REAL, ["1"])), "a subset index must be an integer, found '1' (str)"),
        (lambda: key(Subset(REAL, np.array([[1, 2]]))), "a subset index must be an integer, found [1, 2] (list)"),
        (lambda: key(Subset(REAL, [np.True_])), "a subset index must be an integer, found np.True_ (bool)"),
        (lambda: key(Subset(REAL, np.array([True, False]))), "found a mask of booleans; call .nonzero() on it"),
        (lambda: key(Subset(REAL, torch.tensor([True, False]))), "found a mask of booleans; call .nonzero() on it"),
        (lambda: key(Subset(REAL, torch.tensor(3))), "subset indices must be a sequence of integers, found Tensor"),
        (lambda: key(Subset(REAL, None)), "subset indices must be a sequence of integers, found NoneType"),
        (lambda: key(REAL, batch_size=8.0), "the batch size must be an integer, found 8.0 (float)"),
        (lambda: key(REAL, batch_size="8"), "the batch size must be an integer, found '8' (str)"),
        (lambda: key(REAL, suffix=None), "the extractor suffix must be a string, found NoneType"),
        (lambda: key(REAL, suffix=b"s"), "the extractor suffix must be a string, found bytes"),
        (lambda: key(Rooted(3, 10)), "the root of Rooted must be a path or None, found int"),
        (lambda: key(Endless()), "Endless has no length, so that its features have no key; use a map-style dataset"),
        (lambda: key(Subset(Endless(), [0])), "Endless has no length"),
        (lambda: key(VisionDataset("/d")), "VisionDataset has no length"),
        (lambda: key(None), "NoneType has no length"),
    ],
)
def test_what_has_no_key_says_so(make: Callable[[], str], sentence: str) -> None:
    with pytest.raises(KeyInputError) as caught:
        make()
    assert sentence in str(caught.value)
