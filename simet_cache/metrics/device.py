"""Where the arithmetic runs: NumPy and SciPy on the CPU, torch on a GPU (docs/decisions/0015)."""

from __future__ import annotations

import re

from simet_cache.errors import MetricError


def device_of(name: str) -> str:
    """The device that a name stands for.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` and so on. What has no float64, like ``mps``, is the CPU.

    Raises:
        MetricError: There is no such device.
    """
    if name in ("cpu", "mps"):
        return "cpu"
    if not re.fullmatch(r"auto|cuda(:\d+)?", name):
        raise MetricError(f"device: expected auto, cpu, cuda or cuda:1 and so on, found {name!r}")
    import torch  # noqa: PLC0415 - who names the CPU need not wait for it

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    number = int(name.partition(":")[2] or 0)
    if number >= torch.cuda.device_count():
        raise MetricError(f"device: expected one of {torch.cuda.device_count()} CUDA devices, found {name!r}")
    return name
