"""Remote: a second home of the entries, behind any URL that fsspec can open and write to.

It moves whole files by their names and knows nothing of features. What comes from here is a stranger's: whoever fetches
it verifies it. A remote that does not answer costs a run seconds, and is then left alone for a while.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import fsspec

from simet_cache.bounded import JSON_BYTES
from simet_cache.errors import ConfigError, RemoteError
from simet_cache.urls import reason_of, refusal_of, without_secrets

_PAUSE = 60.0  # seconds for which a remote that is down is left alone
_ANSWER = 20.0  # seconds to wait for a short answer, all tries together
_SLOWEST = 2**20  # bytes a second: a transfer may take that much longer
_CHUNK = 8 * 2**20
_TRIES = 2  # botocore's for errors, and s3fs's for bodies that are cut half-way
_S3 = ("s3", "s3a")
_S3_CONFIG = {"connect_timeout": 5, "read_timeout": 10, "retries": {"mode": "standard", "total_max_attempts": _TRIES}}


class _MissingError(RemoteError):
    """It answers, and has no such file."""


class Remote:
    """A second home of the entries. Threads may share one; the first call is what connects.

    Args:
        url: Like ``s3://bucket/prefix``. Endpoint and credentials come from the environment (``AWS_ENDPOINT_URL``,
            ``AWS_ACCESS_KEY_ID``, ...) or from fsspec's own configuration (``FSSPEC_S3_...``).
        clock: Tells the seconds.

    Attributes:
        name: The URL as it may be shown, without credentials.

    Raises:
        ConfigError: fsspec knows no such protocol, a package is missing, or there are credentials in the URL.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        _check(url)
        self.name = without_secrets(url).rstrip("/")
        self._url = url
        self._clock = clock
        self._fs: Any = None
        self._root = ""
        self._lock = threading.Lock()
        self._resting: dict[str, tuple[float, str]] = {}

    def read(self, name: str, *, limit: int = JSON_BYTES) -> bytes | None:
        """A small file whole; None where there is none.

        Raises:
            RemoteError: It cannot be read, or has more bytes than the limit.
        """
        try:
            return b"".join(self._chunks(name, limit))
        except _MissingError:
            return None

    def download(self, name: str, file: IO[bytes], *, limit: int) -> None:
        """Copy a file into an open one, a few megabytes at a time. After an error, a part of it may be there.

        Args:
            name: Of the file.
            file: To write to.
            limit: How many bytes it may have.

        Raises:
            RemoteError: It cannot be read, is not there, or has more bytes than the limit.
            OSError: The local file cannot be written.
        """
        with closing(self._chunks(name, limit)) as chunks:
            file.writelines(chunks)

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file there. Readers see the old one or the new one, never half.

        Raises:
            RemoteError: It cannot be written.
            OSError: There is no such local file.
        """
        size = path.stat().st_size
        with self._trying("write", f"upload {name} to"):
            target = f"{self._root}/{name}"
            if self._fs.async_impl:  # the object stores: what is put there appears whole or not at all
                self._ask("put_file", str(path), target, size=size)
                return
            partial = f"{self._root}/.{name}.{uuid4().hex}.tmp"
            self._ask("makedirs", self._root, exist_ok=True)
            try:
                self._ask("put_file", str(path), partial)
                self._ask("mv", partial, target)
            except BaseException:
                with suppress(Exception):
                    self._ask("rm_file", partial)
                raise

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone already.

        Raises:
            RemoteError: It cannot be removed.
        """
        with suppress(_MissingError), self._trying("write", f"remove {name} from"):
            self._ask("rm_file", f"{self._root}/{name}")

    def _chunks(self, name: str, limit: int) -> Generator[bytes]:
        with self._trying("read", f"read {name} from"):
            path = f"{self._root}/{name}"
            self._fs.invalidate_cache()  # what others put there a second ago counts
            size = self._ask("info", path)["size"]
            if type(size) is not int or not 0 <= size <= limit:
                found = "a file of unknown length" if size is None else size
                raise RemoteError(f"expected at most {limit} bytes in {name} at {self.name}, found {found}")
            for start in range(0, size, _CHUNK):
                end = min(start + _CHUNK, size)
                chunk = self._part(path, start, end)
                if len(chunk) != end - start:
                    raise RemoteError(f"expected {size} bytes in {name} at {self.name}, found {start + len(chunk)}")
                yield chunk

    def _part(self, path: str, start: int, end: int) -> bytes:
        """Some bytes of a file. Where a server sends more than it was asked for, not much more is taken.

        Raises:
            RemoteError: It sends more.
        """
        protocols = [self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol
        if "http" in protocols:  # its ``cat_file`` takes whatever comes
            chunk = _Chunk(end - start)
            headers = {**self._fs.kwargs.get("headers", {}), "Range": f"bytes={start}-{end - 1}"}
            self._ask("get_file", path, chunk, headers={**headers, "Accept-Encoding": "identity"}, size=_CHUNK)
            return chunk.getvalue()
        if "s3" in protocols:  # and so does this one, but it can be told to look at the headers first
            self._fs.s3.meta.events.register("before-parse.s3.GetObject", _refuse_more, unique_id="simet-cache")
        return bytes(self._ask("cat_file", path, start=start, end=end, size=_CHUNK))

    def _ask(self, method: str, *arguments: Any, size: int = 0, **options: Any) -> Any:
        """One call of the file system, for a limited time where that can be had."""
        if self._fs.async_impl:
            return getattr(self._fs, method)(*arguments, **options, timeout=_ANSWER + size / _SLOWEST)
        with self._lock:  # FTP and its like hold one conversation over one connection
            return getattr(self._fs, method)(*arguments, **options)

    @contextmanager
    def _trying(self, way: str, doing: str) -> Iterator[None]:
        """Trouble becomes a sentence, and a reason to leave the remote alone; after the pause, one call tries again."""
        until, why = self._resting.get(way, (0.0, ""))
        wait = until - self._clock()
        if why and wait > 0:
            sentence = f"cannot {doing} {self.name}: it is left alone for {wait:.0f} s more, since {why}"
            raise RemoteError(sentence, repeated=True)
        if why:
            self._resting[way] = self._clock() + _PAUSE, why
        try:
            self._connect()
            yield
        except RemoteError:  # it answers
            self._resting.pop(way, None)
            raise
        except Exception as error:
            why = _reason(error)
            sentence = f"cannot {doing} {self.name}: {why}"
            if _is_missing(error):
                self._resting.pop(way, None)
                raise _MissingError(sentence) from error
            rest = (self._clock() + _PAUSE, why)
            self._resting |= {way: rest, "write": rest}  # who is refused to write may still read
            raise RemoteError(sentence) from error
        self._resting.pop(way, None)

    def _connect(self) -> None:
        with self._lock:
            if self._fs is not None:
                return
            options: dict[str, Any] = {"skip_instance_cache": True}
            if self._url.startswith(tuple(f"{protocol}://" for protocol in _S3)):
                own = fsspec.config.conf.get("s3", {})  # what is given here would hide it
                options |= {"max_concurrency": 4, **own}  # parts of 50 MB that an upload holds in memory
                options["config_kwargs"] = {**_S3_CONFIG, **own.get("config_kwargs", {})}
            fs, root = fsspec.url_to_fs(self._url, **options)
            fs.retries = _TRIES
            self._fs, self._root = fs, root.rstrip("/")


class _Chunk(io.BytesIO):
    """Bytes on their way from a server, and no more than were asked for."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._length:
            raise RemoteError(_MORE)
        return super().write(data)


def _refuse_more(response_dict: Any, **_: Any) -> None:
    """Called by botocore when there are headers, and no byte of a body that is to be read later."""
    length = response_dict["headers"].get("content-length", "")
    if response_dict["status_code"] < 300 and not (length.isdecimal() and int(length) <= _CHUNK):
        raise RemoteError(_MORE)


_MORE = "the remote sends more of a file than the part that it is asked for; expected a server that knows Range"


def _check(url: str) -> None:
    protocol, found, rest = url.partition("://")
    problem = ""
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        problem = f"fsspec knows no protocol {protocol!r}; among those that it knows are s3, gs, abfs, sftp and file"
    except ImportError as error:
        how = "pip install 'simet-cache[s3]'" if protocol in _S3 else error
        problem = f"a package for {protocol}:// is not installed: {how}"
    bucket = rest.partition("/")[0]
    if not found or (protocol in _S3 and not bucket):
        problem = f"expected a URL like s3://bucket/prefix, found {without_secrets(url)!r}"
    elif refusal := refusal_of(url):
        problem = refusal
    if problem:
        raise ConfigError([f"remote: {problem}"])


def _is_missing(error: Exception) -> bool:
    """Whether the file is missing, and not the bucket or a whole web server, which look alike to fsspec."""
    cause = error.__cause__
    if isinstance(response := getattr(cause, "response", None), dict):
        return bool(response.get("Error", {}).get("Code") == "NoSuchKey")
    return isinstance(error, FileNotFoundError) and (not isinstance(cause, OSError) or _is_missing(cause))


def _reason(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) and not str(error) else reason_of(error)
