"""What is left out of the product of references, datasets, extractors and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from simet_cache.config.extractor import ExtractorConfig
from simet_cache.config.model import Model, Problem, matches, unmatched
from simet_cache.metrics.names import metric_pattern

Patterns = Annotated[
    list[str],
    Field(min_length=1),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=str | list[str]),
]
MetricPatterns = Annotated[Patterns, AfterValidator(lambda patterns: [metric_pattern(one) for one in patterns])]


class ExcludeConfig(Model):
    """What matches every key that is given is left out; a metric's pattern leaves out only such metrics.

    Patterns are those of file names; one for an extractor is for its suffix or its name.
    """

    reference: Patterns | None = None
    dataset: Patterns | None = None
    extractor: Patterns | None = None
    metric: MetricPatterns | None = None

    @model_validator(mode="after")
    def _about_something(self) -> ExcludeConfig:
        if not any((self.reference, self.dataset, self.extractor, self.metric)):
            raise ValueError("expected reference, dataset, extractor, metric or several of them")
        return self

    def concerns(self, *, reference: str, dataset: str, extractor: ExtractorConfig) -> bool:
        """Whether it leaves anything out of this comparison."""
        return (
            matches(self.reference, reference)
            and matches(self.dataset, dataset)
            and (self.extractor is None or matches(self.extractor, extractor.suffix, extractor.name))
        )

    def without_effect(self, names: Mapping[str, Sequence[str] | None]) -> Iterator[Problem]:
        """Its patterns that fit nothing.

        Args:
            names: All that there are, by its keys; None where they have problems of their own.
        """
        for key, known in names.items():
            yield from (((key,), sentence) for sentence in unmatched(getattr(self, key), key, known))


def left_over(
    excludes: Sequence[ExcludeConfig],
    metrics: Mapping[str, dict[str, Any]],
    *,
    reference: str,
    dataset: str,
    extractor: ExtractorConfig,
) -> dict[str, dict[str, Any]]:
    """The metrics of one comparison that nothing leaves out."""
    left = dict(metrics)
    for one in excludes:
        if one.concerns(reference=reference, dataset=dataset, extractor=extractor):
            left = {name: parameters for name, parameters in left.items() if not matches(one.metric, name)}
    return left
