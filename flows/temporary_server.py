"""The server that Prefect starts for a run where none is kept running."""

from __future__ import annotations

import functools
import subprocess
from typing import Any
from unittest.mock import patch

from prefect.server.api.server import SubprocessASGIServer


class ServerOutOfReach(SubprocessASGIServer):
    """Prefect's temporary server in a process group of its own.

    Ctrl-C in a terminal reaches a whole group: the server would be gone before the run could tell it of its end, and
    Prefect tries for minutes to reach it.
    """

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        with patch.object(subprocess, "Popen", functools.partial(subprocess.Popen, process_group=0)):
            return super()._run_uvicorn_command()
