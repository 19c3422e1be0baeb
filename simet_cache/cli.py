"""simet-cache: a person's view of the cache.

::

    simet-cache ls --sort size
    simet-cache explain evaluation.yaml
    simet-cache prune --max-size 50GB --dry-run

Each subcommand prints lines, or with ``--json`` one document.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from simet_cache import answers
from simet_cache.answers import BAD_INPUT, FOUND, INTERRUPTED, WELL
from simet_cache.errors import ConfigError, SimetCacheError
from simet_cache.printing import Answer, print_answer, warnings_as_lines
from simet_cache.store import program

_CODES = "Exit code 0: all is well. 1: {}. 2: bad input, and nothing was done. 130: interrupted."
_PATHS = (
    "Keys depend on paths: another machine finds the entries only if the images lie under the same path there, with"
    " their times of change preserved (rsync -a, cp -p), since those are part of what tells stale entries."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        with warnings_as_lines(logging.ERROR if options.run is answers.verify else logging.WARNING):
            answer: Answer = options.run(options)
    except (SimetCacheError, OSError) as error:
        answer = Answer({}, [], error.problems if isinstance(error, ConfigError) else [str(error)], BAD_INPUT)
    except KeyboardInterrupt:
        answer = Answer({}, [], ["interrupted"], INTERRUPTED)
    print_answer(answer, as_json=options.json and answer.code in (WELL, FOUND))
    return answer.code


# Arguments

_Options = Callable[[argparse.ArgumentParser], None]


def _ls_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sort", choices=answers.ORDERS, default="used", help="by last use when left out; largest, newest first"
    )
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    statuses = ("ok", "adopted", "damaged", "unsafe", "unreadable")
    parser.add_argument("--status", choices=statuses, help="only these")
    parser.add_argument("--dataset", metavar="PATTERN", default="*", help="only these, like 'ckpt-*'")
    parser.add_argument("--extractor", metavar="PATTERN", default="*", help="only these, like 'fid_inception*'")


def _info_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="or its first digits, at least 4")


def _explain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="the YAML file of an evaluation, which names the cache folder")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="replace a value of the configuration, as for evaluate.py",
    )


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full", action="store_true", help="check every byte; only that sees a flipped bit")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="move damaged entries to quarantine, describe those without a manifest, and remove what dead writers and"
        " entries that are gone left behind; what would run code is never touched",
    )


def _prune_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-size", metavar="SIZE", help="keep all entries together below this, like 50GB or 1.5GiB")
    parser.add_argument("--older-than", metavar="AGE", help="remove what was not used for so long, like 30d, 12h or 2w")
    parser.add_argument("--keep-latest", metavar="N", type=int, help="remove all but the N that were used last")
    parser.add_argument("--quarantine", action="store_true", help="--older-than holds for damaged files put aside, too")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DIR|ARCHIVE", help="another cache, as of simet; or what export has written")
    parser.add_argument("--force", action="store_true", help="replace entries that are there with other features")


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "keys_and_archive",
        nargs="*",
        metavar="KEY",
        help="keys, or their first digits; and last the archive, a tar file",
    )
    parser.add_argument("--all", action="store_true", help="every entry, in place of keys")
    parser.add_argument("--force", action="store_true", help="replace the archive where there is one")


# name: what it does, what is special about its arguments, what it says, what exit code 1 means, what else to know
_SUBCOMMANDS: dict[str, tuple[Callable[[argparse.Namespace], Answer], _Options, str, str, str]] = {
    "ls": (answers.ls, _ls_options, "list the entries", "never", "A quick look, which changes nothing."),
    "info": (answers.info, _info_options, "everything that is known about one entry", "never", ""),
    "explain": (
        answers.explain,
        _explain_options,
        "tell for each feature set of an evaluation whether it is in the cache, and why not",
        "a dataset cannot be opened (a miss is no failure)",
        "Nothing is written to the cache, and no model is run.",
    ),
    "verify": (
        answers.verify,
        _verify_options,
        "look for damage, and repair it on demand",
        "something was found, repaired or not",
        "",
    ),
    "prune": (
        answers.prune,
        _prune_options,
        "remove what was used least recently",
        "an entry could not be removed",
        "An entry goes if any limit asks for it, and never while it is in use or being computed. Summaries and values"
        " that were derived from entries go likewise; they are made again when they are needed.",
    ),
    "import": (
        answers.take_in,
        _import_options,
        "take in the entries of another cache, or of an archive",
        "something was refused",
        f"The source stays as it is. {_PATHS}",
    ),
    "export": (
        answers.give_out,
        _export_options,
        "write entries into an archive, to be imported elsewhere",
        "an entry was refused",
        _PATHS,
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simet-cache",
        description="Look into a cache of features, look after it, and move its entries.",
        epilog=f"{_CODES.format('something was found; see the help of each subcommand')}",
    )
    parser.add_argument("--version", action="version", version=program())
    subcommands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    for name, (run, add_options, summary, found, more) in _SUBCOMMANDS.items():
        epilog = f"{more} {_CODES.format(found)}".strip()
        one = subcommands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=epilog
        )
        add_options(one)
        if run is not answers.explain:
            one.add_argument(
                "--cache-dir", metavar="DIR", default="cache/features", help="cache/features when left out"
            )
        one.add_argument("--json", action="store_true", help="print one JSON document instead")
        one.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
