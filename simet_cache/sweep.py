"""A sweep before it runs: which feature sets are there, what the others cost, and what is to be compared.

Only what is small is kept of each set: a sweep may have thousands, whose file lists do not fit into memory together.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from simet_cache.atomic import size
from simet_cache.comparisons import Comparison, Rows, counts
from simet_cache.config import EvaluationConfig, ExtractorConfig
from simet_cache.config.patterns import Beside
from simet_cache.datasets import bit_depth
from simet_cache.datasets.bit_depth import BitDepth
from simet_cache.datasets.passed_over import PassedOver, in_one_line
from simet_cache.datasets.survey import Survey
from simet_cache.derived import Derived
from simet_cache.errors import ImageReadError, SimetCacheError, StoreError, WeightsError
from simet_cache.extractors import make_extractor
from simet_cache.featureset import FeatureSet
from simet_cache.key import resolve_subset
from simet_cache.plan import Planned, bad_headers, cannot_read, plan
from simet_cache.prune import duration
from simet_cache.skipped import SkippedImage
from simet_cache.store import FeatureStore
from simet_cache.upkeep import mapping

_FLOAT32 = 4  # bytes
_ASKED_MANIFESTS = 500  # at most, where this sweep's own do not tell how fast an extractor is
_SHOWN = 10

STATUSES = {"hit": "cached", "miss": "missing", "stale": "stale", "damaged": "damaged", "error": "cannot be used"}


@dataclass(frozen=True, eq=False)
class PlannedSet:
    """One dataset with one extractor, as it was found before the work.

    Attributes:
        one: The dataset's configuration.
        extractor: The extractor's.
        suffix: Of the extractor, and of the dataset where its root does not tell it from others.
        status: ``hit``, ``miss``, ``stale``, ``damaged``, or ``error`` where nothing can be extracted.
        key: The documented md5; empty where there is none.
        images: How many, without those that are known to be bad and are to be skipped.
        reason: Why it is no hit.
        features: The handle on its features, where they are there and will be used.
        passed_over: What lies in its folder and does not count as an image.
        bad_images: Those whose headers tell that they cannot be read, where that is looked for.
        looks: What its files look like, where it is a folder.
        bit_depth: How its images of more than 8 bits for each pixel are read, where there are any.
    """

    one: Any
    extractor: ExtractorConfig
    suffix: str
    status: str
    key: str = ""
    images: int = 0
    reason: str = ""
    features: FeatureSet | None = None
    passed_over: tuple[PassedOver, ...] = ()
    bad_images: tuple[SkippedImage, ...] = ()
    looks: Survey | None = None
    bit_depth: BitDepth | None = None

    @property
    def name(self) -> str:
        """The dataset's."""
        return str(self.one.name)


@dataclass(frozen=True, eq=False)
class Pairing:
    """All that is compared with one reference on the features of one extractor.

    Attributes:
        reference: The real set.
        datasets: Each other set with the metrics that it is measured by.
    """

    reference: PlannedSet
    datasets: tuple[tuple[PlannedSet, Mapping[str, Mapping[str, Any]]], ...]


@dataclass(frozen=True)
class Cost:
    """What is to be extracted with one extractor, as far as it can be told before.

    Attributes:
        extractor: Its suffix.
        images: How many.
        speed: Images per second, as measured in earlier runs; None where there were none.
        bytes: What the features take; None where nobody knows how wide they are.
    """

    extractor: str
    images: int
    speed: float | None
    bytes: int | None

    @property
    def seconds(self) -> float | None:
        """How long it takes on one device."""
        return self.images / self.speed if self.speed else None

    def __str__(self) -> str:
        words = [f"to extract with {self.extractor}: {self.images:,} images"]
        if self.seconds is None:
            words.append("how long that takes is known once some are extracted")
        else:
            words.append(f"about {duration(self.seconds)} at {self.speed:,.0f} images/s")
        if self.bytes is not None:
            words.append(f"{size(self.bytes)} on the disk")
        return ", ".join(words)


