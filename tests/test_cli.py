"""The command simet-cache, as a person or a script sees it."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simet_cache import answers
from simet_cache.cli import main
from simet_cache.printing import warnings_as_lines
from simet_cache.store import FeatureStore

ROOT = Path(__file__).resolve().parents[1]
KEYS = [f"{digit}" * 32 for digit in "123"]
FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)
ATTACK = b"cos\nsystem\n(S'true'\ntR."
HOSTILE = "\x1b[31m[red]\n\u202eevil"
ENTRY = ["key", "bytes", "last_used", "status", "reason", "shape", "dtype", "created_at", "dataset", "extractor"]

Result = tuple[int, str, str]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """Three entries in the place where the command looks by itself."""
    monkeypatch.chdir(tmp_path)
    store = FeatureStore(tmp_path / "cache" / "features")
    for number, key in enumerate(KEYS):
        components = {"dataset": f"/d/{number}", "subset": None, "suffix": f"x{number}", "length": 4, "batch_size": 2}
        store.put(
            key, np.ones((40 * (number + 1), 3), np.float32), components=components, dataset={"name": f"ckpt-{number}"}
        )
        os.utime(store.path(key).with_suffix(".json"), (1000 + number, 1000 + number))
    return store


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def document(call: Callable[..., Result]) -> Callable[..., Any]:
    """What a subcommand prints with --json; nothing else may be on standard output."""

    def run(*arguments: str, code: int = 0) -> Any:
        found, out, _ = call(*arguments, "--json")
        assert found == code
        return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    return run


def command(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simet_cache.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


# ls and info


@pytest.mark.usefixtures("cache")
def test_ls_prints_a_line_for_each_entry(call: Callable[..., Result]) -> None:
    code, out, err = call("ls")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split() == ["key", "status", "size", "used", "age", "shape", "dataset", "extractor"]
    assert [line.split()[0] for line in lines[1:4]] == KEYS[::-1], "what was used last comes first"
    assert lines[1].split()[-5:] == ["120", "x", "3", "ckpt-2", "x2"]
    assert lines[4].startswith("3 entries, ")


def test_ls_as_json(cache: FeatureStore, document: Callable[..., Any]) -> None:
    found = document("ls")
    assert list(found) == ["cache_dir", "bytes", "entries", "derived"]
    assert found["cache_dir"] == str(cache.cache_dir)
    assert [list(one) for one in found["entries"]] == [ENTRY] * 3
    assert found["entries"][0]["shape"] == [120, 3]
    assert found["entries"][0]["last_used"] == "1970-01-01T00:16:42+00:00"
    assert found["bytes"] == sum(one["bytes"] for one in found["entries"])


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sort", "key"], [0, 1, 2]),
        (["--sort", "key", "--reverse"], [2, 1, 0]),
        (["--sort", "size"], [2, 1, 0]),
        (["--sort", "used", "--reverse"], [0, 1, 2]),
        (["--sort", "dataset"], [0, 1, 2]),
        (["--dataset", "*-[12]"], [2, 1]),
        (["--extractor", "x0"], [0]),
        (["--status", "damaged"], []),
    ],
)
def test_ls_sorts_and_filters(document: Callable[..., Any], arguments: list[str], expected: list[int]) -> None:
    assert [one["key"] for one in document("ls", *arguments)["entries"]] == [KEYS[number] for number in expected]


def test_an_empty_cache(call: Callable[..., Result], tmp_path: Path) -> None:
    assert call("ls", "--cache-dir", str(tmp_path)) == (0, "0 entries, 0 bytes\n", "")
    assert list(tmp_path.iterdir()) == []


def test_info(cache: FeatureStore, call: Callable[..., Result], document: Callable[..., Any]) -> None:
    found = document("info", "2222")
    assert list(found) == [*ENTRY, "path", "files", "manifest"]
    assert found["manifest"] == cache.manifest(KEYS[1])
    assert set(found["files"]) == {f"{KEYS[1]}.{kind}" for kind in ("pkl", "json", "files")}
    code, out, _ = call("info", KEYS[1])
    assert code == 0
    words = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert words["manifest.components.suffix"] == "x1"
    assert words["path"] == str(cache.path(KEYS[1]))


def hostile_manifests() -> dict[str, dict[str, Any]]:
    deep: Any = "x"
    for _ in range(200):
        deep = {"a": [deep]}
    return {
        "names": {"dataset": {"name": HOSTILE}, "components": {"suffix": HOSTILE}, "created_at": HOSTILE},
        "types": {"dataset": [1], "components": "x", "extractor": 5, "created_at": {"a": 1}, "adopted": False},
        "numbers": {"seconds": float("nan"), "created_at": "0001-01-01T00:00:00+23:59", "bytes": [float("inf")]},
        "times": {"created_at": "9999-12-31T23:59:59-23:59"},
        "surrogates": {"dataset": {"name": "\ud800"}, HOSTILE: HOSTILE},
        "deep": {"more": deep},
        "reasons": {"format": 99, "written_by": HOSTILE},
    }


@pytest.mark.parametrize("kind", hostile_manifests())
def test_a_manifest_may_say_anything(
    cache: FeatureStore, call: Callable[..., Result], document: Callable[..., Any], kind: str
) -> None:
    said = cache.path(KEYS[0]).with_suffix(".json")
    said.write_text(json.dumps({**json.loads(said.read_bytes()), **hostile_manifests()[kind]}))
    for arguments in (["ls"], *(["ls", "--sort", name] for name in answers.ORDERS), ["info", "1111"]):
        code, out, err = call(*arguments)
        assert (code, err) == (0, "")
        assert all(character.isprintable() or character == "\n" for character in out)
        assert len(out.splitlines()) >= 4
        document(*arguments)


def test_a_hostile_name_does_nothing_to_a_terminal(cache: FeatureStore) -> None:
    """In a terminal of its own, where rich draws the table."""
    pty = pytest.importorskip("pty")
    cache.put(KEYS[0], FEATURES, dataset={"name": HOSTILE})
    main_end, other_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "simet_cache.cli", "ls"],
        stdout=other_end,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "xterm-256color"},
    )
    os.close(other_end)
    shown = b""
    while True:
        try:
            shown += os.read(main_end, 65536)
        except OSError:  # all was read
            break
    assert process.wait() == 0
    os.close(main_end)
    assert rb"\x1b[31m[red]\n\u202eevil" in shown
    assert b"\x1b[31m" not in shown
    assert KEYS[1][:12].encode() in shown


# verify


def test_verify(cache: FeatureStore, call: Callable[..., Result], document: Callable[..., Any]) -> None:
    code, out, _ = call("verify", "--full")
    assert (code, out) == (0, "3 entries checked (every byte): 0 findings\n")
    os.truncate(cache.path(KEYS[0]), 100)
    cache.path("f" * 32).write_bytes(ATTACK)
    found = document("verify", code=1)
    assert list(found) == ["cache_dir", "checked", "bytes", "derived", "findings"]
    assert [list(one) for one in found["findings"]] == [["key", "status", "reason", "done"]] * 2
    assert cache.path(KEYS[0]).exists()
    code, out, err = call("verify", "--repair")
    assert (code, err) == (1, "")
    assert "moved to quarantine" in out
    assert out.splitlines()[-1].endswith(", 1 left")
    assert not cache.path(KEYS[0]).exists()
    cache.path("f" * 32).unlink()
    assert call("verify")[0] == 0


# prune


def test_prune(cache: FeatureStore, call: Callable[..., Result], document: Callable[..., Any]) -> None:
    found = document("prune", "--keep-latest", "1", "--dry-run")
    assert list(found) == ["cache_dir", "dry_run", "freed", "left", "derived", "entries", "files"]
    assert [list(one) for one in found["entries"]] == [["key", "bytes", "last_used", "outcome", "reason"]] * 2
    assert [one["key"] for one in found["entries"]] == KEYS[:2]
    assert cache.keys() == KEYS
    code, out, err = call("prune", "--keep-latest", "1")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[:2]] == [[key, "removed:"] for key in KEYS[:2]]
    assert "freed" in out.splitlines()[-1]
    assert cache.keys() == KEYS[2:]
    assert call("prune", "--older-than", "1d", "--max-size", "1TB")[0] == 0
    assert cache.keys() == []


def test_prune_keeps_what_is_in_use_and_says_so(cache: FeatureStore, call: Callable[..., Result]) -> None:
    script = f"from simet_cache.store import FeatureStore; FeatureStore({str(cache.cache_dir)!r}).find({KEYS[0]!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{script}; print(flush=True); input()"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout
        process.stdout.readline()
        code, out, err = call("prune", "--max-size", "0")
    finally:
        process.kill()
        process.communicate()
    assert code == 0
    assert f"{KEYS[0]} in use, kept" in out
    assert err == "not enough: what is in use, or cannot be removed, was kept\n"
    assert cache.keys() == KEYS[:1]


# export and import


def test_export_and_import(
    cache: FeatureStore, call: Callable[..., Result], document: Callable[..., Any], tmp_path: Path
) -> None:
    found = document("export", "1111", "2222", "a.tar")
    assert list(found) == ["cache_dir", "archive", "entries"]
    assert [list(one) for one in found["entries"]] == [["key", "outcome", "reason"]] * 2
    found = document("import", "a.tar", "--cache-dir", "new/cache")
    assert list(found) == ["cache_dir", "source", "entries", "ignored", "problems"]
    assert [one["outcome"] for one in found["entries"]] == ["imported", "imported"]
    assert FeatureStore(tmp_path / "new" / "cache").keys() == KEYS[:2]
    code, out, err = call("import", str(cache.cache_dir), "--cache-dir", "new/cache")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("2 already there, 1 imported")
    assert call("export", "--all", "a.tar")[0] == 2
    assert call("export", "--all", "a.tar", "--force")[1].splitlines()[-1] == "3 entries exported to a.tar"


@pytest.mark.usefixtures("cache")
def test_an_archive_that_is_damaged(call: Callable[..., Result], document: Callable[..., Any], tmp_path: Path) -> None:
    call("export", "--all", "a.tar")
    os.truncate(tmp_path / "a.tar", 2000)
    code, out, err = call("import", "a.tar", "--cache-dir", "new")
    assert (code, out) == (1, "nothing was imported\n")
    assert len(err.splitlines()) == 1
    assert "a.tar" in err
    assert document("import", "a.tar", "--cache-dir", "new", code=1)["problems"] == [err.rstrip()]


def test_refused_entries_are_exit_code_1(cache: FeatureStore, call: Callable[..., Result]) -> None:
    cache.path("f" * 32).write_bytes(ATTACK)
    for arguments in (["import", str(cache.cache_dir), "--cache-dir", "new"], ["export", "--all", "b.tar"]):
        code, out, _ = call(*arguments)
        assert code == 1
        assert f"{'f' * 32} refused: " in out
    assert call("export", "ffff", "c.tar")[1].splitlines()[-1] == "nothing to export, and no archive written"
    assert not Path("c.tar").exists()


# explain


@pytest.fixture
def config(images: Callable[..., Path], tmp_path: Path) -> Path:
    for number, name in enumerate(["real", "a", "b"]):
        images(name, seed=number)
    file = tmp_path / "config.yaml"
    file.write_text(
        """
