"""Rows scaled to length 1, for metrics that look at directions alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from simet_cache.errors import MetricError
from simet_cache.metrics.rows import Features, Floats, blocks


def unit_blocks(features: Features, rows: int | None = None) -> Iterator[Floats]:
    """Yield the rows in order, each scaled to length 1, as float64 blocks of at most ``rows`` rows.

    Raises:
        MetricError: A row is zero: it has no direction.
    """
    done = 0
    for block in blocks(features, rows):
        largest = np.abs(block).max(axis=1, keepdims=True)  # tiny rows would lose their squares to underflow
        if not largest.all():
            raise MetricError(
                f"rows scaled to length 1: expected rows that are not zero, "
                f"found row {done + int(np.argmin(largest))} zero everywhere; leave it out or look at its image"
            )
        scaled = block / largest
        yield scaled / np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
        done += len(block)
