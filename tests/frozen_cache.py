"""What a cache of an earlier version holds: ``PYTHONPATH=. python tests/frozen_cache.py`` makes it anew.

It is made anew on purpose only: when what is kept changes its version, and with it its key.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prefect import task
from torch.utils.data import DataLoader, Dataset

from simet_cache import FeatureCachePolicy, FeatureSet, FeatureStore, current_request
from simet_cache.comparisons import Comparison, Rows, compare
from simet_cache.derived import Derived
from simet_cache.metrics import METRICS, Intervals

FOLDER = Path(__file__).parent / "data" / "frozen-cache"
SETS = ("real", "synth")
KEPT: dict[str, dict[str, Any]] = {
    name: {"directions": 8} if name == "mind" else {}
    for name, metric in METRICS.items()
    if not metric.needs_labels and name not in ("roc_auc", "inception_score")
}


class Drawn(Dataset[torch.Tensor]):
    """Images of random pixels, which lie in no folder of any machine."""

    def __init__(self, name: str) -> None:
        self.root = f"/drawn/{name}"
        self._pixels = np.random.default_rng([*name.encode()]).random((12, 3, 2, 2), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self._pixels[number])


def first_channel(loader: DataLoader[Any]) -> np.ndarray:
    return np.concatenate([batch[:, 0].flatten(1).numpy() for batch in loader])


def asked(loader: DataLoader[Any], suffix: str) -> FeatureSet:
    return current_request().get_or_compute(lambda: first_channel(loader))


def extracted(cache_dir: Path, name: str) -> Any:
    """The state of a task that was asked for the features of a set."""
    own = task(asked, cache_policy=FeatureCachePolicy(FeatureStore(cache_dir)))
    return own(DataLoader(Drawn(name), batch_size=4), "first_channel", return_state=True)


def comparison(cache_dir: Path) -> Comparison:
    real, synth = (Rows(name, extracted(cache_dir, name).result()) for name in SETS)
    return Comparison(real, synth, KEPT, Intervals())


def _make() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    values, _ = compare(Derived(FOLDER), comparison(FOLDER), device="cpu")
    for place in ("locks", "values/locks", "summaries/locks"):
        shutil.rmtree(FOLDER / place, ignore_errors=True)
    for file in (FOLDER / "prefect").rglob("*"):  # where things were is nobody's concern, and found out anew
        if file.is_file():
            text = file.read_text().replace(str(FOLDER), "/cache").replace(str(Path.home()), "/home/user")
            file.write_text(text)
    print(f"{len(values)} values of {len(KEPT)}; {sum(one.stat().st_size for one in FOLDER.rglob('*'))} bytes")


if __name__ == "__main__":
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    _make()