reference: {path: real}
datasets: [{path: a}, {path: b}]
extractor: {name: resnet18, weights: random, image_size: 32, batch_size: 4}
"""
    )
    return file


def fill(config: Path) -> FeatureStore:
    """What a run would leave in the cache, with other features."""
    from simet_cache.config_file import load_config
    from simet_cache.plan import plan, store_of

    loaded = load_config(config)
    store = store_of(loaded)
    for one in (loaded.reference, *loaded.datasets):
        planned = plan(one, loaded.all_extractors[0], loaded, store)
        store.put(planned.key, np.ones((len(planned.dataset), 3), np.float32), source=planned.source)
    return store


def statuses(document: Any) -> dict[str, str]:
    return {one["name"]: one["status"] for one in document["datasets"]}


def test_explain_without_a_cache_makes_none(config: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    found = document("explain", str(config))
    assert statuses(found) == {"real": "miss", "a": "miss", "b": "miss"}
    assert found["cache_dir"] == str(tmp_path / "cache" / "features")
    assert list(found["datasets"][0]) == ["name", "status", "reason", "key", "components", "nearest"]
    assert list(found["datasets"][0]["components"]) == ["dataset", "subset", "suffix", "length", "batch_size"]
    assert found["datasets"][0]["components"]["dataset"] == str(tmp_path / "real")
    assert sorted(tmp_path.rglob("*")) == before


def test_explain_tells_hit_miss_stale_and_damaged(
    config: Path, call: Callable[..., Result], document: Callable[..., Any], tmp_path: Path
) -> None:
    store = fill(config)
    assert set(statuses(document("explain", str(config))).values()) == {"hit"}
    (tmp_path / "a" / "0003.png").write_bytes((tmp_path / "a" / "0004.png").read_bytes())
    keys = {one["name"]: one["key"] for one in document("explain", str(config))["datasets"]}
    os.truncate(store.path(keys["b"]), 100)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = document("explain", str(config))
    assert statuses(found) == {"real": "hit", "a": "stale", "b": "damaged"}
    code, out, err = call("explain", str(config))
    assert (code, err) == (0, "")
    assert "0003.png" in out
    assert f"1 of 3 feature sets in {store.cache_dir}" in out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_explain_names_the_nearest_entry_and_what_differs(
    config: Path, call: Callable[..., Result], document: Callable[..., Any]
) -> None:
    store = fill(config)
    store.path("0" * 32).write_bytes(pickle.dumps(FEATURES))
    found = document("explain", str(config), "--set", "extractor.batch_size=8")
    assert set(statuses(found).values()) == {"miss"}
    assert [one["nearest"]["differences"] for one in found["datasets"]] == [
        [{"component": "batch_size", "there": 4, "here": 8}]
    ] * 3
    assert {one["nearest"]["key"] for one in found["datasets"]} == set(store.keys()) - {"0" * 32}
    assert (
        "differs in batch_size: 4 there, 8 here" in call("explain", str(config), "--set", "extractor.batch_size=8")[1]
    )


def test_explain_does_not_count_as_use(config: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    """Not even where the list of bad images makes it ask for the features of all."""
    store = fill(config)
    from simet_cache.config_file import load_config
    from simet_cache.plan import plan
    from simet_cache.skipped import SkippedImage, remember_skipped

    loaded = load_config(config)
    planned = plan(loaded.reference, loaded.all_extractors[0], loaded, store)
    remember_skipped(store, planned.key, [1], [SkippedImage("0001.png", "bad")], planned.source)
    store.path(planned.key).write_bytes(b"damage")
    before = {path: path.stat().st_mtime_ns for path in store.cache_dir.rglob("*")}
    assert statuses(document("explain", str(config), "--set", "on_bad_image=skip"))["a"] == "hit"
    assert {path: path.stat().st_mtime_ns for path in store.cache_dir.rglob("*")} == before


def test_a_dataset_that_cannot_be_opened_is_a_row_and_exit_code_1(
    config: Path, call: Callable[..., Result], document: Callable[..., Any], tmp_path: Path
) -> None:
    fill(config)
    for image in (tmp_path / "b").iterdir():
        image.unlink()
    found = document("explain", str(config), code=1)
    assert statuses(found) == {"real": "hit", "a": "hit", "b": "error"}
    assert str(tmp_path / "b") in found["datasets"][2]["reason"]
    assert "b: error" in call("explain", str(config))[1]


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls", "--cache-dir", "nothing"], "there is no cache folder "),
        (["ls", "--cache-dir", "file"], "there is no cache folder "),
        (["verify", "--cache-dir", "nothing"], "there is no cache folder "),
        (["prune", "--max-size", "1GB", "--cache-dir", "nothing"], "there is no cache folder "),
        (["export", "--all", "x.tar", "--cache-dir", "nothing"], "there is no cache folder "),
        (["prune"], "nothing to go by"),
        (["prune", "--max-size", "big"], "expected a size like 50GB"),
        (["prune", "--older-than", "30"], "expected an age like 30d"),
        (["prune", "--keep-latest", "-1"], "expected 0 or more"),
        (["info", "9999"], "has a key that starts with 9999"),
        (["info", "123"], "expected a key or its first 4 or more hexadecimal digits"),
        (["info", "\x1b[31m"], r"found '\x1b[31m'"),
        (["import", "nothing"], "nothing to import at nothing"),
        (["import", "file"], "expected an archive of 'simet-cache export', found file"),
        (["export"], "expected the keys of the entries and then the archive"),
        (["export", "--all"], "expected the keys of the entries and then the archive"),
        (["export", "x.tar"], "expected the keys of the entries and then the archive"),
        (["export", "--all", "1111", "x.tar"], "expected the keys of the entries and then the archive"),
        (["export", "9999", "x.tar"], "has a key that starts with 9999"),
        (["explain", "nothing.yaml"], "nothing.yaml: cannot read the configuration"),
    ],
)
@pytest.mark.usefixtures("cache")
def test_bad_input_is_a_sentence_and_exit_code_2(
    call: Callable[..., Result], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "file").write_text("hello")
    before = sorted(tmp_path.rglob("*"))
    for more in ([], ["--json"]):
        code, out, err = call(*arguments, *more)
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_ctrl_c_is_130(cache: FeatureStore, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureStore, "keys", interrupted)
    assert call("ls") == (130, "", "interrupted\n")


@pytest.mark.parametrize("subcommand", ["ls", "info", "explain", "verify", "prune", "import", "export"])
def test_help_documents_exit_codes(subcommand: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([subcommand, "--help"])
    words = " ".join(capsys.readouterr().out.split())
    for word in ("Exit code 0:", "1:", "2: bad input", "130: interrupted", "--json"):
        assert word in words
    if subcommand in ("import", "export"):
        assert "only if the images lie under the same path there" in words


# As a process


def test_neither_torch_nor_prefect_is_imported(cache: FeatureStore, tmp_path: Path) -> None:
    cache.path("f" * 32).write_bytes(pickle.dumps(FEATURES))
    lines = [
        ["ls"],
        ["info", "1111"],
        ["verify", "--full", "--repair"],
        ["export", "--all", "x.tar"],
        ["import", "x.tar", "--cache-dir", "new"],
        ["prune", "--max-size", "0"],
    ]
    script = f"""
