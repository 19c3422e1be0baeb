"""A feature set together with what has already been computed about it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics.device import device_of
from simet_cache.metrics.metric import Labels, Metric, Parameters, Side, Summarised, key_of
from simet_cache.metrics.passes import summaries_of
from simet_cache.metrics.rows import as_array, as_features


class Summaries:
    """Checks one feature set once and computes each of its summaries once.

    Pass it to ``evaluate`` in place of an array to compare one reference with many sets::

        reference = Summaries(real)
        values = [evaluate(real=reference, synth=synth, metrics=["fid"]) for synth in candidates]

    Attributes:
        features: The checked rows, shape (N, D). They must not change afterwards.
        labels: The class of each row, shape (N,), or None.
        device: Where summaries are computed.
        memo: Summaries by ``key_of``; may be filled from elsewhere, and kept elsewhere.
    """

    def __init__(
        self,
        source: object,
        *,
        where: str = "features",
        labels: object = None,
        device: str = "auto",
        memo: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the rows.

        Args:
            source: Array-like of shape (N, D), or an object whose ``load()`` returns one.
            where: What the set is called in error messages.
            labels: Array-like of shape (N,): integers or texts.
            device: ``auto`` (the first GPU, or else the CPU), ``cpu``, ``cuda`` or ``cuda:1`` and so on.
            memo: Summaries of the same rows that are already known.

        Raises:
            MetricError: The rows or the labels cannot be used.
        """
        self.features = as_features(source, where=where)
        self.labels = None if labels is None else _checked(labels, len(self.features), where)
        self.device = device_of(device)
        self.memo: dict[str, Any] = dict(memo or {})

    def __len__(self) -> int:
        """Rows in the set."""
        return len(self.features)

    @property
    def width(self) -> int:
        """Features in a row."""
        return int(self.features.shape[1])

    def prepare(self, requests: Iterable[tuple[Metric, Parameters]]) -> None:
        """Compute those summaries that are missing, as many of them as possible in one pass over the rows."""
        missing = {
            key_of(metric.summarise, parameters): (metric.summarise, parameters)
            for metric, parameters in requests
            if metric.summarise is not None
        }
        missing = {key: wanted for key, wanted in missing.items() if key not in self.memo}
        if missing:
            made = summaries_of(self.features, list(missing.values()), device=self.device)
            self.memo.update(zip(missing, made, strict=True))

    def standing_as(self, side: Side, metric: Metric, parameters: Parameters) -> Summarised[Any]:
        """This set as ``metric.compare`` wants it on one side."""
        summary = None
        if side in metric.sides and metric.summarise is not None:
            self.prepare([(metric, parameters)])
            summary = self.memo[key_of(metric.summarise, parameters)]
        return Summarised(self.features, summary, self.labels, self.device)

    def part(self, rows: NDArray[np.intp] | slice) -> Summaries:
        """Some of the rows, as a set of their own."""
        part = object.__new__(Summaries)  # the rows are checked already
        part.features, part.device, part.memo = self.features[rows], self.device, {}
        part.labels = None if self.labels is None else self.labels[rows]
        return part

    @cached_property
    def classes(self) -> dict[str, NDArray[np.intp]]:
        """The rows of each label, by the label as text, in the labels' own order."""
        if self.labels is None:
            return {}
        return {str(label): np.flatnonzero(self.labels == label) for label in np.unique(self.labels)}


def _checked(labels: object, rows: int, where: str) -> Labels:
    array = as_array(labels, where=f"{where} labels", expected="a row of labels")
    if array.ndim != 1 or len(array) != rows or array.dtype.kind not in "iuU":
        raise MetricError(
            f"{where}: expected {rows} labels, integers or texts, one for each row; "
            f"found shape {array.shape} of dtype {array.dtype}"
        )
    if array.dtype.kind == "U" and isinstance(labels, list | tuple):  # NumPy makes texts of whatever is beside one
        for row, label in enumerate(labels):
            if not isinstance(label, str | int | np.integer) or isinstance(label, bool):
                raise MetricError(f"{where}: expected labels, integers or texts, found {label!r} in row {row}")
    return array
