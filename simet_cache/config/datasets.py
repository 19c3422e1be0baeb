"""The kinds of datasets that a configuration can name."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from simet_cache.config import patterns
from simet_cache.config.model import Model, Problem, Whole, did_you_mean, raise_problems
from simet_cache.datasets import torchvision_sets
from simet_cache.datasets.digits import PARTS
from simet_cache.datasets.folder import has_images
from simet_cache.errors import DatasetError


class SubsetConfig(Model):
    """So many images, drawn by a seed: always the same ones."""

    size: Whole = Field(ge=1)
    seed: Whole = 0


class DatasetConfig(Model):
    """What all kinds have: a name, images that are drawn from all, and the step of the training that made them."""

    name: str = ""
    step: Whole | None = Field(default=None, ge=0)
    subset: SubsetConfig | None = None


class FolderConfig(DatasetConfig):
    """A folder of images, searched recursively; with ``classes`` its first level of folders are labels."""

    path: Path
    classes: bool = False

    @field_validator("path")
    @classmethod
    def _exists(cls, path: Path) -> Path:
        if os.path.isdir(path):
            return path
        if os.path.exists(path):
            raise ValueError(f"expected a folder of images, found a file: {path}")
        if patterns.STEP in path.name or glob.has_magic(path.name):
            raise ValueError(f"no such folder: {path}. Patterns stand under 'glob'")
        siblings = os.listdir(path.parent) if os.access(path.parent, os.R_OK | os.X_OK) else []
        hint = did_you_mean(path.name, [name for name in siblings if os.path.isdir(path.parent / name)])
        raise ValueError(f"no such folder: {path}{hint and '.' + hint}")

    def default_name(self) -> str:
        """The folder's name; a link's own, as in ``latest``, and not that of what it leads to."""
        return self.path.resolve().name if self.path.name in ("", "..") else self.path.name


class GlobConfig(DatasetConfig):
    """Many folders at once, each a dataset named after the part of its path that the pattern left open.

    ``runs/*/samples`` finds ``runs/a/samples`` and calls it ``a``. ``{step}`` stands for digits, which become the step:
    ``runs/checkpoint-{step}/samples`` finds ``checkpoint-1000`` of step 1000.
    """

    glob: Path
    classes: bool = False

    @field_validator("glob")
    @classmethod
    def _matches(cls, pattern: Path) -> Path:
        if (times := str(pattern).count(patterns.STEP)) > 1:
            raise ValueError(f"expected {{step}} once, found it {times} times in {pattern}")
        if not patterns.find(pattern):
            raise ValueError(f"no folder matches {pattern}")
        return pattern

    @model_validator(mode="after")
    def _finds_them_itself(self) -> GlobConfig:
        if self.name:
            raise ValueError("a glob names its datasets itself; leave out 'name'")
        if self.step is not None:
            raise ValueError("a glob finds the steps itself; write {step} in the pattern in place of 'step'")
        return self

    def expand(self) -> list[FolderConfig]:
        """One dataset for each folder that matches, sorted by path and step."""
        return [
            FolderConfig(name=one.name, step=one.step, path=one.path, subset=self.subset, classes=self.classes)
            for one in patterns.find(self.glob)
        ]


class TorchvisionConfig(DatasetConfig):
    """One of torchvision's own datasets, downloaded when it is not under ``root`` yet."""

    torchvision: str
    root: Path
    split: str | None = None

    @field_validator("torchvision")
    @classmethod
    def _known(cls, name: str) -> str:
        known = torchvision_sets.names()
        if name not in known:
            raise ValueError(f"torchvision has no dataset {name!r}.{did_you_mean(name, known)}")
        return name

    @model_validator(mode="after")
    def _takes_split(self) -> TorchvisionConfig:
        problem = torchvision_sets.split_problem(self.torchvision, self.split)
        raise_problems([(("split",), problem)] if problem else [])
        return self

    def default_name(self) -> str:
        """Like ``CIFAR10-test``."""
        return f"{self.torchvision}-{self.split}" if self.split else self.torchvision


class DigitsConfig(DatasetConfig):
    """A part of scikit-learn's handwritten digits, written once as a folder of PNG images."""

    digits: str
    seed: Whole = Field(default=0, ge=0)

    @field_validator("digits")
    @classmethod
    def _known(cls, part: str) -> str:
        if part not in PARTS:
            raise ValueError(f"digits has no part {part!r}; it has {', '.join(PARTS)}.{did_you_mean(part, PARTS)}")
        return part

    def default_name(self) -> str:
        """The part's own name."""
        return self.digits


KINDS: dict[str, type[DatasetConfig]] = {
    "path": FolderConfig,
    "glob": GlobConfig,
    "torchvision": TorchvisionConfig,
    "digits": DigitsConfig,
}


def _kind(value: Any) -> str | None:
    for kind, model in KINDS.items():
        if isinstance(value, model) or (isinstance(value, dict) and kind in value):
            return kind
    return None


def _one_of(*kinds: str) -> Discriminator:
    return Discriminator(
        _kind,
        custom_error_type="dataset_kind",
        custom_error_message=f"expected a mapping with one of the keys {', '.join(kinds)}",
    )


Dataset = Annotated[
    Annotated[FolderConfig, Tag("path")]
    | Annotated[TorchvisionConfig, Tag("torchvision")]
    | Annotated[DigitsConfig, Tag("digits")],
    _one_of("path", "torchvision", "digits"),
]
Datasets = Annotated[
    Annotated[FolderConfig, Tag("path")]
    | Annotated[GlobConfig, Tag("glob")]
    | Annotated[TorchvisionConfig, Tag("torchvision")]
    | Annotated[DigitsConfig, Tag("digits")],
    _one_of("path", "glob", "torchvision", "digits"),
]


def named(dataset: Any) -> Any:
    """The dataset with a name: its own, or what it is of."""
    return dataset if dataset.name else dataset.model_copy(update={"name": dataset.default_name()})


def expanded(entries: Sequence[Any], what: str) -> list[tuple[int, Any]]:
    """The datasets of a list as it is written: which entry each is of, and its configuration, globs found, all named.

    Raises:
        PydanticCustomError: Two have the same name.
    """
    found: list[tuple[int, Any]] = []
    names: set[str] = set()
    problems: list[Problem] = []
    for number, entry in enumerate(entries):
        for one in map(named, entry.expand() if isinstance(entry, GlobConfig) else [entry]):
            if one.name in names:
                problems.append(((number,), f"two {what} are called {one.name!r}; give them a 'name' each"))
            names.add(one.name)
            found.append((number, one))
    raise_problems(problems)
    return found


def without_images(reference: Any) -> Iterator[Problem]:
    """Without images in a reference nothing can be measured; an empty dataset fails alone, later."""
    if isinstance(reference, FolderConfig):
        try:
            if not has_images(reference.path):
                yield ("path",), f"no image in {reference.path}"
        except DatasetError as error:
            yield ("path",), str(error)
