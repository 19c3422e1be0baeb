"""What is described at one time and read at another: weights and images that are replaced meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.models import resnet18
from torchvision.transforms.functional import pil_to_tensor

from simet_cache import FeatureCacheService, devices, extraction
from simet_cache.config import EvaluationConfig, ExtractorConfig
from simet_cache.datasets.folder import FolderDataset
from simet_cache.devices import DeviceLocks
from simet_cache.errors import DatasetError, FeaturesError, WeightsError
from simet_cache.extraction import extract_to_store
from simet_cache.extractors import make_extractor
from simet_cache.featureset import FeatureSet
from simet_cache.plan import Planned, labels_for, plan, store_of
from simet_cache.shards import shards_of
from simet_cache.store import FeatureStore
from simet_cache.sweep import plan_sweep, require_as_before

SIDE = 32


@pytest.fixture(autouse=True)
def _own_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(devices, "_place", lambda: tmp_path / "devices")  # others on this machine have theirs locked
    extraction._models.clear()
    yield
    extraction._models.clear()


@pytest.fixture
def latest(tmp_path: Path) -> Path:
    return trained(tmp_path / "latest.pth", 0)


@pytest.fixture
def config(tmp_path: Path, latest: Path) -> EvaluationConfig:
    for number, name in enumerate("abc"):
        drawn(tmp_path / name, number)
    return EvaluationConfig(
        reference={"path": tmp_path / "a"},
        datasets=[{"path": tmp_path / "b"}, {"path": tmp_path / "c"}],
        metrics=["fid"],
        cache_dir=tmp_path / "cache",
        extractor={"name": "resnet18", "weights": str(latest), "image_size": SIDE, "device": "cpu", "batch_size": 2},
    )


def trained(path: Path, seed: int) -> Path:
    """Other weights under one name, as a training job saves them."""
    torch.manual_seed(seed)
    torch.save(resnet18().state_dict(), path)
    return path


def drawn(folder: Path, seed: int, count: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def planned_sets(config: EvaluationConfig) -> list[Planned]:
    store = store_of(config)
    return [plan(one, config.all_extractors[0], config, store) for one in (config.reference, *config.datasets)]


def extracted(config: EvaluationConfig, planned: Planned, **options: Any) -> FeatureSet:
    return extract_to_store(
        store_of(config),
        planned.dataset,
        config=config.all_extractors[0],
        suffix=planned.suffix,
        source=planned.source,
        name=planned.name,
        **options,
    )


def entries(config: EvaluationConfig) -> set[str]:
    return {path.name for path in config.cache_dir.glob("*.*")}


# Weights


def test_a_weights_file_overwritten_after_two_of_three_sets(config: EvaluationConfig, latest: Path) -> None:
    """All three are under the suffix of the file as it was; the third would be other features under it."""
    first, second, third = planned_sets(config)
    rows = [extracted(config, one).load(copy=True) for one in (first, second)]
    kept = entries(config)
    trained(latest, 1)
    with pytest.raises(WeightsError) as caught:
        extracted(config, third)
    assert str(caught.value).startswith(
        "the extractor of c is not the one that its key was made with: expected weights"
    )
    assert str(caught.value).endswith("nothing is stored. Run again, and give each checkpoint a file of its own")
    assert entries(config) == kept
    for one, before in zip((first, second), rows, strict=True):
        assert np.array_equal(extracted(config, one).load(), before)  # hits ask for no weights


def test_a_weights_file_overwritten_after_it_was_looked_at_for_the_last_time(
    config: EvaluationConfig, latest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the comparison with the key and the loading."""
    planned, real = planned_sets(config)[0], make_extractor

    def make_and_replace(one: ExtractorConfig) -> Any:
        made = real(one)
        trained(latest, 1)
        return made

    monkeypatch.setattr(extraction, "make_extractor", make_and_replace)
    with pytest.raises(WeightsError, match="was replaced during this run: expected sha256"):
        extracted(config, planned)
    assert not entries(config)


