"""The API of the reference, call for call, over a store that can be trusted."""

from __future__ import annotations

import inspect
import logging
import os
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, Subset, TensorDataset

from simet_cache import codec
from simet_cache.errors import DamagedEntryError, FeaturesError, KeyInputError, StoreError, UnsafePickleError
from simet_cache.loaders import loader_key
from simet_cache.service import FeatureCacheService

TEN = TensorDataset(torch.arange(30.0).reshape(10, 3))
EXPECTED = np.arange(30, dtype=np.float32).reshape(10, 3)


class Extractor:
    """Counts how often it is called; its features are what it is given, times ``scale``."""

    def __init__(self, scale: float = 1) -> None:
        self.scale = scale
        self.loaders: list[DataLoader[Any]] = []

    def __call__(self, loader: DataLoader[Any]) -> np.ndarray:
        self.loaders.append(loader)
        return np.concatenate([batch.numpy() for (batch,) in loader]) * np.float32(self.scale)

    @property
    def calls(self) -> int:
        return len(self.loaders)


@pytest.fixture
def service(tmp_path: Path) -> FeatureCacheService:
    return FeatureCacheService(tmp_path / "cache")


@pytest.fixture
def loader() -> DataLoader[Any]:
    return DataLoader(TEN, batch_size=4)


@pytest.fixture
def entry(service: FeatureCacheService, loader: DataLoader[Any]) -> Path:
    """Where the features of ``loader`` are, or would be."""
    return service.cache_dir / f"{loader_key(loader, suffix='')}.pkl"


def quarantined(service: FeatureCacheService) -> list[Path]:
    return sorted((service.cache_dir / "quarantine").glob("*.pkl"))


