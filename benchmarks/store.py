"""What the store costs: a hit, a write, a fingerprint and a lock, beside what others take for the same.

Every measurement is made in a process of its own, and the peers take turns. A hit is the first one of its process; what
must be imported, and what opens a cache, is done before the clock starts. Memory is what the kernel says of the process
(Linux), its peak set back before the clock starts.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np

ROWS, WIDTH = 50_000, 2048
FILES = 100_000  # of 1 KiB, for the fingerprint
SMALL = 1000  # entries of (10, 8), for what a call costs besides its values
ROUNDS = 5
FEW = 3  # rounds of what takes seconds

Array = Any
Taken = dict[str, list[dict[str, float]]]


class Rows:
    """A map-style dataset of nothing, whose fingerprint is unknown at once."""

    def __len__(self) -> int:
        return ROWS


def never(*_: object) -> Array:
    raise AssertionError("that was a hit")


# Hits. Each makes ready in the folder of the files, and returns what is measured, which returns the array.


def open_store(folder: Path, *, verify: Any = "quick") -> Callable[[], Array]:
    from simet_cache.store import FeatureStore

    store = FeatureStore(folder / "ours", verify=verify)
    (key,) = store.keys()

    def hit() -> Array:
        found = store.find(key, rows=ROWS)
        assert found
        return found.load()

    return hit


def open_verified(folder: Path) -> Callable[[], Array]:
    return open_store(folder, verify="full")


def open_service(folder: Path) -> Callable[[], Array]:
    from torch.utils.data import DataLoader

    from simet_cache.service import FeatureCacheService

    service = FeatureCacheService(folder / "ours")
    loader = DataLoader(cast("Any", Rows()), batch_size=128)
    return lambda: service.get_or_compute(loader, never, "bench")


def open_raw(folder: Path) -> Callable[[], Array]:
    (path,) = (folder / "ours").glob("*.pkl")
    buffer = np.ones(path.stat().st_size, np.uint8)  # ones, so that its pages are there

    def hit() -> Array:
        with open(path, "rb", buffering=0) as file:
            assert file.readinto(buffer.data) == len(buffer)
        return buffer[64 : 64 + ROWS * WIDTH * 4].view(np.float32)

    return hit


def open_pickle(folder: Path) -> Callable[[], Array]:
    def hit() -> Array:
        with open(folder / "pickle" / "features.pkl", "rb") as file:
            return pickle.load(file)

    return hit


def open_npy(folder: Path) -> Callable[[], Array]:
    return lambda: np.load(folder / "npy" / "features.npy")


def open_npy_mapped(folder: Path) -> Callable[[], Array]:
    return lambda: np.load(folder / "npy" / "features.npy", mmap_mode="r")


def open_joblib(folder: Path, *, mmap_mode: Any = None) -> Callable[[], Array]:
    cached = joblib_memory(folder, mmap_mode=mmap_mode)
    assert cached.check_call_in_cache(folder)
    return lambda: cached(folder)


def open_joblib_mapped(folder: Path) -> Callable[[], Array]:
    return open_joblib(folder, mmap_mode="r")


def joblib_memory(folder: Path, *, mmap_mode: Any = None) -> Any:
    from joblib import Memory as Joblib

    return Joblib(folder / "joblib", mmap_mode=mmap_mode, verbose=0).cache(joblib_features, ignore=["folder"])


def joblib_features(folder: Path) -> Array:
    return np.load(folder / "npy" / "features.npy")


def open_diskcache(folder: Path) -> Callable[[], Array]:
    from diskcache import Cache

    cache = Cache(str(folder / "diskcache"))
    return lambda: cache["features"]


def open_prefect(folder: Path) -> Callable[[], Array]:
    store = prefect_results(folder)
    return lambda: store.read("features").result


def prefect_results(folder: Path) -> Any:
    from prefect.filesystems import LocalFileSystem
    from prefect.results import ResultStore
    from prefect.serializers import PickleSerializer

    files = LocalFileSystem(basepath=str(folder / "prefect"))
    return ResultStore(result_storage=files, serializer=PickleSerializer(), cache_result_in_memory=False)


RAW, PICKLE = "raw `readinto` of our file into a ready buffer", "`pickle.load` of the reference's file"
FIND, FULL = "**`FeatureStore.find` + `load`**, mapped", "**the same, every byte verified** (`verify=full`)"
SERVICE = "**`FeatureCacheService.get_or_compute`**: a copy, verified"
# what it is called: the folder of its file, what opens it, and how often it is measured
HITS: dict[str, tuple[str, Callable[[Path], Callable[[], Array]], int]] = {
    FIND: ("ours", open_store, ROUNDS),
    FULL: ("ours", open_verified, ROUNDS),
    SERVICE: ("ours", open_service, ROUNDS),
    RAW: ("ours", open_raw, ROUNDS),
    PICKLE: ("pickle", open_pickle, ROUNDS),
    "`np.load`": ("npy", open_npy, ROUNDS),
    "`np.load(mmap_mode='r')`": ("npy", open_npy_mapped, ROUNDS),
    "`joblib.Memory`": ("joblib", open_joblib, ROUNDS),
    "`joblib.Memory(mmap_mode='r')`": ("joblib", open_joblib_mapped, ROUNDS),
    "`diskcache`": ("diskcache", open_diskcache, ROUNDS),
    "Prefect's result store, `PickleSerializer`": ("prefect", open_prefect, FEW),
}


def make_files(_: str, folder: Path) -> dict[str, float]:
    """The same features, as each of them stores them."""
    from diskcache import Cache
    from torch.utils.data import DataLoader

    from simet_cache.service import FeatureCacheService

    features = np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32)
    for name in ("pickle", "npy"):
        (folder / name).mkdir()
    np.save(folder / "npy" / "features.npy", features)
    with open(folder / "pickle" / "features.pkl", "wb") as file:
        pickle.dump(features, file)
    loader = DataLoader(cast("Any", Rows()), batch_size=128)
    FeatureCacheService(folder / "ours").get_or_compute(loader, lambda _: features, "bench")
    Cache(str(folder / "diskcache"))["features"] = features
    prefect_results(folder).write(features, "features")
    joblib_memory(folder)(folder)
    os.sync()
    return {}


def measure_hit(name: str, folder: Path) -> dict[str, float]:
    home, opened, _ = HITS[name]
    for path in (folder / home).rglob("*"):
        if path.is_file():
            read_once(path)
    hit = opened(folder)
    touch_memory(2700 if opened is open_prefect else 600)
    memory = Memory()
    started = time.perf_counter()
    array = hit()
    seconds = time.perf_counter() - started
    peak = memory.peak()
    started = time.perf_counter()
    array.max()
    touched = seconds + time.perf_counter() - started
    assert array.shape in ((ROWS, WIDTH), (ROWS * WIDTH,))
    return {"seconds": seconds, "touched": touched, "peak": peak, "peak touched": memory.peak(), "own": memory.own()}


def read_once(path: Path) -> None:
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def touch_memory(megabytes: int) -> None:
    """Have the host give this virtual machine the memory that is about to be used: that may take seconds."""
    np.ones(megabytes * 1_000_000, np.uint8)


class Memory:
    """Of this process, in MB above what it was when asked first."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
        self._start = self._read()

    def peak(self) -> float:
        """All, with the pages of files that are mapped."""
        return self._read()["VmHWM"] - self._start["VmRSS"]

    def own(self) -> float:
        """The peak without the pages of files that are mapped now: those are the page cache's, and are there once."""
        return self.peak() - (self._read()["RssFile"] - self._start["RssFile"])

    @staticmethod
    def _read() -> dict[str, float]:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        return {name: int(kib) * 1024 / 1e6 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", text)}


# Writes


def write_ours(features: Array, folder: Path) -> None:
    from simet_cache.store import FeatureStore

    FeatureStore(folder).put("0" * 32, features)


def write_by(dump: Callable[[Array, Any], None], *, sync: bool) -> Callable[[Array, Path], None]:
    def write(features: Array, folder: Path) -> None:
        path = folder / "features"
        with open(path.with_suffix(".tmp"), "wb") as file:
            dump(features, file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(path.with_suffix(".tmp"), path)
        if sync:
            handle = os.open(folder, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)

    return write


def save(features: Array, file: Any) -> None:
    np.save(file, features)


PUT, DUMPED = "**`FeatureStore.put`**: checked, digested, `fsync`", "`pickle.dump`, `fsync`"
WRITES: dict[str, Callable[[Array, Path], None]] = {
    PUT: write_ours,
    DUMPED: write_by(pickle.dump, sync=True),
    "`np.save`, `fsync`": write_by(save, sync=True),
    "`pickle.dump`, no `fsync`": write_by(pickle.dump, sync=False),
    "`np.save`, no `fsync`": write_by(save, sync=False),
}


def measure_write(name: str, folder: Path) -> dict[str, float]:
    import simet_cache.store  # noqa: F401 - before the clock starts

    features = np.load(folder / "npy" / "features.npy")
    with tempfile.TemporaryDirectory(dir=folder) as new:
        os.sync()  # what others have written is not to be waited for here
        touch_memory(1000)
        memory = Memory()
        started = time.perf_counter()
        WRITES[name](features, Path(new))
        return {"seconds": time.perf_counter() - started, "peak": memory.peak()}


# Fingerprints


def make_images(folder: Path) -> None:
    for number in range(FILES):
        if number % 1000 == 0:
            (folder / f"{number // 1000:03d}").mkdir(parents=True)
        (folder / f"{number // 1000:03d}" / f"{number:06d}.png").write_bytes(number.to_bytes(4, "little") * 256)


def ask_stat(paths: list[str]) -> None:
    for path in paths:
        os.stat(path)


def ask_content(paths: list[str]) -> None:
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            file.read()


STAT, CONTENT = "**`fingerprint`**: names, sizes, times", "**`fingerprint(content=True)`**: every byte too"
BARE_STAT, BARE_CONTENT = "`os.stat` of every path alone", "`open` and `read` of every path alone, one after the other"
PRINTS: dict[str, Any] = {STAT: False, BARE_STAT: ask_stat, CONTENT: True, BARE_CONTENT: ask_content}


def measure_print(name: str, folder: Path) -> dict[str, float]:
    from simet_cache.datasets.folder import FolderDataset
    from simet_cache.fingerprint import fingerprint

    dataset = FolderDataset(folder)
    how = PRINTS[name]
    paths = [os.path.join(folder, file) for file in dataset.files]
    ask_stat(paths)  # all are known to the kernel
    memory = Memory()
    started = time.perf_counter()
    if callable(how):
        how(paths)
    else:
        assert fingerprint(dataset, content=how).known
    return {"seconds": time.perf_counter() - started, "peak": memory.peak()}


# Calls


def measure_calls(_: str, folder: Path) -> dict[str, float]:
    """Microseconds for each key, over many keys whose values are small."""
    from diskcache import Cache
    from joblib import Memory as Joblib

    from simet_cache import locks
    from simet_cache.store import FeatureStore

    store, keys = FeatureStore(folder / "small"), [f"{number:032x}" for number in range(SMALL)]
    features = np.ones((10, 8), np.float32)
    cache = Cache(str(folder / "cache"))
    cached = Joblib(folder / "memory", verbose=0).cache(joblib_small)
    (folder / "pickles").mkdir()
    for key in keys:
        store.put(key, features)
        cache[key] = features
        cached(key)
        (folder / "pickles" / key).write_bytes(pickle.dumps(features))
    fresh = FeatureStore(folder / "small")

    def hit(key: str) -> None:
        fresh.get_or_compute(key, never)

    def load(key: str) -> None:
        found = store.find(key)
        assert found
        found.load()

    def lock(key: str) -> None:
        with locks.computing(folder / "locks-only", key):
            pass

    def loaded(key: str) -> None:
        with open(folder / "pickles" / key, "rb") as file:
            pickle.load(file)

    (folder / "locks-only").mkdir()
    calls: dict[str, Callable[[str], Any]] = {
        "**`get_or_compute`**, hit: the first of a key in a process, which notes that it is in use": hit,
        "**`get_or_compute`**, hit: every further one": hit,
        "**`find`**": store.find,
        "**`find` + `load`**": load,
        "**the lock of a computation**, taken and freed: the first time, which makes its file": lock,
        "**the lock of a computation**: every further time": lock,
        "`pickle.load`": loaded,
        "`diskcache`": cache.__getitem__,
        "`joblib.Memory`": cached,
    }
    return {name: microseconds(call, keys) for name, call in calls.items()}


def microseconds(call: Callable[[str], Any], keys: Iterable[str]) -> float:
    taken = []
    for key in keys:
        started = time.perf_counter()
        call(key)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e6


def joblib_small(_: str) -> Array:
    return np.ones((10, 8), np.float32)


# The runner


KINDS: dict[str, Callable[[str, Path], dict[str, float]]] = {
    "make": make_files,
    "hit": measure_hit,
    "write": measure_write,
    "print": measure_print,
    "calls": measure_calls,
}


def run() -> str:
    """Tables of hits, writes, fingerprints and calls, and the bars."""
    taken: Taken = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured("make", "files", folder)
        for turn in range(ROUNDS):
            for peer in (peer for peer, (_, _, rounds) in HITS.items() if turn < rounds):
                taken.setdefault(peer, []).append(measured("hit", peer, folder))
        for peer in list(WRITES) * ROUNDS:
            taken.setdefault(peer, []).append(measured("write", peer, folder))
    with tempfile.TemporaryDirectory() as name:
        make_images(Path(name))
        for peer in list(PRINTS) * FEW:
            taken.setdefault(peer, []).append(measured("print", peer, Path(name)))
    calls = []
    for _ in range(FEW):
        with tempfile.TemporaryDirectory() as name:
            calls.append(measured("calls", "all", Path(name)))
    parts = [hits_table(taken), hits_bars(taken), writes_table(taken), prints_table(taken), calls_table(calls)]
    return "\n\n".join(parts)


def measured(kind: str, name: str, folder: Path) -> dict[str, float]:
    """One measurement, in a process of its own."""
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "TMPDIR": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.store", kind, name, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        sys.exit(f"{kind} {name}:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def column(taken: Taken, peer: str, field: str) -> list[float]:
    return [one[field] for one in taken[peer]]


def spread(values: list[float], digits: int = 4) -> str:
    """The median, and the extremes."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the pairs of one round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=False))


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    names = head.split(" | ")
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *rows))


def bar(what: str, value: float, limit: str) -> str:
    """One line of what was asked for: ``limit`` is like ``at most 1.5``."""
    kind, _, number = limit.rpartition(" ")
    holds = value <= float(number) if kind == "at most" else value >= float(number)
    return f"- {what}: {value:.{0 if value >= 100 else 2}f}; bar: {limit}: **{'holds' if holds else 'broken'}**"


def hits_table(taken: Taken) -> str:
    def row(peer: str) -> Iterable[str]:
        seconds, touched = column(taken, peer, "seconds"), column(taken, peer, "touched")
        by_pickle = ratio(column(taken, PICKLE, "seconds"), seconds)
        peaks = [statistics.median(column(taken, peer, field)) for field in ("peak", "peak touched", "own")]
        return (
            *(peer, spread(seconds), f"{by_pickle:,.{0 if by_pickle > 100 else 2}f}", spread(touched)),
            *(f"{max(peak, 0):.0f}" for peak in peaks),
        )

    text = (
        f"**Hits** on ({ROWS}, {WIDTH}) float32, {ROWS * WIDTH * 4 / 1e6:.0f} MB, with the file in the page cache: each"
        f" the first of its process, median (and extremes) of {ROUNDS} processes ({FEW} for Prefect's) that take turns."
        " Touched is `array.max()`, which reads every cache line once. Memory is the peak in MB above the start: after"
        " the hit; after all rows are touched; and its own share of that, without pages of mapped files, which are the"
        " page cache's. Prefect's serializer is cloudpickle in base64; its store puts that into JSON."
    )
    head = " | seconds | times `pickle.load` | seconds, all rows touched | peak MB | peak MB, all rows touched | own MB"
    return f"{text}\n\n{table(head, map(row, HITS))}"


def hits_bars(taken: Taken) -> str:
    def touched(peer: str) -> list[float]:
        return column(taken, peer, "touched")

    raw, pickled, found = (column(taken, peer, "seconds") for peer in (RAW, PICKLE, FIND))
    full, put, dumped = (column(taken, peer, "seconds") for peer in (FULL, PUT, DUMPED))
    ours = touched(FIND)
    return "\n".join(
        [
            "Bars, each the median of the ratios within a round:",
            "",
            bar("a hit before rows are touched, times as fast as `pickle.load`", ratio(pickled, found), "at least 100"),
            bar("with all rows touched, times as fast as `pickle.load` alone", ratio(pickled, ours), "at least 4"),
            bar("with all rows touched, to the raw read alone", ratio(ours, raw), "at most 1.5"),
            bar("a full verify, to the raw read", ratio(full, raw), "at most 1.5"),
            bar("a write, to `pickle.dump` and `fsync`", ratio(put, dumped), "at most 1.3"),
            "",
            "Without a bar: with all rows touched on both sides,"
            f" {ratio(touched(PICKLE), ours):.2f} times as fast as `pickle.load`, and"
            f" {ratio(ours, touched(RAW)):.2f} times the raw read.",
        ]
    )


def writes_table(taken: Taken) -> str:
    def row(peer: str) -> Iterable[str]:
        seconds = column(taken, peer, "seconds")
        rate = ROWS * WIDTH * 4 / 1e6 / statistics.median(seconds)
        peak = max(statistics.median(column(taken, peer, "peak")), 0)
        return peer, spread(seconds, 3), f"{rate:.0f}", f"{ratio(seconds, dumped):.2f}", f"{peak:.0f}"

    dumped = column(taken, DUMPED, "seconds")
    text = (
        "**Writes** of the same array, into a new file that is renamed; with `fsync`, of file and folder. Memory is"
        " the peak above the array."
    )
    return f"{text}\n\n{table(' | seconds | MB/s | to `pickle.dump`, `fsync` | peak MB', map(row, WRITES))}"


def prints_table(taken: Taken) -> str:
    def row(peer: str) -> Iterable[str]:
        seconds = column(taken, peer, "seconds")
        peak = max(statistics.median(column(taken, peer, "peak")), 0)
        return peer, spread(seconds, 2), f"{FILES / statistics.median(seconds):,.0f}", f"{peak:.0f}"

    text = f"**Fingerprints** of {FILES:,} files of 1 KiB in {FILES // 1000} folders, all known to the kernel."
    return f"{text}\n\n{table(' | seconds | files/s | peak MB', map(row, PRINTS))}"


def calls_table(calls: list[dict[str, float]]) -> str:
    text = (
        f"**Calls**, over {SMALL} keys with features of shape (10, 8): the median of a key, and the extremes of {FEW}"
        " processes. Where features are found, no lock of a computation is taken."
    )
    rows = ((name, spread([one[name] for one in calls], 0)) for name in calls[0])
    return f"{text}\n\n{table(' | microseconds', rows)}"


if __name__ == "__main__":
    kind, name, place = sys.argv[1:]
    print(json.dumps(KINDS[kind](name, Path(place))))
