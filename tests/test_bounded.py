"""What others may have written costs no more memory than a known amount, however small or large the file is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from xxhash import xxh3_128_hexdigest

from simet_cache.archive import export, import_archive
from simet_cache.atomic import read_regular
from simet_cache.errors import DamagedEntryError, StoreError
from simet_cache.listing import Fingerprint, differences
from simet_cache.manifest import Source
from simet_cache.mirror import remote_at
from simet_cache.store import FeatureStore
from simet_cache.upkeep import verify

ROOT = Path(__file__).resolve().parents[1]
KEY = "0" * 32
FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)
BEFORE, NOW = (Source(fingerprint=Fingerprint.of([(1, time, "-", "a.png")])) for time in (1, 2))
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and limits the address space")
MIB = 1 << 20

SETUP = """
import resource, sys
from pathlib import Path
import numpy as np
from simet_cache import derived, mirror, remote, upkeep
from simet_cache.archive import import_archive
from simet_cache.errors import StoreError
from simet_cache.listing import Fingerprint, differences
from simet_cache.manifest import Source
from simet_cache.store import FeatureStore
KEY, NOW = "0" * 32, Source(fingerprint=Fingerprint.of([(1, 2, "-", "a.png")]))
folder = Path(sys.argv[1])
def limit(megabytes):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)
"""


def within(megabytes: int, code: str, folder: Path, *, before: str = "", **environment: str) -> str:
    """What a program prints that may have so much memory besides what it starts with; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", f"{SETUP}\n{before}\nlimit({megabytes})\n{code}", folder],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# Listings


def packed(plain: bytes, *, times: int) -> bytes:
    """So many copies, never in memory at once."""
    packing = zlib.compressobj(9)
    return b"".join([*(packing.compress(plain) for _ in range(times)), packing.flush()])


BOMBS: dict[str, Callable[[], bytes]] = {
    "zeros": lambda: packed(bytes(MIB), times=100),
    "short lines": lambda: packed(b"0 0\ta\0" * 150_000, times=100),
    "names": lambda: packed(b"".join(b"0 0\t%x\0" % number for number in range(1 << 16)), times=8) + b"",
    "many names": lambda: zlib.compress(b"".join(b"0\t%x\0" % number for number in range(1_000_000)), 9),
    "one line": lambda: packed(b"a" * MIB, times=100),
    "one long name": lambda: packed(b"0 0\t" + b"a" * MIB, times=100),
    "no tabs": lambda: packed(b"0 0 a\0" * 150_000, times=100),
}


@LINUX
def test_lists_of_files_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    """In the cache, in an archive, and at a remote: stale features are told as such, and no files are named."""
    for name, bomb in BOMBS.items():
        store = FeatureStore(tmp_path / name / "cache")
        store.put(KEY, FEATURES, source=BEFORE)
        store.path(KEY).with_suffix(".files").write_bytes(bomb())
        export(store, [KEY], tmp_path / name / "archive.tar")
        shutil.copytree(tmp_path / name / "cache", tmp_path / name / "remote")
    code = """
for bomb in folder.iterdir():
    unpacked, fetched = FeatureStore(bomb / "unpacked"), FeatureStore(bomb / "fetched", remote=f"file://{bomb}/remote")
    assert import_archive(unpacked, bomb / "archive.tar").entries[0].outcome == "imported"
    assert fetched.find(KEY) is not None
    for store in (FeatureStore(bomb / "cache"), unpacked, fetched):
        seen = store.look(KEY, source=NOW)
        assert seen.status == "stale", seen
        print(seen.reason.rpartition(": ")[2])
"""
    said = within(64, code, tmp_path).splitlines()
    assert said == ["they were made from other images"] * 3 * len(BOMBS)


