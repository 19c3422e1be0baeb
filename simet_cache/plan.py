"""What an evaluation needs of the cache: for each dataset its key, and what its features would be made from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simet_cache.config import EvaluationConfig, ExtractorConfig
from simet_cache.datasets import open_dataset
from simet_cache.datasets.bit_depth import DEPTHS, BitDepth
from simet_cache.datasets.folder import FolderDataset
from simet_cache.datasets.labels import labels_of
from simet_cache.datasets.survey import Survey
from simet_cache.errors import FeaturesError, ImageReadError
from simet_cache.extractors import make_extractor
from simet_cache.featureset import FeatureSet
from simet_cache.fingerprint import fingerprint
from simet_cache.key import feature_key, resolve_subset
from simet_cache.manifest import Source
from simet_cache.skipped import SkippedImage, without_skipped
from simet_cache.sources import source_of
from simet_cache.store import FeatureStore
from simet_cache.surveys import survey_of

_NAMED_IMAGES = 10  # in one sentence


@dataclass(frozen=True)
class Planned:
    """The features of one dataset, before anybody has looked for them.

    Attributes:
        name: The dataset's.
        dataset: Opened, without the images that are known to be bad where these are to be skipped.
        suffix: In the key: of the extractor, and of the dataset where its root does not tell it from others.
        key: The documented md5.
        source: What the features would be made from.
        skipped: The images that are left out.
        looks: What its files look like, where it is a folder.
        bit_depth: How its images of more than 8 bits for each pixel are read, where there are any.
    """

    name: str
    dataset: Any
    suffix: str
    key: str
    source: Source
    skipped: tuple[SkippedImage, ...] = ()
    looks: Survey | None = None
    bit_depth: BitDepth | None = None


def store_of(config: EvaluationConfig) -> FeatureStore:
    """The cache of an evaluation.

    Raises:
        StoreError: Its folder cannot be created.
    """
    return FeatureStore(
        config.cache_dir,
        on_stale=config.on_stale,
        verify=config.verify,
        fingerprint=config.fingerprint,
        remote=config.remote,
    )


class _Onlooker(FeatureStore):
    """Finds as the store does, and leaves everything as it is: no touch, no adoption, no quarantine."""

    def find(self, key: str, *, rows: int | None = None, source: Source | None = None) -> FeatureSet | None:
        seen = self.look(key, rows=rows, source=source)
        other_rows = seen.features and rows not in (None, seen.features.shape[0])
        if seen.status == "stale" and (self.on_stale != "reuse" or other_rows):
            return None
        return seen.features


@contextmanager
def onlooker(config: EvaluationConfig) -> Iterator[FeatureStore]:
    """The cache of an evaluation to be looked at; where it is missing it is not made, but an empty folder elsewhere."""
    if config.cache_dir.is_dir():
        yield _Onlooker(config.cache_dir, on_stale=config.on_stale, verify=config.verify)
    else:
        with tempfile.TemporaryDirectory() as empty:
            yield _Onlooker(empty, on_stale=config.on_stale, verify=config.verify)


def plan(one: Any, extractor: ExtractorConfig, config: EvaluationConfig, store: FeatureStore) -> Planned:
    """Open one configured dataset, and take its key and its fingerprint.

    Args:
        one: The dataset's configuration.
        extractor: One of the evaluation's.
        config: The evaluation that both are part of.
        store: Its cache.

    Raises:
        DatasetError: It cannot be opened.
        WeightsError: The extractor's weights cannot be read.
        KeyInputError: It has no key.
    """
    made_by, batch_size = make_extractor(extractor), extractor.batch_size
    home = config.cache_dir.parent / "datasets"
    opened = open_dataset(one, transform=made_by.transform, home=home, max_pixels=config.max_pixels)
    dataset, suffix = opened.dataset, made_by.suffix + opened.suffix
    content = config.fingerprint == "content"
    source = source_of(
        dataset, suffix=suffix, batch_size=batch_size, name=one.name, extractor=made_by.identity, content=content
    )
    looks = _looks(dataset, source, store)
    depth = _settled_depth(dataset, looks, one)
    if depth is not None and depth.suffix:
        suffix += depth.suffix
        source = replace(source, components={**source.components, "suffix": suffix})
    skipped: list[SkippedImage] = []
    if config.on_bad_image == "skip" and not config.force_recompute:
        key = feature_key(dataset, suffix=suffix, batch_size=batch_size)
        dataset, source, skipped = without_skipped(store, key, dataset, source)
    key = feature_key(dataset, suffix=suffix, batch_size=batch_size)
    return Planned(one.name, dataset, suffix, key, source, tuple(skipped), looks, depth)


def _looks(dataset: Any, source: Source, store: FeatureStore) -> Survey | None:
    """What the files of a folder, or of some of its images, look like; nothing is known of other datasets."""
    base, indices = resolve_subset(dataset)
    if not isinstance(base, FolderDataset):
        return None
    chosen = range(len(base)) if indices is None else sorted(indices)
    return survey_of(
        source,
        store.cache_dir,
        lambda: base.survey(chosen),
        max_pixels=base.max_pixels,
        same=lambda: fingerprint(dataset).stat == source.fingerprint.stat,
        keep=not isinstance(store, _Onlooker),
    )


def _settled_depth(dataset: Any, looks: Survey | None, one: Any) -> BitDepth | None:
    """How deep images are read, from now on; in a set without any, those that come meanwhile may have 8 bits alone.

    Raises:
        DatasetError: Nobody said it, and their largest value leaves it open.
    """
    base, _ = resolve_subset(dataset)
    if looks is None:
        return None
    depth = looks.bit_depth(getattr(one, "bit_depth", "auto"), name=one.name)
    base.bit_depth = depth.bits if depth else min(DEPTHS)
    return depth


def bad_headers(dataset: Any) -> list[ImageReadError]:
    """The images of a folder, or of some of its images, whose headers tell that they cannot be read.

    Nothing is known of datasets that are no folders of ours.
    """
    base, indices = resolve_subset(dataset)
    if not isinstance(base, FolderDataset):
        return []
    return base.bad_headers(range(len(base)) if indices is None else sorted(indices))


def cannot_read(errors: Sequence[ImageReadError], *, total: int) -> str:
    """One sentence for some images of a dataset that cannot be read."""
    if len(errors) == 1:
        return str(errors[0])
    named = "; ".join(f"{error.path}: {error.reason}" for error in errors[:_NAMED_IMAGES])
    more = len(errors) - _NAMED_IMAGES
    rest = f"; and {more} more, which results.json lists" if more > 0 else ""
    return f"cannot read images: {len(errors)} of {total} are bad: {named}{rest}"


def labels_for(
    features: FeatureSet, one: Any, extractor: ExtractorConfig, config: EvaluationConfig, store: FeatureStore
) -> NDArray[np.str_]:
    """The class of each row of a configured dataset's features, shape (N,).

    Raises:
        DatasetError: The dataset knows no classes.
        FeaturesError: The rows are not known to be in the order of the images, or are those of other images.
    """
    features.require_dataset_order()
    # once more: images that turned out to be bad are left out by now, also where all were to be extracted again
    planned = plan(one, extractor, config.model_copy(update={"force_recompute": False}), store)
    if config.on_stale != "reuse" and store.look(features.key, source=planned.source).status == "stale":
        raise FeaturesError(
            f"{planned.name}: the images have changed since their features were made, so that their labels may be those"
            " of others; run again when nothing writes to them any more"
        )
    labels = labels_of(planned.dataset, name=planned.name)
    if len(labels) != features.shape[0]:
        raise FeaturesError(
            f"{planned.name}: expected a label for each of {features.shape[0]} rows, found {len(labels)};"
            " the dataset has changed during this run, run again"
        )
    return labels
