"""Run by test_crash.py in processes of their own: what is killed, and what counts computations."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from simet_cache.store import FeatureStore

KEY = "0" * 32


def array(value: int) -> np.ndarray:
    """Large enough that a kill lands within a write; every element says which one it is."""
    return np.full((200 + value % 2, 500), value, dtype=np.float32)


def killed(child: int) -> bool:
    """Whether a process ended by a signal, and not well."""
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a process failed; its traceback is above"
    return os.WIFSIGNALED(status)


def kill_writers(folder: Path, kills: int, seed: int) -> None:
    """Kill a writer at a random moment, again and again; after each, the entry must be one that was put whole."""
    rng = random.Random(seed)
    features = FeatureStore(folder)
    features.put(KEY, array(0), value=0)
    values = set()
    for number in range(1, kills + 1):
        child = os.fork()
        if child == 0:
            for value in range(number * 1000, number * 1000 + 1000):
                features.put(KEY, array(value), value=value)
            os._exit(1)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert killed(child)
        found = features.find(KEY)
        assert found is not None, "the entry is gone"
        loaded = found.load(copy=True)
        value = int(loaded[0, 0])
        assert np.array_equal(loaded, array(value)), "half an entry"
        assert features.manifest(KEY)["value"] == value, "the manifest of another one"
        assert value // 1000 <= number
        values.add(value)
    assert not (folder / "quarantine").exists()
    print(kills, len(values))


def say(log: Path, what: str, key: str) -> None:
    """A line of a few bytes is written at once or not at all."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{what} {key}\n".encode())
    os.close(handle)


def in_some_order(keys: int, seed: int) -> list[str]:
    order = [f"{number:032x}" for number in range(keys)]
    random.Random(seed).shuffle(order)
    return order


def compute_each(folder: Path, log: Path, keys: int) -> None:
    """Want every key, in an order of its own; write down what was computed."""

    def compute(key: str) -> np.ndarray:
        say(log, "done", key)
        time.sleep(0.02)
        return array(int(key, 16))

    print("ready", flush=True)
    sys.stdin.readline()
    for key in in_some_order(keys, os.getpid()):
        found = FeatureStore(folder).get_or_compute(key, lambda key=key: compute(key))  # type: ignore[misc]
        assert np.array_equal(found.load(), array(int(key, 16)))


def crowd(folder: Path, log: Path, processes: int, keys: int) -> None:
    """Processes that want every key. A third of the computations ends with ``kill -9``; who was killed tries again."""

    def compute(key: str, rng: random.Random) -> np.ndarray:
        say(log, "start", key)
        time.sleep(rng.uniform(0, 0.01))
        if rng.random() < 1 / 3:
            say(log, "kill", key)
            os.kill(os.getpid(), signal.SIGKILL)
        say(log, "done", key)
        return array(int(key, 16))

    def want_all(seed: int) -> int:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                rng, store = random.Random(seed), FeatureStore(folder)
                for key in in_some_order(keys, seed):
                    found = store.get_or_compute(key, lambda key=key: compute(key, rng))  # type: ignore[misc]
                    assert np.array_equal(found.load(copy=True), array(int(key, 16)))
                code = 0
            finally:
                os._exit(code)
        return child

    living = {want_all(seed): seed for seed in range(processes)}
    seeds = processes
    while living:
        child, status = os.wait()
        del living[child]
        if os.WIFSIGNALED(status):
            living[want_all(seeds)] = seeds
            seeds += 1
        else:
            assert os.WEXITSTATUS(status) == 0, "a process failed; its traceback is above"
    counts = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert counts["kill"] == seeds - processes
    print(counts["start"], counts["done"], counts["kill"])


def hold_lock(folder: Path) -> None:
    """Compute for ever."""
    FeatureStore(folder).get_or_compute(KEY, lambda: print("computing", flush=True) or time.sleep(600))  # type: ignore[arg-type, func-returns-value]


def use(folder: Path) -> None:
    """Use an entry for ever."""
    print("using" if FeatureStore(folder).find(KEY) else "missing", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    if command == "kill":
        kill_writers(Path(folder), int(rest[0]), int(rest[1]))
    elif command == "compute":
        compute_each(Path(folder), Path(rest[0]), int(rest[1]))
    elif command == "crowd":
        crowd(Path(folder), Path(rest[0]), int(rest[1]), int(rest[2]))
    elif command == "use":
        use(Path(folder))
    else:
        hold_lock(Path(folder))
