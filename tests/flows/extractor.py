"""A command that extracts folders of images with any task runner: what ``tests/flows/test_runners.py`` runs.

::

    python tests/flows/extractor.py '{"kind": "dask", "workers": 2, "cache": ..., "log": ..., "folders": [...]}'

It prints what became of each folder, as JSON. Every image that is read leaves a line in the file LOG: process and path.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import watched  # beside this file
from prefect import flow
from prefect.utilities.annotations import NotSet

from flows.runners import in_flight, require
from flows.session import STOPPED, cancelled, ended_by_sigterm, left, quiet_server, wait_until_recorded
from simet_cache.config import ExtractorConfig, TaskRunnerConfig
from simet_cache.extractors import make_extractor
from simet_cache.policy import FeatureCachePolicy
from simet_cache.sources import source_of
from simet_cache.store import FeatureStore
from tasks.features import extract_features


@flow(name="extractor", persist_result=False)
def extractor(wanted: dict[str, Any]) -> Any:
    runner = TaskRunnerConfig(kind=wanted["kind"], address=wanted.get("address"), workers=wanted.get("workers"))
    store = FeatureStore(wanted["cache"])
    model = ExtractorConfig(name="resnet18", weights="random", image_size=32, batch_size=16, **wanted.get("model", {}))
    suffix, batch_size = make_extractor(model).suffix, model.batch_size
    futures = {}
    try:
        with in_flight(runner, 4, on_stop=watched.request, listening=watched.listening) as crew:
            for folder in wanted["folders"]:
                dataset = watched.Watched(folder, transform=make_extractor(model).transform)
                dataset.log, dataset.seconds = wanted["log"], wanted.get("seconds", 0.0)
                futures[Path(folder).name] = crew.submit(
                    extract_features.with_options(cache_policy=FeatureCachePolicy(store), refresh_cache=NotSet),
                    dataset=dataset,
                    batch_size=batch_size,
                    suffix=suffix,
                    source=source_of(dataset, suffix=suffix, batch_size=batch_size),
                    name=Path(folder).name,
                    extractor=model,
                    store=store,
                )
            found = {}
            for name, future in futures.items():
                future.wait()
                state = future.state
                result = state.result(raise_on_failure=False)
                found[name] = {"state": state.name, "digest": getattr(result, "digest", repr(result))}
    except STOPPED as stop:
        return cancelled(stop)
    return found


def main() -> int:
    wanted = json.loads(sys.argv[1])
    require(TaskRunnerConfig(kind=wanted["kind"]))
    with ended_by_sigterm(), quiet_server():
        state = extractor(wanted, return_state=True)
        wait_until_recorded(state.state_details.flow_run_id, last=None)
        if state.is_cancelled():
            return left(state)
    print(json.dumps(state.result(raise_on_failure=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
