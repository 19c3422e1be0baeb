"""What tests of deployments share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _folder(path: Path, count: int, seed: int) -> None:
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path / f"{number:04d}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations: of two tiny folders, of a bound that cannot hold, and of a folder that keeps a run busy."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate([("real", 12), ("a", 12), ("many", 1500)]):
        _folder(folder / name, count, seed)
    common = "reference: {path: real}\nmetrics: [fid]\noutput: results\n"
    tiny = common + "extractor: {name: resnet18, weights: random, image_size: 32, device: cpu}\n"
    busy = common + "extractor: {name: resnet18, weights: random, image_size: 96, device: cpu}\n"
    (folder / "tiny.yaml").write_text(tiny + "datasets: [{path: a}]\n")
    (folder / "strict.yaml").write_text(tiny + "datasets: [{path: a}]\nrestraints: {fid: {upper_bound: 0.001}}\n")
    # one by one: else the large one may have the device first, and the others wait for it
    (folder / "busy.yaml").write_text(busy + "max_in_flight: 1\ndatasets: [{path: a}, {path: many}]\n")
    return folder
