"""The server that Prefect starts for a run where none is kept running."""

from __future__ import annotations

import atexit
import functools
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import httpx
from prefect.server.api.server import SubprocessASGIServer, subprocess_server_logger
from prefect.settings import PREFECT_HOME

from simet_cache.errors import InfrastructureError
from simet_cache.urls import without_secrets

START_LIMIT = 50.0  # seconds without a sign of life after which a server that is starting is given up
_PAUSE = 0.1
_PORTS = 5  # to try, where others take them first
_PORT_TAKEN = "address already in use"
_READ = 65536  # bytes of what a server said last
_MESSAGE = re.compile(
    r"[A-Za-z_][\w.]*(?:Error|Exception): \S|.*\[Errno "
)  # the last line of a traceback, or uvicorn's
_CHILD = Path(__file__).with_name("server_process.py")


class ServerOutOfReach(SubprocessASGIServer):
    """Prefect's temporary server, out of reach of a terminal's Ctrl-C, ended by the end of its parent.

    Ctrl-C in a terminal reaches a whole process group: the server would be gone before the run could tell it of its
    end, and Prefect tries for minutes to reach it. So it has a group of its own; and since it then outlives a parent
    that is killed, it runs in ``server_process.py``, which watches its parent.
    """

    _starting = threading.Lock()  # of all, since there is one for each process
    _output: IO[bytes] | None = None

    def start(self, timeout: int | None = None) -> None:
        """Start the server and wait until it answers. Unlike Prefect's own it notices a server that ends.

        Args:
            timeout: Seconds without a sign of life, be it that the server computes, after which it is given up.

        Raises:
            InfrastructureError: It ends, or does not answer.
        """
        with self._starting:
            if self.running:
                return
            _pass_proxies_by()
            try:
                trouble = self._tried(timeout or START_LIMIT)
            except (OSError, RuntimeError) as error:  # no process, or no port, for it
                trouble = str(error)
            if trouble:
                self.stop()
                raise InfrastructureError(
                    f"Prefect's temporary server did not start: {without_secrets(trouble)}; it keeps its database in"
                    f" {PREFECT_HOME.value()}, unless PREFECT_HOME names another folder, and is not needed where"
                    " PREFECT_API_URL names a server that is running"
                )
            self.running = True

    def _tried(self, limit: float) -> str:
        """Start it; why it will not answer, empty where it does."""
        atexit.register(self.stop)
        trouble = ""
        for _ in range(_PORTS):
            self.port = self.find_available_port()
            subprocess_server_logger.info("Starting temporary server on %s", self.address)
            self.server_process = self._run_uvicorn_command()
            trouble = self._await_answer(self.server_process, limit)
            if _PORT_TAKEN not in trouble.lower():
                break
        return trouble

    def _await_answer(self, process: subprocess.Popen[Any], limit: float) -> str:
        computed, give_up = 0.0, time.monotonic() + limit
        with httpx.Client(timeout=5) as client:
            while time.monotonic() < give_up:
                if process.poll() is not None:
                    return self.last_words or f"it ended with exit code {process.returncode}"
                try:
                    if client.get(f"{self.api_url}/health").status_code == httpx.codes.OK:
                        return ""
                except httpx.TransportError:
                    pass
                if (now := _cpu_seconds(process.pid)) > computed + 0.1:
                    computed, give_up = now, time.monotonic() + limit  # the first start makes the database
                time.sleep(_PAUSE)
        return f"no answer for {limit:.0f} s"

    @property
    def last_words(self) -> str:
        """The last line that the server has printed; empty where there is none."""
        if self._output is None:
            return ""
        handle = self._output.fileno()
        start = max(os.fstat(handle).st_size - _READ, 0)
        lines = os.pread(handle, _READ, start).decode(errors="replace").splitlines()  # the offset is the server's, too
        return next((line.strip() for line in reversed(lines) if _MESSAGE.match(line)), "")

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        self._output = _file_for_output()
        with patch.object(subprocess, "Popen", functools.partial(_popen, subprocess.Popen, self._output)):
            return super()._run_uvicorn_command()


def _popen(start: type[subprocess.Popen[Any]], output: IO[bytes] | None, args: list[str], **how: Any) -> Any:
    """Start what Prefect would start, ``python -m uvicorn ...``, in ``server_process.py``."""
    of_uvicorn = args[args.index("uvicorn") + 1 :]
    command = [sys.executable, "-P", str(_CHILD), str(os.getpid()), *of_uvicorn]
    said = subprocess.DEVNULL if output is None else output
    return start(command, process_group=0, stdin=subprocess.DEVNULL, stdout=said, stderr=said, **how)


def _pass_proxies_by() -> None:
    """Loopback is not for a proxy, and Prefect's client would send even that through one."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if "127.0.0.1" not in known.split(","):
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, (known, "127.0.0.1")))


def _file_for_output() -> IO[bytes] | None:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # nowhere to write: then nobody hears what the server says
        return None


def _cpu_seconds(pid: int) -> float:
    """What a process has computed; 0 where the system has no ``/proc``."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
