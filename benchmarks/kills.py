"""A sweep that is killed again and again: what it loses, and whether its results are those of one that was left alone.

The sweep runs as people run it, but that every image it reads is noted in a file, and takes a little longer, so that
there is something to kill. A kill is a SIGKILL of the whole process group; then the same command is started again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.server import server
from benchmarks.store import bar, table
from benchmarks.sweep import EXTRACTOR, ROOT, png_images

KILLS, SEED = 50, 0
SETS, IMAGES, SHARD, BATCH = 16, 100, 20, 10
DELAY = 0.01  # seconds for each image
METRICS = ("fid", "kid", "precision", "recall", "density", "coverage")
_PATIENCE = 300.0  # seconds for a run to begin
_EARLY = 0.25  # of the kills, in the first seconds; the others once there is work
_BEGINNING, _WORKING = 2.0, 5 * SHARD * DELAY  # seconds within which a kill comes


@dataclass
class Outcome:
    """What many kills have cost.

    Attributes:
        kills: How many runs were killed, ``early`` ones before they had read an image or kept a value.
        early: How many of them.
        sweeps: How many sweeps it took to kill so many; each was completed in the end.
        images: How many there are in all sweeps together.
        reads: How often one was read.
        lost: For each killed run, how many images it read which another run had to read again.
        wrong: What is not as it should be; empty where all is well.
        seconds: In all.
    """

    kills: int = 0
    early: int = 0
    sweeps: int = 0
    images: int = 0
    reads: int = 0
    lost: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def killed_sweeps(
    folder: Path, *, kills: int, seed: int, sets: int = SETS, say: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Kill sweeps until there were so many kills, each sweep being started again until it is complete.

    Args:
        folder: An empty one.
        kills: How many.
        seed: Of the moments.
        sets: How many sets of images a sweep compares with the reference.
        say: Told what happens.
    """
    generator, found, started = random.Random(seed), Outcome(), time.perf_counter()
    make_images(folder, sets)
    (folder / "home").mkdir()
    with server(folder / "home") as environment:
        undisturbed = Attempt(folder, "undisturbed", 0, environment)
        undisturbed.finish()
        expected = undisturbed.results()
        while found.kills < kills:
            name = f"sweep-{found.sweeps}"
            number = 0
            while found.kills < kills:
                attempt = Attempt(folder, name, number, environment)
                number += 1
                if attempt.killed(generator):
                    found.kills += 1
                    found.early += not attempt.worked()
                    say(f"kill {found.kills}: run {number} of {name}, {attempt.reads()} images read in it")
                else:
                    break
            else:
                attempt = Attempt(folder, name, number, environment)
                attempt.finish()
            found.sweeps += 1
            _judge(found, attempt, expected, images=IMAGES * (sets + 1))
    found.seconds = time.perf_counter() - started
    return found