def test_honest_lists_of_any_kind_are_told_apart() -> None:
    """Of those that pack best: names that are numbered, at one time, and one name again and again."""
    files = [(3072, 1_700_000_000_000_000_000, "-", f"{'folder/' * 20}{number:07d}.png") for number in range(50_000)]
    before, now = Fingerprint.of(files), Fingerprint.of(files[1:])
    assert differences(before.listing, now.listing) == [f"{'folder/' * 20}0000000.png is gone"]
    before, now = Fingerprint.of(files[:1] * 300_000), Fingerprint.of(files[:1] * 299_999)
    assert differences(before.listing, now.listing) == ["the same files in another order or number"]


# JSON


JSON: dict[str, Callable[[], bytes]] = {
    "many lists": lambda: b'{"skipped": [' + b"[]," * 10_000_000 + b"0]}",
    "many objects": lambda: b'{"skipped": [' + b'{"":0},' * 4_000_000 + b"0]}",
    "many numbers": lambda: b'{"skipped": [' + b"1," * 15_000_000 + b"0]}",
    "a long text": lambda: b'{"skipped": "' + "\U0001f600".encode() + b"a" * (60 * MIB) + b'"}',
    "deep": lambda: b'{"skipped": ' + b"[" * 5_000_000,
}
READERS = {
    "manifest": (
        ".json",
        'assert store.look(KEY).status == "damaged"; assert upkeep.entries(store)[0].status == "damaged"',
    ),
    "next manifest": (
        ".next.json",
        "assert store.find(KEY); upkeep.verify(store, repair=True); assert store.find(KEY)",
    ),
    "bad images": (
        ".skipped.json",
        "assert skipped.remembered(store, KEY, NOW) == {}; upkeep.verify(store, repair=True);"
        ' assert not list(folder.glob("*.skipped.json"))',
    ),
}


@LINUX
@pytest.mark.parametrize("reader", READERS)
def test_json_that_becomes_gigabytes(tmp_path: Path, reader: str) -> None:
    suffix, code = READERS[reader]
    for what, blob in JSON.items():
        store = FeatureStore(tmp_path / what)
        store.put(KEY, FEATURES)
        store.path(KEY).with_suffix(suffix).write_bytes(blob())
    loop = f"for place in list(folder.iterdir()):\n    store = FeatureStore(place)\n    {code}"
    within(300, loop, tmp_path, before="from simet_cache import skipped" if "skipped" in code else "")


def test_what_is_no_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    for suffix in (".json", ".next.json", ".files", ".skipped.json"):
        for kind in ("pipe", "folder"):
            store = FeatureStore(tmp_path / f"{kind}{suffix}")
            store.put(KEY, FEATURES, source=BEFORE)
            path = store.path(KEY).with_suffix(suffix)
            path.unlink(missing_ok=True)
            os.mkfifo(path) if kind == "pipe" else path.mkdir()
    code = """
for place in list(folder.iterdir()):
    store = FeatureStore(place)
    calls = [lambda: store.look(KEY, source=NOW), lambda: skipped.remembered(store, KEY, NOW), lambda: store.find(KEY)]
    for call in calls:
        try:
            call()
        except StoreError as error:
            print(error)
"""
    within(200, code, tmp_path, before="from simet_cache import skipped")


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, most=5) == b"12345"
    with pytest.raises(DamagedEntryError, match=r"expected at most 4 bytes, found 5"):
        read_regular(path, most=4)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "missing")
    os.truncate(path, 1 << 40)
    with pytest.raises(DamagedEntryError):
        read_regular(path)


def test_a_manifest_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.put(KEY, FEATURES)
    with pytest.raises(StoreError, match=r"the manifest of key 0{32} cannot be written: expected at most"):
        store.put(KEY, FEATURES + 1, skipped=[0] * 1_100_000)
    found = store.find(KEY)
    assert found is not None
    assert np.array_equal(found.load(), FEATURES)
    many = [{"path": f"{'folder/' * 10}{number}.png", "reason": "cannot identify"} for number in range(200_000)]
    assert store.find(store.put(KEY, FEATURES + 1, skipped=many).key) is not None


# What is derived


