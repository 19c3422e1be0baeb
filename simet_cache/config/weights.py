"""Whether files of weights fit their extractors: seen before the run, and not after the first dataset was opened."""

from __future__ import annotations

from simet_cache.config.evaluation import EvaluationConfig
from simet_cache.errors import ConfigError, ExtractorError
from simet_cache.extractors import check_weights


def require_weights(config: EvaluationConfig) -> None:
    """See that each file of weights is a state dict that fits its model.

    Published weights count as good: they are downloaded when they are needed, and a run on cached features needs none.

    Raises:
        ConfigError: With one line for each file that does not fit.
    """
    problems = []
    for number, one in enumerate(config.all_extractors):
        try:
            check_weights(one)
        except ExtractorError as error:
            place = "extractor" if config.extractors is None else f"extractors.{number}"
            problems.append(f"{place}.weights: {error}")
    if problems:
        raise ConfigError(problems)