import sys
from simet_cache.cli import main
for line in {lines}:
    main(line)
print({{"torch", "torchvision", "prefect", "pydantic", "fsspec"}} & sys.modules.keys(), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1:] == ["set()"], done.stderr


@pytest.mark.usefixtures("cache")
def test_a_process_exits_with_the_code(tmp_path: Path) -> None:
    assert command("ls", "--json", cwd=tmp_path).returncode == 0
    done = command("ls", "--cache-dir", "nothing", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", ["ls", "verify", "ls --json"])
def test_whoever_closes_the_pipe_hears_nothing(cache: FeatureStore, tmp_path: Path, arguments: str) -> None:
    for number in range(3):
        cache.path(f"{number:032x}").write_bytes(ATTACK)
    line = f"{sys.executable} -m simet_cache.cli {arguments} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.returncode == (1 if arguments == "verify" else 0)


def test_warnings_are_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_as_lines(logging.WARNING):
        logging.getLogger("simet_cache.store").warning("a %s", "\x1b[31mname")
        logging.getLogger("simet_cache.store").info("unheard")
    assert capsys.readouterr().err == "a \\x1b[31mname\n"


def test_an_unused_cache_stays_as_it_is(tmp_path: Path, call: Callable[..., Result]) -> None:
    """The times of manifests tell when entries were last used."""
    store = FeatureStore(tmp_path)
    store.put(KEYS[0], FEATURES)
    store.put(KEYS[1], FEATURES)
    for key in KEYS[:2]:
        os.utime(store.path(key).with_suffix(".json"), (1000, 1000))
    folder = str(tmp_path)
    for arguments in (
        ["ls"],
        ["info", "1111"],
        ["verify"],
        ["verify", "--full", "--repair"],
        ["export", "--all", f"{folder}/x.tar"],
        ["prune", "--max-size", "1GB"],
        ["prune", "--max-size", "0", "--dry-run"],
    ):
        assert call(*arguments, "--cache-dir", folder)[0] == 0
        assert [store.path(key).with_suffix(".json").stat().st_mtime for key in KEYS[:2]] == [1000, 1000]
