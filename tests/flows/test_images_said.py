"""What moves a number whatever the images show is said in the table and kept in the results of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.flows.evaluated import evaluated, results_of


@pytest.mark.usefixtures("prefect_server")
def test_a_run_says_what_differs_and_how_deep_images_are_read(
    images: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config: dict[str, Any] = {
        "cache_dir": str(tmp_path / "cache" / "features"),
        "output": str(tmp_path / "results"),
        "reference": {"path": str(images("real", 30))},
        "datasets": [{"path": str(images(name, 30, seed=seed, side=side))} for seed, name, side in SETS],
        "extractor": {"name": "resnet18", "weights": "random", "image_size": 32, "batch_size": 4},
        "metrics": ["fid"],
    }
    for path in (tmp_path / "photos").glob("*.png"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=75)
        path.unlink()
    for path in (tmp_path / "deep").glob("*.png"):
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16)).save(path)
    for path in sorted((tmp_path / "few").glob("*.png"))[20:]:
        path.unlink()
    lines = [
        "file formats differ, and compression alone moves every metric: PNG: real, large, deep, few;"
        " JPEG of quality 75: photos",
        "image sizes differ, and resizing alone moves every metric: 40 x 40: real, photos, deep, few; 64 x 64: large",
        "numbers of images differ, which moves FD (resnet18_random0_32px), also where rows are more than features; draw"
        " equal subsets to compare: 30: real, photos, large, deep; 20: few",
        "images of more than 8 bits are read by the largest value in their set (up to 255 is 8 bits, 2048 to 4095 is"
        " 12, 32768 to 65535 is 16): as 8 bits in deep; bit_depth sets it",
    ]
    for _ in range(2):  # extracted, and cached
        with caplog.at_level(logging.INFO):
            results = results_of(evaluated(config))
        assert results.passed
        printed = " ".join(capsys.readouterr().out.split())
        assert [line for line in lines if line not in printed] == []
        assert caplog.text.count(lines[-1]) == 1
        caplog.clear()
    (data,) = json.loads((tmp_path / "results" / "results.json").read_text())["tables"]
    looks = {one["name"]: one["looks"] for one in (data["reference"], *data["datasets"])}
    assert looks["photos"]["quality"] == 75
    assert looks["large"]["size"] == [64, 64]
    assert [one["bit_depth"] for one in data["datasets"]] == [None, None, {"bits": 8, "auto": True}, None]
    assert [one["suffix"] for one in data["datasets"]][2] == "resnet18_random0_32px@8bit"


SETS = [(1, "photos", 40), (2, "large", 64), (3, "deep", 40), (4, "few", 40)]
