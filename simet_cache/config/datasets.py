"""The kinds of datasets that a configuration can name."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from simet_cache.config import patterns
from simet_cache.config.model import Model, Problem, Whole, did_you_mean, raise_problems
from simet_cache.datasets import torchvision_sets
from simet_cache.datasets.digits import PARTS
from simet_cache.datasets.folder import has_images
from simet_cache.errors import DatasetError

# How many bits count of images that are stored with more than 8 for each pixel: see datasets/bit_depth.py.
BitDepths = Literal["auto", 8, 12, 16]


class SubsetConfig(Model):
    """So many images, drawn by a seed: always the same ones."""

    size: Whole = Field(ge=1)
    seed: Whole = 0


class DatasetConfig(Model):
    """What all kinds have: a name, images that are drawn from all, and the step of the training that made them.

    ``parts`` are other things to tell datasets by, like the name of the run: each is a column of the results.
    """

    name: str = ""
    step: Whole | None = Field(default=None, ge=0)
    parts: dict[str, str] = Field(default={})
    subset: SubsetConfig | None = None

    @field_validator("parts")
    @classmethod
    def _are_columns(cls, parts: dict[str, str]) -> dict[str, str]:
        raise_problems(((name,), sentence) for name in parts if (sentence := _no_part(name)))
        return parts


class FolderConfig(DatasetConfig):
    """A folder of images, searched recursively; with ``classes`` its first level of folders are labels."""

    path: Path
    classes: bool = False
    bit_depth: BitDepths = "auto"

    @field_validator("path")
    @classmethod
    def _exists(cls, path: Path) -> Path:
        if os.path.isdir(path):
            return path
        if os.path.exists(path):
            raise ValueError(f"expected a folder of images, found a file: {path}")
        if patterns.wildcards(Path(path.name)) or glob.has_magic(path.name):
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
    ``runs/checkpoint-{step}/samples`` finds ``checkpoint-1000`` of step 1000. Any other name in braces stands for text,
    which becomes one of the ``parts``: ``{run}/checkpoint-{step}/samples`` has a column for the run.
    """

    glob: Path
    classes: bool = False
    bit_depth: BitDepths = "auto"

    @field_validator("glob")
    @classmethod
    def _matches(cls, pattern: Path) -> Path:
        for name, times in Counter(patterns.wildcards(pattern)).items():
            if times > 1:
                raise ValueError(f"expected {{{name}}} once, found it {times} times in {pattern}")
            if problem := _no_column(name):
                raise ValueError(problem)
        if not patterns.find(pattern):
            braces = patterns.other_braces(pattern)
            hint = braces and f". {braces} is no wildcard: a name in braces has letters, digits and _, like {{run}}"
            raise ValueError(f"no folder matches {pattern}{hint}")
        return pattern

    @model_validator(mode="after")
    def _finds_them_itself(self) -> GlobConfig:
        if self.name:
            raise ValueError("a glob names its datasets itself; leave out 'name'")
        if self.step is not None:
            raise ValueError("a glob finds the steps itself; write {step} in the pattern in place of 'step'")
        if self.parts:
            raise ValueError("a glob finds the parts itself; write their names in braces in the pattern, like {run}")
        return self

    def expand(self) -> list[FolderConfig]:
        """One dataset for each folder that matches, sorted by path and step."""
        return [self.folder(one, name=one.name) for one in patterns.find(self.glob)]

    def folder(self, found: patterns.Found, *, name: str = "") -> FolderConfig:
        """The dataset of one folder that matches."""
        of_all = {"subset": self.subset, "classes": self.classes, "bit_depth": self.bit_depth}
        return FolderConfig(name=name, step=found.step, parts=dict(found.parts), path=found.path, **of_all)


def _no_part(name: str) -> str | None:
    """Why no part can be called so in a configuration; None where it can."""
    return "the step has a key of its own, beside 'parts'" if name == "step" else _no_column(name)