@LINUX
def test_heads_that_become_gigabytes(tmp_path: Path) -> None:
    """Their digests may be right."""
    for number, blob in enumerate(JSON.values()):
        key = f"{number:032x}"
        texts = {"digests": "", "format": "1", "kind": "values", "key": key}
        rest = b'", ' + json.dumps(texts).encode()[1:] + b', "a": ' + blob() + b"}"
        start = b'{"__metadata__": {"check": "'
        check = xxh3_128_hexdigest(start + b"0" * 32 + rest).encode()
        path = tmp_path / "values" / "00" / f"{key}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((len(start) + 32 + len(rest)).to_bytes(8, "little") + start + check + rest)
    code = """
for number in range(5):
    assert derived.Derived(folder).is_sound("values", f"{number:032x}") is False
print(len(upkeep.verify(FeatureStore(folder)).findings))
"""
    assert within(200, code, tmp_path) == f"{len(JSON)}\n"


def test_arrays_of_absurd_shapes_are_damage(tmp_path: Path) -> None:
    """Also where they take no bytes, and so fit into any file."""
    for number, shape in enumerate([[0, 1 << 62], [1] * 100, [0] * 500_000, [1 << 40, 1 << 40, 0]]):
        key = f"{number:032x}"
        texts = {"digests": xxh3_128_hexdigest(b""), "format": "1", "kind": "values", "key": key, "tree": "[]"}
        array = {"dtype": "U8", "shape": shape, "data_offsets": [0, 1 if number == 1 else 0]}
        rest = b'", ' + json.dumps(texts).encode()[1:] + b', "0": ' + json.dumps(array).encode() + b"}"
        start = b'{"__metadata__": {"check": "'
        check = xxh3_128_hexdigest(start + b"0" * 32 + rest).encode()
        path = tmp_path / "values" / "00" / f"{key}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        blob = (len(start) + 32 + len(rest)).to_bytes(8, "little") + start + check + rest
        path.write_bytes(blob + (b"\0" if number == 1 else b""))
    assert {one.status for one in verify(FeatureStore(tmp_path), full=True).findings} == {"damaged"}


# Archives


