"""A sweep that is killed goes on where it was: at most one shard is extracted again, and the values are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kills import IMAGES, SHARD, killed_sweeps


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_loses_no_more_than_a_shard_for_each_kill(tmp_path: Path) -> None:
    found = killed_sweeps(tmp_path, kills=6, seed=1, sets=3)
    assert found.wrong == []
    assert found.kills == 6
    assert found.images % (4 * IMAGES) == 0
    assert found.images < found.reads <= found.images + found.kills * SHARD, (
        "nobody was killed at work, or lost too much"
    )
