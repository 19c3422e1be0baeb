"""A cache file is an ordinary pickle of one array, of a form that can be recognised and used where it lies."""

from __future__ import annotations

import io
import mmap
import os
import pickle
import pickletools
import random
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simet_cache import codec
from simet_cache.errors import DamagedEntryError, FeaturesError, UnsafePickleError

DATA = Path(__file__).parent / "data"
FEATURES = np.arange(6, dtype=np.float32).reshape(2, 3)
DTYPES = ["<f2", "<f4", "<f8"]
HEAD, TAIL = 64, 73
FIRST = 19  # bytes that tell our files from others
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def written(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    codec.write(array, file)
    return file.getvalue()


@pytest.fixture
def entry(tmp_path: Path) -> Callable[[bytes], Path]:
    def call(content: bytes) -> Path:
        path = tmp_path / "entry.pkl"
        path.write_bytes(content)
        return path

    return call


@pytest.fixture
def read(entry: Callable[[bytes], Path]) -> Callable[[bytes], np.ndarray]:
    return lambda content: codec.read(entry(content))


def same(found: np.ndarray, expected: np.ndarray, *, writeable: bool = True) -> bool:
    return (
        type(found) is np.ndarray
        and (found.dtype, found.shape) == (expected.dtype, expected.shape)
        and found.tobytes() == expected.tobytes()
        and found.flags.writeable is writeable
    )


def little(array: np.ndarray) -> np.ndarray:
    """What is written of an array: the same values, native and in C order."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def random_array(*shape: int, dtype: str = "<f4") -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(dtype)


# What is written and read


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays as they may lie: in either order and endianness, strided, reversed, read-only."""
    dtype = draw(st.sampled_from(["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"]))
    array = draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
    array = np.asfortranarray(array) if draw(st.booleans()) else array
    rows, columns = (slice(None, None, draw(st.sampled_from([1, 2, -1, -3]))) for _ in range(2))
    array = array[rows, columns]
    array.flags.writeable = draw(st.booleans())
    return array


@given(array=arrays())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.pkl"
    with path.open("wb") as file:
        digest = codec.write(array, file)
    expected = little(array)
    assert same(codec.read(path), expected)
    assert same(codec.open_mapped(path), expected, writeable=False)
    assert same(pickle.loads(path.read_bytes()), expected)
    assert codec.inspect(path) == codec.Layout(expected.shape, expected.dtype, HEAD)
    assert digest == codec.digest(array) == codec.digest(expected) == codec.verify(path)


@pytest.mark.parametrize("load", [pickle.load, pickle._load], ids=["in C", "in Python"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 3), (1, 100_000), (700, 300), (1500, 2048)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_is_an_ordinary_pickle(
    entry: Callable[[bytes], Path], load: Callable[[Any], Any], dtype: str, shape: tuple[int, int]
) -> None:
    array = random_array(*shape, dtype=dtype)
    path = entry(written(array))
    with path.open("rb") as file:
        assert same(load(file), array)
        assert not file.read()
    assert same(codec.read(path), array)


def test_pickletools_agrees() -> None:
    output = io.StringIO()
    pickletools.dis(written(FEATURES), output)
    assert "simet-cache v1" in output.getvalue()
    assert "highest protocol among opcodes = 5" in output.getvalue()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (255, 257)], ids=str)
def test_the_form_is_fixed(dtype: str, shape: tuple[int, int]) -> None:
    array = random_array(*shape, dtype=dtype)
    content = written(array)
    assert content[HEAD:-TAIL] == array.tobytes()


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda array: array[::2],
        lambda array: array[:, 1::3],
        lambda array: array[::-1, ::-1],
        lambda array: array.T,
        lambda array: array.astype(">f4"),
        lambda array: np.broadcast_to(array[:1], array.shape),
        lambda array: np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view("<f4").reshape(array.shape),
    ],
    ids=["Fortran", "rows", "columns", "reversed", "transposed", "big-endian", "broadcast", "unaligned"],
)
@pytest.mark.parametrize("shape", [(1100, 513), (3, 400_000)], ids=str)
def test_arrays_of_many_blocks_in_any_order(
    read: Callable[[bytes], np.ndarray], layout: Callable[[np.ndarray], np.ndarray], shape: tuple[int, int]
) -> None:
    array = layout(random_array(*shape))
    assert same(read(written(array)), little(array))
    assert codec.digest(array) == codec.digest(little(array))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, np.float32),
        np.zeros((2, 3), np.int64),
        np.zeros((2, 3), np.longdouble),
        np.zeros((0, 3), np.float32),
        np.zeros((3, 0), np.float32),
        [[1.0]],
        np.ma.masked_array(FEATURES),
    ],
)
def test_only_features_are_written(array: Any) -> None:
    file = io.BytesIO()
    with pytest.raises(FeaturesError, match="expected a 2-D float array with rows and columns"):
        codec.write(array, file)
    assert file.getvalue() == b""


