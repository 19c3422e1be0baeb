"""Artifacts: what a run has found, for the UI of Prefect."""

from __future__ import annotations

import logging

import httpx
from prefect.artifacts import create_markdown_artifact

from simet_cache.urls import reason_of

log = logging.getLogger("simet_cache.artifacts")


def publish(key: str, markdown: str, *, description: str) -> None:
    """Publish Markdown. Where no server takes it a warning says so: what it is about is on disk and on the screen."""
    try:
        create_markdown_artifact(key=key, markdown=markdown, description=description)
    except httpx.HTTPError as error:
        log.warning("the artifact %s cannot be published: %s", key, reason_of(error))
