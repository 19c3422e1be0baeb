"""A sweep of many small sets against one reference: the command with Prefect, beside a plain loop over the library.

Images are 16 pixels wide and the extractor is the lightest there is, so that orchestration is what is measured. Every
run is a process of its own; its peak is what the kernel says of it, with the libraries that it has loaded.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cold_and_warm import EMPTY, ROOT
from benchmarks.store import bar, table

SETS, IMAGES = 100, 200
MANY, FEW = 1000, 50  # sets, and images in each of these
TURNS = 2
EXTRACTOR = {"name": "shufflenet_v2_x0_5", "weights": "random", "seed": 0, "image_size": 32, "device": "cpu"}
# Without labels and logits; and without the two that take seconds for each pair: all else would be lost beside them.
LEFT_OUT = ("fd_infinity", "roc_auc", "inception_score", "tstr", "trts")


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        seconds: From its start to its end.
        cpu: Seconds of the processors that it and the server that it started took.
        peak: The most memory that it had at once, in MB.
        inside: What it says itself: ``seconds`` of its flow or loop, and others.
        task_runs: How many Prefect has recorded.
    """

    seconds: float
    cpu: float
    peak: float
    inside: dict[str, Any]
    task_runs: int = 0


class Place:
    """A folder with sets of images, a cache, and Prefect's home."""

    def __init__(self, folder: Path, *, images: int) -> None:
        self.folder, self._images = folder, images
        self._pool = png_images(2000)
        self._home = folder / "prefect"
        (folder / "empty.py").write_text(EMPTY, encoding="utf-8")
        self.add("reference", folder)
        self.empty()  # makes Prefect's database, once for all

    def add(self, name: str, parent: Path | None = None) -> None:
        """One more set; no two are alike."""
        place = (parent or self.folder / "sets") / name
        place.mkdir(parents=True)
        chosen = np.random.default_rng(list(name.encode())).integers(0, len(self._pool), self._images)
        for number, one in enumerate(chosen):
            (place / f"{number:05d}.png").write_bytes(self._pool[one])

    def config(self, cache: str, **more: Any) -> Path:
        """A configuration with a cache of this name."""
        import yaml

        from simet_cache.metrics import METRICS

        said = {
            "reference": {"path": str(self.folder / "reference")},
            "datasets": [{"glob": str(self.folder / "sets" / "*")}],
            "extractor": EXTRACTOR,
            "metrics": [name for name in METRICS if name not in LEFT_OUT],
            "cache_dir": str(self.folder / cache),
            "output": str(self.folder / f"results-{cache}"),
            **more,
        }
        file = self.folder / f"{cache}.yaml"
        file.write_text(yaml.safe_dump(said), encoding="utf-8")
        return file

    def flow(self, config: Path) -> Run:
        """The command."""
        before = self._recorded()
        done = process([str(ROOT / "flows" / "evaluate.py"), str(config)], self._home)
        results = json.loads((self.folder / f"results-{config.stem}" / "results.json").read_bytes())
        inside = {"seconds": results["seconds"], "plan": results["plan"]}
        return replace(done, inside=inside, task_runs=self._recorded() - before)

    def loop(self, config: Path) -> Run:
        """The same work without Prefect."""
        return process(["-m", "benchmarks.sweep", str(config)], self._home)

    def empty(self) -> Run:
        """A flow without a task."""
        return process([str(self.folder / "empty.py")], self._home)

    def _recorded(self) -> int:
        connection = sqlite3.connect(f"file:{self._home / 'prefect.db'}?mode=ro", uri=True, timeout=60)
        try:
            return int(connection.execute("SELECT count(*) FROM task_run").fetchone()[0])
        finally:
            connection.close()


def png_images(count: int) -> list[bytes]:
    from PIL import Image

    generator, files = np.random.default_rng(0), []
    for _ in range(count):
        file = io.BytesIO()
        coarse = generator.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(np.kron(coarse, np.ones((4, 4, 1), np.uint8))).save(file, "PNG")
        files.append(file.getvalue())
    return files