@pytest.mark.parametrize("content", [written(FEATURES), pickle.dumps(FEATURES)], ids=["ours", "plain"])
def test_what_is_read_is_not_shared(entry: Callable[[bytes], Path], content: bytes) -> None:
    path = entry(content)
    first = codec.read(path)
    first[:] = -1
    assert same(codec.read(path), FEATURES)
    assert same(codec.open_mapped(path), FEATURES, writeable=False)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [*DTYPES, ">f4"])
def test_every_protocol(read: Callable[[bytes], np.ndarray], protocol: int, order: Any, dtype: str) -> None:
    array = np.array(np.arange(200 * 123).reshape(200, 123), dtype=dtype, order=order)
    assert same(read(pickle.dumps(array, protocol=protocol)), np.asarray(array, array.dtype.newbyteorder("=")))


@pytest.mark.parametrize("protocol", [None, 3, 4, 5])
def test_what_is_read_is_in_memory_once(entry: Callable[[bytes], Path], protocol: int | None) -> None:
    array = random_array(1000, 1000)
    path = entry(written(array) if protocol is None else pickle.dumps(array, protocol=protocol))
    tracemalloc.start()
    try:
        found = codec.read(path)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * array.nbytes
    finally:
        tracemalloc.stop()
    assert same(found, array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_names_of_numpy_1(protocol: int) -> None:
    path = DATA / f"numpy-1.26-protocol-{protocol}.pkl"  # of protocol 4, by default, is what the reference writes
    assert b"numpy.core." in path.read_bytes()
    assert same(codec.read(path), FEATURES)


def test_golden_file_of_our_own() -> None:
    # python -c "import numpy as np; from simet_cache import codec;
    #   codec.write(np.arange(6, dtype=np.float32).reshape(2, 3), open('tests/data/features-own.pkl', 'wb'))"
    path = DATA / "features-own.pkl"
    assert written(FEATURES) == path.read_bytes()
    assert same(codec.read(path), FEATURES)
    assert codec.inspect(path) == codec.Layout((2, 3), np.dtype("<f4"), HEAD)


def test_digest_knows_dtype_shape_and_values_but_not_layout() -> None:
    digest = codec.digest(FEATURES)
    assert digest == "314101ebb343fa44d2843fa37267cde2"
    assert {codec.digest(np.asfortranarray(FEATURES)), codec.digest(FEATURES.astype(">f4"))} == {digest}
    others = [FEATURES.reshape(3, 2), FEATURES.astype(np.float64), FEATURES + 1]
    assert digest not in {codec.digest(other) for other in others}


# Mappings


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1000, 777)], ids=str)
def test_a_mapping_is_aligned_and_is_no_copy(
    entry: Callable[[bytes], Path], dtype: str, shape: tuple[int, int]
) -> None:
    array = random_array(*shape, dtype=dtype)
    found = codec.open_mapped(entry(written(array)))
    assert same(found, array, writeable=False)
    assert found.ctypes.data % 64 == 0
    base: Any = found
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


@pytest.mark.parametrize("content", [written(FEATURES), pickle.dumps(FEATURES)], ids=["ours", "plain"])
def test_what_is_opened_is_read_only(entry: Callable[[bytes], Path], content: bytes) -> None:
    found = codec.open_mapped(entry(content))
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        found += 1


def test_a_mapping_cannot_be_made_writable(entry: Callable[[bytes], Path]) -> None:
    found = codec.open_mapped(entry(written(FEATURES)))
    with pytest.raises(ValueError, match="WRITEABLE"):
        found.flags.writeable = True


def test_a_mapping_outlives_its_file(entry: Callable[[bytes], Path], tmp_path: Path) -> None:
    array = random_array(300, 300)
    path = entry(written(array))
    found = codec.open_mapped(path)
    other = tmp_path / "other.pkl"
    other.write_bytes(written(array[:2] + 1))
    os.replace(other, path)
    assert same(found, array, writeable=False)
    again = codec.open_mapped(path)
    path.unlink()
    assert same(found, array, writeable=False)
    assert same(again, array[:2] + 1, writeable=False)


