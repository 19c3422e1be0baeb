"""What a cache with very many entries costs: a look, a write, a listing, upkeep and the locks, at 10^4, 10^5 and 10^6.

The folder is made without extracting anything: each entry has the files that a sweep leaves behind (features, manifest,
list of images, Prefect's record and result, lock and holder), of which features and manifest are files of their own and
the others are further names of a few, so that a million entries take 8 GB and not 28. Every measurement is a process of
its own, and what would take minutes is done to a sample and multiplied, which the table says.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.store import Memory, table

SIZES = (10_000, 100_000, 1_000_000)
SAMPLE = 2000  # keys that are asked for
PUTS = 100
LONG = 100.0  # seconds: what would take longer is done to a sample
FILES = 100_000  # images, for the listings
FEATURES = np.ones((16, 8), np.float32)
_LINKS = 50_000  # names that one file may have (ext4: 65,000)

Measured = dict[str, Any]


def key_of(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def source_of_one() -> Any:
    """What the entries were made from: like a folder of 1,000 images."""
    from simet_cache.listing import Fingerprint
    from simet_cache.manifest import Source

    listing = [(90_000 + i, 1_700_000_000_000_000_000 + i * 1_234_567, "-", f"{i:06d}.png") for i in range(1000)]
    root = "/data/runs/a/checkpoint-1000/samples"
    return Source(
        components={"dataset": root, "subset": None, "suffix": "inception", "length": 1000, "batch_size": 128},
        dataset={"name": "checkpoint-1000", "class": "FolderDataset", "root": root},
        fingerprint=Fingerprint.of(listing),
        extractor={"name": "inception_v3", "weights": "a" * 64, "precision": "float32", "version": 1},
        row_order="dataset",
    )


# The folder


def grow(folder: Path, start: int, stop: int) -> None:
    """Entries number ``start`` to ``stop``, all like one that the store has written."""
    from simet_cache.store import FeatureStore

    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        store, key = FeatureStore(name), "f" * 32
        path = Path(store.put(key, FEATURES, source=source_of_one()).path)
        features, said = path.read_bytes(), path.with_suffix(".json").read_bytes()
        time_of = path.stat().st_mtime_ns
        beside = {
            "{}.files": path.with_suffix(".files").read_bytes(),
            "prefect/records/{}": b"{" + b" " * 400 + b"}",
            "prefect/results/{}": b"{" + b" " * 250 + b"}",
            "locks/{}.lock": b"",
            "locks/{}.holder": b"{" + b" " * 150 + b"}",
        }
    for place in ("prefect/records", "prefect/results", "locks"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    before, after = said.split(key.encode())
    base, same = str(folder), folder.with_name("same")
    same.mkdir(exist_ok=True)
    for number in range(start, stop):
        key = key_of(number)
        if number % _LINKS == 0 or number == start:
            for form, content in beside.items():
                (same / form.replace("/", "-").format(number)).write_bytes(content)
            linked = [(form, str(same / form.replace("/", "-").format(number))) for form in beside]
        made = f"{base}/{key}.pkl"
        with open(made, "wb", buffering=0) as file:
            file.write(features)
        os.utime(made, ns=(time_of, time_of))
        with open(f"{base}/{key}.json", "wb", buffering=0) as file:
            file.write(before + key.encode() + after)
        for form, first in linked:
            os.link(first, f"{base}/{form.format(key)}")


# Measurements of a folder. Each is a process of its own.


def measure_keys(folder: Path, count: int) -> Measured:
    from simet_cache.store import FeatureStore

    store, memory = FeatureStore(folder), Memory()
    seconds = [timed(store.keys) for _ in range(3)]
    assert len(store.keys()) >= count
    return {"seconds": statistics.median(seconds), "peak": memory.peak()}


def measure_calls(folder: Path, count: int) -> Measured:
    from simet_cache.store import FeatureStore

    store, source = FeatureStore(folder), source_of_one()
    rows = FEATURES.shape[0]
    chosen = random.Random(0).sample(range(count), 2 * SAMPLE)
    there, absent = [key_of(n) for n in chosen], [key_of(-n - 1) for n in chosen[:SAMPLE]]
    looked = [store.look(key, rows=rows, source=source).status for key in there[:3]]
    assert looked == ["hit"] * 3, looked
    assert store.look(absent[0]).status == "miss"
    return {
        "hit": per_call(lambda key: store.look(key, rows=rows, source=source), there[:SAMPLE]),
        "miss": per_call(store.look, absent),
        "find": per_call(lambda key: store.find(key, rows=rows, source=source), there[SAMPLE:]),
        "again": per_call(lambda key: store.find(key, rows=rows, source=source), there[SAMPLE:]),
    }


def measure_puts(folder: Path, _: int) -> Measured:
    from simet_cache.store import FeatureStore

    store, source, keys = FeatureStore(folder), source_of_one(), [key_of(-n - 10**9) for n in range(PUTS)]
    first = timed(lambda: store.put(keys[0], FEATURES, source=source))
    rest = per_call(lambda key: store.put(key, FEATURES, source=source), keys[1:])
    computed = per_call(lambda key: store.get_or_compute(key_of(-int(key, 16)), lambda: FEATURES), keys[:20])
    for key in (*keys, *(key_of(-int(key, 16)) for key in keys[:20])):  # in use by this process: the store keeps it
        for file in (*store.files(key), folder / "locks" / f"{key}.lock", folder / "locks" / f"{key}.holder"):
            file.unlink(missing_ok=True)
    return {"first": first, "rest": rest, "computed": computed}


def measure_upkeep(folder: Path, count: int) -> Measured:
    """Of what lists every entry; where all would take too long, of a sample."""
    from simet_cache import upkeep
    from simet_cache.store import FeatureStore

    store, memory = FeatureStore(folder), Memory()
    sample = [key_of(n) for n in random.Random(1).sample(range(count), SAMPLE)]
    each = timed(lambda: [upkeep.entry(store, key) for key in sample]) / len(sample)
    if each * count < LONG:
        return {"seconds": timed(lambda: upkeep.entries(store)), "peak": memory.peak(), "sampled": False}
    return {"seconds": each * count, "peak": None, "sampled": True}


def measure_prune(folder: Path, count: int) -> Measured:
    from simet_cache.prune import Limits, prune
    from simet_cache.store import FeatureStore

    store, memory = FeatureStore(folder), Memory()
    seconds = timed(lambda: prune(store, Limits.of(keep_latest=count // 2), dry_run=True))
    return {"seconds": seconds, "peak": memory.peak()}


def measure_verify(folder: Path, count: int) -> Measured:
    """The part that goes from entry to entry, and the part that looks for what is left over, under the lock."""
    from simet_cache import upkeep
    from simet_cache.store import FeatureStore

    store, memory = FeatureStore(folder), Memory()
    sample = [key_of(n) for n in random.Random(2).sample(range(count), SAMPLE)]

    def check(key: str) -> None:
        found = upkeep._looked_at(store, key, full=False)  # noqa: SLF001 - a part of verify
        assert found
        assert upkeep._finding(store, *found) is None  # noqa: SLF001

    each = per_call(check, sample, mean=True)
    left = timed(lambda: list(upkeep._leftovers(store, repair=False)))  # noqa: SLF001
    return {"seconds": each / 1e6 * count + left, "locked": left, "peak": memory.peak()}


def measure_removals(folder: Path, used: int) -> Measured:
    """Removing entries while one process uses ``used`` others."""
    from simet_cache import locks
    from simet_cache.store import FeatureStore

    store = FeatureStore(folder)
    handle = os.fork()  # a living process, with as many keys
    if handle == 0:
        for number in range(used):
            locks.use(folder, key_of(number + 10**7))
        print("ready", flush=True)
        time.sleep(10_000)
    try:
        while not locks.is_used(folder, key_of(used - 1 + 10**7)):
            time.sleep(0.1)
        keys = [key_of(-n - 2 * 10**9) for n in range(50)]
        for key in keys:
            path = store.path(key)
            path.write_bytes(b"x")
        return {"remove": per_call(store.remove, keys)}
    finally:
        os.kill(handle, 9)
        os.waitpid(handle, 0)


def measure_plan(folder: Path, count: int) -> Measured:
    """What a plan does with each feature set once its images are known: the key, the look, a handle that is kept."""
    from torch.utils.data import Dataset

    from simet_cache.key import feature_key
    from simet_cache.store import FeatureStore

    class Images(Dataset[Any]):
        def __init__(self, root: str) -> None:
            self.root = root

        def __len__(self) -> int:
            return 16

    store, source, kept = FeatureStore(folder), source_of_one(), []
    memory, asked = Memory(), min(count, 100_000)
    started = time.perf_counter()
    for number in range(asked):
        feature_key(Images(f"/data/runs/{number}"), suffix="inception", batch_size=128)
        seen = store.look(key_of(number), rows=16, source=source)
        kept.append((seen.status, seen.features))
    seconds = time.perf_counter() - started
    return {"seconds": seconds / asked * count, "peak": memory.peak() / asked * count, "sampled": asked < count}


# Locks


def take_locks(folder: Path, kind: str, seconds: float) -> int:
    """How often one process takes the lock of all entries until the time is up."""
    from simet_cache import locks

    taken, end = 0, time.perf_counter() + seconds
    if kind == "use":
        while time.perf_counter() < end:
            locks.use(folder, f"{os.getpid():08x}{taken:024x}")
            taken += 1
        return taken
    taking = locks.changing if kind == "exclusive" else locks.unchanging
    while time.perf_counter() < end:
        with taking(folder):
            taken += 1
    return taken


def measure_locks(folder: Path, processes: int) -> Measured:
    """How many times in a second some processes together take the lock of all entries."""
    found: Measured = {}
    for kind in ("exclusive", "shared", "use"):
        command = [sys.executable, "-m", "benchmarks.scale", "take", str(folder), kind]
        takers = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(processes)]
        for one in takers:
            assert one.stdout
            assert one.stdout.readline() == "ready\n"
        for one in takers:
            assert one.stdin
            one.stdin.write("go\n")
            one.stdin.flush()
        found[kind] = sum(int(one.communicate()[0]) for one in takers) / 2.0
    return found


def measure_growth(folder: Path, _: int) -> Measured:
    """What computing and using 1,000 entries leaves in the folder of the locks while the process lives."""
    from simet_cache.store import FeatureStore

    store = FeatureStore(folder)
    for number in range(1000):
        store.get_or_compute(key_of(number), lambda: FEATURES)
    files = [file for file in (folder / "locks").rglob("*") if file.is_file()]
    return {
        "locks": sum(file.suffix == ".lock" for file in files),
        "holders": sum(file.suffix == ".holder" for file in files),
        "disk": sum(file.stat().st_blocks * 512 for file in files),
    }


# Fingerprints


def measure_prints(folder: Path, files: int) -> Measured:
    from simet_cache.datasets.folder import FolderDataset
    from simet_cache.fingerprint import fingerprint

    images = folder / "images"
    images.mkdir()
    generator = random.Random(0)
    for number in range(files):  # sizes and times as unlike as those of real images
        path = images / f"{number:06d}.png"
        path.touch()
        os.truncate(path, generator.randrange(50_000, 150_000))  # a hole: no space is taken
        written = 1_700_000_000_000_000_000 + number * 40_000_000 + generator.randrange(40_000_000)
        os.utime(path, ns=(written, written))
    memory = Memory()
    started = time.perf_counter()
    dataset = FolderDataset(images)
    opened = time.perf_counter() - started
    started = time.perf_counter()
    found = fingerprint(dataset)
    seconds = time.perf_counter() - started
    return {"open": opened, "print": seconds, "listing": len(found.listing) / files, "peak": memory.peak()}


# The runner


KINDS: dict[str, Callable[[Path, int], Measured]] = {
    "keys": measure_keys,
    "calls": measure_calls,
    "puts": measure_puts,
    "upkeep": measure_upkeep,
    "prune": measure_prune,
    "verify": measure_verify,
    "plan": measure_plan,
    "removals": measure_removals,
    "locks": measure_locks,
    "growth": measure_growth,
    "prints": measure_prints,
}
OTHERS = {"removals": (0, 10_000, 100_000), "locks": (1, 2, 4), "growth": (1000,), "prints": (FILES,)}
OF_A_FOLDER = ("keys", "calls", "puts", "upkeep", "prune", "verify", "plan")


def run() -> str:
    """Tables of a store with up to 10^6 entries, its locks and its fingerprints."""
    taken: dict[int, Measured] = {}
    with emptied("scale-") as place:
        folder, before = place / "cache", 0
        folder.mkdir()
        for size in SIZES:
            if shutil.disk_usage(place).free < size * 10_000 + (8 << 30):
                print(f"not at {size:,}: the disk has no room for it", file=sys.stderr)
                break
            seconds = timed(lambda size=size, before=before: grow(folder, before, size))
            print(f"{size:,} entries made in {seconds:.0f} s", file=sys.stderr, flush=True)
            before = size
            taken[size] = {kind: measured(kind, folder, size) for kind in OF_A_FOLDER}
            taken[size]["folder"] = {"bytes": folder.stat().st_size}
    others: Measured = {}
    for kind, numbers in OTHERS.items():
        for number in numbers:
            with emptied("scale-") as place:
                others.setdefault(kind, {})[number] = measured(kind, place, number)
    return "\n\n".join([folder_table(taken), locks_table(others), prints_line(others["prints"][FILES])])


@contextmanager
def emptied(prefix: str) -> Iterator[Path]:
    """A new folder, which is gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield place
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=False)  # many times as fast as Python's


