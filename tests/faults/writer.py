"""Run by test_crash.py in processes of their own: what is killed, and what counts computations."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from simet_cache.store import FeatureStore

KEY = "0" * 32


def array(value: int) -> np.ndarray:
    """Large enough that a kill lands within a write; every element says which one it is."""
    return np.full((200 + value % 3, 500), value, dtype=np.float32)


def kill_writers(folder: Path, kills: int, seed: int) -> None:
    """Kill a writer at a random moment, again and again; after each, the entry must be one that was put whole."""
    rng = random.Random(seed)
    features = FeatureStore(folder)
    features.put(KEY, array(0))
    values = set()
    for number in range(1, kills + 1):
        child = os.fork()
        if child == 0:
            for value in range(number * 1000, number * 1000 + 1000):
                features.put(KEY, array(value))
            os._exit(1)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        found = features.find(KEY)
        assert found is not None, "the entry is gone"
        loaded = found.load()
        value = int(loaded[0, 0])
        assert np.array_equal(loaded, array(value)), "half an entry"
        assert value // 1000 <= number
        values.add(value)
    assert not (folder / "quarantine").exists()
    print(kills, len(values))


def compute_each(folder: Path, log: Path, keys: int) -> None:
    """Want every key, in an order of its own; write down what was computed."""

    def compute(key: str) -> np.ndarray:
        with log.open("a") as file:
            file.write(f"{key}\n")
        time.sleep(0.02)
        return array(int(key, 16))

    order = [f"{number:032x}" for number in range(keys)]
    random.Random(os.getpid()).shuffle(order)
    print("ready", flush=True)
    sys.stdin.readline()
    for key in order:
        found = FeatureStore(folder).get_or_compute(key, lambda key=key: compute(key))  # type: ignore[misc]
        assert np.array_equal(found.load(), array(int(key, 16)))


def hold_lock(folder: Path) -> None:
    """Compute for ever."""
    FeatureStore(folder).get_or_compute(KEY, lambda: print("computing", flush=True) or time.sleep(600))  # type: ignore[arg-type, func-returns-value]


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    if command == "kill":
        kill_writers(Path(folder), int(rest[0]), int(rest[1]))
    elif command == "compute":
        compute_each(Path(folder), Path(rest[0]), int(rest[1]))
    else:
        hold_lock(Path(folder))