def large(path: Path, rows: int) -> None:
    """A file of rows of 2048 zeros that takes no space."""
    layout = codec.Layout((rows, 2048), np.dtype("<f4"), HEAD)
    with path.open("wb") as file:
        file.write(codec._head(layout))
        file.seek(HEAD + layout.nbytes)
        file.write(codec._tail(layout))


def test_opening_takes_no_memory_however_large_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.pkl"
    large(path, 1 << 23)
    assert path.stat().st_size > 1 << 36
    tracemalloc.start()
    try:
        layout = codec.inspect(path)
        found = codec.open_mapped(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert layout is not None
    assert layout.shape == found.shape == (1 << 23, 2048)
    assert not found[[0, 77, -1]].any()


def test_verifying_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.pkl"
    large(path, 1 << 13)
    tracemalloc.start()
    try:
        digest = codec.verify(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert digest == codec.digest(np.zeros((1 << 13, 2048), "<f4"))


@LINUX
@pytest.mark.parametrize(
    "array",
    [
        "np.zeros((32768, 2048), 'f4') + 1",
        "np.zeros((32768, 2048), '>f4') + 1",
        "(np.zeros((32768, 2048), 'f4') + 1)[:, ::-1]",
        "np.asfortranarray(np.zeros((32768, 2048), 'f4') + 1)",
        "(np.zeros((1, 1 << 26), 'f4') + 1)[:, ::-1]",
        "np.broadcast_to(np.ones(2048, 'f4'), (32768, 2048))",
    ],
    ids=["C", "big-endian", "strided", "Fortran", "one row", "broadcast"],
)
def test_writing_takes_little_memory(run: Callable[..., Any], tmp_path: Path, array: str) -> None:
    """A process of its own says how much it ever had; 256 MB are written."""
    script = f"""
import re, numpy as np
from simet_cache import codec

def most():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024

with open("/dev/null", "wb") as file:
    codec.write(np.ones((2, 2)), file)
array = {array}
open("/proc/self/clear_refs", "w").write("5")  # the most so far is what there is now
before = most()
with open("/dev/null", "wb") as file:
    assert codec.write(array, file) == codec.digest(array)
print(most() - before)
"""
    done = run("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 64


# Other layouts


OTHERS = {
    **{f"protocol {protocol}": pickle.dumps(FEATURES, protocol=protocol) for protocol in range(6)},
    **{path.stem: path.read_bytes() for path in sorted(DATA.glob("numpy-1.26-*.pkl"))},
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_other_layouts_are_read_with_a_copy(entry: Callable[[bytes], Path], content: bytes) -> None:
    path = entry(content)
    assert codec.inspect(path) is None
    assert same(codec.open_mapped(path), FEATURES, writeable=False)
    assert same(codec.read(path), FEATURES)
    assert codec.verify(path) == codec.digest(FEATURES)


def test_no_other_pickle_is_taken_for_ours(entry: Callable[[bytes], Path]) -> None:
    for value in (None, {}, [1, 2], b"simet-cache v1", np.zeros(3), np.zeros((2, 3), np.int64), "x" * 1000):
        for protocol in range(6):
            assert codec.inspect(entry(pickle.dumps(value, protocol=protocol))) is None


@pytest.mark.parametrize("function", [codec.read, codec.open_mapped, codec.verify])
@pytest.mark.parametrize(
    ("value", "described"),
    [
        (np.zeros(3, np.float32), "holds ndarray of shape (3,) and dtype float32"),
        (np.zeros((2, 3, 4)), "holds ndarray of shape (2, 3, 4) and dtype float64"),
        (np.zeros((2, 3), np.int64), "holds ndarray of shape (2, 3) and dtype int64"),
        (np.zeros((2, 3), np.complex64), "holds ndarray of shape (2, 3) and dtype complex64"),
        (np.zeros((2, 3), np.longdouble), "float128"),
        (np.array([[None, "x"]]), "values in list"),
        (None, "holds NoneType"),
        ({"features": [1, 2.5, {3}, frozenset({4})]}, "holds dict"),
        ([1, [2, 3]], "holds list"),
    ],
)
def test_a_harmless_pickle_of_something_else_is_damage(
    entry: Callable[[bytes], Path], function: Callable[[Path], Any], value: object, described: str
) -> None:
    with pytest.raises(DamagedEntryError, match=r"entry\.pkl") as caught:
        function(entry(pickle.dumps(value)))
    assert described in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_arrays_are_not_opened(entry: Callable[[bytes], Path], shape: tuple[int, int]) -> None:
    empty = np.zeros(shape, np.float32)
    with pytest.raises(DamagedEntryError, match="which is empty"):
        codec.open_mapped(entry(pickle.dumps(empty)))
    layout = codec.Layout(shape, empty.dtype, HEAD)
    path = entry(codec._head(layout) + codec._tail(layout))
    assert pickle.loads(path.read_bytes()).shape == shape
    for function in (codec.inspect, codec.read, codec.open_mapped, codec.verify):
        with pytest.raises(DamagedEntryError):
            function(path)


def test_describe() -> None:
    assert codec.describe(FEATURES) == "ndarray of shape (2, 3) and dtype float32"
    assert codec.describe(torch.zeros(2, 3)) == "Tensor of shape (2, 3) and dtype torch.float32"
    assert codec.describe(None) == "NoneType"


# Files


@pytest.mark.parametrize("function", [codec.inspect, codec.read, codec.open_mapped, codec.verify])
class TestWhatIsNoFile:
    def test_a_missing_file_is_an_os_error(self, function: Callable[[Path], Any], tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            function(tmp_path / "nothing.pkl")

    def test_a_folder_is_an_os_error(self, function: Callable[[Path], Any], tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError):
            function(tmp_path)

    @pytest.mark.timeout(20)
    def test_a_pipe_is_not_waited_for(self, function: Callable[[Path], Any], tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "entry.pkl")
        with pytest.raises(DamagedEntryError, match=r"entry\.pkl is no regular file"):
            function(tmp_path / "entry.pkl")

    def test_an_endless_device_is_not_read(self, function: Callable[[Path], Any], tmp_path: Path) -> None:
        (tmp_path / "entry.pkl").symlink_to("/dev/zero")
        with pytest.raises(DamagedEntryError, match=r"entry\.pkl is no regular file"):
            function(tmp_path / "entry.pkl")


@LINUX
def test_no_file_stays_open(entry: Callable[[bytes], Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for content in (written(FEATURES), written(FEATURES)[:-1], pickle.dumps(FEATURES), b""):
        for path in (entry(content), tmp_path / "pipe"):
            for function in (codec.inspect, codec.read, codec.open_mapped, codec.verify):
                try:
                    function(path)
                except DamagedEntryError:
                    continue
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("content", [written(FEATURES), pickle.dumps(FEATURES)], ids=["ours", "plain"])
def test_too_little_memory_is_no_damage(
    entry: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = entry(content)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "frombuffer", full)
    monkeypatch.setattr(np, "empty", full)
    with pytest.raises(MemoryError):
        codec.read(path)


@pytest.mark.parametrize("function", [codec.read, codec.open_mapped, codec.verify])
def test_a_file_that_is_cut_short_meanwhile_is_damage(
    entry: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, function: Callable[[Path], Any]
) -> None:
    path = entry(written(random_array(200, 200)))
    recognise = codec._recognise

    def then_cut(file: io.BufferedReader, path: Path) -> codec.Layout | None:
        layout = recognise(file, path)
        os.truncate(path, 1000)
        return layout

    monkeypatch.setattr(codec, "_recognise", then_cut)
    with pytest.raises(DamagedEntryError, match="was cut short while it was"):
        function(path)


# Damage


def outcomes(path: Path) -> set[str]:
    """What becomes of a damaged file of FEATURES: damage, or the very same features. Nothing else may."""
    found = set()
    for function in (codec.read, codec.open_mapped):
        try:
            assert function(path).tobytes() == FEATURES.tobytes(), "a silent other result"
        except (DamagedEntryError, UnsafePickleError) as error:
            found.add(type(error).__name__)
        else:
            found.add("the same")
    return found


@pytest.mark.parametrize("shape", [(2, 3), (1, 1), (10, 20)], ids=str)
def test_our_file_cut_anywhere_is_damage(entry: Callable[[bytes], Path], shape: tuple[int, int]) -> None:
    content = written(random_array(*shape))
    for length in range(len(content)):
        path = entry(content[:length])
        for function in (codec.inspect, codec.read, codec.open_mapped, codec.verify):
            with pytest.raises(DamagedEntryError, match=r"entry\.pkl"):
                function(path)


@pytest.mark.parametrize("more", [b"\0", b".", b"N.", b"\0" * 64, written(FEATURES), pickle.dumps(None)])
def test_our_file_lengthened_is_damage(entry: Callable[[bytes], Path], more: bytes) -> None:
    content = written(FEATURES)
    for path in (entry(content + more), entry(content[:HEAD] + more + content[HEAD:])):
        for function in (codec.inspect, codec.read, codec.open_mapped, codec.verify):
            with pytest.raises(DamagedEntryError, match="do not fit together: it was cut short or changed"):
                function(path)


def places() -> list[int]:
    length = len(written(FEATURES))
    return [*range(HEAD), *range(length - TAIL, length)]


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_of_head_or_tail_is_damage_or_nothing(entry: Callable[[bytes], Path], bit: int) -> None:
    content = written(FEATURES)
    for place in places():
        path = entry(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        found = outcomes(path)
        if place < FIRST:
            assert codec.inspect(path) is None
        else:
            assert found == {"DamagedEntryError"}, place
            with pytest.raises(DamagedEntryError, match="do not fit together"):
                codec.inspect(path)


@pytest.mark.slow
def test_no_byte_of_head_or_tail_can_be_changed_for_another_result(entry: Callable[[bytes], Path]) -> None:
    content = written(FEATURES)
    path = entry(content)
    with path.open("r+b", buffering=0) as file:
        for place in places():
            for byte in range(256):
                os.pwrite(file.fileno(), bytes([byte]), place)
                assert byte == content[place] or place < FIRST or outcomes(path) == {"DamagedEntryError"}
                assert place >= FIRST or outcomes(path)
            os.pwrite(file.fileno(), content[place : place + 1], place)


def test_a_flipped_bit_of_the_values_changes_the_digest(entry: Callable[[bytes], Path]) -> None:
    content = written(FEATURES)
    for place in range(HEAD, len(content) - TAIL):
        path = entry(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert codec.verify(path) != codec.digest(FEATURES)


@pytest.mark.parametrize(
    "change",
    [
        *({"dtype": np.dtype(dtype)} for dtype in ("<f2", "<f8")),
        *({"shape": shape} for shape in [(3, 3), (2, 2), (1 << 62, 3), (1 << 63, 2), (1 << 61, 8), (0, 0), (2, 0)]),
    ],
    ids=str,
)
def test_a_tail_that_does_not_fit_its_head_is_damage(entry: Callable[[bytes], Path], change: Any) -> None:
    layout = codec.Layout((2, 3), np.dtype("<f4"), HEAD)
    content = codec._head(layout) + FEATURES.tobytes() + codec._tail(replace(layout, **change))
    with pytest.raises(DamagedEntryError, match="do not fit together"):
        codec.read(entry(content))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_cut_anywhere_is_damage(entry: Callable[[bytes], Path], protocol: int) -> None:
    content = pickle.dumps(FEATURES, protocol=protocol)
    for length in range(len(content)):
        path = entry(content[:length])
        for function in (codec.read, codec.open_mapped, codec.verify):
            with pytest.raises(DamagedEntryError, match=r"entry\.pkl"):
                function(path)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_long_file_cut_anywhere_is_damage(read: Callable[[bytes], np.ndarray], protocol: int) -> None:
    content = pickle.dumps(np.zeros((300, 300)), protocol=protocol)
    for length in [*range(300), *range(300, len(content), 9973), len(content) - 1]:
        with pytest.raises(DamagedEntryError):
            read(content[:length])


def test_something_after_the_end_is_damage(read: Callable[[bytes], np.ndarray]) -> None:
    with pytest.raises(DamagedEntryError, match="goes on after the end of its pickle"):
        read(pickle.dumps(FEATURES) + b"\0")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_flipped_bytes_are_a_value_or_damage_or_unsafe(tmp_path: Path, protocol: int) -> None:
    rng = random.Random(protocol)
    content = pickle.dumps(FEATURES, protocol=protocol)
    path = tmp_path / "entry.pkl"
    seen = {"value": 0, "DamagedEntryError": 0, "UnsafePickleError": 0}
    for _ in range(1500):
        mutated = bytearray(content)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        path.write_bytes(mutated)
        try:
            found = codec.read(path)
        except (DamagedEntryError, UnsafePickleError) as error:
            seen[type(error).__name__] += 1
        else:
            seen["value"] += 1
            assert codec.is_feature_array(found)
            assert found.flags.writeable
    assert all(seen.values()), seen


@pytest.mark.skipif(sys.version_info < (3, 13), reason="before, a mapping keeps its file open")
def test_mapped_features_hold_no_file_open(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        codec.write(np.ones((4, 3)), file)
    before = len(os.listdir("/proc/self/fd"))
    mapped = [codec.open_mapped(tmp_path / "a") for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(one.sum() == 12 for one in mapped)
