"""The models of the configuration by themselves; what a person reads of them is in test_config_file.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from simet_cache.config import ExtractorConfig, FolderConfig, GlobConfig, RestraintConfig, did_you_mean


def test_what_changes_the_model_is_part_of_a_configurations_identity() -> None:
    """Built models are kept by configuration."""
    assert ExtractorConfig() == ExtractorConfig(name="fid_inception")
    assert hash(ExtractorConfig()) == hash(ExtractorConfig(name="fid_inception"))
    assert ExtractorConfig(weights="random", seed=1) != ExtractorConfig(weights="random", seed=2)
    with pytest.raises(ValidationError, match="frozen"):
        ExtractorConfig().seed = 3  # type: ignore[misc]


def test_only_a_file_is_a_weights_file(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    assert ExtractorConfig().weights_file is None
    assert ExtractorConfig(weights="random").weights_file is None
    assert ExtractorConfig(weights=str(tmp_path / "w.pth")).weights_file == tmp_path / "w.pth"


@pytest.mark.parametrize("layer", [2048, "2048"])
def test_a_layer_may_be_written_as_a_number(layer: object) -> None:
    assert ExtractorConfig(name="fid_inception", layer=layer).layer == "2048"


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_devices(device: str) -> None:
    assert ExtractorConfig(device=device).device == device


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        (None, ["a", "ckpt-1", "CKPT-2"]),
        (["ckpt-*"], ["ckpt-1"]),
        (["a", "*-2"], ["a", "CKPT-2"]),
        (["[!a]*"], ["ckpt-1", "CKPT-2"]),
    ],
)
def test_a_restraint_is_about_all_sets_or_those_that_match(patterns: list[str] | None, meant: list[str]) -> None:
    restraint = RestraintConfig(lower_bound=0, datasets=patterns)
    assert [
        name for name in ("a", "ckpt-1", "CKPT-2") if restraint.applies_to(name, reference="real", extractor=("x",))
    ] == meant


def test_equal_bounds_are_no_contradiction() -> None:
    assert RestraintConfig(lower_bound=1, upper_bound=1).lower_bound == 1


def test_a_pattern_finds_folders_alone_and_sorted(tmp_path: Path) -> None:
    for name in ("b", "a", "c.d"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert [one.name for one in GlobConfig(glob=tmp_path / "*").expand()] == ["a", "b", "c.d", "link"]


def test_a_folder_is_called_by_its_own_name_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert FolderConfig(path=Path()).default_name() == tmp_path.name


@pytest.mark.parametrize(
    ("word", "hint"),
    [("extracter", " Did you mean 'extractor'?"), ("Metric", " Did you mean 'metrics'?"), ("zzz", ""), (3, "")],
)
def test_a_hint_only_where_a_name_is_near(word: object, hint: str) -> None:
    assert did_you_mean(word, ["extractor", "metrics"]) == hint
