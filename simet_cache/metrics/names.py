"""Names of metrics as people write them: ``FID`` means ``fid``, and ``FD-infinity`` means ``fd_infinity``."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable

from simet_cache.metrics.table import METRICS


def metric_name(written: str) -> str:
    """Return the name in ``METRICS`` that is meant; what was written where it means none of them, or several.

    Case, hyphens, underscores and spaces do not matter.
    """
    if written in METRICS:
        return written
    meant = [name for name in METRICS if _letters(name) == _letters(written)]
    return meant[0] if len(meant) == 1 else written


def metric_pattern(written: str) -> str:
    """Return a pattern of metric names in the table's spelling: ``FD-*`` means ``fd_*``."""
    if not glob.has_magic(written):
        return metric_name(written)
    return re.sub(r"\[[^]]*\]|-", lambda part: "_" if part[0] == "-" else part[0], written.lower())


def key_of_metric(keys: Iterable[str], metric: str) -> str:
    """Return the one of these keys that means a metric; the metric as it is where none does."""
    return next((key for key in keys if metric_name(key) == metric_name(metric)), metric)


def _letters(name: object) -> str:
    return re.sub(r"[-_\s]", "", str(name).casefold())