def test_the_signature_is_that_of_the_reference() -> None:
    (cache_dir,) = inspect.signature(FeatureCacheService).parameters.values()
    assert (cache_dir.name, cache_dir.default) == ("cache_dir", Path("cache/features"))
    parameters = inspect.signature(FeatureCacheService.get_or_compute).parameters.values()
    assert [(p.name, p.default, p.kind) for p in parameters] == [
        ("self", inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        ("loader", inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        ("compute_fn", inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        ("cache_key_suffix", "", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        ("force_recompute", False, inspect.Parameter.POSITIONAL_OR_KEYWORD),
    ]


def test_the_folder_is_a_string_or_a_path_and_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert FeatureCacheService().cache_dir == tmp_path / "cache" / "features"
    assert FeatureCacheService("a/b").cache_dir == FeatureCacheService(Path("a/b")).cache_dir == tmp_path / "a" / "b"
    assert (tmp_path / "cache" / "features").is_dir()
    assert (tmp_path / "a" / "b").is_dir()


def test_a_miss_computes_a_hit_does_not_and_force_does(
    service: FeatureCacheService, loader: DataLoader[Any], entry: Path
) -> None:
    first, second = Extractor(), Extractor(2)
    assert np.array_equal(service.get_or_compute(loader, first), EXPECTED)
    assert first.loaders == [loader]
    assert np.array_equal(pickle.loads(entry.read_bytes()), EXPECTED)
    assert np.array_equal(service.get_or_compute(loader, second), EXPECTED)
    assert (first.calls, second.calls) == (1, 0)
    assert np.array_equal(service.get_or_compute(loader, second, force_recompute=True), EXPECTED * 2)
    assert second.calls == 1
    assert np.array_equal(pickle.loads(entry.read_bytes()), EXPECTED * 2)
    assert np.array_equal(FeatureCacheService(service.cache_dir).get_or_compute(loader, first), EXPECTED * 2)
    assert first.calls == 1


def test_the_suffix_batch_size_and_subset_are_told_apart(service: FeatureCacheService) -> None:
    extract = Extractor()
    for dataset, batch_size, suffix in [
        (TEN, 4, ""),
        (TEN, 4, "x"),
        (TEN, 5, ""),
        (Subset(TEN, range(10)), 4, ""),
        (Subset(TEN, [1]), 4, ""),
    ]:
        service.get_or_compute(DataLoader(dataset, batch_size=batch_size), extract, suffix)
    assert extract.calls == 5
    service.get_or_compute(DataLoader(Subset(TEN, torch.tensor([1])), batch_size=4), extract, "")
    assert extract.calls == 5


@pytest.mark.parametrize("hit", [False, True])
def test_what_is_returned_is_writable_and_independent(
    service: FeatureCacheService, loader: DataLoader[Any], entry: Path, hit: bool
) -> None:
    made = EXPECTED.copy()

    def compute(_: DataLoader[Any]) -> np.ndarray:
        return made

    if hit:
        service.get_or_compute(loader, compute)
    returned = service.get_or_compute(loader, compute)
    before = entry.read_bytes()
    returned[:] = -1
    assert type(returned) is np.ndarray
    assert entry.read_bytes() == before
    assert np.array_equal(service.get_or_compute(loader, compute), EXPECTED)
    assert np.array_equal(made, EXPECTED)


@pytest.mark.parametrize("protocol", [pickle.DEFAULT_PROTOCOL, pickle.HIGHEST_PROTOCOL])
def test_a_file_of_the_reference_is_a_hit(
    service: FeatureCacheService, loader: DataLoader[Any], entry: Path, protocol: int
) -> None:
    with entry.open("wb") as file:
        pickle.dump(EXPECTED * 3, file, protocol=protocol)
    extract = Extractor()
    returned = service.get_or_compute(loader, extract)
    assert np.array_equal(returned, EXPECTED * 3)
    assert returned.flags.writeable
    assert extract.calls == 0


def test_info_on_hit_and_miss_and_debug_with_the_resolved_path(
    tmp_path: Path, loader: DataLoader[Any], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real").mkdir()
    service = FeatureCacheService(tmp_path / "link")
    key = loader_key(loader, suffix="")
    caplog.set_level(logging.DEBUG, logger="simet_cache")
    resolved = (logging.DEBUG, f"Cache file: {(tmp_path / 'real').resolve() / key}.pkl")
    for expected in ("Cache miss: computing features", "Cache hit: features"):
        caplog.clear()
        service.get_or_compute(loader, Extractor())
        logged = [(r.levelno, r.getMessage()) for r in caplog.records if r.name.startswith("simet_cache")]
        assert logged == [resolved, (logging.INFO, f"{expected} for key {key}")]


BAD = {
    "None": (lambda: None, "expected a 2-D NumPy float array of features, found NoneType"),
    "list": (EXPECTED.tolist, "found list"),
    "tensor": (
        lambda: torch.zeros(10, 3),
        "found Tensor of shape (10, 3) and dtype torch.float32; call .cpu().numpy()",
    ),
    "1-D": (
        lambda: EXPECTED[:, 0],
        "expected a 2-D array of dtype float16, float32 or float64, found ndarray of shape (10,)",
    ),
    "3-D": (lambda: EXPECTED[None], "found ndarray of shape (1, 10, 3)"),
    "int": (lambda: EXPECTED.astype(int), "found ndarray of shape (10, 3) and dtype int64"),
    "object": (lambda: EXPECTED.astype(object), "and dtype object"),
    "NaN": (lambda: np.where(EXPECTED == 4, np.nan, EXPECTED), "NaN or infinity in 1 of 10 rows, first in row 1"),
    "inf": (lambda: EXPECTED / np.zeros((), np.float32) + 1, "NaN or infinity in 10 of 10 rows, first in row 0"),
    "too few rows": (lambda: EXPECTED[:9], "expected 10 rows, one for each item of the loader, found 9"),
    "too many rows": (
        lambda: EXPECTED.repeat(2, axis=0),
        "expected 10 rows, one for each item of the loader, found 20",
    ),
    "zero rows": (lambda: EXPECTED[:0], "expected 10 rows, one for each item of the loader, found 0"),
    "zero columns": (lambda: EXPECTED[:, :0], "expected at least one row and one column"),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("kind", BAD)
def test_other_results_are_refused_and_not_cached(
    service: FeatureCacheService, loader: DataLoader[Any], entry: Path, kind: str, older: bool
) -> None:
    if older:
        service.get_or_compute(loader, Extractor())
    before = {path.name: path.read_bytes() for path in service.cache_dir.iterdir() if path.is_file()}
    make, sentence = BAD[kind]
    with pytest.raises(FeaturesError) as caught:
        service.get_or_compute(loader, lambda _, make=make: make(), force_recompute=older)
    assert sentence in str(caught.value)
    assert {path.name: path.read_bytes() for path in service.cache_dir.iterdir() if path.is_file()} == before
    assert entry.exists() == older


def test_zero_rows_are_refused_where_none_are_expected(service: FeatureCacheService) -> None:
    loader = DataLoader(TEN, batch_size=16, drop_last=True)
    with pytest.raises(
        FeaturesError, match=re.escape("at least one row and one column of features, found shape (0, 3)")
    ):
        service.get_or_compute(loader, lambda _: EXPECTED[:0])


@pytest.mark.parametrize("older", [False, True])
def test_a_failing_compute_fn_is_passed_on_and_changes_nothing(
    service: FeatureCacheService, loader: DataLoader[Any], entry: Path, older: bool
) -> None:
    def fails(_: DataLoader[Any]) -> np.ndarray:
        raise ZeroDivisionError("the user's own")

    if older:
        service.get_or_compute(loader, Extractor())
    before = entry.read_bytes() if older else None
    with pytest.raises(ZeroDivisionError, match="the user's own"):
        service.get_or_compute(loader, fails, force_recompute=older)
    assert (entry.read_bytes() if entry.exists() else None) == before
    assert np.array_equal(service.get_or_compute(loader, Extractor()), EXPECTED)


def test_drop_last_and_samplers_are_considered(service: FeatureCacheService) -> None:
    dropping = DataLoader(TEN, batch_size=4, drop_last=True)
    assert service.get_or_compute(dropping, Extractor(), "drop").shape == (8, 3)
    sampled = DataLoader(TEN, batch_size=4, sampler=[7, 1])
    assert np.array_equal(service.get_or_compute(sampled, Extractor(), "sampler"), EXPECTED[[7, 1]])
    with pytest.raises(FeaturesError, match="expected 8 rows, one for each item of the loader, found 10"):
        service.get_or_compute(dropping, lambda _: EXPECTED, "drop", force_recompute=True)


def test_an_entry_of_other_rows_is_computed_again(
    service: FeatureCacheService, caplog: pytest.LogCaptureFixture
) -> None:
    """With and without ``drop_last`` the documented key is the same."""
    extract = Extractor()
    for drop_last, rows in [(True, 8), (False, 10), (False, 10)]:
        loader = DataLoader(TEN, batch_size=4, drop_last=drop_last)
        assert service.get_or_compute(loader, extract).shape == (rows, 3)
    assert extract.calls == 2
    assert "has 8 rows where 10 are expected; it counts as missing" in caplog.text


def test_batch_samplers(service: FeatureCacheService) -> None:
    extract = Extractor()
    own = DataLoader(TEN, batch_sampler=BatchSampler(SequentialSampler(TEN), 4, drop_last=True))
    assert service.get_or_compute(own, extract, "a").shape == (8, 3)
    with pytest.raises(FeaturesError, match="expected 8 rows"):
        service.get_or_compute(own, lambda _: EXPECTED, "b")
    users = DataLoader(TEN, batch_sampler=[[0, 1], [5]])
    assert np.array_equal(service.get_or_compute(users, extract, "c"), EXPECTED[[0, 1, 5]])
    assert np.array_equal(service.get_or_compute(users, extract, "c"), EXPECTED[[0, 1, 5]])
    assert extract.calls == 2


def flip(path: Path) -> None:
    """One bit of the payload, with the size and the time of change as they were."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[content.index(EXPECTED[5:7].tobytes()) + 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_flipped_bit_under_an_intact_manifest_is_computed_again(
    service: FeatureCacheService, loader: DataLoader[Any], entry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extract = Extractor()
    service.get_or_compute(loader, extract)
    flip(entry)
    flipped = entry.read_bytes()
    assert np.array_equal(service.get_or_compute(loader, extract), EXPECTED)
    assert extract.calls == 2
    assert [path.read_bytes() for path in quarantined(service)] == [flipped]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{entry} does not hold what its manifest says: bits have changed" in warning
    assert f"moved to {quarantined(service)[0]}, and counts as missing" in warning
    assert np.array_equal(service.get_or_compute(loader, extract), EXPECTED)
    assert extract.calls == 2


def test_many_threads_mend_a_flipped_bit_once(
    service: FeatureCacheService, loader: DataLoader[Any], entry: Path
) -> None:
    for _ in range(5):
        service.get_or_compute(loader, Extractor())
        flip(entry)
        extract, barrier = Extractor(), threading.Barrier(4)

        def want(_: int, extract: Extractor = extract, barrier: threading.Barrier = barrier) -> np.ndarray:
            barrier.wait()
            return service.get_or_compute(loader, extract)

        with ThreadPoolExecutor(4) as pool:
            assert all(np.array_equal(found, EXPECTED) for found in pool.map(want, range(4)))
        assert extract.calls == 1
    assert len(quarantined(service)) == 5


def test_what_another_process_has_mended_meanwhile_is_not_moved(
    service: FeatureCacheService, loader: DataLoader[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = Extractor()
    service.get_or_compute(loader, extract)

    def mended(path: Path) -> np.ndarray:
        monkeypatch.undo()
        service._store.put(path.stem, EXPECTED * 2)
        raise DamagedEntryError("damaged when it was read")

    monkeypatch.setattr(codec, "read", mended)
    assert np.array_equal(service.get_or_compute(loader, extract), EXPECTED * 2)
    assert quarantined(service) == []
    assert extract.calls == 1


def test_an_entry_that_is_removed_under_our_hands_is_computed_again(
    service: FeatureCacheService, loader: DataLoader[Any], entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = Extractor()
    service.get_or_compute(loader, extract)
    real = service._store.get_or_compute

    def removed(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        found = real(*arguments, **options)
        entry.unlink()
        return found

    monkeypatch.setattr(service._store, "get_or_compute", removed)
    assert np.array_equal(service.get_or_compute(loader, extract), EXPECTED)
    assert extract.calls == 2


def test_a_disk_that_damages_everything_is_an_error(
    service: FeatureCacheService, loader: DataLoader[Any], entry: Path
) -> None:
    real = service._store.get_or_compute

    def damaging(*arguments: Any, **options: Any) -> Any:
        service._store.put(entry.stem, EXPECTED)  # by another process
        found = real(*arguments, **options)
        flip(entry)
        return found

    service._store.get_or_compute = damaging  # type: ignore[method-assign]
    with pytest.raises(DamagedEntryError, match=f"{entry} was damaged or gone twice in a row; check the disk"):
        service.get_or_compute(loader, Extractor())


def test_an_attack_is_an_error_and_stays(service: FeatureCacheService, loader: DataLoader[Any], entry: Path) -> None:
    entry.write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    extract = Extractor()
    with pytest.raises(UnsafePickleError, match=f"{entry} asks for posix.system"):
        service.get_or_compute(loader, extract)
    assert entry.exists()
    assert extract.calls == 0
    assert np.array_equal(service.get_or_compute(loader, extract, force_recompute=True), EXPECTED)


def test_what_has_no_key_or_no_folder_says_so(service: FeatureCacheService, tmp_path: Path) -> None:
    with pytest.raises(KeyInputError, match="expected a torch DataLoader, found TensorDataset"):
        service.get_or_compute(TEN, Extractor())  # type: ignore[arg-type]
    with pytest.raises(KeyInputError, match="the extractor suffix must be a string, found NoneType"):
        service.get_or_compute(DataLoader(TEN), Extractor(), None)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot create the cache folder"):
        FeatureCacheService(tmp_path / "file")
