"""Images per second of ``inception_v3`` on the CPU, against the reference's way of doing it.

The reference, as simet does it: PIL transforms, batches of 128, contiguous tensors, the model as torchvision builds it.
Both sides read the same PNG files, decode and resize them, with the same random weights, each in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGES = 256
SIDE = 256
REPEATS = 3


def run() -> str:
    """A table: images/s of both sides, and the ratio pair by pair."""
    with tempfile.TemporaryDirectory() as folder:
        _write_images(Path(folder))
        rates: dict[str, list[float]] = {"reference": [], "simet-cache": []}
        features = {}
        for _ in range(REPEATS):
            for side, measured in rates.items():
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.extraction", side, folder],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                answer = json.loads(done.stdout.splitlines()[-1])
                measured.append(answer["rate"])
                features[side] = answer["sample"]
    ratios = [ours / theirs for theirs, ours in zip(*rates.values(), strict=True)]
    largest = max(map(abs, features["reference"]))
    apart = max(abs(a - b) for a, b in zip(*features.values(), strict=True)) / largest
    lines = [
        f"`inception_v3`, {IMAGES} PNG images of {SIDE} pixels, random weights, float32, batch size 128 in the key.",
        "",
        "| | images/s, median | min | max |",
        "|---|---|---|---|",
        *(
            f"| {side} | {statistics.median(rate):.1f} | {min(rate):.1f} | {max(rate):.1f} |"
            for side, rate in rates.items()
        ),
        "",
        f"Ratio, pair by pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}. Bar: 2.5. The features differ by"
        f" {apart:.0e} of the largest.",
    ]
    return "\n".join(lines)


def _write_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number:04d}.png")


def reference(folder: Path) -> tuple[float, list[float]]:
    """The reference's path."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms as T
    from torchvision.models import inception_v3

    class Images(Dataset):  # type: ignore[type-arg]
        transform = T.Compose([T.Resize(299), T.CenterCrop(299), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])

        def __init__(self) -> None:
            self.files = sorted(folder.iterdir())

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, index: int) -> torch.Tensor:
            tensor: torch.Tensor = self.transform(Image.open(self.files[index]).convert("RGB"))
            return tensor

    torch.manual_seed(0)
    model = inception_v3(weights=None, transform_input=False, init_weights=True)
    model.fc = torch.nn.Identity()
    model.eval()
    rows = []
    with torch.no_grad():
        model(torch.zeros(8, 3, 299, 299))
        started = time.perf_counter()
        for batch in DataLoader(Images(), batch_size=128):
            rows.append(model(batch))  # noqa: PERF401 - as it is written there
        seconds = time.perf_counter() - started
    features = torch.cat(rows).numpy()
    return len(features) / seconds, features[0].tolist()


def ours(folder: Path) -> tuple[float, list[float]]:
    """This project's path, without the store."""
    from simet_cache.config import ExtractorConfig
    from simet_cache.datasets.folder import FolderDataset
    from simet_cache.extraction import extract
    from simet_cache.extractors import make_extractor

    config = ExtractorConfig(name="inception_v3", weights="random", device="cpu")
    dataset = FolderDataset(folder, transform=make_extractor(config).transform)
    dataset.files, files = dataset.files[:8], dataset.files
    extract(dataset, config=config)  # builds the model and warms it up, as is done on the other side
    dataset.files = files
    started = time.perf_counter()
    features, _ = extract(dataset, config=config)
    return len(features) / (time.perf_counter() - started), features[0].tolist()


if __name__ == "__main__":
    side, images = sys.argv[1:]
    rate, sample = {"reference": reference, "simet-cache": ours}[side](Path(images))
    print(json.dumps({"rate": rate, "sample": sample}))