def test_features_that_are_larger_than_what_their_manifest_describes(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "cache")
    store.put(KEY, FEATURES)
    with tarfile.open(tmp_path / "archive.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        with (tmp_path / "zeros").open("wb") as zeros:
            zeros.truncate(64 * MIB)
        tar.add(tmp_path / "zeros", f"{KEY}.pkl")
        tar.add(store.path(KEY).with_suffix(".json"), f"{KEY}.json")
    (moved,) = import_archive(FeatureStore(tmp_path / "other"), tmp_path / "archive.tar").entries
    assert moved.outcome == "refused"
    assert f"has {64 * MIB} bytes, where its manifest describes features of at most" in moved.reason


# Remotes


class Server(NamedTuple):
    """A server that sends zeros without end.

    Attributes:
        url: Where it is.
        asked: The requests for bodies.
        sent: How many bytes it got rid of.
    """

    url: str
    asked: list[str]
    sent: list[int]


class Endless(BaseHTTPRequestHandler):
    """Answers with the files of a folder; of features it sends zeros, until the other side has had enough."""

    protocol_version = "HTTP/1.1"
    files: Path
    found: Server
    claimed: int | None  # the length by HEAD; None: nothing is said
    promised: int | None  # and that of the body

    def do_HEAD(self) -> None:
        self.head(self.claimed)

    def do_GET(self) -> None:
        self.found.asked.append(self.path)
        path = self.head(self.promised)
        if path.suffix != ".pkl":
            self.wfile.write(path.read_bytes() if path.exists() else b"")
            return
        with suppress(OSError):
            while self.promised is None or sum(self.found.sent) < self.promised:
                self.wfile.write(bytes(MIB))
                self.found.sent.append(MIB)

    def head(self, length: int | None) -> Path:
        path = self.files / Path(self.path).name
        if path.suffix != ".pkl":
            length = path.stat().st_size if path.exists() else 0
        self.send_response(200 if path.exists() else 404)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        return path

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers = []

    def start(*, claimed: int | None, promised: int | None) -> Server:
        found = Server("", [], [])
        told = {"files": tmp_path / "remote", "found": found, "claimed": claimed, "promised": promised}
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Endless,), told)))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return found._replace(url=f"http://127.0.0.1:{servers[-1].server_address[1]}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def described(folder: Path, **changes: Any) -> None:
    """A manifest at the remote."""
    store = FeatureStore(folder)
    store.put(KEY, FEATURES)
    path = store.path(KEY).with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


FETCH = """
import os
store = FeatureStore(folder / "cache", remote=os.environ["REMOTE"])
assert store.find(KEY) is None
assert list(store.cache_dir.glob("*.pkl")) == []
"""
LONG = 40 * MIB  # several parts
LARGE = {"shape": [LONG // 4, 1], "dtype": "float32", "digest": "0" * 32, "row_order": "dataset"}
LARGE_FILE = {"bytes": LONG + 137, "mtime_ns": 1, "aligned": True}


@LINUX
@pytest.mark.parametrize("promised", [1 << 50, None], ids=["promises 2^50", "promises nothing"])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_remote_that_sends_more_than_it_is_asked_for(
    tmp_path: Path, endless: Callable[..., Server], scheme: str, promised: int | None
) -> None:
    """It ignores Range, and goes on and on."""
    described(tmp_path / "remote", features=LARGE, file=LARGE_FILE)
    server = endless(claimed=LONG + 137, promised=promised)
    url = server.url if scheme == "http" else "s3://bucket"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": server.url}
    within(400, FETCH, tmp_path, REMOTE=url, **keys)
    assert any(path.endswith(f"{KEY}.pkl") for path in server.asked)
    assert sum(server.sent) < 128 * MIB


@pytest.mark.parametrize(
    "changes",
    [
        {"file": {"bytes": 1 << 50}},
        {"file": {"bytes": 1e999}},
        {"file": {"bytes": "9" * 5000}},
        {"file": {"bytes": -1}},
        {"file": {"bytes": True}},
        {"file": 3},
        {"features": {**LARGE, "shape": [1 << 40, 1 << 20]}, "file": {"bytes": 1 << 61}},
        {"features": {**LARGE, "dtype": "1000000f8"}},
        {"features": {**LARGE, "shape": [-4, -3]}},
        {"features": {**LARGE, "shape": [0, 3]}},
    ],
    ids=str,
)
def test_a_manifest_that_claims_what_cannot_be_is_no_reason_to_fetch_anything(
    tmp_path: Path, endless: Callable[..., Server], changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    described(tmp_path / "remote", **changes)
    remote_at.cache_clear()
    server = endless(claimed=1 << 50, promised=1 << 50)
    assert FeatureStore(tmp_path / "cache", remote=server.url).find(KEY) is None
    assert [path for path in server.asked if path.endswith(".pkl")] == []
    assert [line for line in caplog.messages if "goes on without the remote" in line]
    remote_at.cache_clear()


@pytest.mark.parametrize("claimed", [1 << 50, FEATURES.nbytes + 138, None])
def test_a_file_that_is_longer_than_its_manifest_says_is_not_fetched(
    tmp_path: Path, endless: Callable[..., Server], claimed: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    described(tmp_path / "remote")
    remote_at.cache_clear()
    server = endless(claimed=claimed, promised=1 << 30)
    assert FeatureStore(tmp_path / "cache", remote=server.url).find(KEY) is None
    assert "expected at most 185 bytes" in caplog.text
    assert sum(server.sent) < 64 * MIB
    remote_at.cache_clear()


def test_what_there_is_no_room_for_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    described(tmp_path / "remote")
    remote_at.cache_clear()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=184))
    store = FeatureStore(tmp_path / "cache", remote=f"file://{tmp_path}/remote")
    assert store.find(KEY) is None
    assert "185 bytes are needed, 184 bytes are free" in caplog.text
    monkeypatch.undo()
    assert store.find(KEY) is not None
    remote_at.cache_clear()
