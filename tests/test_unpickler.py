"""Reading a pickle of any origin runs nothing, and costs no more than its size."""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simet_cache import codec
from simet_cache.errors import DamagedEntryError, UnsafePickleError
from simet_cache.unpickler import unpickle

FEATURES = np.arange(6, dtype=np.float32).reshape(2, 3)
TOUCH = "touch canary"


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], np.ndarray]:
    def call(content: bytes) -> np.ndarray:
        path = tmp_path / "entry.pkl"
        path.write_bytes(content)
        return codec.read(path)

    return call


# Pickles by hand


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


DTYPE = name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R"
ORDER = b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
ARRAY = name("numpy._core.multiarray", "_reconstruct")
EMPTY = ARRAY + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
STATE = b"(K\x01K\x01K\x01\x86" + DTYPE + b"\x89C\x08" + b"\0" * 8 + b"t"
BUFFER = name("numpy._core.numeric", "_frombuffer")
ENCODE = name("_codecs", "encode")
SHELL = name("posix", "system") + text(TOUCH) + b"\x85R"
LAUGHS = b")" + b"2\x86" * 60  # a tuple of two of itself, sixty times
DEEP = b")" + b"\x85" * 200_000
MARK = b"C\x0esimet-cache v1"


def called(data: bytes = b"C\x08" + b"\0" * 8, dtype: bytes = DTYPE, shape: bytes = b"K\x01K\x01\x86") -> bytes:
    """An array as protocol 5 has it."""
    return BUFFER + b"(" + data + dtype + shape + text("C") + b"tR"


def test_these_parts_make_arrays(read: Callable[[bytes], np.ndarray]) -> None:
    for content in (EMPTY + STATE + b"b", called(), called(dtype=DTYPE + ORDER), b"N0" + MARK + b"0" + called()):
        assert pickle.loads(b"\x80\x05" + content + b".").tolist() == [[0.0]]
        assert read(b"\x80\x05" + content + b".").tolist() == [[0.0]]


def test_another_value_than_an_array_is_handed_out_harmless(tmp_path: Path) -> None:
    path = tmp_path / "entry.pkl"
    path.write_bytes(pickle.dumps(("x", 1)))
    with path.open("rb") as file:
        assert unpickle(file, path) == ("x", 1)


@pytest.mark.parametrize("value", [[1], [1, [2]], {1: 2}, {1: 2, 3: 4}, {1, 2}, frozenset({1})], ids=str)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_container_is_filled(tmp_path: Path, value: Any, protocol: int) -> None:
    path = tmp_path / "entry.pkl"
    path.write_bytes(pickle.dumps((value,), protocol=protocol if isinstance(value, list | dict) else 4))
    with path.open("rb") as file:
        assert unpickle(file, path) == (type(value)(),)


# A folder of attacks


