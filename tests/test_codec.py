"""A cache file is an ordinary pickle of one array, and reading one runs nothing."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simet_cache import codec
from simet_cache.errors import DamagedEntryError, UnsafePickleError

DATA = Path(__file__).parent / "data"
FEATURES = np.arange(6, dtype=np.float32).reshape(2, 3)


def written(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    codec.write(array, file)
    return file.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], np.ndarray]:
    def call(content: bytes) -> np.ndarray:
        path = tmp_path / "entry.pkl"
        path.write_bytes(content)
        return codec.read(path)

    return call


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return (
        type(found) is np.ndarray
        and (found.dtype, found.shape) == (expected.dtype, expected.shape)
        and found.tobytes() == expected.tobytes()
        and found.flags.writeable
    )


# What is written and read


@given(
    array=hnp.arrays(
        st.sampled_from(["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"]), hnp.array_shapes(min_dims=2, max_dims=2)
    ),
    fortran=st.booleans(),
    writeable=st.booleans(),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, fortran: bool, writeable: bool
) -> None:
    source = np.asfortranarray(array) if fortran else array.copy()
    source.flags.writeable = writeable
    path = tmp_path_factory.getbasetemp() / "round-trip.pkl"
    path.write_bytes(written(source))
    assert same(codec.read(path), array)
    assert pickle.loads(path.read_bytes()).tobytes() == array.tobytes()


def test_strided_views_and_long_payloads(read: Callable[[bytes], np.ndarray]) -> None:
    array = np.random.default_rng(0).random((700, 300), dtype=np.float32)
    assert same(read(written(array)), array)
    assert same(read(written(array[::2, ::-1])), array[::2, ::-1])


def test_what_is_read_is_not_shared(tmp_path: Path) -> None:
    path = tmp_path / "entry.pkl"
    path.write_bytes(written(FEATURES))
    first = codec.read(path)
    first[:] = -1
    assert same(codec.read(path), FEATURES)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_every_protocol(read: Callable[[bytes], np.ndarray], protocol: int, order: Any, dtype: str) -> None:
    array = np.array(np.arange(200 * 123).reshape(200, 123), dtype=dtype, order=order)
    assert same(read(pickle.dumps(array, protocol=protocol)), array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_names_of_numpy_1(protocol: int) -> None:
    path = DATA / f"numpy-1.26-protocol-{protocol}.pkl"  # of protocol 4, by default, is what the reference writes
    assert b"numpy.core." in path.read_bytes()
    assert same(codec.read(path), FEATURES)


def test_golden_file_of_our_own() -> None:
    path = DATA / "features-own.pkl"  # codec.write(np.arange(6, dtype=np.float32).reshape(2, 3), file)
    assert written(FEATURES) == path.read_bytes()
    assert same(codec.read(path), FEATURES)


def test_digest_knows_dtype_shape_and_values_but_not_layout() -> None:
    digest = codec.digest(FEATURES)
    assert digest == "314101ebb343fa44d2843fa37267cde2"
    assert codec.digest(np.asfortranarray(FEATURES)) == digest
    others = [FEATURES.reshape(3, 2), FEATURES.astype(np.float64), FEATURES.astype(">f4"), FEATURES + 1]
    assert digest not in {codec.digest(other) for other in others}


@pytest.mark.parametrize(
    ("value", "described"),
    [
        (np.zeros(3, np.float32), "holds ndarray of shape (3,) and dtype float32"),
        (np.zeros((2, 3, 4)), "holds ndarray of shape (2, 3, 4) and dtype float64"),
        (np.zeros((2, 3), np.int64), "holds ndarray of shape (2, 3) and dtype int64"),
        (np.zeros((2, 3), np.complex64), "holds ndarray of shape (2, 3) and dtype complex64"),
        (np.zeros((2, 3), np.longdouble), "float128"),
        (np.array([[None, "x"]]), "cannot create an OBJECT array"),
        (None, "holds NoneType"),
        ({"features": [1, 2.5, {3}, frozenset({4})]}, "holds dict"),
        ([1, [2, 3]], "holds list"),
    ],
)
def test_a_harmless_pickle_of_something_else_is_damage(
    read: Callable[[bytes], np.ndarray], value: object, described: str
) -> None:
    with pytest.raises(DamagedEntryError, match=r"entry\.pkl") as caught:
        read(pickle.dumps(value))
    assert described in str(caught.value)


def test_describe() -> None:
    assert codec.describe(FEATURES) == "ndarray of shape (2, 3) and dtype float32"
    assert codec.describe(torch.zeros(2, 3)) == "Tensor of shape (2, 3) and dtype torch.float32"
    assert codec.describe(None) == "NoneType"


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        codec.read(tmp_path / "nothing.pkl")


def test_too_little_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "entry.pkl"
    path.write_bytes(written(FEATURES))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(codec.np, "frombuffer", full)
    with pytest.raises(MemoryError):
        codec.read(path)


# A folder of attacks


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


TOUCH = "touch canary"
DTYPE = name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R"
EMPTY = name("numpy._core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
LAUGHS = b")" + b"2\x86" * 60  # a tuple of two of itself, sixty times
DEEP = b")" + b"\x85" * 200_000


def attacks() -> dict[str, tuple[bytes, str]]:
    """Name of the file: what is in it, and what it is said to have asked for."""
    system = Calls(os.system, TOUCH)
    shell = name("posix", "system") + text(TOUCH) + b"\x85R"
    return {
        "os-system-protocol-0": (b"cos\nsystem\n(S'touch canary'\ntR.", "os.system"),
        "posix-system": (pickle.dumps(system), "posix.system"),
        "posix-system-protocol-2": (pickle.dumps(system, protocol=2), "posix.system"),
        "inst": (b"(S'touch canary'\nios\nsystem\n.", "os.system"),
        "obj": (b"(cos\nsystem\nS'touch canary'\no.", "os.system"),
        "eval": (pickle.dumps(Calls(eval, f"__import__('os').system({TOUCH!r})")), "builtins.eval"),
        "eval-python-2": (b'c__builtin__\neval\n(S\'open("canary", "w")\'\ntR.', "__builtin__.eval"),
        "dotted": (b"\x80\x04" + name("numpy", "ndarray.__class__.__base__") + b".", "numpy.ndarray.__class__"),
        "getattr": (pickle.dumps(Calls(getattr, "", "join")), "builtins.getattr"),
        "in-a-list": (pickle.dumps([1, [system]]), "posix.system"),
        "in-a-dict": (pickle.dumps({"a": {"b": system}}), "posix.system"),
        "in-a-set-of-floats": (pickle.dumps((1.5, 2**80, {3}, system)), "posix.system"),
        "in-an-object-array": (pickle.dumps(np.array([[system]], dtype=object)), "posix.system"),
        "nested-reduce": (pickle.dumps(Calls(np.dtype, Calls(os.system, TOUCH))), "posix.system"),
        "as-state": (b"\x80\x04" + EMPTY + shell + b"b.", "posix.system"),
        "as-payload": (
            b"\x80\x04" + EMPTY + b"(K\x01K\x01K\x01\x86" + DTYPE + b"\x89" + shell + b"tb.",
            "posix.system",
        ),
        "after-an-array": (pickle.dumps(FEATURES)[:-1] + b"0" + shell + b".", "posix.system"),
        "memo": (
            b"\x80\x04" + text("posix") + b"\x94" + text("system") + b"\x940" + b"0h\x00h\x01\x93.",
            "posix.system",
        ),
        "memo-replaced": (
            b"\x80\x04" + name("numpy", "dtype") + b"q\x000" + name("os", "popen") + b"q\x00.",
            "os.popen",
        ),
        "numpy-load": (pickle.dumps(Calls(np.load, "entry.npy")), "numpy.load"),
        "numpy-fromfile": (b"\x80\x04" + name("numpy._core.multiarray", "fromfile") + b".", "multiarray.fromfile"),
        "numpy-scalar": (pickle.dumps(np.float64(3)), "numpy._core.multiarray.scalar"),
        "numpy-memmap": (b"\x80\x04" + name("numpy", "memmap") + b".", "numpy.memmap"),
        "ours": (b"\x80\x04" + name("simet_cache.codec", "os") + b".", "simet_cache.codec.os"),
        "codec-zip": (b"\x80\x04" + name("_codecs", "encode") + text("x") + text("zip") + b"\x86R.", "the codec zip"),
        "codec-rot13": (b"\x80\x04" + name("_codecs", "encode") + text("x") + text("rot13") + b"\x86R.", "codec rot13"),
        "codec-laughs": (b"\x80\x04" + name("_codecs", "encode") + text("x") + LAUGHS + b"\x86R.", "a codec"),
        "decode": (b"\x80\x04" + name("_codecs", "decode") + b".", "_codecs.decode"),
        "extension": (b"\x80\x02\x82\xf0.", "extension 240"),
        "extension-4": (b"\x80\x02\x84" + struct.pack("<i", 240) + b".", "extension 240"),
    }


@pytest.mark.parametrize("attack", attacks())
def test_an_attack_runs_nothing_and_is_named(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, asked = attacks()[attack]
    path = tmp_path / f"{attack}.pkl"
    path.write_bytes(content)
    with pytest.raises(UnsafePickleError) as caught:
        codec.read(path)
    assert f"{path} asks for " in str(caught.value)
    assert f"{asked}" in str(caught.value).partition(", which no array needs")[0]
    assert "it was not loaded and is left where it is" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == content


@pytest.mark.parametrize("attack", ["os-system-protocol-0", "posix-system", "eval", "in-an-object-array", "memo"])
def test_these_attacks_would_work(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = attacks()[attack][0]
    called = pickle.loads(content)
    if attack == "memo":
        called(TOUCH)
    assert (tmp_path / "canary").exists()


def test_an_extension_that_was_loaded_before_is_not_handed_out(
    read: Callable[[bytes], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import copyreg

    monkeypatch.setitem(copyreg._extension_cache, 240, os.system)  # type: ignore[attr-defined]
    with pytest.raises(UnsafePickleError, match="extension 240"):
        read(b"\x80\x02\x82\xf0" + text("touch canary") + b"\x85R.")


STATE = b"(K\x01K\x01K\x01\x86" + DTYPE + b"\x89C\x08" + b"\0" * 8 + b"t"
HOSTILE = {
    "hash of a deep tuple, as a key": b"}" + DEEP + b"Ns.",
    "hash of a deep tuple, as keys": b"}(" + DEEP + b"Nu.",
    "hash of a deep tuple, in a dict": b"(" + DEEP + b"Nd.",
    "hash of a deep tuple, in a set": b"\x8f(" + DEEP + b"\x90.",
    "hash of a deep tuple, in a frozenset": b"(" + DEEP + b"\x91.",
    "hash of a deep tuple, as a byte order": DTYPE + b"K\x03" + DEEP + b"\x86b.",
    "sixty levels of laughs, as a key": b"}" + LAUGHS + b"Ns.",
    "sixty levels of laughs, as a dtype": name("numpy", "dtype") + LAUGHS + b"\x85R.",
    "sixty levels of laughs, as a shape": name("numpy._core.numeric", "_frombuffer")
    + (b"(C\x08" + b"\0" * 8 + DTYPE + LAUGHS + text("C") + b"tR."),
    "sixty levels of laughs, as an order": name("numpy._core.numeric", "_frombuffer")
    + (b"(C\x08" + b"\0" * 8 + DTYPE + b"K\x01K\x01\x86" + LAUGHS + b"tR."),
    "deep lists": b"]" * 200_000 + b"a" * 199_999 + b".",
    "attributes of our function": name("numpy._core.numeric", "_frombuffer") + b"N}\x86b.",
    "attributes of our method": name("_codecs", "encode") + b"}b.",
    "the array class itself, called": name("numpy", "ndarray") + b"K\x02K\x02\x86\x85R.",
    "an array that was never restored": EMPTY + b".",
    "an array that was never made": name("numpy._core.multiarray", "_reconstruct") + b")\x81.",
    "an array within an array": name("numpy._core.numeric", "_frombuffer")
    + (b"(" + EMPTY + STATE + b"b" + DTYPE + b"K\x01K\x01\x86" + text("C") + b"tR."),
    "a dtype of objects": name("numpy", "dtype") + text("O8") + b"\x85R.",
    "a deep tuple, as a dtype": name("numpy", "dtype") + text("f8") + b"K\x01\x86" * 200_000 + b"\x85R.",
    "a dtype of many fields": name("numpy", "dtype") + text("(99999,99999)f8,f8") + b"\x85R.",
    "a memo of 32 GiB": b"Nr\xfe\xff\xff\x7f.",
    "bytes of 4 EiB": b"\x8e" + struct.pack("<Q", 1 << 62) + b".",
    "a bytearray of 64 GiB": b"\x96" + struct.pack("<Q", 1 << 36) + b".",
    "a string of 64 GiB": b"\x8d" + struct.pack("<Q", 1 << 36) + b".",
    "a frame of 64 GiB": b"\x95" + struct.pack("<Q", 1 << 36) + b".",
    "a number of 2 GiB": b"\x8b" + struct.pack("<I", 1 << 30) + b".",
    "a buffer from outside": b"\x97.",
    "a persistent id": text("posix.system") + b"Q.",
    "a persistent id, protocol 0": b"Pposix.system\n.",
    "an unknown opcode": b"\xff.",
    "nothing": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_names_nothing_can_do_no_harm_either(read: Callable[[bytes], np.ndarray], content: bytes) -> None:
    with pytest.raises(DamagedEntryError, match=r"entry\.pkl"):
        read(b"\x80\x05" + content if content else b"")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("attributes of our function", "a state for function"),
        ("a dtype of many fields", "a dtype that is no plain one"),
        ("sixty levels of laughs, as a dtype", "a dtype that is no plain one"),
        ("bytes of 4 EiB", "4611686018427387904 bytes are declared in a file of 12"),
        ("an array that was never restored", "holds NoneType"),
    ],
)
def test_damage_says_what_was_found(read: Callable[[bytes], np.ndarray], kind: str, sentence: str) -> None:
    with pytest.raises(DamagedEntryError, match=sentence):
        read(b"\x80\x05" + HOSTILE[kind])


def test_numpys_own_dtypes_cannot_be_changed(read: Callable[[bytes], np.ndarray]) -> None:
    shared = name("numpy", "dtype") + text("f8") + b"\x89\x89\x87R"
    with pytest.raises(DamagedEntryError):
        read(b"\x80\x04" + shared + b"(K\x03" + text(">") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb.")
    assert np.dtype("f8").isnative


# Damage


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_cut_anywhere_is_damage(read: Callable[[bytes], np.ndarray], protocol: int) -> None:
    content = pickle.dumps(FEATURES, protocol=protocol)
    for length in range(len(content)):
        with pytest.raises(DamagedEntryError, match=r"entry\.pkl"):
            read(content[:length])


def test_a_long_file_cut_anywhere_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "entry.pkl"
    for protocol in (4, 5):
        content = pickle.dumps(np.zeros((300, 300)), protocol=protocol)
        for length in [*range(300), *range(300, len(content), 9973), len(content) - 1]:
            path.write_bytes(content[:length])
            with pytest.raises(DamagedEntryError):
                codec.read(path)


def test_something_after_the_end_is_damage(read: Callable[[bytes], np.ndarray]) -> None:
    with pytest.raises(DamagedEntryError, match="goes on after the end of its pickle"):
        read(written(FEATURES) + b"\0")


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
