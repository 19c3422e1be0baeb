"""What every step of a sweep needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect.tasks import exponential_backoff

from flows.runners import Crew
from simet_cache.config import EvaluationConfig, ExtractorConfig
from simet_cache.devices import DeviceLocks
from simet_cache.report.results import DatasetResult
from simet_cache.store import FeatureStore
from simet_cache.sweep import PlannedSet
from tasks.states import is_temporary

Found = Mapping[PlannedSet, DatasetResult]


@dataclass(frozen=True)
class Work:
    """What every step needs.

    Attributes:
        config: The evaluation.
        store: Its cache.
        crew: Takes task runs.
        locks: Which devices its tasks lock.
    """

    config: EvaluationConfig
    store: FeatureStore
    crew: Crew
    locks: DeviceLocks

    @property
    def tried_again(self) -> dict[str, Any]:
        """Of a task: for trouble that can pass, as with a file server, and never for a corrupt image."""
        return {
            "retries": self.config.retries,
            "retry_delay_seconds": exponential_backoff(backoff_factor=2),
            "retry_condition_fn": is_temporary,
        }

    def how(self, extractor: ExtractorConfig) -> dict[str, Any]:
        """What tasks that extract are told besides what they extract."""
        return {
            "extractor": extractor,
            "store": self.store,
            "on_bad_image": self.config.on_bad_image,
            "limit": self.config.extraction_limit,
            "locks": self.locks,
        }

    def on_what(self, extractor: ExtractorConfig) -> str:
        """In the names of task runs: the extractor, where there are several."""
        return f" on {extractor.suffix}" if len(self.config.all_extractors) > 1 else ""
