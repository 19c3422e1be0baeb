"""What a set's images are read as is part of its identity where it changes pixels, and nowhere else."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simet_cache import BitDepthError, DatasetError, EvaluationConfig, FeatureStore, feature_key
from simet_cache import surveys as keeping
from simet_cache.datasets import survey as surveying
from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import ImageReadError
from simet_cache.extraction import extract_to_store
from simet_cache.plan import Planned, onlooker, plan, store_of
from simet_cache.sweep import plan_sweep

SMALL = {"name": "resnet18", "weights": "random", "image_size": 32, "batch_size": 4}
SUFFIX = "resnet18_random0_32px"
Configure = Callable[..., EvaluationConfig]


@pytest.fixture(autouse=True)
def _new_process() -> None:
    """As if no set had been looked at before."""
    keeping.forget()


@pytest.fixture
def heads_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file whose head is read for a survey."""
    read: list[str] = []
    original = surveying.read_header

    def counted(path: str, **options: Any) -> Any:
        read.append(Path(path).name)
        return original(path, **options)

    monkeypatch.setattr(surveying, "read_header", counted)
    return read


@pytest.fixture
def configure(tmp_path: Path, images: Callable[..., Path]) -> Configure:
    images("real")

    def make(dataset: dict[str, Any], **more: Any) -> EvaluationConfig:
        return EvaluationConfig.model_validate(
            {
                "cache_dir": tmp_path / "cache" / "features",
                "reference": {"path": tmp_path / "real"},
                "datasets": [dataset],
                "extractor": SMALL,
                **more,
            }
        )

    return make