@dataclass(frozen=True)
class Sweep:
    """What a configuration asks for, and what of it is there.

    Attributes:
        sets: Every feature set once for each role that it plays: references first, by extractor.
        pairings: What is to be compared with what.
        costs: Of what is to be extracted, by extractor.
        kept: ``values``: how many metrics of pairs of sets are known, and how many are asked for; ``summaries``: how
            many of those that the others need of features which are there.
        free: Bytes that are free where the features go; None where nobody can tell.
        beside_globs: What globs passed over.
    """

    sets: tuple[PlannedSet, ...]
    pairings: tuple[Pairing, ...]
    costs: tuple[Cost, ...]
    kept: Mapping[str, tuple[int, int]]
    free: int | None
    beside_globs: tuple[Beside, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether all sets have features or can be extracted, as far as is known."""
        return all(one.status != "error" for one in self.sets)

    @property
    def statuses(self) -> Counter[str]:
        """How many feature sets there are of each status; equal ones count once."""
        return Counter({one.key or id(one): one.status for one in self.sets}.values())

    def lines(self) -> Iterator[str]:
        """For a person."""
        found = self.statuses
        numbers = ", ".join(f"{found[status]} {words}" for status, words in STATUSES.items() if found[status])
        yield f"plan: {sum(found.values()):,} feature sets: {numbers}"
        yield from (f"  {cost}" for cost in self.costs)
        needed = sum(cost.bytes or 0 for cost in self.costs)
        if self.free is not None and needed > self.free:
            yield f"  that is more than the {size(self.free)} that are free there; make room, or expect to fail"
        for what, (there, wanted) in self.kept.items():
            if wanted:
                yield f"  {what}: {there:,} of {wanted:,} cached"
        if passed_over := self.passed_over():
            yield f"  {passed_over}"
        if bit_depths := bit_depth.in_one_line((one.name, one.bit_depth) for one in self.sets):
            yield f"  {bit_depths}"
        others = [one for status in ("error", "stale", "damaged") for one in self.sets if one.status == status]
        yield from (f"  {one.name} ({one.suffix}): {one.reason}" for one in others[:_SHOWN])
        if len(others) > _SHOWN:
            yield f"  and {len(others) - _SHOWN} more like that"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "feature_sets": dict(self.statuses),
            "to_extract": [
                {"extractor": c.extractor, "images": c.images, "seconds": c.seconds, "bytes": c.bytes}
                for c in self.costs
            ],
            **{what: {"cached": there, "needed": wanted} for what, (there, wanted) in self.kept.items()},
            "beside_globs": [{"glob": one.glob, "paths": list(one.paths)} for one in self.beside_globs],
        }

    def passed_over(self) -> str:
        """What does not count, in one line; nothing where everything does."""
        of_sets = ((one.name, one.passed_over) for one in self.sets)
        return in_one_line(of_sets, ((one.glob, one.paths) for one in self.beside_globs))


def plan_sweep(config: EvaluationConfig, store: FeatureStore) -> Sweep:
    """Look at every feature set of a configuration; nothing is extracted or changed.

    Datasets that the configuration makes or downloads, like its digits, are made where they are missing.
    """
    sets: list[PlannedSet] = []
    pairings: list[Pairing] = []
    checked: _Checked = {}
    for _, found in groupby(config.comparisons(), key=lambda one: id(one.extractor)):
        wanted = list(found)
        extractor = wanted[0].extractor
        # each set once for each role, and none that takes part in no comparison
        references = {id(one.reference): one.reference for one in wanted}
        datasets = {id(one.dataset): one.dataset for one in wanted}
        looked = {
            i: _looked_at(one, extractor, config, store, checked) for i, one in {**references, **datasets}.items()
        }
        sets += looked.values()
        pairings += [
            Pairing(
                looked[i], tuple((looked[id(one.dataset)], one.metrics) for one in wanted if id(one.reference) == i)
            )
            for i in references
        ]
    return Sweep(
        tuple(sets),
        tuple(pairings),
        tuple(_costs(sets, store)),
        _kept(pairings, config, store),
        _free(store),
        config.beside_globs,
    )


def require_as_before(one: PlannedSet, planned: Planned) -> None:
    """See that a set, planned once more, is on the features of the extractor that the sweep was planned with.

    Raises:
        WeightsError: Its file of weights has been replaced meanwhile: other sets of this sweep are on the old features.
    """
    if planned.suffix != one.suffix:
        raise WeightsError(
            f"the weights of {one.extractor.name} were replaced during this run: expected features {one.suffix} of"
            f" {one.name}, found {planned.suffix}, which are not compared with the others; nothing is stored. Run"
            " again, and give each checkpoint a file of its own"
        )


_Checked = dict[tuple[Any, ...], list[ImageReadError]]  # of the same images for another extractor


def _looked_at(
    one: Any, extractor: ExtractorConfig, config: EvaluationConfig, store: FeatureStore, checked: _Checked
) -> PlannedSet:
    suffix = ""
    try:
        suffix = make_extractor(extractor).suffix
        planned = plan(one, extractor, config, store)
        images = len(planned.dataset)
        seen = store.look(planned.key, rows=images, source=planned.source)
    except SimetCacheError as error:
        return PlannedSet(one, extractor, suffix, "error", reason=str(error))
    passed_over = getattr(resolve_subset(planned.dataset)[0], "passed_over", ())
    features = seen.features
    status: str = seen.status
    if status == "stale" and config.on_stale == "reuse" and _has_rows(features, images):
        status = "hit"
    if config.force_recompute:
        status = "miss"
    reason = seen.reason if status != "hit" else ""
    bad = _bad_images(planned, status, config, checked)
    if bad:
        status, reason = "error", cannot_read(bad, total=images)
    elif status == "stale" and config.on_stale == "error" and not config.remote and _has_rows(features, images):
        status, reason = "error", f"{reason}. Make them again with on_stale: recompute, or keep them with reuse"
    return PlannedSet(
        one,
        extractor,
        planned.suffix,
        status,
        planned.key,
        images,
        reason,
        features if status == "hit" else None,
        passed_over,
        tuple(SkippedImage(error.path, error.reason) for error in bad),
        planned.looks,
        planned.bit_depth,
    )


def _has_rows(features: FeatureSet | None, number: int) -> bool:
    return features is not None and features.shape[0] == number


def _bad_images(planned: Planned, status: str, config: EvaluationConfig, checked: _Checked) -> list[ImageReadError]:
    """What would stop the extraction of a set, as far as headers tell; nothing where none is to come."""
    if status == "hit" or config.on_bad_image != "stop" or (status == "stale" and config.on_stale == "error"):
        return []
    components, fingerprint = planned.source.components, planned.source.fingerprint
    images = (components["dataset"], components["subset"], fingerprint.stat)
    if images not in checked:
        checked[images] = bad_headers(planned.dataset)
    return checked[images]


def _costs(sets: Iterable[PlannedSet], store: FeatureStore) -> Iterator[Cost]:
    by_extractor: dict[str, list[PlannedSet]] = {}
    for one in {each.key: each for each in sets if each.key}.values():  # equal ones are extracted once
        by_extractor.setdefault(one.suffix.partition("@")[0], []).append(one)
    for suffix, found in by_extractor.items():
        missing = [one for one in found if one.status not in ("hit", "error")]
        if missing:
            speed, width = _experience(suffix, [one.key for one in found if one.status == "hit"], store)
            images = sum(one.images for one in missing)
            yield Cost(suffix, images, speed, images * width * _FLOAT32 if width else None)


def _experience(suffix: str, hits: list[str], store: FeatureStore) -> tuple[float | None, int | None]:
    """How fast an extractor was, and how wide its features are."""
    speeds: list[float] = []
    width: int | None = None
    others = [] if hits else store.keys()
    for key in (hits or others)[:_ASKED_MANIFESTS]:
        with suppress(StoreError, KeyError, TypeError, ValueError):  # of others, too: it is no reason to fail
            entry = store.manifest(key)
            if str(mapping(entry, "components").get("suffix")).partition("@")[0] == suffix:
                width = int(mapping(entry, "features")["shape"][1])
                speeds.append(float(entry["images_per_second"]))
    return (median(speeds) if speeds else None), width


def _kept(pairings: Iterable[Pairing], config: EvaluationConfig, store: FeatureStore) -> dict[str, tuple[int, int]]:
    """How much of what comes after the features is there. What depends on labels is not known before these are read."""
    total = 0
    askable: list[Comparison] = []
    for pairing in pairings:
        real = pairing.reference
        for one, metrics in pairing.datasets:
            total += len(metrics)
            if real.features and one.features and not config.wants_labels(metrics):
                rows = Rows(real.name, real.features), Rows(one.name, one.features)
                askable.append(Comparison(*rows, metrics, config.intervals.asked() if config.intervals else None))
    found = counts(Derived(store.cache_dir), askable)
    return {"values": (found.values_there, total), "summaries": (found.summaries_there, found.summaries)}


def _free(store: FeatureStore) -> int | None:
    try:
        return shutil.disk_usage(store.cache_dir).free
    except OSError:
        return None
