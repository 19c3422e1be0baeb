"""The remote home of the entries: a real S3 API on loopback, and everything that can be wrong with one."""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import fsspec
import pytest
from botocore.config import Config
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer

from simet_cache import remote
from simet_cache.errors import ConfigError, RemoteError
from simet_cache.remote import Remote

BIG = os.urandom(2**20)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class S3:
    """moto's S3, spoken to without s3fs."""

    def __init__(self, host: str, port: int) -> None:
        self.port = port
        self.url = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "somebody", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=self.url, config=Config(proxies={}), **keys)

    def post(self, path: str, data: bytes = b"") -> None:
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/{path}", data, plain)).close()

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket="bucket", Key=key, Body=data)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket="bucket", Key=key)["Body"].read()

    def keys(self) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket="bucket").get("Contents", [])]


class Relay:
    """Passes bytes on to a server until as many went down to the client, or up to the server; then hangs up."""

    def __init__(self, port: int) -> None:
        self.port, self.down, self.up, self.cuts, self.connections = port, 2**40, 2**40, 0, 0
        self.times = 2**40  # how many connections are cut
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self.port))
            for source, target, way in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._pass, args=(source, target, way), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, way: str) -> None:
        passed = 0
        try:
            while data := source.recv(2**14):
                passed += len(data)
                if passed > getattr(self, way) and self.cuts < self.times:
                    self.cuts += 1
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def moto() -> Iterator[S3]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield S3(*server.get_host_and_port())
    server.stop()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def s3(moto: S3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> S3:
    """The server, with an empty bucket."""
    moto.post("reset")
    moto.client.create_bucket(Bucket="bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)
    return moto


@pytest.fixture
def relay(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    relay = Relay(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
    yield relay
    relay.listener.close()


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Starts a server that gives the same answers to everybody; what it was asked is listed."""
    servers = []

    def start(**answers: tuple[int, int, bytes]) -> list[str]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # with 100 Continue

            def reply(self) -> None:
                asked.append(self.command)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, length, body = answers[self.command]
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.send_header("Connection", "close")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = reply  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers[-1].server_address[1]}")
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """A server that takes every call and never says a word, and little patience."""
    listener, taken = socket.create_server(("127.0.0.1", 0)), []

    def take() -> None:
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=take, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setattr(remote, "_ANSWER", 1.0)
    yield taken
    for each in (listener, *taken):
        each.close()


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://some/where"
    MemoryFileSystem.store.clear()


@pytest.fixture
def local(tmp_path: Path) -> Callable[..., Path]:
    def make(data: bytes = b"features") -> Path:
        path = tmp_path / "local"
        path.write_bytes(data)
        return path

    return make


def fetched(home: Remote, name: str = "x.pkl") -> bytes:
    file = io.BytesIO()
    home.download(name, file, limit=2**30)
    return file.getvalue()


PLACES = ["s3://bucket", "s3://bucket/", "s3://bucket/a/b/", "s3://bucket/Präfix mit/雪 %20+#?&", "s3a://bucket/u@v:w"]


@pytest.mark.parametrize("url", [*PLACES, "memory://a/b", "file://{tmp}/new/folder", "file://{tmp}/new/folder/"])
def test_what_goes_in_comes_out(url: str, s3: S3, local: Callable[..., Path], tmp_path: Path, memory: str) -> None:
    home = Remote(url.format(tmp=tmp_path))
    assert home.read("x.pkl") is None
    home.upload(local(BIG), "x.pkl")
    home.upload(local(b"{}"), "x.json")
    assert fetched(home) == BIG
    assert home.read("x.json") == b"{}"
    home.upload(local(b"other"), "x.pkl")
    assert fetched(Remote(url.format(tmp=tmp_path))) == b"other"
    if url in PLACES:
        prefix = "".join(url.rstrip("/").split("/", 3)[3:])
        assert s3.keys() == [f"{prefix}/{name}".lstrip("/") for name in ("x.json", "x.pkl")]


@pytest.mark.parametrize("url", ["s3://bucket/p", "memory://p", "file://{tmp}/p"])
def test_an_empty_file(url: str, s3: S3, local: Callable[..., Path], tmp_path: Path, memory: str) -> None:
    home = Remote(url.format(tmp=tmp_path))
    home.upload(local(b""), "x.pkl")
    assert home.read("x.pkl") == b""
    assert fetched(home) == b""


def test_a_big_file_comes_in_chunks(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_CHUNK", 100_000)
    s3.put("x.pkl", BIG)
    pieces: list[bytes] = []
    file = io.BytesIO()
    file.write = lambda piece: pieces.append(piece) or len(piece)  # type: ignore[method-assign]
    file.writelines = lambda lines: [file.write(line) for line in lines]  # type: ignore[method-assign]
    Remote("s3://bucket").download("x.pkl", file, limit=2**30)
    assert max(map(len, pieces)) == 100_000
    assert b"".join(pieces) == BIG


@pytest.mark.slow
def test_a_file_of_several_parts(s3: S3, local: Callable[..., Path]) -> None:
    data = BIG * 101  # from 100 MB on, s3fs uploads in parts
    home = Remote("s3://bucket")
    home.upload(local(data), "x.pkl")
    assert fetched(home) == data


def test_there_is_a_limit_to_what_is_read_into_memory(s3: S3) -> None:
    s3.put("x.json", b"12345")
    home = Remote("s3://bucket")
    assert home.read("x.json", limit=5) == b"12345"
    with pytest.raises(RemoteError, match=r"at most 4 bytes in x\.json at s3://bucket, found 5"):
        home.read("x.json", limit=4)
    assert home.read("x.json", limit=5) == b"12345"  # which is no reason to leave it alone


def test_a_missing_file_is_an_answer(s3: S3) -> None:
    home = Remote("s3://bucket/p")
    with pytest.raises(RemoteError, match=r"^cannot read x\.pkl from s3://bucket/p: .") as info:
        fetched(home)
    assert not info.value.repeated
    s3.put("p/x.pkl", b"1")
    assert fetched(home) == b"1"


def test_a_file_that_goes_while_it_is_read_is_a_missing_file(answer: Callable[..., list[str]]) -> None:
    answer(HEAD=(200, 3, b""), GET=refusal(404, "NoSuchKey"))
    assert Remote("s3://bucket").read("x.json") is None


def test_what_another_process_put_there_a_second_ago_counts(s3: S3) -> None:
    s3.put("p/x.json", b"old")
    home = Remote("s3://bucket/p")
    assert home.read("x.json") == b"old"
    home._fs.ls("bucket/p")  # which fsspec remembers
    s3.put("p/x.json", b"much newer")
    s3.put("p/y.json", b"new")
    assert home.read("x.json") == b"much newer"
    assert home.read("y.json") == b"new"


def test_other_users_of_fsspec_notice_nothing(memory: str) -> None:
    home = Remote(memory)
    home.read("x.json")
    assert home._fs is not fsspec.filesystem("memory")


def test_a_local_problem_is_no_trouble_of_the_remote(s3: S3, local: Callable[..., Path], tmp_path: Path) -> None:
    s3.put("x.pkl", b"1")
    home = Remote("s3://bucket")
    with pytest.raises(FileNotFoundError):
        home.upload(tmp_path / "gone", "x.pkl")
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError) as info:
        home.download("x.pkl", full, limit=2**30)
    assert info.value.errno == errno.ENOSPC
    home.upload(local(b"2"), "x.pkl")
    assert fetched(home) == b"2"


def test_half_a_file_is_never_seen(local: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    home = Remote(f"file://{tmp_path}/home", clock=clock)
    home.upload(local(b"old"), "x.pkl")

    def half(self: LocalFileSystem, source: str, target: str, **_: object) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "put_file", half)
        with pytest.raises(RemoteError, match=r"cannot upload x\.pkl to file://.*/home: No space left on device"):
            home.upload(local(b"new and long"), "x.pkl")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["x.pkl"]
    assert fetched(home) == b"old"
    clock.now += 61
    home.upload(local(b"new and long"), "x.pkl")
    assert fetched(home) == b"new and long"


# ---- trouble ----


def connected(url: str) -> Remote:
    home = Remote(url)
    home._connect()
    home._fs.connect()  # which takes s3fs a moment of its own
    return home


def in_trouble(call: Callable[[], object], match: str | None = None) -> RemoteError:
    with pytest.raises(RemoteError, match=match) as info:
        call()
    assert "\n" not in str(info.value)
    assert "secret" not in str(info.value)
    return info.value


def test_nobody_listens(local: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    told = r"s3://bucket/p: Could not connect to the endpoint URL"
    in_trouble(lambda: Remote("s3://bucket/p").read("x.json"), rf"^cannot read x\.json from {told}")
    in_trouble(lambda: fetched(Remote("s3://bucket/p")), rf"^cannot read x\.pkl from {told}")
    in_trouble(lambda: Remote("s3://bucket/p").upload(local(), "x.pkl"), rf"^cannot upload x\.pkl to {told}")


def test_somebody_listens_and_never_answers(silence: list[socket.socket]) -> None:
    home = connected("s3://bucket")
    in_trouble(lambda: home.read("x.json"), "s3://bucket: no answer in time$")
    assert silence


def test_somebody_listens_and_never_takes_an_upload(
    silence: list[socket.socket], local: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_SLOWEST", 2**40)
    home = connected("s3://bucket")
    in_trouble(lambda: home.upload(local(BIG * 20), "x.pkl"), "s3://bucket: no answer in time$")
    assert silence


def test_the_limits_reach_botocore_and_what_the_user_configured_stands(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 3}, "max_concurrency": 2})
    home = Remote("s3://bucket")
    assert home.read("x.json") is None
    config = home._fs.s3.meta.config
    assert (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]) == (5, 3, 2)
    assert (home._fs.max_concurrency, home._fs.retries) == (2, 2)


def test_a_download_is_cut_half_way(relay: Relay, s3: S3) -> None:
    s3.put("x.pkl", BIG)
    clock, file = Clock(), io.BytesIO()
    home, relay.down = Remote("s3://bucket", clock=clock), 300_000
    in_trouble(lambda: home.download("x.pkl", file, limit=2**30), r"cannot read x\.pkl from s3://bucket: .")
    assert relay.cuts
    relay.down = 2**40
    clock.now += 61
    assert fetched(home) == BIG


def test_a_download_that_is_cut_once_goes_on(relay: Relay, s3: S3) -> None:
    s3.put("x.pkl", BIG)
    relay.down, relay.times = 300_000, 1
    assert fetched(Remote("s3://bucket")) == BIG
    assert relay.cuts == 1


def test_an_upload_is_cut_half_way(relay: Relay, s3: S3, local: Callable[..., Path]) -> None:
    s3.put("x.pkl", b"old")
    clock = Clock()
    home, relay.up = Remote("s3://bucket", clock=clock), 300_000
    for name in ("x.pkl", "y.pkl"):
        in_trouble(lambda name=name: home.upload(local(BIG), name), rf"cannot upload {name} to s3://bucket: .")
        clock.now += 61
    assert relay.cuts
    assert s3.get("x.pkl") == b"old"
    assert s3.keys() == ["x.pkl"]
    relay.up = 2**40
    home.upload(local(BIG), "x.pkl")
    assert s3.get("x.pkl") == BIG


def test_there_is_no_such_bucket(s3: S3, local: Callable[..., Path]) -> None:
    clock = Clock()
    home = Remote("s3://no-bucket/p", clock=clock)
    in_trouble(lambda: home.read("x.json"), r"x\.json from s3://no-bucket/p: The specified bucket does not exist$")
    assert in_trouble(lambda: home.upload(local(), "x.pkl"), "bucket does not exist$").repeated
    in_trouble(lambda: Remote("s3://no-bucket/p").upload(local(), "x.pkl"), "The specified bucket does not exist$")
    assert [bucket["Name"] for bucket in s3.client.list_buckets()["Buckets"]] == ["bucket"]
    s3.client.create_bucket(Bucket="no-bucket")
    clock.now += 61
    home.upload(local(), "x.pkl")
    assert fetched(home) == b"features"


def test_wrong_credentials(s3: S3, local: Callable[..., Path]) -> None:
    s3.put("x.pkl", b"1")
    s3.post("reset-auth", b"0")
    try:
        in_trouble(lambda: fetched(Remote("s3://bucket")), "s3://bucket: Forbidden$")
        in_trouble(
            lambda: Remote("s3://bucket").upload(local(), "x.pkl"), "The AWS Access Key Id you provided does not"
        )
    finally:
        s3.post("reset-auth", b"inf")
    assert fetched(Remote("s3://bucket")) == b"1"


def test_no_credentials(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    in_trouble(lambda: Remote("s3://bucket").read("x.json"), "s3://bucket: Unable to locate credentials$")


def refusal(status: int, code: str) -> tuple[int, int, bytes]:
    body = f"<Error><Code>{code}</Code><Message>Not today</Message></Error>".encode()
    return status, len(body), body


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (500, "InternalError"), (503, "SlowDown"), (503, "ServiceUnavailable"), (400, "Odd")],
)
def test_the_server_refuses(
    status: int, code: str, answer: Callable[..., list[str]], local: Callable[..., Path]
) -> None:
    asked = answer(**dict.fromkeys(("HEAD", "GET", "PUT"), refusal(status, code)))
    home = Remote("s3://bucket")
    in_trouble(lambda: home.read("x.json"), r"cannot read x\.json from s3://bucket: .")
    before = len(asked)
    assert in_trouble(lambda: home.read("x.json"), "it is left alone for 60 s more, since .").repeated
    assert len(asked) == before
    in_trouble(lambda: Remote("s3://bucket").upload(local(), "x.pkl"), r"s3://bucket: .*Not today")


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("page", [b"<html>Welcome to the hotel, please log in</html>", b"\xff\x00", b""])
def test_something_that_is_no_s3_answers(
    status: int, page: bytes, answer: Callable[..., list[str]], local: Callable[..., Path]
) -> None:
    answer(**dict.fromkeys(("HEAD", "GET", "PUT"), (status, len(page), page)))
    in_trouble(lambda: Remote("s3://bucket").read("x.json"))
    in_trouble(lambda: Remote("s3://bucket").upload(local(), "x.pkl"))


def test_a_mirror_that_is_down_is_no_missing_file(answer: Callable[..., list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    in_trouble(lambda: Remote(f"http://127.0.0.1:{port}").read("x.json"))
    answer(HEAD=(404, 0, b""), GET=(404, 0, b""))
    assert Remote(os.environ["AWS_ENDPOINT_URL"]).read("x.json") is None


@pytest.mark.parametrize(("promised", "sent"), [(1000, 600), (600, 600)])
def test_a_body_is_too_short(promised: int, sent: int, answer: Callable[..., list[str]]) -> None:
    """Cut off before its Content-Length, or shorter than it was said to be before."""
    answer(HEAD=(200, 1000, b""), GET=(206, promised, b"x" * sent))
    in_trouble(lambda: fetched(Remote("s3://bucket")), r"x\.pkl")


def test_who_may_only_read_goes_on_reading(answer: Callable[..., list[str]], local: Callable[..., Path]) -> None:
    asked = answer(HEAD=(200, 3, b""), GET=(206, 3, b"abc"), PUT=refusal(403, "AccessDenied"))
    home = Remote("s3://bucket")
    in_trouble(lambda: home.upload(local(), "x.pkl"), "Not today$")
    assert in_trouble(lambda: home.upload(local(), "x.pkl"), "left alone .* since Not today$").repeated
    assert asked == ["PUT"]
    assert fetched(home) == b"abc"


def test_it_is_left_alone_after_trouble_and_tried_again(relay: Relay, s3: S3, local: Callable[..., Path]) -> None:
    s3.put("x.pkl", b"1")
    clock = Clock()
    home = Remote("s3://bucket", clock=clock)
    relay.down = 0
    assert not in_trouble(lambda: fetched(home)).repeated
    relay.down, tried = 2**40, relay.connections

    clock.now += 59
    assert in_trouble(lambda: fetched(home), r"cannot read x\.pkl from s3://bucket: it is left alone for 1 s").repeated
    assert in_trouble(lambda: home.read("x.json")).repeated
    assert in_trouble(lambda: home.upload(local(), "x.pkl")).repeated
    assert relay.connections == tried

    clock.now += 2
    relay.down = 0
    assert not in_trouble(lambda: fetched(home)).repeated  # tried, in vain
    assert in_trouble(lambda: fetched(home)).repeated

    clock.now += 61
    relay.down = 2**40
    assert home.read("missing.json") is None  # which is an answer as well
    assert fetched(home) == b"1"
    for data in (b"2", b"3"):
        home.upload(local(data), "x.pkl")
        assert fetched(home) == data


class Slow(MemoryFileSystem):
    """One conversation: it notices when two speak."""

    protocol = "slow"
    speaking = threading.Semaphore()
    gate = threading.Event()
    waiting = threading.Event()
    trouble: Exception | None = None

    def info(self, path: str, **options: object) -> dict[str, object]:
        assert self.speaking.acquire(blocking=False), "two speak at once"
        try:
            self.waiting.set()
            self.gate.wait(5)
            if self.trouble:
                raise self.trouble
            return super().info(path, **options)
        finally:
            self.speaking.release()


@pytest.fixture
def slow(memory: str) -> str:
    fsspec.register_implementation("slow", Slow, clobber=True)
    Slow.gate.set()
    Slow.trouble = None
    return "slow://a"


def test_after_the_pause_one_call_tries_for_all(slow: str) -> None:
    clock = Clock()
    home = Remote(slow, clock=clock)
    Slow.trouble = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    in_trouble(lambda: home.read("x"), r"^cannot read x from slow://a: Connection reset by peer$")
    Slow.trouble = None
    clock.now += 61
    Slow.gate.clear()
    Slow.waiting.clear()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(home.read, "x")
        assert Slow.waiting.wait(5)
        assert in_trouble(lambda: home.read("x")).repeated
        Slow.gate.set()
        assert first.result() is None
    assert home.read("x") is None


def test_a_conversation_is_held_by_one_thread_at_a_time(slow: str) -> None:
    home = Remote(slow)
    Slow.gate.clear()
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(home.read, "x") for _ in range(4)]
        assert Slow.waiting.wait(5)
        Slow.gate.set()
        assert [call.result() for call in calls] == [None] * 4


def test_threads_share_one_remote(s3: S3, tmp_path: Path) -> None:
    home = Remote("s3://bucket/p")

    def there_and_back(number: int) -> bool:
        path = tmp_path / str(number)
        path.write_bytes(BIG[:: number + 1])
        home.upload(path, f"{number}.pkl")
        return fetched(home, f"{number}.pkl") == BIG[:: number + 1]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(there_and_back, range(12)))


# ---- what a person can type ----


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense://bucket/p", "fsspec knows no protocol 'nonsense'"),
        ("simplecache::s3://bucket/p", "fsspec knows no protocol 'simplecache::s3'"),
        ("s3:/bucket/p", "expected a URL like s3://bucket/prefix, found 's3:/bucket/p'"),
        ("/mnt/shared", "expected a URL like s3://bucket/prefix, found '/mnt/shared'"),
        ("s3:///p", "expected a URL like s3://bucket/prefix, found 's3:///p'"),
        ("", "expected a URL like s3://bucket/prefix"),
        ("s3://somebody:secret@bucket/p", "credentials do not belong in a URL, "),
        ("s3://somebody:sec/ret@bucket/p", "credentials do not belong in a URL, "),
    ],
)
def test_a_url_that_cannot_be_used(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^remote: {re.escape(told)}") as info:
        Remote(url)
    assert "sec" not in str(info.value).replace("AWS_SECRET", "")


@pytest.mark.parametrize(
    ("protocol", "package", "told"),
    [("s3", "s3fs", r"pip install 'simet-cache\[s3\]'"), ("gs", "gcsfs", "gcsfs")],
)
def test_a_missing_package_is_named(protocol: str, package: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"^remote: a package for {protocol}:// is not installed: .*{told}"):
        Remote(f"{protocol}://bucket/p")


@pytest.mark.parametrize("url", ["ftp://somebody:secret@127.0.0.1/p", "ftp://somebody:sec@r/et@127.0.0.1/p"])
def test_credentials_in_any_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="set FSSPEC_FTP_USERNAME and FSSPEC_FTP_PASSWORD in the environment") as info:
        Remote(url)
    assert "somebody" not in str(info.value)
    assert "sec" not in str(info.value)


def test_credentials_of_ftp_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"username": "somebody", "password": "secret"}
    monkeypatch.setitem(fsspec.config.conf, "ftp", given)  # what FSSPEC_FTP_... is read into, when fsspec is imported
    seen: dict[str, object] = {}

    def connect(_: object, *__: object, **options: object) -> None:
        seen.update(options)
        raise ConnectionRefusedError

    monkeypatch.setattr("fsspec.implementations.ftp.FTPFileSystem.__init__", connect)
    in_trouble(lambda: Remote("ftp://127.0.0.1/p").read("x.json"), r"cannot read x\.json from ftp://127\.0\.0\.1/p: ")
    assert given.items() <= seen.items()


def test_whatever_a_backend_says_is_one_line_without_credentials(slow: str) -> None:
    Slow.trouble = LookupError("no way to\n  http://somebody:secret@10.0.0.1:9/x")
    message = str(in_trouble(lambda: Remote(slow).read("x"), r"no way to.* http://10\.0\.0\.1:9/x"))
    assert "somebody" not in message
    Slow.trouble = RuntimeError("")
    in_trouble(lambda: Remote(slow).read("x"), r"slow://a: RuntimeError$")


def test_credentials_in_an_endpoint_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://somebody:secret@127.0.0.1:9")
    assert "somebody" not in str(in_trouble(lambda: Remote("s3://bucket").read("x.json")))


def test_a_slash_at_the_end_changes_nothing() -> None:
    home = Remote("http://127.0.0.1:9/p/")
    home._connect()
    assert (home.name, home._root) == ("http://127.0.0.1:9/p", "http://127.0.0.1:9/p")


def test_a_forked_child_ends_well(s3: S3, run: Callable[..., object], tmp_path: Path) -> None:
    code = """
import multiprocessing, os, sys
from simet_cache.errors import RemoteError
from simet_cache.remote import Remote

home = Remote("s3://bucket")
assert home.read("x.json") is None

def child():
    try:
        home.read("x.json")
    except RemoteError as error:
        assert "fork" in str(error)
    else:
        raise AssertionError

if os.fork() == 0:
    child()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
for target in (child, int):
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join()
    assert process.exitcode == 0
assert home.read("x.json") is None
"""
    done = run("-W", "error", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
