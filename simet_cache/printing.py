"""What a command has to say, and how it is printed: lines for a person, or one JSON document."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from simet_cache.escaping import for_log, for_terminal


@dataclass(frozen=True)
class Table:
    """Rows below a header; columns of numbers are aligned to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()


@dataclass(frozen=True)
class Answer:
    """What a subcommand has to say.

    Attributes:
        document: For ``--json``.
        lines: For standard output, without ``--json``.
        problems: For standard error.
        code: The exit code.
    """

    document: dict[str, Any]
    lines: Sequence[str | Table]
    problems: Sequence[str] = field(default=())
    code: int = 0


def print_answer(answer: Answer, *, as_json: bool) -> None:
    """Whoever closes the pipe, like head, wants to see no more; the exit code stays what it is."""
    try:
        if as_json:
            # NaN, which a manifest of somebody else may hold, is not JSON
            plain = json.loads(json.dumps(answer.document), parse_constant=lambda _: None)
            print(json.dumps(plain, indent=1))
        elif answer.lines:
            _print_lines(answer.lines)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with suppress(BrokenPipeError):
        for problem in answer.problems:
            print(for_terminal(problem), file=sys.stderr, flush=True)


def _print_lines(lines: Sequence[str | Table]) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    for line in lines:
        if isinstance(line, str):
            print(for_terminal(line))
        elif sys.stdout.isatty():
            _print_rich(line)
        else:
            _print_plain(line)


def _print_plain(table: Table) -> None:
    rows = [[for_terminal(cell) for cell in row] for row in ([table.header] if table.header else []) + list(table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [name in table.right for name in table.header] or [False] * len(widths)
    for row in rows:
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _print_rich(table: Table) -> None:
    from rich import box  # noqa: PLC0415 - only terminals need it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table as Rich  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    columns = len(table.header or (table.rows or [()])[0])
    shown = Rich(box=box.SIMPLE_HEAD if table.header else None, show_header=bool(table.header))
    for number in range(columns):
        name = table.header[number] if table.header else ""
        last = number == columns - 1 or name == "dataset"
        justify: Any = "right" if name in table.right else "left"
        shown.add_column(Text(name), justify=justify, no_wrap=not last, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(for_terminal(cell)) for cell in row))
    Console(highlight=False).print(shown)


@contextmanager
def warnings_as_lines(level: int) -> Iterator[None]:
    """What the library warns of, as lines on standard error."""
    handler = logging.StreamHandler()
    handler.setLevel(level)
    handler.setFormatter(_Harmless())
    logger = logging.getLogger("simet_cache")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Harmless(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        for_log(record)
        return for_terminal(record.getMessage())
