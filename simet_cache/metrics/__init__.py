"""Metrics between a real and a synthetic feature set: a table of pure functions over arrays.

::

    evaluate(real=real, synth=synth, metrics=["fid", "precision"])["fid"].value
    evaluate(real=real, synth=synth, metrics={"precision": {"k": 5}}, intervals={"level": 0.95})
"""

from simet_cache.metrics.evaluate import difference, evaluate, evaluate_each, resolve
from simet_cache.metrics.intervals import Difference, Intervals, difference_of
from simet_cache.metrics.metric import Copies, Interval, Metric, MetricValue, Outcome, Summarised
from simet_cache.metrics.ranking import Ranking, rank, ranked, ranking_of
from simet_cache.metrics.summaries import Summaries
from simet_cache.metrics.table import METRICS

__all__ = [
    "METRICS",
    "Copies",
    "Difference",
    "Interval",
    "Intervals",
    "Metric",
    "MetricValue",
    "Outcome",
    "Ranking",
    "Summaries",
    "Summarised",
    "difference",
    "difference_of",
    "evaluate",
    "evaluate_each",
    "rank",
    "ranked",
    "ranking_of",
    "resolve",
]