def gray(root: Path, *, largest: int, dtype: Any = np.uint16, count: int = 6) -> Path:
    """Images of random gray; the last one holds the largest value."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        values = rng.integers(0, largest, (32, 32)).astype(dtype)
        values[0, 0] = largest if number == count - 1 else 0
        Image.fromarray(values).save(root / f"{number}.png")
    return root


def planned(config: EvaluationConfig) -> Planned:
    return plan(config.datasets[0], config.all_extractors[0], config, store_of(config))


def extracted(config: EvaluationConfig) -> np.ndarray[Any, Any]:
    one, store = planned(config), store_of(config)
    found = extract_to_store(
        store,
        one.dataset,
        config=config.all_extractors[0],
        suffix=one.suffix,
        source=one.source,
        on_bad_image=config.on_bad_image,
    )
    assert found.key == one.key
    return found.load(copy=True)


@pytest.mark.parametrize(
    ("largest", "asked", "added"),
    [
        (255, "auto", "@8bit"),
        (4000, "auto", "@12bit"),
        (65535, "auto", ""),
        (255, 8, "@8bit"),
        (255, 12, "@12bit"),
        (255, 16, ""),
        (900, 12, "@12bit"),
        (900, 16, ""),
    ],
)
def test_the_key_of_deep_images_has_what_is_white(
    configure: Configure, tmp_path: Path, largest: int, asked: Any, added: str
) -> None:
    root = gray(tmp_path / "deep", largest=largest)
    one = planned(configure({"path": root, "bit_depth": asked}))
    assert one.suffix == SUFFIX + added
    assert one.key == feature_key(FolderDataset(root), suffix=SUFFIX + added, batch_size=4)
    assert one.source.components["suffix"] == one.suffix


@pytest.mark.parametrize("asked", ["auto", 8, 12, 16])
def test_plain_images_keep_their_key_whatever_is_asked(configure: Configure, tmp_path: Path, asked: Any) -> None:
    root = gray(tmp_path / "plain", largest=255, dtype=np.uint8)
    one = planned(configure({"path": root, "bit_depth": asked}))
    assert one.key == feature_key(FolderDataset(root), suffix=SUFFIX, batch_size=4)
    assert one.bit_depth is None


def test_eight_bit_values_in_sixteen_bit_files_have_the_features_of_eight_bit_files(
    configure: Configure, tmp_path: Path
) -> None:
    plain = extracted(configure({"path": gray(tmp_path / "plain", largest=255, dtype=np.uint8)}))
    deep = configure({"path": gray(tmp_path / "deep", largest=255)})
    assert np.array_equal(extracted(deep), plain)
    black = extracted(configure({"path": tmp_path / "deep", "bit_depth": 16}))
    assert not np.array_equal(black, plain)
    assert np.array_equal(extracted(deep), plain)  # and does not find the black ones


def test_features_that_were_made_of_black_images_are_found_no_more(configure: Configure, tmp_path: Path) -> None:
    root = gray(tmp_path / "deep", largest=255)
    config = configure({"path": root})
    before = feature_key(FolderDataset(root), suffix=SUFFIX, batch_size=4)
    FeatureStore(config.cache_dir).put(before, np.zeros((6, 512), np.float32))
    assert extracted(config).any()


def test_a_set_that_leaves_it_open_stops_also_where_bad_images_are_skipped(
    configure: Configure, tmp_path: Path
) -> None:
    root = gray(tmp_path / "deep", largest=900)
    config = configure({"path": root}, on_bad_image="skip")
    with pytest.raises(DatasetError, match=r"^deep: 6 images .* values up to 900, .*; say bit_depth: 8, 12 or 16"):
        planned(config)
    found = plan_sweep(config, store_of(config))
    assert not found.usable
    assert [one.status for one in found.sets] == ["miss", "error"]
    with pytest.raises(BitDepthError, match=r"expected values up to 255, .* found 8\d\d; another bit_depth"):
        extracted(configure({"path": root, "bit_depth": 8}, on_bad_image="skip"))


def test_an_image_that_becomes_deep_during_a_run_is_no_black_one(configure: Configure, tmp_path: Path) -> None:
    root = gray(tmp_path / "plain", largest=255, dtype=np.uint8)
    one = planned(configure({"path": root}))
    Image.fromarray(np.full((32, 32), 4000, np.uint16)).save(root / "3.png")
    with pytest.raises(BitDepthError, match=r"3\.png: expected values up to 255"):
        one.dataset[3]


def test_a_glob_hands_its_bit_depth_on(configure: Configure, tmp_path: Path) -> None:
    gray(tmp_path / "deep-1", largest=900)
    gray(tmp_path / "deep-2", largest=900)
    config = configure({"glob": tmp_path / "deep-*", "bit_depth": 12})
    assert [one.bit_depth for one in config.datasets] == [12, 12]
    assert planned(config).suffix == f"{SUFFIX}@12bit"


@pytest.mark.parametrize("asked", [10, "16 bit", True])
def test_other_depths_are_refused(configure: Configure, tmp_path: Path, asked: Any) -> None:
    with pytest.raises(ValueError, match="bit_depth"):
        configure({"path": gray(tmp_path / "deep", largest=255), "bit_depth": asked})


def test_a_plan_says_in_one_line_how_deep_images_are_read(configure: Configure, tmp_path: Path) -> None:
    gray(tmp_path / "deep-1", largest=200)
    gray(tmp_path / "deep-2", largest=255)
    config = configure({"glob": tmp_path / "deep-*"})
    lines = [line for line in plan_sweep(config, store_of(config)).lines() if "more than 8 bits" in line]
    (line,) = lines
    assert "as 8 bits in deep-1, deep-2; bit_depth sets it" in line


# Surveys are kept


def kept(config: EvaluationConfig) -> list[Path]:
    return sorted((config.cache_dir / "surveys").iterdir()) if (config.cache_dir / "surveys").exists() else []


def test_heads_are_read_once_for_each_state_of_the_files(
    configure: Configure, tmp_path: Path, heads_read: list[str]
) -> None:
    root = gray(tmp_path / "deep", largest=255)
    config = configure({"path": root})
    first = planned(config)
    assert sorted(heads_read) == [f"{number}.png" for number in range(6)]
    heads_read.clear()
    assert planned(config).looks == first.looks
    keeping.forget()  # another process
    assert planned(config).looks == first.looks
    assert heads_read == []
    Image.fromarray(np.full((32, 32), 4000, np.uint16)).save(root / "3.png")
    assert planned(config).suffix == f"{SUFFIX}@12bit"
    assert len(heads_read) == 6


def test_images_that_could_not_be_read_are_looked_at_once_they_can(
    configure: Configure, tmp_path: Path, heads_read: list[str]
) -> None:
    root = gray(tmp_path / "deep", largest=255)
    assert planned(configure({"path": root}, max_pixels=1000)).bit_depth is None  # they have 1024
    assert planned(configure({"path": root})).suffix == f"{SUFFIX}@8bit"
    assert len(heads_read) == 12


def test_a_largest_value_that_a_server_withheld_is_not_kept(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = gray(tmp_path / "deep", largest=255)
    Image.fromarray(np.full((32, 32), 65535, np.uint16)).save(root / "0.png")
    config, original = configure({"path": root}), surveying.read_largest_value

    def busy(path: str, **options: Any) -> int:
        if path.endswith("0.png"):
            raise ImageReadError(path, "stale file handle", errno=errno.ESTALE)
        return original(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(surveying, "read_largest_value", busy)
        planned(config)
    keeping.forget()
    assert planned(config).suffix == SUFFIX


def test_the_images_of_a_subset_alone_are_looked_at(
    configure: Configure, tmp_path: Path, heads_read: list[str]
) -> None:
    gray(tmp_path / "deep", largest=255, count=20)
    assert planned(configure({"path": tmp_path / "deep", "subset": {"size": 4, "seed": 1}})).looks
    assert len(heads_read) == 4


def test_a_look_at_a_plan_keeps_nothing(configure: Configure, tmp_path: Path) -> None:
    config = configure({"path": gray(tmp_path / "deep", largest=255)})
    store_of(config)
    with onlooker(config) as store:
        assert plan(config.datasets[0], config.all_extractors[0], config, store).bit_depth is not None
    assert kept(config) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff" * 100, b'{"version": 1}', b"[" * 100_000, None, "fifo"])
def test_a_survey_that_is_damaged_is_made_again(
    configure: Configure, tmp_path: Path, heads_read: list[str], content: Any
) -> None:
    config = configure({"path": gray(tmp_path / "deep", largest=255)})
    first = planned(config)
    (path,) = kept(config)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.unlink()
        if content == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(tmp_path / "elsewhere")
            (tmp_path / "elsewhere").write_text("{}")
    heads_read.clear()
    keeping.forget()
    assert planned(config).looks == first.looks
    assert len(heads_read) == 6
    assert json.loads(path.read_text())["version"] == 1
    assert not (tmp_path / "elsewhere").exists() or (tmp_path / "elsewhere").read_text() == "{}"


def test_surveys_that_cannot_be_kept_are_no_failure(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure({"path": gray(tmp_path / "deep", largest=255)})
    store_of(config)
    (config.cache_dir / "surveys").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert planned(config).suffix == f"{SUFFIX}@8bit"
    assert caplog.text == ""


def test_the_oldest_half_of_too_many_goes(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MOST_KEPT", 4)
    config = configure({"path": gray(tmp_path / "deep", largest=255)})
    folder = store_of(config).cache_dir / "surveys"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number:032x}.json").write_text("{}")
        os.utime(folder / f"{number:032x}.json", (number, number))
    planned(config)
    assert {path.name for path in kept(config)} >= {f"{number:032x}.json" for number in (2, 3)}
    assert len(kept(config)) == 3


def test_files_that_change_while_they_are_looked_at_are_looked_at_again(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = gray(tmp_path / "deep", largest=255)
    config = configure({"path": root})
    original = surveying.read_header

    def changing(path: str, **options: Any) -> Any:
        found = original(path, **options)
        os.utime(path, (1, 1))
        return found

    monkeypatch.setattr(surveying, "read_header", changing)
    planned(config)
    assert kept(config) == []