def attacks() -> dict[str, tuple[bytes, str]]:
    """Name of the file: what is in it, and what it is said to have asked for."""
    system = Calls(os.system, TOUCH)
    return {
        "os-system-protocol-0": (b"cos\nsystem\n(S'touch canary'\ntR.", "os.system"),
        "posix-system": (pickle.dumps(system), "posix.system"),
        "posix-system-protocol-2": (pickle.dumps(system, protocol=2), "posix.system"),
        "inst": (b"(S'touch canary'\nios\nsystem\n.", "os.system"),
        "obj": (b"(cos\nsystem\nS'touch canary'\no.", "os.system"),
        "newobj": (b"\x80\x02csubprocess\nPopen\n" + text(TOUCH) + b"\x85\x81.", "subprocess.Popen"),
        "newobj-ex": (
            b"\x80\x04" + name("subprocess", "Popen") + text(TOUCH) + b"\x85}" + text("shell") + b"\x88s\x92.",
            "subprocess.Popen",
        ),
        "eval": (pickle.dumps(Calls(eval, f"__import__('os').system({TOUCH!r})")), "builtins.eval"),
        "eval-python-2": (b'c__builtin__\neval\n(S\'open("canary", "w")\'\ntR.', "__builtin__.eval"),
        "import": (b"\x80\x04" + name("builtins", "__import__") + text("antigravity") + b"\x85R.", "__import__"),
        "dotted": (b"\x80\x04" + name("numpy", "ndarray.__class__.__base__") + b".", "numpy.ndarray.__class__"),
        "getattr": (pickle.dumps(Calls(getattr, "", "join")), "builtins.getattr"),
        "bytearray": (b"\x80\x04" + name("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R.", "builtins.bytearray"),
        "in-a-list": (pickle.dumps([1, [system]]), "posix.system"),
        "in-a-dict": (pickle.dumps({"a": {"b": system}}), "posix.system"),
        "in-a-set-of-floats": (pickle.dumps((1.5, 2**80, {3}, system)), "posix.system"),
        "in-an-object-array": (pickle.dumps(np.array([[system]], dtype=object)), "posix.system"),
        "nested-reduce": (pickle.dumps(Calls(np.dtype, Calls(os.system, TOUCH))), "posix.system"),
        "deep-reduce": (pickle.dumps(Calls(np.dtype, Calls(np.dtype, Calls(np.dtype, system)))), "posix.system"),
        "as-state": (b"\x80\x04" + EMPTY + SHELL + b"b.", "posix.system"),
        "as-payload": (
            b"\x80\x04" + EMPTY + b"(K\x01K\x01K\x01\x86" + DTYPE + b"\x89" + SHELL + b"tb.",
            "posix.system",
        ),
        "as-the-array-class": (b"\x80\x04" + ARRAY + SHELL + b"K\x00\x85C\x01b\x87R.", "posix.system"),
        "as-setstate": (b"\x80\x04" + EMPTY + b"}" + text("__setstate__") + name("os", "system") + b"sb.", "os.system"),
        "after-an-array": (pickle.dumps(FEATURES)[:-1] + b"0" + SHELL + b".", "posix.system"),
        "behind-our-mark": (b"\x80\x04" + MARK + b"0" + SHELL + b".", "posix.system"),
        "in-place-of-our-mark": (b"\x80\x05" + SHELL + b"0" + called() + b".", "posix.system"),
        "in-a-frame": (b"\x80\x04\x95" + struct.pack("<Q", len(SHELL)) + SHELL + b".", "posix.system"),
        "memo": (
            b"\x80\x04" + text("posix") + b"\x94" + text("system") + b"\x940" + b"0h\x00h\x01\x93.",
            "posix.system",
        ),
        "memo-replaced": (
            b"\x80\x04" + name("numpy", "dtype") + b"q\x000" + name("os", "popen") + b"q\x00.",
            "os.popen",
        ),
        "module-from-a-call": (
            b"\x80\x04" + ENCODE + text("os") + text("latin1") + b"\x86R0" + name("os", "system") + b".",
            "os.system",
        ),
        "numpy-load": (pickle.dumps(Calls(np.load, "entry.npy")), "numpy.load"),
        "numpy-fromfile": (b"\x80\x04" + name("numpy._core.multiarray", "fromfile") + b".", "multiarray.fromfile"),
        "numpy-scalar": (pickle.dumps(np.float64(3)), "numpy._core.multiarray.scalar"),
        "numpy-memmap-from-elsewhere": (b"\x80\x04" + name("numpy._core.memmap", "memmap") + b".", "memmap.memmap"),
        "numpy-frompyfunc": (b"\x80\x04" + name("numpy", "frompyfunc") + b".", "numpy.frompyfunc"),
        "numpy-ones": (b"\x80\x04" + name("numpy", "ones") + b"J\xff\xff\xff\x7f\x85R.", "numpy.ones"),
        "numpy-runstring": (b"\x80\x04" + name("numpy.testing._private.utils", "runstring") + b".", "utils.runstring"),
        "numpy-by-another-name": (b"\x80\x04" + name("numpy.core", "multiarray._reconstruct") + b".", "numpy.core."),
        "numpy-in-capitals": (b"\x80\x04" + name("Numpy", "dtype") + b".", "Numpy.dtype"),
        "numpy-with-a-space": (b"\x80\x04" + name("numpy ", "dtype") + b".", "numpy .dtype"),
        "ours": (b"\x80\x04" + name("simet_cache.codec", "os") + b".", "simet_cache.codec.os"),
        "codec-zip": (b"\x80\x04" + ENCODE + text("x") + text("zip") + b"\x86R.", "the codec zip"),
        "codec-rot13": (b"\x80\x04" + ENCODE + text("x") + text("rot13") + b"\x86R.", "codec rot13"),
        "codec-laughs": (b"\x80\x04" + ENCODE + text("x") + LAUGHS + b"\x86R.", "a codec"),
        "decode": (b"\x80\x04" + name("_codecs", "decode") + b".", "_codecs.decode"),
        "extension": (b"\x80\x02\x82\xf0.", "extension 240"),
        "extension-2": (b"\x80\x02\x83\xf0\x00.", "extension 240"),
        "extension-4": (b"\x80\x02\x84" + struct.pack("<i", 240) + b".", "extension 240"),
    }


@pytest.mark.parametrize("attack", attacks())
def test_an_attack_runs_nothing_and_is_named(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, asked = attacks()[attack]
    path = tmp_path / f"{attack}.pkl"
    path.write_bytes(content)
    for function in (codec.read, codec.open_mapped, codec.verify):
        with pytest.raises(UnsafePickleError) as caught:
            function(path)
        assert f"{path} asks for " in str(caught.value)
        assert f"{asked}" in str(caught.value).partition(", which no array needs")[0]
        assert "it was not loaded and is left where it is" in str(caught.value)
    assert codec.inspect(path) is None
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        *(("numpy", "ndarray"), ("numpy", "memmap"), ("numpy", "matrix")),
        *(("numpy.core.memmap", "memmap"), ("numpy.matrixlib.defmatrix", "matrix")),
    ],
)
@pytest.mark.parametrize(
    "rest", [b".", text("canary") + b"\x85R.", text("canary") + b"\x85\x81.", b")R" + text("x") + b"b."], ids=repr
)
def test_the_class_of_an_array_is_a_word(
    module: str, kind: str, rest: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called, numpy.memmap would make a file."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "entry.pkl"
    path.write_bytes(b"\x80\x04" + name(module, kind) + rest)
    for function in (codec.read, codec.open_mapped, codec.verify):
        with pytest.raises(DamagedEntryError):
            function(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


WORKING = [
    *("os-system-protocol-0", "posix-system", "eval", "in-an-object-array", "memo", "as-the-array-class"),
    *("behind-our-mark", "in-place-of-our-mark", "in-a-frame", "deep-reduce"),
]


@pytest.mark.parametrize("attack", WORKING)
def test_these_attacks_would_work(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        found = pickle.loads(attacks()[attack][0])
    except TypeError:  # what was called is no argument for what comes next
        assert attack in {"deep-reduce", "as-the-array-class"}
    else:
        if attack == "memo":
            found(TOUCH)
    assert (tmp_path / "canary").exists()


def test_an_extension_that_was_loaded_before_is_not_handed_out(
    read: Callable[[bytes], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(copyreg._extension_cache, 240, os.system)  # type: ignore[attr-defined]
    with pytest.raises(UnsafePickleError, match="extension 240"):
        read(b"\x80\x02\x82\xf0" + text("touch canary") + b"\x85R.")


def test_an_attack_behind_our_whole_head_is_damage(read: Callable[[bytes], np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(DamagedEntryError, match="do not fit together"):
        read(b"\x80\x05" + MARK + b"0" + SHELL + b".")


def test_no_module_is_imported(read: Callable[[bytes], np.ndarray]) -> None:
    assert "antigravity" not in sys.modules
    with pytest.raises(UnsafePickleError):
        read(b"\x80\x04" + name("antigravity", "numpy.dtype") + b".")
    assert "antigravity" not in sys.modules


def test_what_a_message_quotes_is_short_and_harmless(read: Callable[[bytes], np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(UnsafePickleError) as caught:
        read(b"\x80\x04" + name("\x1b[2Jos\r\nAll is well", "é" * 100_000) + b".")
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2500 + len(str(tmp_path))
    with pytest.raises(UnsafePickleError) as caught:
        read(b"\x80\x04" + ENCODE + text("x") + text("\x1b[2J" + "é" * 100_000) + b"\x86R.")
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500 + len(str(tmp_path))
    with pytest.raises(DamagedEntryError, match="Memo value not found at index 9999") as damage:
        read(b"\x80\x04g" + b"9" * 4000 + b"\n.")
    assert len(str(damage.value)) < 500 + len(str(tmp_path))


# Files that name nothing


HOSTILE = {
    "hash of a deep tuple, as a key": b"}" + DEEP + b"Ns.",
    "hash of a deep tuple, as keys": b"}(" + DEEP + b"Nu.",
    "hash of a deep tuple, in a dict": b"(" + DEEP + b"Nd.",
    "hash of a deep tuple, in a set": b"\x8f(" + DEEP + b"\x90.",
    "hash of a deep tuple, in a frozenset": b"(" + DEEP + b"\x91.",
    "hash of a deep tuple, as a byte order": DTYPE + b"K\x03" + DEEP + b"\x86b.",
    "sixty levels of laughs, as a key": b"}" + LAUGHS + b"Ns.",
    "sixty levels of laughs, as keys": b"}(" + LAUGHS + b"Nu.",
    "sixty levels of laughs, in a dict": b"(" + LAUGHS + b"Nd.",
    "sixty levels of laughs, in a set": b"\x8f(" + LAUGHS + b"\x90.",
    "sixty levels of laughs, in a frozenset": b"(" + LAUGHS + b"\x91.",
    "sixty levels of laughs, as a dtype": name("numpy", "dtype") + LAUGHS + b"\x85R.",
    "sixty levels of laughs, as a shape": called(shape=LAUGHS) + b".",
    "sixty levels of laughs, as an order": BUFFER + b"(C\x08" + b"\0" * 8 + DTYPE + b"K\x01K\x01\x86" + LAUGHS + b"tR.",
    "deep lists": b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep lists, closed at the end": b"(" * 200_000 + b"l" * 200_000 + b".",
    "attributes of our function": BUFFER + b"N}\x86b.",
    "attributes of our method": ENCODE + b"}b.",
    "attributes of an array": EMPTY + b"N}" + text("value") + b"Ns\x86b.",
    "a method of an array": EMPTY + b"}" + text("__setstate__") + BUFFER + b"sb.",
    "the array class itself, called": name("numpy", "ndarray") + b"K\x02K\x02\x86\x85R.",
    "a number, called": b"K\x02)R.",
    "a method of ours, called with too little": ENCODE + b")R.",
    "bytes, encoded": ENCODE + b"C\x01x" + text("latin1") + b"\x86R.",
    "an array that was never restored": EMPTY + b".",
    "an array that was never made": ARRAY + b")\x81.",
    "an array that was never made, with names": ARRAY + b")}\x92.",
    "an array by obj": b"(" + ARRAY + b"o.",
    "an array by inst": b"(inumpy.core.multiarray\n_reconstruct\n.",
    "an array within an array": called(data=EMPTY + STATE + b"b") + b".",
    "an array as a dtype": called(dtype=EMPTY + STATE + b"b") + b".",
    "an array as a shape": called(shape=called()) + b".",
    "an array whose state is an array": EMPTY + called() + b"b.",
    "a dtype of objects": name("numpy", "dtype") + text("O8") + b"\x85R.",
    "an array of objects": called(dtype=name("numpy", "dtype") + text("O8") + b"\x85R") + b".",
    "a dtype that was never made": called(dtype=name("numpy", "dtype") + b")\x81") + b".",
    "a deep tuple, as a dtype": name("numpy", "dtype") + text("f8") + b"K\x01\x86" * 200_000 + b"\x85R.",
    "a dtype of many fields": name("numpy", "dtype") + text("(99999,99999)f8,f8") + b"\x85R.",
    "a dtype in Arabic digits": name("numpy", "dtype") + text("f٨") + b"\x85R.",
    "a byte order of numpy's own": called(dtype=DTYPE + ORDER.replace(b"<", b"S")) + b".",
    "a negative shape": called(shape=b"J\xff\xff\xff\xffK\x01\x86") + b".",
    "a shape of truths": called(shape=b"\x88\x88\x86") + b".",
    "a shape of 2**256": called(shape=b"\x8a\x21" + b"\0" * 32 + b"\x01K\x01\x86") + b".",
    "a shape of zero times everything": called(data=b"C\0", shape=b"K\0\x8a\x08" + b"\xff" * 7 + b"\x7f\x86") + b".",
    "a memo of 32 GiB": b"Nr\xfe\xff\xff\x7f.",
    "a memo that was never filled": b"h\x07.",
    "a memo of a negative number": b"Np-1\n.",
    "bytes of 4 EiB": b"\x8e" + struct.pack("<Q", 1 << 62) + b".",
    "bytes of 4 GiB": b"B\xff\xff\xff\xff.",
    "bytes of 16 EiB": b"\x8e" + b"\xff" * 8 + b".",
    "a bytearray of 64 GiB": b"\x96" + struct.pack("<Q", 1 << 36) + b".",
    "bytes that go on behind the end": b"N" * 300 + b"C\xffabc",
    "bytes that go on behind the end, after a line": b"V" + b"x" * 300 + b"\nC\xffabc",
    "a string of 64 GiB": b"\x8d" + struct.pack("<Q", 1 << 36) + b".",
    "a frame of 64 GiB": b"\x95" + struct.pack("<Q", 1 << 36) + b".",
    "a frame of 16 EiB": b"\x95" + b"\xff" * 8 + b".",
    "a frame that ends within": b"\x95" + struct.pack("<Q", 3) + called() + b".",
    "a frame within a frame": b"\x95" + struct.pack("<Q", 11) + b"\x95" + struct.pack("<Q", 1) + b"NN.",
    "a number of 2 GiB": b"\x8b" + struct.pack("<I", 1 << 30) + b".",
    "a number of less than nothing": b"\x8b\xff\xff\xff\xff.",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "a string of less than nothing": b"T\xff\xff\xff\xff.",
    "a line without end": b"V" + b"x" * 100_000,
    "a buffer from outside": b"\x97.",
    "a buffer from outside, as the values": called(data=b"\x97") + b".",
    "a read-only buffer": called(data=b"\x96" + struct.pack("<Q", 8) + b"\0" * 8 + b"\x98") + b".",
    "a persistent id": text("posix.system") + b"Q.",
    "a persistent id, protocol 0": b"Pposix.system\n.",
    "a protocol from the future": b"\x80\x06" + called() + b".",
    "an unknown opcode": b"\xff.",
    "an empty stack": b"0.",
    "two values": b"NN0.",
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
        ("an array whose state is an array", "ndarray where a tuple belongs"),
        ("an array that was never made", "an object that no array consists of"),
        ("an array that was never made, with names", "an object that no array consists of"),
        ("an array by inst", "an object that no array consists of"),
        ("an array by obj", "an object that no array consists of"),
        ("a read-only buffer", "an object that no array consists of"),
        ("an array within an array", "values in _Array, described by _Dtype"),
        ("an array as a dtype", "values in bytes, described by _Array"),
        ("a dtype of many fields", "a dtype that is no plain one"),
        ("a dtype in Arabic digits", "a dtype that is no plain one"),
        ("sixty levels of laughs, as a dtype", "a dtype that is no plain one"),
        ("sixty levels of laughs, as a shape", "a shape that is none"),
        ("a negative shape", "a shape that is none"),
        ("a shape of truths", "a shape that is none"),
        ("sixty levels of laughs, as an order", "an order of elements that is none"),
        ("bytes, encoded", "bytes as text"),
        ("deep lists", "more than 1000 steps, which no array needs"),
        ("bytes of 4 EiB", "the file ends early: 4611686018427387904 bytes are due where 1 are left"),
        ("bytes that go on behind the end", "the file ends early: 255 bytes are due where 3 are left"),
        ("bytes that go on behind the end, after a line", "255 bytes are due where 3 are left"),
        ("a byte order of numpy's own", "a byte order that is none"),
        ("a line without end", "the file ends within a line"),
        ("an unknown opcode", "the unknown opcode 0xff"),
        ("an array that was never restored", "holds NoneType"),
        ("sixty levels of laughs, in a frozenset", "holds frozenset"),
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


# Small files of which much would be made


def remembered(value: bytes, step: bytes, times: int) -> bytes:
    """A value, put into the memo as 0, and steps that use it again and again."""
    return value + b"q\x00" + (step + b"0") * times + b"N."


MEGABYTE = b"B" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20)
TUPLE = b"(K\x03" + text("<") + b"N" * 300 + b"t"
GREEDY = {
    "a text, encoded again and again": ENCODE
    + b"q\x01"
    + remembered(text("x" * (1 << 20)) + text("latin1") + b"\x86", b"h\x01h\x00R", 60),
    "texts, encoded and kept": ENCODE
    + b"q\x01"
    + text("x" * (1 << 20))
    + text("latin1")
    + b"\x86q\x00"
    + b"h\x01h\x00R" * 60
    + b".",
    "a set for each byte": b"\x8f" * (1 << 20) + b".",
    "a mark for each byte": b"(" * (1 << 20) + b".",
    "a memo for each byte": b"N" + b"\x94" * (1 << 20) + b".",
    "arrays without end": ARRAY + b"q\x000" + b"h\x00)R" * (1 << 18) + b".",
    "an argument for each byte": ARRAY + MEGABYTE + b"R.",
    "an argument for each letter": ARRAY + text("é" * (1 << 19)) + b"R.",
    "an argument for each element": ARRAY + called(MEGABYTE, name("numpy", "dtype") + text("u1") + b"\x85R") + b"R.",
    "an argument for each byte, by newobj": ARRAY + MEGABYTE + b"\x81.",
    "a state for each byte": DTYPE + MEGABYTE + b"b.",
    "bytes that are not there": b"\x8e" + struct.pack("<Q", 1 << 31) + b".",
    "a bytearray that is not there": b"\x96" + struct.pack("<Q", 1 << 31) + b".",
    "a frame that is not there": b"\x95" + struct.pack("<Q", 1 << 31) + b".",
    "nearly all there, again and again": (b"\x8e" + struct.pack("<Q", 1 << 20) + b"N") * 9 + MEGABYTE + b".",
    "an array, again and again": remembered(called(b"\x8e" + struct.pack("<Q", 8) + b"x" * 8), b"h\x00", 1 << 18),
    "a name of a megabyte": name("numpy", "x" * (1 << 20)) + b".",
    "a number that is none": b"F" + b"\xff" * (1 << 20) + b"\n.",
    "a codec of a megabyte": ENCODE + text("x") + text("x" * (1 << 20)) + b"\x86R.",
    "a long state, again and again": DTYPE + b"q\x010" + remembered(TUPLE * 2 + b"0", b"h\x01h\x00b", 1 << 16),
}


@pytest.mark.parametrize("content", GREEDY.values(), ids=GREEDY)
def test_memory_is_bounded_by_the_size_of_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "entry.pkl"
    path.write_bytes(b"\x80\x05" + content)
    with pytest.raises((DamagedEntryError, UnsafePickleError)):  # what is needed once is loaded by then
        codec.read(tmp_path / "entry.pkl")
    tracemalloc.start()
    try:
        with pytest.raises((DamagedEntryError, UnsafePickleError)):
            codec.read(path)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(content) + 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["a text, encoded again and again", "texts, encoded and kept"])
def test_no_more_is_encoded_than_the_file_has(read: Callable[[bytes], np.ndarray], kind: str) -> None:
    with pytest.raises(DamagedEntryError, match="more bytes are encoded than the file has"):
        read(b"\x80\x05" + GREEDY[kind])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [0, 0x41, 0x80, 0xFF])
@pytest.mark.parametrize("writeable", [True, False])
def test_honest_files_are_within_the_bounds(
    read: Callable[[bytes], np.ndarray], protocol: int, value: int, writeable: bool
) -> None:
    array = np.full((300, 400 * 4), value, np.uint8).view(np.float32)
    array.flags.writeable = writeable
    assert read(pickle.dumps(array, protocol=protocol)).tobytes() == array.tobytes()
    assert read(pickle._dumps(array, protocol=protocol)).tobytes() == array.tobytes()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "content",
    [
        b"F" + b"1" * 2_000_000 + b"\n.",
        b"F0." + b"0" * 2_000_000 + b"1e2000000\n.",
        b"I0x" + b"f" * 2_000_000 + b"\n.",
        b"L0b" + b"1" * 2_000_000 + b"L\n.",
        b"\x8b" + struct.pack("<I", 2_000_000) + b"\x7f" * 2_000_000 + b".",
        b"V" + rb"\u0041" * 500_000 + b"\n.",
        b"S'" + rb"\x41" * 500_000 + b"'\n.",
        called(shape=b"\x8b" + struct.pack("<I", 2_000_000) + b"\x7f" * 2_000_000 + b"K\x01\x86") + b".",
    ],
    ids=["float", "small float", "hexadecimal", "binary", "long", "text", "escapes", "long, as a shape"],
)
def test_long_numbers_and_texts_take_no_time(read: Callable[[bytes], np.ndarray], content: bytes) -> None:
    with pytest.raises(DamagedEntryError):
        read(b"\x80\x05" + content)
