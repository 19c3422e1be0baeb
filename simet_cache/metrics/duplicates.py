"""Rows that stand in both sets: a synthetic image that is a real one may have leaked out of the training set."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from simet_cache.metrics.rows import row_digests
from simet_cache.metrics.summaries import Summaries


def leakage(*, real: Summaries, synth: Summaries) -> tuple[str, ...]:
    """A warning that counts the synthetic rows that equal a real one in every number; nothing where none does."""
    dtype = np.result_type(real.features, synth.features)
    known = frozenset(_digests(real, dtype))
    equal = sum(digest in known for digest in _digests(synth, dtype))
    if not equal:
        return ()
    return (f"possible leakage: {equal} of {len(synth)} synthetic rows equal a real one",)


def _digests(rows: Summaries, dtype: DTypeLike) -> tuple[int, ...]:
    """A number of 128 bits for each row, equal for equal rows; computed once for each set and dtype."""
    key = f"{__name__}.digests({np.dtype(dtype).name})"
    if key not in rows.memo:
        rows.memo[key] = tuple(row_digests(rows.features, dtype))
    digests: tuple[int, ...] = rows.memo[key]
    return digests
