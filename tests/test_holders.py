"""Who holds a lock, as far as those who wait can be told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simet_cache.holders import Holder

HOST = socket.gethostname()


def note(**changed: Any) -> bytes:
    """Of this process, but for what is changed."""
    return json.dumps({**json.loads(Holder.myself().note()), **changed}).encode()


def test_a_process_is_named_with_its_command_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/evaluate.py", "a.yaml"])
    for run, said in (("", ""), ("kind-owl 1", "run kind-owl 1: ")):
        holder = Holder.noted(Holder.myself(run=run).note())
        assert holder is not None
        assert holder.is_this_process
        assert holder == Holder.myself(run=run).__class__(os.getpid(), HOST, "evaluate.py a.yaml", holder.since, run)
        assert str(holder) == f"process {os.getpid()} on {HOST} ({said}evaluate.py a.yaml, since {holder.since})"


def test_a_process_of_another_machine_is_believed_to_live() -> None:
    holder = Holder.noted(note(process="process 123456789 on elsewhere"))
    assert holder is not None
    assert not holder.is_this_process
    assert str(holder).startswith("process 123456789 on elsewhere (")


def test_a_process_that_is_gone_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert Holder.noted(note(process=f"process {process.pid} on {HOST}")) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff",
        b"[" * 4000,
        b'{"process": 1}',
        note(process="everybody"),
        note(process=f"process 0 on {HOST}"),
        note(process=f"process -1 on {HOST}"),
        note(process=f"process {10**30} on {HOST}"),
        note(command=None),
        note(since={}),
        note(run=[]),
    ],
)
def test_what_is_no_note_names_nobody(content: bytes) -> None:
    assert Holder.noted(content) is None


def test_a_note_reaches_no_terminal_but_as_short_printable_text() -> None:
    holder = Holder.noted(note(command="\x1b[2J\nERROR \u202e" + "x" * 1000, run="\r\ud800"))
    assert holder is not None
    assert "(run ??: ?[2J?ERROR ?xxx" in str(holder)
    assert str(holder).isprintable()
    assert len(str(holder)) < 300


def test_what_is_no_file_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(note())
    (tmp_path / "link").symlink_to(tmp_path / "note")
    os.mkfifo(tmp_path / "pipe")  # which nobody writes into
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "nothing"):
        assert Holder.noted_in(tmp_path / name) is None
    assert Holder.noted_in(tmp_path / "note") is not None
