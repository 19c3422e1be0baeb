"""What metrics are called where people read: in tables, notes, verdicts and artifacts."""

from __future__ import annotations

from simet_cache.extractors import frechet_label


def label_of(metric: str, suffix: str) -> str:
    """Return what a metric on the features of one extractor is called.

    Args:
        metric: Its name in ``METRICS``, by which configurations and files know it.
        suffix: The extractor's, with or without what a dataset adds to it.
    """
    return frechet_label(suffix) if metric == "fid" else metric