def process(arguments: list[str], home: Path) -> Run:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",  # sets are small: several would wait for each other
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(home.parent),  # where devices are taken: what else this user runs on them is no matter of ours
    }
    environment.pop("PREFECT_API_URL", None)
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        command = [sys.executable, *arguments]
        child = subprocess.Popen(command, env=environment, stdout=said, stderr=errors, cwd=home.parent)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        errors.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(arguments)} ended with {child.returncode}:\n{said.read()}\n{errors.read()}")
        last = (said.read().splitlines() or [""])[-1]
    inside = json.loads(last) if last.startswith("{") else {}
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6, inside)


# The floor


def loop(file: Path) -> dict[str, Any]:
    """Extract and compare each set in turn, with the flow's caches: how long that takes, and how long the last set."""
    from simet_cache.comparisons import Comparison, Rows, compare, known, opened
    from simet_cache.config_file import load_config
    from simet_cache.derived import Derived
    from simet_cache.devices import available
    from simet_cache.extraction import extract_to_store
    from simet_cache.plan import plan, store_of

    started = time.perf_counter()
    config = load_config(file, [])
    store, derived = store_of(config), Derived(config.cache_dir)
    (extractor,), (reference,) = config.all_extractors, config.all_references
    (device,) = available(extractor.device)

    def rows(one: Any) -> Rows:
        planned = plan(one, extractor, config, store)
        features = extract_to_store(
            store,
            planned.dataset,
            config=extractor,
            suffix=planned.suffix,
            source=planned.source,
            name=one.name,
        )
        return Rows(one.name, features)

    real = rows(reference)
    real_opened = cache(lambda: opened(real, "real", device=device))
    each: dict[str, float] = {}
    for one in config.datasets:
        begun = time.perf_counter()
        comparison = Comparison(real, rows(one), config.metrics)
        values = known(derived, comparison)
        if len(values) < len(config.metrics):
            values, failures = compare(derived, comparison, device=device, real=real_opened())
            assert not failures, failures
        each[one.name] = time.perf_counter() - begun
    return {"seconds": time.perf_counter() - started, "last": each[max(each)]}


# The runner


def run() -> str:
    """100 sets: cold, warm, and with one more; as a command and as a loop."""
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), images=IMAGES)
        for number in range(SETS):
            place.add(f"{number:04d}")
        flow, loop = place.config("flow"), place.config("loop")
        found: dict[str, list[Run]] = {}

        def note(what: str, one: Run) -> Run:
            found.setdefault(what, []).append(one)
            print(f"{what}: {one}", file=sys.stderr, flush=True)
            return one

        note("cold loop", place.loop(loop))
        note("cold flow", place.flow(flow))
        for _ in range(TURNS):
            for what, once in (("warm flow", place.flow), ("warm loop", place.loop)):
                note(what, once(flow if once == place.flow else loop))
            note("empty", place.empty())
        for turn in range(TURNS):
            place.add(f"{SETS + turn:04d}")
            note("one more flow", place.flow(flow))
            note("one more loop", place.loop(loop))
        return report(found)