def test_a_weights_file_overwritten_before_a_shard(config: EvaluationConfig, latest: Path) -> None:
    planned = planned_sets(config)[0]
    first, second = shards_of(planned, size=2)
    extracted(config, first, shard_of=planned.key)
    kept = entries(config)
    trained(latest, 1)
    with pytest.raises(WeightsError, match=r"the extractor of a \[2/2\] is not the one"):
        extracted(config, second, shard_of=planned.key)
    assert entries(config) == kept


@pytest.mark.slow
def test_a_weights_file_overwritten_while_a_worker_starts(config: EvaluationConfig, latest: Path) -> None:
    """A process of its own, as those of Dask and Ray, has seen no other file."""
    planned = planned_sets(config)[0]
    trained(latest, 1)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        run = pool.submit(
            extract_to_store,
            store_of(config),
            planned.dataset,
            config=config.all_extractors[0],
            suffix=planned.suffix,
            source=planned.source,
            name="a",
            locks=DeviceLocks("none"),
        )
        with pytest.raises(WeightsError, match="the extractor of a is not the one that its key was made with"):
            run.result(timeout=300)
    assert not entries(config)


def test_a_worker_whose_hub_folder_has_another_file(
    config: EvaluationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key was made where the published weights were still to be downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    config = config.model_copy(update={"extractor": config.all_extractors[0].model_copy(update={"weights": "default"})})
    planned = planned_sets(config)[0]
    assert planned.suffix == "resnet18_imagenet1k_v1_32px"
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    trained(hub / "resnet18-f37072fd.pth", 1)
    with pytest.raises(WeightsError, match=r"expected weights 'resnet18-f37072fd.pth', found 'sha256:"):
        extracted(config, planned)
    assert not entries(config)


def test_a_set_is_not_compared_on_the_features_of_other_weights(config: EvaluationConfig, latest: Path) -> None:
    """One that is planned once more after the file was overwritten has another suffix than the rest of the sweep."""
    store = store_of(config)
    sweep = plan_sweep(config, store)
    planned = [plan(one.one, one.extractor, config, store) for one in sweep.sets]
    for one, again in zip(sweep.sets, planned, strict=True):
        require_as_before(one, again)
    trained(latest, 1)
    later = plan(sweep.sets[0].one, sweep.sets[0].extractor, config, store)
    with pytest.raises(WeightsError, match=r"the weights of resnet18 were replaced during this run: expected features"):
        require_as_before(sweep.sets[0], later)


# Images


class Replaces(Dataset[Any]):
    """A folder of which a file is replaced as soon as the first image is read."""

    def __init__(self, folder: FolderDataset, victim: str) -> None:
        self.root, self.files, self._folder, self._victim = folder.root, folder.files, folder, victim

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> Any:
        victim = Path(self.root, self._victim)
        if position == 0:
            Image.new("RGB", (SIDE, SIDE), (position, 1, 2)).save(victim)
        return self._folder[position]


@pytest.mark.parametrize("victim", ["0.png", "3.png"])
@pytest.mark.parametrize("skip", [False, True])
def test_images_that_change_while_they_are_read(
    config: EvaluationConfig, tmp_path: Path, victim: str, skip: bool
) -> None:
    transform = make_extractor(config.all_extractors[0]).transform
    dataset = Replaces(FolderDataset(tmp_path / "a", transform=transform), victim)
    with pytest.raises(DatasetError) as caught:
        extract_to_store(
            store_of(config),
            dataset,
            config=config.all_extractors[0],
            suffix="x",
            on_bad_image="skip" if skip else "stop",
            name="a",
        )
    assert str(caught.value) == (
        f"the images of a changed while they were read ({victim} changed); nothing is stored. Run again when nothing"
        " writes to them any more"
    )
    assert not entries(config)


def test_images_that_change_between_the_plan_and_the_extraction(config: EvaluationConfig, tmp_path: Path) -> None:
    planned = planned_sets(config)[0]
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a" / "2.png")
    with pytest.raises(DatasetError, match=r"the images of a changed while they were read \(2.png changed\)"):
        extracted(config, planned)
    assert not entries(config)


def test_images_of_a_shard_that_change(config: EvaluationConfig, tmp_path: Path) -> None:
    """Those of the others do not matter to it."""
    planned = planned_sets(config)[0]
    first, second = shards_of(planned, size=2)
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a" / "2.png")
    extracted(config, first, shard_of=planned.key)
    with pytest.raises(DatasetError, match=r"\(2.png changed\)"):
        extracted(config, second, shard_of=planned.key)


@pytest.mark.parametrize("fingerprint", ["stat", "content"])
def test_a_file_that_is_touched_is_a_change_unless_its_content_is_known(
    config: EvaluationConfig, tmp_path: Path, fingerprint: str
) -> None:
    config = config.model_copy(update={"fingerprint": fingerprint})
    planned = planned_sets(config)[0]
    os.utime(tmp_path / "a" / "1.png", ns=(1, 1))
    if fingerprint == "content":
        assert extracted(config, planned).shape == (4, 512)
    else:
        with pytest.raises(DatasetError, match=r"\(1.png touched\)"):
            extracted(config, planned)


def test_a_link_that_moves_between_the_plan_and_the_extraction(config: EvaluationConfig, tmp_path: Path) -> None:
    """An image that is a link to the newest sample."""
    link, newer = tmp_path / "a" / "0.png", drawn(tmp_path / "newer", 9) / "0.png"
    planned = planned_sets(config)[0]
    link.unlink()
    link.symlink_to(newer)
    with pytest.raises(DatasetError, match=r"\(0.png (changed|touched)\)"):
        extracted(config, planned)


def test_data_in_memory_that_change(tmp_path: Path, config: EvaluationConfig) -> None:
    pixels = torch.zeros(4, 3, SIDE, SIDE)

    class Writes(TensorDataset):
        def __getitem__(self, position: int) -> Any:
            pixels[3] += 1
            return pixels[position]

    with pytest.raises(DatasetError, match="the images of dataset changed while they were read"):
        extract_to_store(store_of(config), Writes(pixels), config=config.all_extractors[0], suffix="x")
    assert not entries(config)


def test_images_that_change_while_a_function_of_the_user_reads_them(tmp_path: Path) -> None:
    service = FeatureCacheService(tmp_path / "cache")
    loader = DataLoader(FolderDataset(drawn(tmp_path / "a", 0), transform=pil_to_tensor), batch_size=2)

    def compute(given: DataLoader[Any]) -> np.ndarray:
        rows = torch.cat([batch.float().mean((2, 3)) for batch in given]).numpy()
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a" / "1.png")
        return rows

    with pytest.raises(DatasetError, match=r"\(1.png changed\); nothing is stored"):
        service.get_or_compute(loader, compute, "x")
    assert not list((tmp_path / "cache").glob("*.pkl"))


def test_labels_are_those_of_the_images_that_features_were_made_from(config: EvaluationConfig, tmp_path: Path) -> None:
    """An image that moves to another class after the extraction, so that the number of rows is still right."""
    for name in ("cat", "dog"):
        drawn(tmp_path / "a" / name, 0)
    for path in (tmp_path / "a").glob("*.png"):
        path.unlink()
    options = config.model_dump(exclude={"reference", "datasets", "references", "extractors"})
    config = EvaluationConfig(
        **options, reference={"path": tmp_path / "a", "classes": True}, datasets=[{"path": tmp_path / "b"}]
    )
    store = store_of(config)
    features = extracted(config, plan(config.reference, config.all_extractors[0], config, store))
    labels = labels_for(features, config.reference, config.all_extractors[0], config, store)
    assert labels.tolist() == ["cat"] * 4 + ["dog"] * 4
    (tmp_path / "a" / "cat" / "3.png").rename(tmp_path / "a" / "dog" / "9.png")
    with pytest.raises(FeaturesError, match="the images have changed since their features were made, so that"):
        labels_for(features, config.reference, config.all_extractors[0], config, store)


def test_what_does_not_change_is_stored(config: EvaluationConfig) -> None:
    for planned in planned_sets(config):
        assert extracted(config, planned).shape == (4, 512)
    assert isinstance(store_of(config), FeatureStore)
    assert len([name for name in entries(config) if name.endswith(".pkl")]) == 3
