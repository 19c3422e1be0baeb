"""Import Prefect, which reads its settings by that: where they are wrong, a command ends with a sentence."""

from __future__ import annotations

import sys

UNUSABLE = 3  # the exit code of a command that cannot use Prefect

try:
    import prefect.main  # noqa: F401
except ValueError as error:  # a validation error of pydantic's, whose own text shows all settings; or no TOML
    reasons = "; ".join(str(one["msg"]) for one in error.errors()) if hasattr(error, "errors") else str(error)
    sys.stderr.write(
        f"Prefect's settings cannot be used: {reasons}; see the variables PREFECT_... in the environment, and"
        " profiles.toml in Prefect's folder\n"
    )
    sys.exit(UNUSABLE)