def measured(kind: str, folder: Path, number: int) -> Measured:
    command = [sys.executable, "-m", "benchmarks.scale", kind, str(folder), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{kind} {number}:\n{done.stderr}")
    print(f"{kind} {number}: {done.stdout.splitlines()[-1]}", file=sys.stderr, flush=True)
    answer: Measured = json.loads(done.stdout.splitlines()[-1])
    return answer


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def per_call(call: Callable[[str], Any], keys: list[str], *, mean: bool = False) -> float:
    """Microseconds, the median."""
    return (statistics.mean if mean else statistics.median)([timed(lambda key=key: call(key)) for key in keys]) * 1e6


def folder_table(taken: dict[int, Measured]) -> str:
    def cells(show: Callable[[Measured], str]) -> list[str]:
        return [show(taken[size]) for size in taken]

    def with_peak(kind: str) -> Callable[[Measured], str]:
        def show(one: Measured) -> str:
            found = one[kind]
            memory = "" if found["peak"] is None else f", {max(found['peak'], 0):,.0f} MB"
            return f"{found['seconds']:,.2f} s{' *' if found.get('sampled') else ''}{memory}"

        return show

    def call(kind: str, field: str) -> Callable[[Measured], str]:
        return lambda one: f"{one[kind][field]:,.0f} us"

    rows: dict[str, Callable[[Measured], str]] = {
        "`FeatureStore.keys()`": with_peak("keys"),
        "`look`, a hit with its source": call("calls", "hit"),
        "`look`, a miss": call("calls", "miss"),
        "`find`, the first of a key in a process": call("calls", "find"),
        "`find`, again": call("calls", "again"),
        "`put`, the first of a process, which looks for leftovers": lambda one: f"{one['puts']['first']:.3f} s",
        "`put`, every further one": call("puts", "rest"),
        "`get_or_compute` of a missing key": call("puts", "computed"),
        "a plan: key, `look` and handle of every entry": with_peak("plan"),
        "`ls`: `upkeep.entries`": with_peak("upkeep"),
        "`prune --dry-run` of one half": with_peak("prune"),
        "`verify`, quick **": with_peak("verify"),
        "... of it with the lock of all entries held": lambda one: f"{one['verify']['locked']:,.1f} s",
        "the folder itself": lambda one: f"{one['folder']['bytes'] / 1e6:,.1f} MB",
    }
    text = (
        "**A store with many entries**, as a sweep leaves them (seven names each), on a local disk. Seconds and the"
        f" peak of memory above the start; calls are medians over {SAMPLE:,} keys, the first time that anybody asks"
        f" for them since they were made. *: from {SAMPLE:,} entries (a plan: 100,000), multiplied. **: from"
        f" {SAMPLE:,} entries, multiplied, and the search for leftovers, whole."
    )
    head = " | ".join(["", *(f"{size:,}" for size in taken)])
    return f"{text}\n\n{table(head, ([name, *cells(show)] for name, show in rows.items()))}"


def locks_table(others: Measured) -> str:
    names = {
        "exclusive": "`changing`: every put, removal and repair",
        "shared": "`unchanging`: a look at what is missing or has no manifest",
        "use": "`use`: the first use of a key in a process, which notes it",
    }
    head = " | ".join(["times in a second, all processes together", *(f"{n} processes" for n in others["locks"])])
    rows = ([name, *(f"{one[kind]:,.0f}" for one in others["locks"].values())] for kind, name in names.items())
    growth = others["growth"][1000]
    removals = ", ".join(f"{one['remove']:,.0f} us with {used:,}" for used, one in others["removals"].items())
    return (
        f"**The lock of all entries** (`locks/entries.lock`).\n\n{table(head, rows)}\n\n"
        f"Computing 1,000 entries leaves {growth['locks']:,} `.lock` files and {growth['holders']:,} `.holder` files"
        f" ({growth['disk'] / 1e6:.1f} MB of disk). The former stay as long as the entry, the latter while it is"
        " computed.\n\n"
        f"Removing one entry while another process uses others: {removals} in use."
    )


def prints_line(one: Measured) -> str:
    return (
        f"**Fingerprints** of {FILES:,} images in one folder, known to the kernel: listing them {one['open']:.2f} s"
        f" ({FILES / one['open']:,.0f} files/s), their fingerprint {one['print']:.2f} s ({FILES / one['print']:,.0f}"
        f" files/s), {one['peak']:.0f} MB; the list of them in the cache takes {one['listing']:.1f} bytes for each"
        " (compressed; sizes and times at random)."
    )


def main(kind: str, folder: Path, what: str) -> None:
    if kind != "take":
        print(json.dumps(KINDS[kind](folder, int(what))))
        return
    print("ready", flush=True)
    sys.stdin.readline()
    print(take_locks(folder, what, 2.0))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
