"""Texts of others cannot move a cursor, forge a line, make markup or be computed."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simet_cache.errors import ConfigError, ImageReadError, StoreError
from simet_cache.escaping import for_csv, for_json, for_log, for_markdown, for_terminal, lines_for_terminal

ANY = st.text(st.characters(), max_size=30)  # surrogates too: names that are no text


def test_a_terminal_gets_one_printable_line() -> None:
    assert for_terminal("é 日 [red] \x1b[31m\n\x00\x9b\u202e\ud800") == r"é 日 [red] \x1b[31m\n\x00\x9b\u202e\ud800"
    assert lines_for_terminal("ours\nours\r too\x1b") == "ours\nours\\r too\\x1b"


@given(ANY)
def test_whatever_it_is_a_terminal_gets_one_printable_line(text: str) -> None:
    shown = for_terminal(text)
    assert shown.isprintable()
    assert for_terminal(shown) == shown
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1+1", "' =1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\t=1", "\\t=1"),
        ("a=1", "a=1"),
        ("-0.00031", "-0.00031"),
        ("+1e-5", "+1e-5"),
        ("-inf", "-inf"),
        ("a\x1b[2J\nb", "a\\x1b[2J\\nb"),
    ],
)
def test_a_spreadsheet_computes_nothing_but_reads_numbers(text: str, cell: str) -> None:
    assert for_csv(text) == cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("[a](http://x)", "\\[a\\](http&#58;//x)"),
        ("![a](x)", "\\!\\[a\\](x)"),
        ("`a` **b** <b>", "\\`a\\` \\*\\*b\\*\\* &lt;b&gt;"),
        ("https://x.example www.x.example a@x.example", "https&#58;//x.example www&#46;x.example a&#64;x.example"),
        ("a\n# b\x1b", "a\\\\n\\# b\\\\x1b"),
    ],
)
def test_no_markup_counts(text: str, shown: str) -> None:
    assert for_markdown(text) == shown


@given(ANY)
def test_json_reads_as_before_and_can_be_shown(text: str) -> None:
    document = for_json(json.dumps({"a": text, text: [text]}, indent=1, ensure_ascii=False))
    assert json.loads(document) == {"a": text, text: [text]}
    assert document.replace("\n", "").isprintable()
    document.encode()


def test_a_log_keeps_the_lines_of_the_program_alone() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(for_log)
    logger = logging.getLogger("a program's")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.warning("%s: %d images in\n%s%%, %r", "a\nb\x1b[31m", 3, Path("c\x1b\n"), "d\x1b")
    logger.info("all of\nit \x1b[31m 100%")
    try:
        raise ValueError("e\x1b[2J")
    except ValueError:
        logger.exception("bad: %s", sys.exc_info()[1])
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["a\\nb\\x1b[31m: 3 images in", "c\\x1b\\n%, 'd\\x1b'"]
    assert lines[2:5] == ["all of", "it \\x1b[31m 100%", "bad: e\\x1b[2J"]
    assert lines[-1] == "ValueError: e\\x1b[2J"
    assert all(line.isprintable() for line in lines)


def test_sentences_of_errors_can_be_printed() -> None:
    assert str(StoreError("no \x1b[31m")) == "no \\x1b[31m"
    assert str(ConfigError(["a\nb", "c"])) == "a\\nb\nc"
    error = ImageReadError("a\nb\x1b.png", "bad\x1b")
    assert str(error) == "cannot read image a\\nb\\x1b.png: bad\\x1b"
    assert error.path == "a\nb\x1b.png"


def test_a_csv_of_such_cells_has_one_line_for_each_row() -> None:
    text = io.StringIO()
    csv.writer(text).writerow([for_csv("a\r\nb"), for_csv('"=1'), for_csv("=1,2")])
    assert len(text.getvalue().splitlines()) == 1
