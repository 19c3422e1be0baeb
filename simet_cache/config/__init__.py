"""The configuration of an evaluation: what the YAML may say, with every default, checked before the first image is read.

Each part has a file: datasets and their patterns, the extractor, what is excluded, the smaller parts, and the whole, with
the checks of whether parts fit together. How a file becomes one, and problems become lines, is in ``config_file``.
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
