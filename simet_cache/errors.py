"""Every error that simet-cache raises on purpose.

::

    SimetCacheError
    ├── ConfigError            the configuration cannot be used (all problems at once, a line each)
    ├── KeyInputError          the documented key is not defined for these inputs
    ├── DatasetError           a dataset cannot be opened
    │   └── ImageReadError     one image cannot be read
    │       └── BitDepthError  since it does not fit the bit depth of its set, which is wrong then
    ├── ExtractorError         an extractor cannot be built
    │   └── WeightsError       its weights cannot be had, or do not fit
    ├── WorkersError           a process that reads images has died, or cannot hand over what it read
    ├── FeaturesError          what was computed is not a 2-D finite float array with the right rows
    ├── StoreError             the feature cache cannot be read or written
    │   ├── DamagedEntryError  a file of the cache is no feature array
    │   │   └── DamagedShardError  that of a shard, or it is gone: it has to be extracted again
    │   ├── MissingEntryError  the file that a handle is about is gone
    │   ├── UnsafePickleError  a file of the cache would run code if it were unpickled
    │   ├── StaleEntryError    the data behind a key have changed since its features were made
    │   └── RemoteError        the remote home of the cache cannot be reached, or refuses
    ├── MetricError            a metric cannot be computed on these features
    ├── InfrastructureError    Prefect cannot be used: no server, or no folder for what it keeps
    └── StoppedError           the process was asked to stop

Each message is one sentence or two: what was expected, what was found, where, and what to do.
"""

from __future__ import annotations

from pathlib import Path

from simet_cache.escaping import for_terminal, lines_for_terminal
from simet_cache.urls import without_secrets

_MOST_PROBLEMS = 20
_LONGEST_PROBLEM = 2000  # characters: a value that was found may be a book


def _shortened(problem: str) -> str:
    if len(problem) <= _LONGEST_PROBLEM:
        return problem
    half = _LONGEST_PROBLEM // 2 - 10
    return f"{problem[:half]} [...] {problem[-half:]}"


class SimetCacheError(Exception):
    """Base of the tree: catch this to catch everything that simet-cache raises on purpose.

    Its text is safe for a terminal, whatever the names of files and the words of manifests that it repeats.
    """

    def __str__(self) -> str:
        return lines_for_terminal(super().__str__())


class ConfigError(SimetCacheError):
    """The configuration cannot be used.

    Attributes:
        problems: One line for each problem, with the place where it stands; of many, the first ones and how many more.
    """

    def __init__(self, problems: list[str]) -> None:
        if len(problems) > _MOST_PROBLEMS + 1:
            problems = [*problems[:_MOST_PROBLEMS], f"and {len(problems) - _MOST_PROBLEMS} more problems"]
        # they repeat what was written
        self.problems = [_shortened(for_terminal(without_secrets(problem))) for problem in problems]
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


class KeyInputError(SimetCacheError):
    """The documented key is not defined for these inputs."""


class DatasetError(SimetCacheError):
    """A dataset cannot be opened."""


class ImageReadError(DatasetError):
    """One image cannot be read.

    Attributes:
        path: The file, or what stands for it where there is none.
        reason: Why, in a few words.
        errno: The system's number where it is the file system that failed, and None where it is the image: a cause does
            not travel from process to process, and a file server that stumbles says nothing about an image.
    """

    def __init__(self, path: str | Path, reason: str, *, errno: int | None = None) -> None:
        super().__init__(f"cannot read image {for_terminal(str(path))}: {for_terminal(reason)}")
        self.path = str(path)
        self.reason = reason
        self.errno = errno

    def __reduce__(self) -> tuple[type[ImageReadError], tuple[str, str], dict[str, int | None]]:
        return type(self), (self.path, self.reason), {"errno": self.errno}


class BitDepthError(ImageReadError):
    """An image does not fit the bit depth of its set. That is wrong then, and no reason to leave out the image."""


class ExtractorError(SimetCacheError):
    """An extractor cannot be built."""


class WeightsError(ExtractorError):
    """The weights of an extractor cannot be had, or do not fit its model."""


class WorkersError(SimetCacheError):
    """A process that reads images cannot be started, has died, or cannot hand over what it read."""


class FeaturesError(SimetCacheError):
    """What was computed is not a 2-D finite float array with the rows that the loader promises."""


class StoreError(SimetCacheError):
    """The feature cache cannot be read or written."""


class DamagedEntryError(StoreError):
    """A file of the cache is no feature array."""


class DamagedShardError(DamagedEntryError):
    """A shard is gone, or was put aside since it is damaged or does not fit: it has to be extracted again.

    Attributes:
        key: Of the shard.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[type[DamagedShardError], tuple[str, str]]:
        return type(self), (str(self), self.key)


class MissingEntryError(StoreError):
    """The file that a handle is about is gone: somebody has removed the entry, or put it aside."""


class UnsafePickleError(StoreError):
    """A file of the cache would run code if it were unpickled. It is left where it is."""


class StaleEntryError(StoreError):
    """The data behind a key have changed since its features were made, and ``on_stale`` says not to go on."""


class RemoteError(StoreError):
    """The remote home of the cache is down, or refuses, or does not have what was asked for.

    Attributes:
        repeated: Nothing was tried, since it was down a moment ago; that was said then.
    """

    def __init__(self, message: str, *, repeated: bool = False) -> None:
        super().__init__(message)
        self.repeated = repeated


class MetricError(SimetCacheError):
    """A metric cannot be computed on these features."""


class InfrastructureError(SimetCacheError):
    """Prefect cannot be used: its server cannot be reached or started, or its folder not be written.

    It says nothing about the inputs and nothing about the results: the same command may work an hour later.
    """


class StoppedError(SimetCacheError):
    """Somebody asked this process to stop; see ``stopping``. It says nothing about what was being done."""
