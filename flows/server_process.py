"""The process of the temporary server: uvicorn, for as long as the process that started it lives.

::

    python -P flows/server_process.py PARENT_PID UVICORN_ARGUMENTS...

A parent that is killed cannot end its children. Linux could be asked to (``PR_SET_PDEATHSIG``), but it means the thread
that started the child, which in a flow is one of many; macOS cannot. A pipe that breaks is held open by whatever the
parent has forked. The number of the parent process changes when it dies, however it does, and on every Unix.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

_EVERY = 1.0  # seconds between two looks at the parent
_GRACE = 5.0  # seconds that the server has to close its database


def main() -> None:
    """Serve until the parent says so, or is gone."""
    threading.Thread(target=_end_with, args=[int(sys.argv[1])], daemon=True).start()
    import uvicorn  # noqa: PLC0415 - the parent is watched from the beginning

    uvicorn.main(args=sys.argv[2:])


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