def _no_column(name: str) -> str | None:
    """Why no part can be called so; None where it can."""
    if name in patterns.RESERVED:
        return f"results have a column {name!r} already; choose another name"
    return None if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) else f"expected a name like run, found {name!r}"


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

    A folder without a name of its own is called after its last component or after what a glob left open; where that
    does not tell it from others, after as few components of its path as do.

    Raises:
        PydanticCustomError: Two have the same name.
    """
    found: list[_Nameless] = []
    for number, entry in enumerate(entries):
        if isinstance(entry, GlobConfig):
            found += [_Nameless(number, entry.folder(match), match) for match in patterns.find(entry.glob)]
        else:
            found.append(_Nameless(number, entry))
    names = _told_apart(found)
    problems: list[Problem] = []
    first: dict[str, Any] = {}
    for one, name in zip(found, names, strict=True):
        if name in first:
            folder = _folder(one.config)
            same = folder is not None and folder == _folder(first[name])
            both = f", both of {folder}; leave one out, or" if same else ";"
            problems.append(((one.number,), f"two {what} are called {name!r}{both} give them a 'name' each"))
        first.setdefault(name, one.config)
    raise_problems(problems)
    return [
        (one.number, one.config if one.config.name else one.config.model_copy(update={"name": name}))
        for one, name in zip(found, names, strict=True)
    ]


@dataclass(frozen=True)
class _Nameless:
    """A dataset that may have no name yet: of which entry it is, and how a glob found it."""

    number: int
    config: Any
    match: patterns.Found | None = None

    @property
    def name(self) -> str:
        """As long as it is the only one of that name."""
        return str(self.config.name or (self.match.name if self.match else self.config.default_name()))


def _told_apart(found: Sequence[_Nameless]) -> list[str]:
    """A name for each; equal ones only where nothing in the paths tells them apart."""
    names = [one.name for one in found]
    nameless = {place: path for place, one in enumerate(found) if not one.config.name and (path := _folder(one.config))}
    alike: dict[str, set[str]] = defaultdict(set)
    for place, path in nameless.items():
        alike[names[place]].add(path)
    clashing = {place: path for place, path in nameless.items() if len(alike[names[place]]) > 1}
    taken = {name for place, name in enumerate(names) if place not in clashing}
    # components that end all of the paths tell nothing, but a glob has said which ones matter
    components = {place: Path(path).parts[1:] for place, path in clashing.items()}
    globs = any(found[place].match for place in clashing)
    end = 0 if globs else _equal_at_the_end({*components.values()})
    for more in range(max(map(len, components.values()), default=0)):
        longer = {
            place: match.longer_name(more) if (match := found[place].match) else _last(path, more + 1, before=end)
            for place, path in components.items()
        }
        if len({*longer.values()}) == len({*clashing.values()}) and taken.isdisjoint(longer.values()):
            return [longer.get(place, name) for place, name in enumerate(names)]
    return names


def _last(components: tuple[str, ...], number: int, *, before: int) -> str:
    """So many components, the last one being that before so many others, joined by ``_``."""
    return "_".join(components[: len(components) - before][-number:])


def _equal_at_the_end(paths: Collection[tuple[str, ...]]) -> int:
    """How many components all paths have in common at their end; one is left of the shortest."""
    common = 0
    for components in zip(*(path[:0:-1] for path in paths), strict=False):
        if len({*components}) > 1:
            break
        common += 1
    return common


def _folder(config: Any) -> str | None:
    return os.path.abspath(config.path) if isinstance(config, FolderConfig) else None


def without_images(reference: Any) -> Iterator[Problem]:
    """Without images in a reference nothing can be measured; an empty dataset fails alone, later."""
    if isinstance(reference, FolderConfig):
        try:
            if not has_images(reference.path):
                yield ("path",), f"no image in {reference.path}"
        except DatasetError as error:
            yield ("path",), str(error)
