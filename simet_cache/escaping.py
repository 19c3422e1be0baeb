"""Texts of others on their way to a terminal, a log, Markdown, a spreadsheet or a JSON file.

Names of folders and images, words of manifests and messages of other programs are not ours. As they are, escape codes
in them move a terminal's cursor, a line break forges a line of ours, markup makes links, and a spreadsheet computes.
"""

from __future__ import annotations

import logging
import re
import traceback

_MARKDOWN = str.maketrans({**{sign: f"\\{sign}" for sign in "\\`*_[]|#~!"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"})
_LINKS = re.compile(r":(?=//)|@|(?<=www)\.", re.IGNORECASE)  # which Markdown of GitHub's kind makes of bare addresses
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are their wide forms
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def for_terminal(text: str) -> str:
    """A text in one line that can do nothing to a terminal: what is not printable, line breaks too, as its escape."""
    return text if text.isprintable() else _UNPRINTABLE.sub(_escape, text)


def lines_for_terminal(text: str) -> str:
    """The same for a text of ours that has several lines."""
    return "\n".join(map(for_terminal, text.split("\n")))


def for_markdown(text: str) -> str:
    """A text in one line of which nothing counts as markup, not even as a bare address."""
    return _LINKS.sub(lambda sign: f"&#{ord(sign[0])};", for_terminal(text).translate(_MARKDOWN))


def for_csv(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: what begins like one gets an apostrophe, numbers aside."""
    text = for_terminal(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) and not _is_number(text) else text


def for_json(document: str) -> str:
    """A JSON document that a terminal can be shown: what it reads as stays the same."""
    return _UNPRINTABLE.sub(_escape_json, document)


def for_log(record: logging.LogRecord) -> bool:
    """A filter of log handlers after which a record, its traceback included, is safe for a terminal.

    Only line breaks in the message of the program stay; those in its arguments are not the program's.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(one if isinstance(one, int | float) else _Shown(one) for one in record.args)
    record.msg, record.args = lines_for_terminal(record.getMessage()), ()
    if record.exc_info and record.exc_info[1]:
        record.exc_text = lines_for_terminal("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))
    return True


class _Shown:
    """An argument of a message as a terminal may show it, by ``%s`` and ``%r``."""

    def __init__(self, one: object) -> None:
        self._one = one

    def __str__(self) -> str:
        return for_terminal(str(self._one))

    def __repr__(self) -> str:
        return for_terminal(repr(self._one))


def _escape(match: re.Match[str]) -> str:
    sign = match[0]
    return sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode()


def _escape_json(match: re.Match[str]) -> str:
    sign = match[0]
    if sign.isprintable() or sign == "\n":
        return sign
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
