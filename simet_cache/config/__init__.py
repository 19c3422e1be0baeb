"""The configuration of an evaluation: what the YAML may say, with every default.

Each part has a file: datasets and the patterns that find them, the extractor, what is excluded, the smaller parts, and
the whole, with the checks of whether its parts fit together. ``written`` and ``messages`` are for ``config_file``,
which makes one of a file, and a line with its place of every problem.
"""

from simet_cache.config.datasets import (
    KINDS,
    DatasetConfig,
    DigitsConfig,
    FolderConfig,
    GlobConfig,
    SubsetConfig,
    TorchvisionConfig,
)
from simet_cache.config.evaluation import Comparison, EvaluationConfig
from simet_cache.config.exclude import ExcludeConfig
from simet_cache.config.extractor import ExtractorConfig
from simet_cache.config.model import did_you_mean
from simet_cache.config.parts import IntervalsConfig, RestraintConfig, TaskRunnerConfig

__all__ = [
    "KINDS",
    "Comparison",
    "DatasetConfig",
    "DigitsConfig",
    "EvaluationConfig",
    "ExcludeConfig",
    "ExtractorConfig",
    "FolderConfig",
    "GlobConfig",
    "IntervalsConfig",
    "RestraintConfig",
    "SubsetConfig",
    "TaskRunnerConfig",
    "TorchvisionConfig",
    "did_you_mean",
]