def report(found: dict[str, list[Run]]) -> str:
    def shown(what: str) -> list[str]:
        runs = found[what]
        inside = [one.inside["seconds"] for one in runs if "seconds" in one.inside]
        tasks = {one.task_runs for one in runs} - {0}
        return [
            _spread([one.seconds for one in runs]),
            _spread([one.cpu for one in runs]),
            _spread(inside) if inside else "",
            f"{max(one.peak for one in runs):,.0f}",
            ", ".join(map(str, sorted(tasks))),
        ]

    names = {
        "cold flow": f"**cold: {SETS} sets and the reference, nothing cached**",
        "cold loop": "... the loop",
        "warm flow": "**warm: everything cached**",
        "warm loop": "... the loop",
        "one more flow": "**warm, plus one new set**",
        "one more loop": "... the loop",
        "empty": "an empty flow that imports torch and torchvision",
    }
    cold, floor = found["cold flow"][0], found["cold loop"][0]
    warm = statistics.median(one.seconds for one in found["warm flow"])
    start = statistics.median(one.seconds for one in found["empty"])
    more = statistics.median(one.seconds for one in found["one more flow"])
    alone = statistics.median(one.inside["last"] for one in found["one more loop"])
    runs = found["warm flow"][-1].task_runs
    both = zip(found["warm flow"], found["warm loop"], strict=True)
    each = statistics.median(ours.inside["seconds"] - theirs.inside["seconds"] for ours, theirs in both) / runs * 1000
    lines = [
        f"{SETS} sets of {IMAGES} images of 16 pixels and a reference like them; {EXTRACTOR['name']} with random"
        " weights at 32 pixels on the CPU; every metric but those that need labels or logits, and roc_auc and"
        " fd_infinity, which would hide all else. Seconds of whole processes (the flow with a temporary server whose"
        f" database is there already) and of the flow or the loop in them; median, and extremes, of {TURNS} that"
        " take turns; cold once. Metrics and models with one thread (`OMP_NUM_THREADS`).",
        "",
        table(
            " | process, s | of processors, s | inside, s | peak MB | task runs",
            ([names[what], *shown(what)] for what in names),
        ),
        "",
        "Bars:",
        "",
        bar("warm, seconds above the empty flow", warm - start, "at most 10"),
        bar("warm plus one, seconds above warm and what that set takes in the loop", more - warm - alone, "at most 3"),
        bar("cold, percent of the process that the loop's does not take", share(cold, floor), "at most 15"),
        "",
        f"One new set takes {alone:.2f} s in the loop. Cold, the flow without its start takes"
        f" {cold.inside['seconds']:.1f} s, and the loop without its start {floor.inside['seconds']:.1f}. Warm, a task"
        f" run costs {each:.0f} ms above the loop ({runs} of them).",
    ]
    return "\n".join(lines)


def share(whole: Run, floor: Run) -> float:
    return (whole.seconds - floor.seconds) / whole.seconds * 100


def run_large() -> str:
    """1,000 sets beside 100: memory that does not grow, and time that grows with the sets."""
    found: dict[int, list[Run]] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), images=FEW)
        for number in range(MANY):
            if number == SETS:
                found[SETS] = list(cold_and_warm(place, "few"))
            place.add(f"{number:04d}")
        found[MANY] = list(cold_and_warm(place, "many"))
    kinds = ("cold", "warm")
    rows = (
        [
            f"{kind}, {count:,} sets",
            f"{one.seconds:.1f}",
            f"{one.cpu:.1f}",
            f"{one.inside['seconds']:.1f}",
            f"{one.inside['seconds'] / count * 1000:.0f}",
            f"{one.peak:,.0f}",
            str(one.task_runs),
        ]
        for number, kind in enumerate(kinds)
        for count, one in ((count, runs[number]) for count, runs in found.items())
    )
    peaks = [max(one.peak for one in runs) for runs in found.values()]
    grown = [found[MANY][n].inside["seconds"] / found[SETS][n].inside["seconds"] for n in range(2)]
    lines = [
        f"As above, with {FEW} images in each set; every run once, cold and then warm.",
        "",
        table(" | process, s | of processors, s | flow, s | ms for each set | peak MB | task runs", rows),
        "",
        bar(f"peak with {MANY:,} sets to that with {SETS}", peaks[1] / peaks[0], "at most 1.5"),
        "",
        f"{MANY // SETS} times as many sets take {grown[0]:.1f} times as long cold, and {grown[1]:.1f} times warm.",
    ]
    return "\n".join(lines)


def cold_and_warm(place: Place, cache: str) -> Iterator[Run]:
    config = place.config(cache)
    for what in ("cold", "warm"):
        one = place.flow(config)
        print(f"{cache} {what}: {one}", file=sys.stderr, flush=True)
        yield one


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    print(json.dumps(loop(Path(sys.argv[1]))))
