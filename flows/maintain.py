"""Look after a cache on a schedule: verify and repair it, then remove what was used least recently.

::

    python flows/maintain.py --cache-dir cache/features --max-size 50GB

Exit code 0: all is well, or is again. 1: something needs a person. 2: bad input; nothing was done. 3: Prefect
cannot be used, since no server answers or its folder cannot be written; nothing was done.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout's tasks, from any directory and whatever else is installed
warnings.filterwarnings("ignore", "Failed to create the Prefect home")  # which is an error, and said as one

import flows.prefect_import  # noqa: E402, F401 - before the rest of Prefect

# isort: split
from prefect import flow  # noqa: E402 - the path comes first, here and below
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed, Failed  # noqa: E402

from flows.session import NO_SERVER, ended_by_sigterm, quiet_server, wait_until_recorded  # noqa: E402
from simet_cache.atomic import size  # noqa: E402
from simet_cache.errors import ConfigError, InfrastructureError, SimetCacheError  # noqa: E402
from simet_cache.escaping import for_terminal  # noqa: E402
from simet_cache.prune import Limits, Pruning  # noqa: E402
from simet_cache.upkeep import Verified  # noqa: E402
from tasks.artifacts import publish  # noqa: E402
from tasks.upkeep import prune_cache, verify_cache  # noqa: E402

WELL, NEEDS_A_PERSON, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@flow(name="maintain", persist_result=False, validate_parameters=True)
def maintain(
    cache_dir: Path = Path("cache/features"),
    full: bool = False,
    max_size: str | None = None,
    older_than: str | None = None,
    keep_latest: int | None = None,
) -> State[str]:
    """Verify a cache, repair what can be repaired, and prune it where limits are given.

    Args:
        cache_dir: The cache folder, which must exist.
        full: Check every byte, and not only sizes, headers and manifests.
        max_size: Like ``50GB``: of all entries together.
        older_than: Like ``30d``: since an entry was last used.
        keep_latest: How many entries to keep at most.

    Returns:
        A completed run where all is well now, and a failed one where something needs a person. Its message says so.
    """
    limits = _limits(cache_dir, max_size, older_than, keep_latest)
    verified = verify_cache(cache_dir, full=full)
    pruned = prune_cache(cache_dir, limits) if limits else None
    summary = _summary(verified, pruned)
    publish("maintenance", _as_markdown(summary, verified, pruned), description=summary)
    print(summary)
    failed = verified.left or (pruned and any(one.outcome == "failed" for one in pruned.entries))
    return Failed(message=summary) if failed else Completed(message=summary)


def _limits(cache_dir: Path, max_size: str | None, older_than: str | None, keep_latest: int | None) -> Limits | None:
    """What was asked for, before anything is done.

    Raises:
        ConfigError: There is no such folder, or a limit is none.
    """
    if not cache_dir.is_dir():
        raise ConfigError([f"there is no cache folder {cache_dir.absolute()}"])
    if (max_size, older_than, keep_latest) == (None, None, None):
        return None
    return Limits.of(max_size=max_size, older_than=older_than, keep_latest=keep_latest)


def _summary(verified: Verified, pruned: Pruning | None) -> str:
    left = len(verified.left)
    counts = {"entries checked": verified.checked, "repaired": len(verified.findings) - left, "left for a person": left}
    words = [f"{what}: {number}" for what, number in counts.items()]
    if pruned:
        words.append(f"freed: {size(pruned.freed)}" + ("" if pruned.enough else ", less than was asked for"))
    return ", ".join(words)


def _as_markdown(summary: str, verified: Verified, pruned: Pruning | None) -> str:
    """Names of files are not ours: in a block of code no markup of theirs counts, and no line of theirs can end it."""
    lines = [f"- {finding}" for finding in verified.findings] + [
        f"- {one}" for one in (pruned.entries if pruned else ())
    ]
    block = ["~~~", *map(for_terminal, lines), "~~~"] if lines else []
    return "\n".join([f"### {summary}", "", *block])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow as a command.

    Returns:
        The exit code.
    """
    options = _parse(arguments)
    try:
        limits = _limits(options.cache_dir, options.max_size, options.older_than, options.keep_latest)
        with ended_by_sigterm(), quiet_server():
            state = maintain(**vars(options), return_state=True)
            wait_until_recorded(state.state_details.flow_run_id, last="prune" if limits else "verify")
    except InfrastructureError as error:
        print(error, file=sys.stderr)
        return NO_SERVER
    except SimetCacheError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the next run starts over", file=sys.stderr)
        return INTERRUPTED
    return WELL if state.is_completed() else NEEDS_A_PERSON


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="maintain.py",
        description="Verify and repair a cache, then remove what was used least recently, and never what is in use.",
        epilog="Exit code 0: all is well, or is again. 1: something needs a person. 2: bad input. 3: no Prefect."
        " 130: interrupted.",
    )
    parser.add_argument(
        "--cache-dir", metavar="DIR", type=Path, default=Path("cache/features"), help="the cache folder"
    )
    parser.add_argument("--full", action="store_true", help="check every byte; only that sees a flipped bit")
    parser.add_argument("--max-size", metavar="SIZE", help="keep all entries together below this, like 50GB or 1.5GiB")
    parser.add_argument("--older-than", metavar="AGE", help="remove what was not used for so long, like 30d, 12h or 2w")
    parser.add_argument("--keep-latest", metavar="N", type=int, help="remove all but the N that were used last")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
