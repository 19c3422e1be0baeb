"""The temporary server lives as long as its parent; a command without a server says so, with a code of its own."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from flows.evaluate import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]

PARENT = """
import os, sys, threading, time
from flows.temporary_server import ServerOutOfReach

server = ServerOutOfReach()
if "thread" in sys.argv:  # it ends long before the process
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
else:
    server.start()
forked = os.fork() if "fork" in sys.argv else -1
if forked == 0:  # as loader workers are made: it has inherited whatever its parent had open
    time.sleep(600)
print(server.port, forked, flush=True)
time.sleep(600)
"""


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def parent_of_a_server(*how: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that has started a temporary server, and the server's port; nothing of it is left afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, *how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    forked = -1
    try:
        assert process.stdout is not None
        port, forked = map(int, process.stdout.readline().split())
        yield process, port
    finally:
        process.kill()
        process.wait()
        if forked > 0:
            with suppress(ProcessLookupError):
                os.kill(forked, signal.SIGKILL)


@pytest.mark.slow
class TestItsEnd:
    @pytest.mark.parametrize(
        ("sent", "how"),
        [
            pytest.param(signal.SIGKILL, (), id="kill"),
            pytest.param(signal.SIGHUP, (), id="terminal closed"),
            pytest.param(signal.SIGKILL, ("fork",), id="a forked child lives on"),
        ],
    )
    def test_however_its_parent_ends_so_does_the_server(self, sent: signal.Signals, how: tuple[str, ...]) -> None:
        with parent_of_a_server(*how) as (process, port):
            assert answers(port)
            process.send_signal(sent)
            deadline = time.monotonic() + 60
            while answers(port):
                assert time.monotonic() < deadline, "the server has outlived its parent"
                time.sleep(0.2)

    def test_the_thread_that_started_it_may_end(self) -> None:
        with parent_of_a_server("thread") as (_, port):
            time.sleep(3)
            assert answers(port)


@contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections, and never says a word; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(params=[pytest.param("evaluate.py", marks=pytest.mark.slow), "maintain.py"])
def command(request: pytest.FixtureRequest, tmp_path: Path, images: Callable[..., Path]) -> list[str]:
    """A command that would end with exit code 0."""
    (tmp_path / "cache" / "features").mkdir(parents=True)
    if request.param == "maintain.py":
        return [str(ROOT / "flows" / "maintain.py")]
    for number, name in enumerate(["real", "a"]):
        images(name, seed=number)
    small = ["extractor.name=resnet18", "extractor.weights=random", "extractor.image_size=32"]
    return [str(ROOT / "flows" / "evaluate.py"), "--real", "real", "--synth", "a", "--set", *small]


def no_server(done: subprocess.CompletedProcess[str]) -> str:
    """What the command has said: one sentence, besides Prefect's lines about the server that it starts and stops."""
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if " temporary server on " not in line]
    assert len(said) == 1, done.stderr
    return said[0]


class TestNoServer:
    def test_a_home_that_cannot_be_written(self, command: list[str], run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        home = tmp_path / "file" / "prefect"  # below a file not even root can write
        sentence = no_server(run(*command, cwd=tmp_path, PREFECT_HOME=str(home)))
        assert f"cannot write to its folder {home}: Not a directory; set PREFECT_HOME" in sentence

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "http://somebody:hidden@127.0.0.1:9/api", "nonsense"])
    def test_a_url_that_nobody_answers(self, command: list[str], url: str, run: Run, tmp_path: Path) -> None:
        sentence = no_server(run(*command, cwd=tmp_path, PREFECT_API_URL=url))
        assert f"PREFECT_API_URL: no Prefect server answers at {url.replace('somebody:hidden@', '')}: " in sentence
        assert "hidden" not in sentence
        assert "; start it, set the variable to its address, like http://127.0.0.1:4200/api, or unset it" in sentence
        assert ".;" not in sentence

    @pytest.mark.parametrize(
        ("name", "value"), [("PREFECT_API_URL", "http://[::1"), ("PREFECT_LOGGING_LEVEL", "loud")], ids=["url", "level"]
    )
    def test_settings_that_prefect_refuses(
        self, command: list[str], name: str, value: str, run: Run, tmp_path: Path
    ) -> None:
        done = run(*command, cwd=tmp_path, **{name: value})  # Prefect itself says a line about its plugins first
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("Prefect's settings cannot be used: ")

    @pytest.mark.slow
    def test_a_server_that_says_nothing(self, command: list[str], run: Run, tmp_path: Path) -> None:
        with silent_server() as port:
            sentence = no_server(run(*command, cwd=tmp_path, PREFECT_API_URL=f"http://127.0.0.1:{port}/api"))
        assert "no Prefect server answers" in sentence

    @pytest.mark.slow
    @pytest.mark.parametrize("trouble", ["no database", "of a later version"])
    def test_a_temporary_one_that_ends(self, command: list[str], trouble: str, run: Run, tmp_path: Path) -> None:
        home = tmp_path / "prefect"
        home.mkdir()
        if trouble == "no database":
            (home / "prefect.db").write_bytes(b"anything but a database, " * 100)
        else:
            with sqlite3.connect(home / "prefect.db") as database:
                database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
                database.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
        sentence = no_server(run(*command, cwd=tmp_path, PREFECT_HOME=str(home)))
        assert sentence.startswith("Prefect's temporary server did not start: ")
        assert str(home) in sentence
        assert ("not a database" if trouble == "no database" else "ffffffffffff") in sentence


@pytest.mark.slow
@pytest.mark.parametrize("known", ["", "example.org"])
def test_a_proxy_does_not_stand_between(known: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "cache" / "features").mkdir(parents=True)
    proxies = dict.fromkeys(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"], "http://127.0.0.1:9")
    done = run(ROOT / "flows" / "maintain.py", cwd=tmp_path, NO_PROXY=known, **proxies)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "entries checked: 0, repaired: 0, left for a person: 0\n"


LOST = """
import os, signal, sys
import flows.evaluate as command
from flows.temporary_server import ServerOutOfReach

plan = command.plan_sweep

def plan_without_a_server(*arguments):
    os.kill(ServerOutOfReach().server_process.pid, signal.SIGKILL)
    return plan(*arguments)

command.plan_sweep = plan_without_a_server
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_server_that_is_lost_costs_the_record_and_not_the_results(
    run: Run, tmp_path: Path, images: Callable[..., Path]
) -> None:
    for number, name in enumerate(["real", "a"]):
        images(name, seed=number)
    small = ["extractor.name=resnet18", "extractor.weights=random", "extractor.image_size=32"]
    arguments = ["--real", "real", "--synth", "a", "--set", *small]
    done: Any = run("-c", LOST, *arguments, cwd=tmp_path, PREFECT_CLIENT_MAX_RETRIES="1")
    assert done.returncode == 3, done.stderr
    assert "PASS 1 of 1 datasets measured" in done.stdout
    assert (tmp_path / "results" / "results.json").exists()
    assert "temporary server was lost: " in done.stderr
    assert "Traceback" not in done.stderr