class Attempt:
    """One run of the command, in a process group of its own."""

    def __init__(self, folder: Path, name: str, number: int, environment: dict[str, str]) -> None:
        self._folder, self._name, self._number = folder, name, number
        self.log = folder / f"{name}.log"
        self.cache = folder / name
        self.log.touch()
        config = write_config(folder, name)
        command = [sys.executable, "-m", "benchmarks.kills", str(config), str(self.log), str(number)]
        self._output = (folder / f"{name}.out").open("ab")
        self._process = subprocess.Popen(
            command,
            env={**environment, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
            cwd=folder,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )

    def killed(self, generator: random.Random) -> bool:
        """Kill it at some moment; whether that came before its end."""
        early = generator.random() < _EARLY
        moment = generator.uniform(0, _BEGINNING if early else _WORKING)
        deadline = time.monotonic() + _PATIENCE
        while not (self._begun() if early else self.worked()):
            if self._process.poll() is not None:
                break
            if time.monotonic() > deadline:
                self._kill()
                sys.exit(f"{self._name}: nothing happened for {_PATIENCE:.0f} s, see {self._output.name}")
            time.sleep(0.005)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=moment)
        ended = self._process.poll() is not None
        self._kill()
        if ended:
            self._complain()
        return not ended

    def finish(self) -> None:
        """Let it come to its end."""
        self._process.wait()
        self._kill()
        self._complain()

    def results(self) -> Any:
        """What it has found, without what differs from run to run."""
        found = json.loads((self._folder / f"results-{self._name}" / "results.json").read_bytes())
        return {"tables": _without_times(found["tables"]), "verdicts": found.get("verdicts")}

    def lines(self) -> list[list[str]]:
        """The notes of all runs of this sweep: which run, what it did, and to what."""
        return [line.split(" ", 2) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def worked(self) -> bool:
        """Whether it has read an image or kept a value."""
        return any(line[0] == str(self._number) and line[1] != "begin" for line in self.lines())

    def reads(self) -> int:
        """How many images it has read."""
        return sum(line[:2] == [str(self._number), "read"] for line in self.lines())

    def _begun(self) -> bool:
        return any(line[0] == str(self._number) for line in self.lines())

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def _complain(self) -> None:
        if self._process.returncode:
            said = Path(self._output.name).read_text(encoding="utf-8", errors="replace")
            sys.exit(f"{self._name} ended with {self._process.returncode}:\n{said[-5000:]}")


def _without_times(value: Any) -> Any:
    """Seconds and whether something was cached are another matter."""
    if isinstance(value, dict):
        gone = ("seconds", "images_per_second", "cached", "path")
        return {k: _without_times(v) for k, v in value.items() if not k.endswith(gone)}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


def _digests(store: Any) -> dict[str, str]:
    keys: list[str] = store.keys()
    return {key: store.manifest(key)["features"]["digest"] for key in keys}


def _judge(found: Outcome, last: Attempt, expected: Any, *, images: int) -> None:
    """Whether a sweep that has come to its end has done everything once but for what was killed."""
    from simet_cache.store import FeatureStore
    from simet_cache.upkeep import verify

    runs: dict[str, list[int]] = {}
    for run, what, about in last.lines():
        if what == "read":
            runs.setdefault(about, []).append(int(run))
    found.images += images
    found.reads += sum(map(len, runs.values()))
    lost = Counter(run for each in runs.values() for run in each[:-1])
    found.lost += lost.values()
    name = last.cache.name
    if len(runs) != images:
        found.wrong.append(f"{name}: {len(runs)} of {images} images were read")
    found.wrong += [f"{name}: run {run} lost {count} images" for run, count in lost.items() if count > SHARD]
    found.wrong += [
        f"{name}: {file} was read twice in a run" for file, each in runs.items() if len(set(each)) < len(each)
    ]
    if last.results() != expected:
        found.wrong.append(f"{name}: other results than those of a run that nobody killed")
    store, other = FeatureStore(last.cache), FeatureStore(last.cache.with_name("undisturbed"))
    if _digests(store) != _digests(other):
        found.wrong.append(f"{name}: other entries than those of a run that nobody killed")
    findings = verify(store, full=True).findings
    found.wrong += [f"{name}: {finding}" for finding in findings if finding.status != "leftover"]  # takes room alone


# What is run


def make_images(folder: Path, sets: int) -> None:
    pool = png_images(IMAGES * (sets + 1))
    for number in range(sets + 1):
        place = folder / "reference" if number == sets else folder / "sets" / f"{number:03d}"
        place.mkdir(parents=True)
        for image in range(IMAGES):
            (place / f"{image:05d}.png").write_bytes(pool[number * IMAGES + image])


def write_config(folder: Path, name: str) -> Path:
    import yaml

    said = {
        "reference": {"path": str(folder / "reference")},
        "datasets": [{"glob": str(folder / "sets" / "*")}],
        "extractor": {**EXTRACTOR, "batch_size": BATCH},
        "metrics": list(METRICS),
        "shard_size": SHARD,
        "cache_dir": str(folder / name),
        "output": str(folder / f"results-{name}"),
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(said), encoding="utf-8")
    return file


def noted(config: str, log: str, run: str) -> int:
    """The command, noting what it does."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)

    def note(what: str, about: str) -> None:
        os.write(handle, f"{run} {what} {about}\n".encode())

    from flows.evaluate import main
    from simet_cache.datasets import folder
    from simet_cache.derived import Derived

    read_image, keep_value = folder.read_image, Derived.keep_value

    def read_slowly(path: Any, **options: Any) -> Any:
        note("read", str(path))
        time.sleep(DELAY)
        return read_image(path, **options)

    def keep_noted(self: Derived, recipe: Any, value: Any) -> None:
        keep_value(self, recipe, value)
        note("kept", recipe.key)

    folder.read_image = read_slowly
    Derived.keep_value = keep_noted  # type: ignore[method-assign]
    note("begin", config)
    return main([config])


def run() -> str:
    """50 kills, and what they have cost."""
    with tempfile.TemporaryDirectory() as name:
        found = killed_sweeps(
            Path(name), kills=KILLS, seed=SEED, say=lambda line: print(line, file=sys.stderr, flush=True)
        )
    again = found.reads - found.images
    rows = [
        ["kills, of these before a run had done anything", f"{found.kills}, {found.early}"],
        ["sweeps that these were needed for, each completed in the end", str(found.sweeps)],
        ["images in them", f"{found.images:,}"],
        ["images read again after a kill", f"{again:,}"],
        ["the most that one kill has cost", f"{max(found.lost, default=0)}"],
        ["seconds in all", f"{found.seconds:.0f}"],
    ]
    lines = [
        f"A sweep of {SETS} sets and a reference of {IMAGES} images each, in shards of {SHARD}; SIGKILL to the whole"
        f" process group at random moments (seed {SEED}; a quarter in the first {_BEGINNING:.0f} s of a run, the others"
        f" within {_WORKING:.1f} s of its first image or value), then the same command again, on a server that stays.",
        "",
        table(" | ", rows),
        "",
        bar(f"images that one kill has cost, of a shard's {SHARD}", max(found.lost, default=0), f"at most {SHARD}"),
        bar(
            "things wrong: images that were not read, other features, other values, damage",
            len(found.wrong),
            "at most 0",
        ),
        *(f"  - {one}" for one in found.wrong),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(noted(*sys.argv[1:]))
