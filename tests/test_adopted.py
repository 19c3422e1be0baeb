"""What other programs pickle is a hit as it is: any 2-D float array, in any order of elements and bytes."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simet_cache import codec
from simet_cache.archive import export, import_archive, import_folder
from simet_cache.mirror import remote_at
from simet_cache.store import FeatureStore

KEY = "0" * 32
DTYPES = ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"]
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
VALUES = np.arange(12).reshape(4, 3)


def spread(array: np.ndarray) -> np.ndarray:
    """The same, with gaps between its rows and its values."""
    wide = np.zeros((8, 9), array.dtype)
    wide[::2, ::3] = array
    return wide[::2, ::3]


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)


def on_disk(array: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "array.npy", array)
    return np.load(folder / "array.npy", mmap_mode="r")


LAYOUTS: dict[str, Callable[[np.ndarray, Path], np.ndarray]] = {
    "C": lambda array, _: array,
    "Fortran": lambda array, _: np.asfortranarray(array),
    "strided": lambda array, _: spread(array),
    "reversed": lambda array, _: array[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": lambda array, _: read_only(array),
    "unaligned": lambda array, _: unaligned(array),
    "memmap": on_disk,
    "matrix": lambda array, _: array.view(np.matrix),
    "with metadata": lambda array, _: array.astype(np.dtype(array.dtype, metadata={"unit": "none"})),
}


def is_a_hit_for_ever(folder: Path, expected: np.ndarray) -> str:
    """In one run after the other, however it is read; the digest."""
    for _ in range(3):
        for verify in ("quick", "full"):
            store = FeatureStore(folder, verify=verify)  # type: ignore[arg-type]  # one of the two
            found = store.find(KEY, rows=len(expected))
            assert found is not None
            for loaded in (found.load(), found.load(copy=True)):
                assert loaded.dtype == expected.dtype.newbyteorder("=")
                assert loaded.dtype.isnative
                assert np.array_equal(loaded, expected)
            assert store.look(KEY, full=True).status == "hit"
    assert not (folder / "quarantine").exists()
    return found.digest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_pickle_dump_makes_of_features_is_a_hit(tmp_path: Path, layout: str, dtype: str) -> None:
    expected = VALUES.astype(dtype)
    digests = set()
    for protocol in PROTOCOLS:
        folder = tmp_path / str(protocol)
        folder.mkdir()
        content = pickle.dumps(LAYOUTS[layout](expected, tmp_path), protocol=protocol)
        (folder / f"{KEY}.pkl").write_bytes(content)
        digests.add(is_a_hit_for_ever(folder, expected))
        assert (folder / f"{KEY}.pkl").read_bytes() == content
    assert digests == {codec.digest(expected)}


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    finite = {"allow_nan": False, "allow_infinity": False}
    array = draw(hnp.arrays(draw(st.sampled_from(DTYPES)), hnp.array_shapes(min_dims=2, max_dims=2), elements=finite))
    array = np.asfortranarray(array) if draw(st.booleans()) else array
    rows, columns = (slice(None, None, draw(st.sampled_from([1, 2, -1, -3]))) for _ in range(2))
    return array[rows, columns]


@given(array=arrays(), protocol=st.sampled_from(PROTOCOLS))
def test_any_array_is_a_hit(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, protocol: int) -> None:
    folder = tmp_path_factory.mktemp("cache")
    (folder / f"{KEY}.pkl").write_bytes(pickle.dumps(array, protocol=protocol))
    is_a_hit_for_ever(folder, np.ascontiguousarray(array))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", [">f4", "<f8"])
def test_it_travels(tmp_path: Path, dtype: str, protocol: int) -> None:
    """Through a folder, an archive and a remote."""
    expected = VALUES.astype(dtype)
    names = ("made", "imported", "unpacked", "near", "far")
    made, imported, unpacked, *_ = folders = [tmp_path / name for name in names]
    made.mkdir()
    (made / f"{KEY}.pkl").write_bytes(pickle.dumps(expected, protocol=protocol))
    assert [one.outcome for one in import_folder(FeatureStore(imported), made).entries] == ["imported"]
    store = FeatureStore(made)
    assert store.find(KEY) is not None
    export(store, [KEY], tmp_path / "archive.tar")
    assert [one.outcome for one in import_archive(FeatureStore(unpacked), tmp_path / "archive.tar").entries] == [
        "imported"
    ]
    remote_at.cache_clear()
    url = f"file://{tmp_path}/remote"
    for name in ("json", "pkl", "files"):
        (tmp_path / "remote").mkdir(exist_ok=True)
        if (made / f"{KEY}.{name}").exists():
            (tmp_path / "remote" / f"{KEY}.{name}").write_bytes((made / f"{KEY}.{name}").read_bytes())
    assert FeatureStore(folders[3], remote=url).find(KEY) is not None
    for folder in folders[:4]:
        assert is_a_hit_for_ever(folder, expected) == codec.digest(expected)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (VALUES.astype(np.longdouble), "not a 2-D float array"),
        (VALUES, "not a 2-D float array"),
        (VALUES[0].astype(np.float32), "not a 2-D float array"),
        (np.full((2, 2), np.nan), "expected finite features"),
    ],
    ids=["longdouble", "integers", "1-D", "NaN"],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_no_features_is_put_aside_at_once(
    tmp_path: Path, value: Any, why: str, protocol: int, caplog: pytest.LogCaptureFixture
) -> None:
    """And is never a hit first."""
    content = pickle.dumps(value, protocol=protocol)
    (tmp_path / f"{KEY}.pkl").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert FeatureStore(tmp_path).find(KEY) is None
    assert why in caplog.text
    assert [path.read_bytes() for path in (tmp_path / "quarantine").glob("*.pkl")] == [content]
