"""A Prefect server, workers and a checkout of their own, all of it temporary, on loopback, and gone at the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

ROOT = Path(__file__).resolve().parents[2]
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
Found = TypeVar("Found")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(look: Callable[[], Found], what: str, patience: float = 240) -> Found:
    """What ``look`` finds, as soon as that is something."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.3)
    return found


class Installation:
    """Where a server keeps its database, where workers run, and how to ask them.

    Args:
        folder: Everything lies below it.
        database: For the server, where it is not to be SQLite.
    """

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self.home, self.checkout, self.logs = folder / "prefect", folder / "checkout", folder / "logs"
        port = free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": database} if database else {}),
        }
        self.logs.mkdir(parents=True)
        for name in ("flows", "tasks", "simet_cache", "examples"):
            shutil.copytree(ROOT / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("prefect.yaml", "automations.yaml"):
            shutil.copy(ROOT / name, self.checkout)
        self.client = httpx.Client(base_url=self.environment["PREFECT_API_URL"], timeout=60)
        self.port = port

    def start_server(self) -> None:
        self.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        wait_for(self._healthy, f"the server; see {self.logs}")

    def _healthy(self) -> bool:
        try:
            return self.client.get("/health").is_success
        except httpx.TransportError:
            return False

    def start(self, name: str, *arguments: str) -> None:
        """Start a process that stays, in the checkout and under a name."""
        with (self.logs / f"{name}.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=self.checkout,
                env={**self.environment, "STARTED_AS": name},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_worker(self, name: str = "worker", *arguments: str) -> None:
        self.start(name, "worker", "start", "--pool", "evaluations", "--name", name, *arguments)

    def kill(self, name: str = "") -> None:
        """End with SIGKILL what was started under a name, or everything, whoever adopted it meanwhile."""
        while found := self._processes(f"STARTED_AS={name}" if name else f"PREFECT_HOME={self.home}"):
            for process in found:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)

    def _processes(self, mark: str) -> list[int]:
        """Those of this installation that have a variable of the environment."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = entry.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if mark in variables and f"PREFECT_HOME={self.home}" in variables:
                found.append(int(entry.parent.name))
        return found

    def prefect(self, *arguments: str) -> str:
        """What a command of Prefect's prints."""
        return self.python("-m", "prefect", *arguments)

    def python(self, *arguments: str) -> str:
        """What Python prints, in the checkout."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.checkout,
            env={**self.environment, "COLUMNS": "300"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def edit(self, name: str, change: Callable[[Any], None]) -> None:
        """Change a YAML file of the checkout."""
        path = self.checkout / name
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(yaml.safe_dump(content), encoding="utf-8")

    def request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """The answer of the API; like Prefect's own client this asks again while SQLite is busy, which is a 503."""
        return wait_for(
            lambda: (answer := self.client.request(method, path, json=body)).status_code != 503 and [answer],
            f"{path} to be available",
            60,
        )[0]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What the API has to say."""
        answer = self.request(method, path, body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        return self.call("GET", f"/deployments/name/{name}")

    def submit(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run. Returns its id."""
        identity = self.deployment(deployment)["id"]
        return str(self.call("POST", f"/deployments/{identity}/create_flow_run", {"parameters": parameters})["id"])

    def run(self, run: str) -> dict[str, Any]:
        return self.call("GET", f"/flow_runs/{run}")

    def end_of(self, run: str) -> dict[str, Any]:
        """The final state of a run, once it has one."""
        wait_for(lambda: self.run(run)["state_type"] in FINAL, f"the end of run {run}; see {self.logs}")
        return self.run(run)["state"]

    def runs_of(self, deployment: str) -> list[dict[str, Any]]:
        wanted = {"deployments": {"id": {"any_": [self.deployment(deployment)["id"]]}}, "sort": "START_TIME_ASC"}
        return self.call("POST", "/flow_runs/filter", wanted)

    def task_states(self, run: str) -> dict[str, str]:
        """The state of each task run, by name."""
        found = self.call("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {one["name"]: one["state_name"] for one in found}

    def final_task_states(self, run: str, last: str = "report") -> dict[str, str]:
        """The same, once the server has recorded the last one."""
        wait_for(lambda: self.task_states(run).get(last) == "Completed", f"the record of {last!r}", 60)
        return self.task_states(run)

    def log_of(self, run: str) -> str:
        """What the run has said, as the server keeps it."""
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.call("POST", "/logs/filter", wanted))

    def artifacts_of(self, run: str) -> list[dict[str, Any]]:
        return self.call("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})

    def printed(self, name: str) -> str:
        """Everything that a process under a name has printed."""
        return (self.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")
