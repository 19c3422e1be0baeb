"""The digits example as a command: cold, warm, and beside an empty flow that imports torch and torchvision."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5
EMPTY = """
import torch, torchvision
from prefect import flow

@flow
def empty():
    pass

if __name__ == "__main__":
    empty()
"""


def run() -> str:
    """A table of wall times of whole processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty.py").write_text(EMPTY, encoding="utf-8")
        environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect")}
        environment.pop("PREFECT_API_URL", None)

        def timed(*arguments: str) -> float:
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, check=True)
            return time.perf_counter() - started

        example = [str(ROOT / "flows" / "evaluate.py"), "--set", f"cache_dir={folder / 'features'}", f"output={folder}"]
        timed(str(folder / "empty.py"))  # makes Prefect's database, once for all
        cold = timed(*example)
        pairs = [(timed(*example), timed(str(folder / "empty.py"))) for _ in range(REPEATS)]
    warm, empty = zip(*pairs, strict=True)
    more = [ours - theirs for ours, theirs in pairs]
    lines = [
        "`python flows/evaluate.py`: 3,877 images in five sets, ResNet-18 at 64 pixels. Seconds of whole processes,"
        " each with a temporary Prefect server whose database is there already.",
        "",
        "| | median | min | max |",
        "|---|---|---|---|",
        f"| cold: everything extracted (one run) | {cold:.1f} | | |",
        f"| warm: everything cached | {statistics.median(warm):.1f} | {min(warm):.1f} | {max(warm):.1f} |",
        f"| an empty flow that imports torch and torchvision | {statistics.median(empty):.1f} | {min(empty):.1f}"
        f" | {max(empty):.1f} |",
        "",
        f"Warm takes {statistics.median(more):.1f} s more than the empty flow (median of pairs;"
        f" {', '.join(f'{value:.1f}' for value in more)}). Bar: 3.",
    ]
    return "\n".join(lines)
