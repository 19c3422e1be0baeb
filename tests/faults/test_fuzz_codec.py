"""150,000 damaged and hostile files: a feature array comes out, or one of two errors, and nothing else.

Run in a process of its own, in which memory is short, each file has a moment, and whatever a file could do but be read
is reported by Python's audit hooks.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import resource
import signal
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simet_cache import codec
from simet_cache.errors import DamagedEntryError, UnsafePickleError

DATA = Path(__file__).parents[1] / "data"
MEMORY = 64 << 20  # beyond what the process has when it starts
SECONDS = 2.0

# What is put in, beside single bytes: names, calls, memo tricks, containers, marks, frames, and lengths that lie.
PARTS = [
    b"cos\nsystem\n",
    b"cposix\nsystem\n(Vtrue\ntR",
    b"(Vtrue\nios\nsystem\n",
    b"(cbuiltins\neval\nV__import__('os').system('true')\no",
    b"\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R",
    b"\x8c\x08builtins\x8c\x04open\x93\x8c\x06canary\x8c\x01w\x86R",
    b"\x8c\x09importlib\x8c\x0dimport_module\x93\x8c\x0bantigravity\x85R",
    b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f8\x89\x88\x87R",
    b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02O8\x89\x88\x87R",
    b"\x8c\x05numpy\x8c\x04load\x93",
    b"\x8c\x05numpy\x8c\x07ndarray\x93",
    b"\x8c\x13numpy._core.numeric\x8c\x0c_frombuffer\x93",
    b"\x8c\x16numpy._core.multiarray\x8c\x0c_reconstruct\x93",
    b"\x8c\x07_codecs\x8c\x06encode\x93\x8c\x02ab\x8c\x06latin1\x86R",
    b"\x8c\x07_codecs\x8c\x06encode\x93\x8c\x02ab\x8c\x03zip\x86R",
    *(
        b"\x94",
        b"h\x00",
        b"h\x01",
        b"h\x02",
        b"q\x00",
        b"q\x01",
        b"j\xff\xff\xff\xff",
        b"r\xff\xff\xff\x7f",
        b"2",
        b"0",
    ),
    *(
        b"(",
        b"1",
        b"t",
        b"l",
        b"d",
        b")",
        b"]",
        b"}",
        b"\x8f",
        b"\x85",
        b"\x86",
        b"\x87",
        b"a",
        b"e",
        b"s",
        b"u",
        b"\x90",
    ),
    *(
        b"\x91",
        b"R",
        b"b",
        b"o",
        b"\x81",
        b"\x92",
        b"Q",
        b"Ptrue\n",
        b"\x82\x01",
        b"\x83\x01\x00",
        b"\x97",
        b"\x98",
        b".",
    ),
    *(
        b"N",
        b"\x88",
        b"\x89",
        b"K\x00",
        b"J\xff\xff\xff\xff",
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        b"I1\n",
        b"F1e999\n",
    ),
    *(b"\x80\x02", b"\x80\x05", b"\x80\xff", b"\x95" + struct.pack("<Q", 9), b"\x95" + b"\xff" * 8),
    *(b")" + b"2\x86" * 50, b"\x85" * 3000, b"]" * 3000, b"(" * 3000, b"\x8f" * 3000, b"h\x00h\x00R" * 900),
    *(b"\x8e" + struct.pack("<Q", size) for size in (1, 100, 1 << 31, 1 << 40, (1 << 64) - 1)),
    *(b"\x96" + struct.pack("<Q", size) for size in (1, 100, 1 << 31, 1 << 40, (1 << 64) - 1)),
    *(b"X" + struct.pack("<I", size) for size in (1, 100, 1 << 31, (1 << 32) - 1)),
    b"\x80\x05C\x0esimet-cache v10",
]
LENGTHS = [
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    1 << 15,
    (1 << 16) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    1 << 62,
    (1 << 64) - 1,
]


def seeds() -> list[bytes]:
    """Honest files of all layouts, and pickles of other things."""
    found = [path.read_bytes() for path in sorted(DATA.glob("*.pkl"))]
    for dtype in ("<f2", "<f4", "<f8", ">f4"):
        for order in ("C", "F"):
            array = np.array(np.arange(12).reshape(3, 4), dtype=dtype, order=order)  # type: ignore[call-overload]
            found += [own(array), *(pickle.dumps(array, protocol=protocol) for protocol in range(6))]
    found.append(own(np.zeros((300, 100), np.float32)))
    found += [pickle.dumps(np.zeros((300, 100), np.float32), protocol=protocol) for protocol in (2, 4, 5)]
    for value in ([1, {"a": (2.5, None)}, {3}], np.array([[None, "x"]]), np.float64(3), os.system, range(3)):
        found += [pickle.dumps(value, protocol=protocol) for protocol in (0, 2, 5)]
    return found


def own(array: np.ndarray) -> bytes:
    """As ``write`` writes it."""
    file = io.BytesIO()
    codec.write(array, file)
    return file.getvalue()


def flip(rng: random.Random, content: bytearray, _: list[bytes]) -> None:
    for _number in range(rng.choice([1, 1, 2, 5])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def change(rng: random.Random, content: bytearray, _: list[bytes]) -> None:
    content[rng.randrange(len(content))] = rng.randrange(256)


def insert(rng: random.Random, content: bytearray, _: list[bytes]) -> None:
    place = rng.randrange(len(content))
    content[place:place] = rng.choice(PARTS)


def overwrite(rng: random.Random, content: bytearray, _: list[bytes]) -> None:
    place, part = rng.randrange(len(content)), rng.choice(PARTS)
    content[place : place + len(part)] = part


def splice(rng: random.Random, content: bytearray, corpus: list[bytes]) -> None:
    other = rng.choice(corpus)
    start, place = rng.randrange(len(other)), rng.randrange(len(content))
    content[place : place + rng.randrange(40)] = other[start : start + rng.randrange(80)]


def cut(rng: random.Random, content: bytearray, _: list[bytes]) -> None:
    del content[rng.randrange(len(content)) :]


def remove(rng: random.Random, content: bytearray, _: list[bytes]) -> None:
    place = rng.randrange(len(content))
    del content[place : place + rng.choice([1, 1, 2, 8, 30])]


def repeat(rng: random.Random, content: bytearray, _: list[bytes]) -> None:
    place, length = rng.randrange(len(content)), rng.choice([1, 2, 8, 30])
    content[place:place] = content[place : place + length] * rng.choice([1, 2, 50])


def join(rng: random.Random, content: bytearray, corpus: list[bytes]) -> None:
    other = rng.choice(corpus)
    if rng.random() < 0.5:
        content += other
    else:  # without the end of the one and the protocol of the other
        content[-1:] = other[2:]


def lie(rng: random.Random, content: bytearray, _: list[bytes]) -> None:
    """Another number where a length, or a part of one, may be."""
    width = rng.choice([1, 2, 4, 8])
    place = rng.randrange(len(content))
    number = rng.choice([*LENGTHS, len(content), len(content) - place]) + rng.choice([-1, 0, 0, 1])
    content[place : place + width] = (number % (1 << 8 * width)).to_bytes(width, "little")


MUTATIONS = [flip, flip, change, insert, insert, overwrite, splice, splice, cut, remove, repeat, join, lie, lie]


def mutated(number: int, corpus: list[bytes]) -> bytes:
    """The file of a number, always the same."""
    rng = random.Random(number)
    content = bytearray(rng.choice(corpus))
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        if content:
            rng.choice(MUTATIONS)(rng, content, corpus)
    return bytes(content)


def watch(handle: int, *, harmless: frozenset[str]) -> None:
    """From now on, a file may be opened for reading and mapped, but nothing else happens in this process.

    Args:
        handle: The file that the fuzzer itself writes to.
        harmless: Events that may happen nevertheless.
    """

    def canary(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
            return
        if event not in harmless and (event, arguments[0]) != ("os.truncate", handle):
            os.write(2, f"CANARY {event} {arguments}\n".encode())
            os._exit(3)

    sys.addaudithook(canary)


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def outcome(function: Callable[[Path], Any], path: Path) -> str:
    """What came of a file; anything unexpected is raised."""
    try:
        found = function(path)
    except (DamagedEntryError, UnsafePickleError) as error:
        if str(error).isprintable():
            return type(error).__name__
        raise
    if isinstance(found, np.ndarray):
        assert codec.is_feature_array(found)
        assert found.flags.writeable is (function is codec.read)
        float(found.sum(dtype=np.float64))
        return "array"
    return type(found).__name__


def check(path: Path) -> str:
    """All ways to read a file say the same of it."""
    read = outcome(codec.read, path)
    mapped = outcome(codec.open_mapped, path)
    assert mapped == read or (mapped, codec.read(path).size) == ("DamagedEntryError", 0)
    form = outcome(codec.inspect, path)
    assert form == {"array": "Layout"}.get(read, read) or form == "NoneType"
    digest = outcome(codec.verify, path)
    assert digest == {"array": "str"}.get(read, read)
    if read == "array":
        assert codec.verify(path) == codec.digest(codec.read(path))
    return read


def plain(path: Path) -> str:
    """What the canary is for."""
    try:
        with path.open("rb") as file:
            pickle.load(file)
    except Exception:
        return "error"
    return "value"


def fuzz(first: int, last: int, path: Path, function: Callable[[Path], str]) -> Counter[str]:
    """Counts what comes of the files of these numbers."""
    harmless = frozenset({"mmap.__new__"} if function is check else {"pickle.find_class"})
    corpus = seeds()
    seen: Counter[str] = Counter()
    np.seterr(all="ignore")
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(handle, corpus[0], 0)
    for content in corpus:  # what is imported or allocated once is there before anything is watched
        os.pwrite(handle, content, 0)
        os.ftruncate(handle, len(content))
        function(path)
    limit_memory()
    watch(handle, harmless=harmless)
    for number in range(first, last):
        content = mutated(number, corpus)
        os.pwrite(handle, content, 0)
        os.ftruncate(handle, len(content))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor; then the process ends
        try:
            seen[function(path)] += 1
        except BaseException as error:
            raise AssertionError(f"file number {number}: {content!r}") from error
    signal.setitimer(signal.ITIMER_PROF, 0)
    return seen


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited as Linux does it")
def test_no_file_does_anything_but_be_read(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run(__file__, "safe", tmp_path / "entry.pkl", "0", "150000", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = dict(line.split() for line in done.stdout.splitlines())
    assert sum(map(int, seen.values())) == 150_000
    assert all(int(seen[kind]) > 1000 for kind in ("array", "DamagedEntryError", "UnsafePickleError"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["entry.pkl"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited as Linux does it")
def test_the_canary_sings_for_a_plain_unpickler(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run(__file__, "plain", tmp_path / "entry.pkl", "0", "1000", cwd=tmp_path)
    assert done.returncode == 3
    assert "CANARY import (" in done.stderr  # of a module that no honest file of the corpus needs


if __name__ == "__main__":
    kind, file, start, end = sys.argv[1:]
    for what, count in fuzz(int(start), int(end), Path(file), check if kind == "safe" else plain).items():
        print(what, count)
