"""A PostgreSQL cluster for a test: temporary, on a free loopback port, and gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.installation import free_port, wait_for


def programs() -> Path | None:
    """Where Debian or the PATH has initdb and postgres; the newest."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.partition(".")[0]))
    found = shutil.which("initdb")
    places = [Path(found).parent, *places] if found else places
    return next((place for place in reversed(places) if (place / "initdb").exists()), None)


def user() -> str | None:
    """Who may run it: this user, and in place of root, whom it refuses, the package's own."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    return next((entry.pw_name for entry in pwd.getpwall() if entry.pw_name == "postgres"), None)


def missing() -> str | None:
    """Why there can be no cluster."""
    if programs() is None:
        return "PostgreSQL is not installed (Debian: apt install postgresql)"
    return None if user() else "PostgreSQL refuses to run as root, and there is no user postgres"


@contextmanager
def cluster() -> Iterator[str]:
    """A running cluster with an empty database.

    Yields:
        Its URL, as Prefect's server takes it.
    """
    bin_, owner, port = programs(), user(), free_port()
    assert bin_ is not None
    assert owner is not None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own folders let nobody else in
    change = {} if os.geteuid() else {"user": owner, "group": pwd.getpwnam(owner).pw_gid, "extra_groups": []}
    options = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "", "fsync": "off"}
    try:
        if change:
            shutil.chown(folder, owner)
        initdb = [bin_ / "initdb", "-D", folder / "data", "--username=prefect", "--auth=trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, timeout=120, **change)
        with (folder / "log").open("wb") as log:
            arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
            server = subprocess.Popen(
                [bin_ / "postgres", "-D", folder / "data", *arguments], cwd=folder, stdout=log, stderr=log, **change
            )
        try:
            ready = [bin_ / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            wait_for(
                lambda: subprocess.run(ready, check=False).returncode == 0, f"PostgreSQL; see {folder / 'log'}", 60
            )
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)  # an immediate one: its children go, too
                server.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
