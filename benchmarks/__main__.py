"""Run benchmarks and keep what they found in RESULTS.md, a section each."""

from __future__ import annotations

import os
import platform
import re
import sys
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

# name: the module and its function; imported when it is run, so that a peer that is missing breaks its own section only
BENCHMARKS: dict[str, tuple[str, str]] = {
    "extraction": ("extraction", "run"),
    "cold and warm": ("cold_and_warm", "run"),
    "store": ("store", "run"),
    "metrics": ("metrics", "run"),
    "metrics at 50,000": ("metrics", "run_large"),
    "metrics on a GPU": ("metrics", "run_cuda"),
    "interval coverage": ("coverage", "run"),
    "frechet distances": ("frechet", "run"),
    "joint rankings": ("rankings", "run"),
    "images needed": ("images_needed", "run"),
    "sanity": ("sanity", "run"),
    "sweep": ("sweep", "run"),
    "sweep of 1,000": ("sweep", "run_large"),
    "kills": ("kills", "run"),
    "scale": ("scale", "run"),
    "server": ("server", "run"),
}
# many minutes, or not to be had everywhere
WHEN_NAMED = {
    "metrics at 50,000",
    "metrics on a GPU",
    "interval coverage",
    "frechet distances",
    "joint rankings",
    "sweep of 1,000",
    "kills",
    "scale",
}
RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = "# Results\n\nWritten by `python -m benchmarks [NAME ...]` (`make bench`); peers run in the same run.\n"


def machine(*, gpu: bool) -> str:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        cpu = found[1] if found else cpu
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "prefect", "numpy"))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    now = f"{datetime.now(UTC):%Y-%m-%d}"
    where = f"{os.cpu_count()} cores, {cpu}" + ("" if gpu else "; no GPU used")
    return f"{now}; {where}; Python {platform.python_version()}; {packages}; load before the run {load}"


def main(names: list[str]) -> None:
    """Run the benchmarks named, or all that are run unnamed, and replace their sections."""
    unknown = set(names) - BENCHMARKS.keys()
    if unknown:
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else _HEAD
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    missing = []
    for name in names or [name for name in BENCHMARKS if name not in WHEN_NAMED]:
        where = machine(gpu=name == "metrics on a GPU")
        module, function = BENCHMARKS[name]
        try:
            found = getattr(import_module(f"benchmarks.{module}"), function)()
        except ImportError as error:
            missing.append(f"{name}: {error}")
            continue
        sections[name] = f"\n{found}\n\nMeasured {where}.\n\n"
        print(f"## {name}\n{sections[name]}", flush=True)
    ordered = [name for name in BENCHMARKS if name in sections]
    body = "".join(f"\n## {name}\n{sections[name].rstrip()}\n" for name in ordered)
    RESULTS.write_text(_HEAD + body, encoding="utf-8")
    if missing:
        sys.exit("not measured: " + "; ".join(missing))


if __name__ == "__main__":
    main(sys.argv[1:])
