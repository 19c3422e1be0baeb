"""What others have named or written reaches no terminal, log, file or artifact as it is; secrets reach none at all."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows import evaluate
from flows.evaluate import ROOT
from simet_cache import cli
from simet_cache.store import FeatureStore
from simet_cache.urls import refusal_of

Run = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = ROOT / "flows" / "evaluate.py"
SMALL = ["extractor.name=resnet18", "extractor.weights=random", "extractor.image_size=32"]
SMALL_ONE = {"name": "resnet18", "weights": "random"}
FORGED = "PASS 9 of 9 datasets measured"
EVIL = "\x1b]0;owned\x07\x9b31m[red]x[link=www.evil.example]y"
HIDDEN = "hunter2"


def is_shown(text: str) -> None:
    """A terminal can be given it: it has printable lines, and none that a name has forged."""
    assert all(line.isprintable() for line in text.split("\n")), repr(text)
    assert not any(line.strip().startswith(FORGED) for line in text.split("\n"))


def artifact(home: Path) -> str:
    with sqlite3.connect(home / "prefect.db") as database:
        ((data,),) = database.execute("SELECT data FROM artifact WHERE key = 'evaluation'").fetchall()
    return str(json.loads(data))


@pytest.fixture
def project(tmp_path: Path, images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two sets of images."""
    for name in ("real", "a"):
        images(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestNames:
    @pytest.mark.slow
    def test_of_folders_and_images(self, run: Run, tmp_path: Path, images: Callable[..., Path]) -> None:
        home, names = tmp_path / "prefect", [f"real{EVIL}", f"=1+1{EVIL}", f"b\n{FORGED}", "@bad"]
        for number, name in enumerate(names):
            images(name, seed=number)
        (tmp_path / "@bad" / f"z{EVIL}\n{FORGED}.png").write_bytes(b"no image")
        folders = ["--real", names[0], "--synth", *names[1:]]
        done = run(SCRIPT, *folders, "--set", *SMALL, cwd=tmp_path, PREFECT_HOME=str(home))
        assert done.returncode == 1, done.stderr
        assert "2 of 3 datasets measured" in done.stdout
        assert "\\x1b]0;owned\\x07" in done.stdout
        assert "[red]x[link=www.evil.example]y" in done.stdout
        assert "\\x1b]0;owned\\x07" in done.stderr
        is_shown(done.stdout)
        is_shown(done.stderr)
        for folder in (tmp_path / "results", *(tmp_path / "results" / "runs").glob("*/")):
            for name in ("results.csv", "results.json"):
                is_shown((folder / name).read_text(encoding="utf-8"))
            found = json.loads((folder / "results.json").read_bytes())
            assert [one["name"] for one in found["tables"][0]["datasets"]] == names[1:]
            rows = list(csv.reader((folder / "results.csv").open(encoding="utf-8", newline="")))
            cells = [cell for row in rows for cell in row]
            assert any(cell.startswith("'=1+1") for cell in cells)
            assert not [cell for cell in cells if re.match(r"[=+@]|-[^\d.]", cell)]
        markdown = artifact(home)
        is_shown(markdown)
        assert "www." not in markdown
        assert "\\[red\\]x\\[link=www&#46;evil.example\\]y" in markdown

    @pytest.mark.parametrize("arguments", [["--plan"], []])
    def test_of_a_configuration_that_cannot_be_used(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str]
    ) -> None:
        assert evaluate.main(["--real", f"no{EVIL}\n{FORGED}", "--synth", "a", *arguments]) == 2
        is_shown(capsys.readouterr().err)

    def test_in_what_a_plan_says(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        name = f"b{EVIL}\n{FORGED}"
        (project / "a").rename(project / name)
        (project / name / "0000.png").write_bytes(b"no image")
        assert evaluate.main(["--real", "real", "--synth", name, "--plan", "--set", *SMALL]) == 1
        captured = capsys.readouterr()
        assert "\\x1b]0;owned\\x07" in captured.out
        is_shown(captured.out + captured.err)


KEY = "0123456789abcdef" * 2


class TestManifests:
    """Whatever a manifest says, every subcommand shows it and none obeys it."""

    @pytest.fixture
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
        monkeypatch.chdir(tmp_path)
        store = FeatureStore(tmp_path / "cache" / "features")
        store.put(KEY, np.ones((4, 3), np.float32))
        path = store.path(KEY).with_suffix(".json")
        evil = f"x{EVIL}\n{FORGED}"
        manifest = json.loads(path.read_bytes())
        manifest |= {
            "created_at": evil,
            "components": {"dataset": evil, "suffix": evil, "length": evil, "batch_size": evil},
            "dataset": {"name": evil, evil: evil},
            "extractor": {"name": evil, "weights": {evil: [evil]}},
        }
        path.write_text(json.dumps(manifest))
        return store

    @pytest.mark.usefixtures("cache")
    @pytest.mark.parametrize("words", ["ls", "ls --json", "info 0123", "info 0123 --json", "verify", "export --all x"])
    def test_in_every_subcommand(self, words: str, capsys: pytest.CaptureFixture[str]) -> None:
        cli.main(words.split())
        captured = capsys.readouterr()
        assert captured.out
        is_shown(captured.out)
        is_shown(captured.err)

    @pytest.mark.usefixtures("cache")
    def test_in_names_of_files(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["import", f"in{EVIL}\n{FORGED}"]) == 2
        is_shown(capsys.readouterr().err)


LOCKED = """
import sys, pathlib, numpy
from simet_cache import FeatureStore

store = FeatureStore(pathlib.Path("cache"))
def compute():
    print(*(path.read_text() for path in pathlib.Path("cache/locks").glob("*.holder")))
    return numpy.ones((2, 2), numpy.float32)
store.get_or_compute("0123456789abcdef" * 2, compute)
"""


def described(project: Path, more: dict[str, Any]) -> None:
    tree = {"reference": {"path": "real"}, "datasets": [{"path": "a"}], "extractor": SMALL_ONE}
    (project / "config.yaml").write_text(yaml.safe_dump({**tree, **more}))


URLS = (
    f"s3://somebody:{HIDDEN}@bucket/prefix",
    f"https://somebody:{HIDDEN}@host/prefix",
    f"https://{HIDDEN}@host/prefix",
    f"https://host/prefix?token={HIDDEN}",
    f"sftp://somebody:{HIDDEN}@host/prefix",
    f"simplecache::ftp://somebody:{HIDDEN}@host/prefix",
)


class TestSecrets:
    @pytest.mark.parametrize(
        ("command", "url"), [*(("evaluate", url) for url in URLS), ("explain", URLS[0]), ("set", URLS[0])]
    )
    def test_in_a_configuration_are_refused_and_written_nowhere(
        self, project: Path, capsys: pytest.CaptureFixture[str], url: str, command: str
    ) -> None:
        described(project, {} if command == "set" else {"remote": url})
        if command == "explain":
            code = cli.main(["explain", "config.yaml"])
        else:
            code = evaluate.main(["config.yaml", *(["--set", f"remote={url}"] if command == "set" else [])])
        captured = capsys.readouterr()
        assert code == 2
        assert "remote: credentials do not belong in a URL" in captured.err
        assert "in the environment" in captured.err
        assert "Secret block" in captured.err
        assert HIDDEN not in captured.out + captured.err
        for file in project.rglob("*"):
            assert file.is_dir() or file.name == "config.yaml" or HIDDEN.encode() not in file.read_bytes(), file

    @pytest.mark.parametrize(
        "tree",
        [
            {"datasets": [{"path": URLS[0]}]},
            {"datasets": [{"glob": URLS[0]}]},
            {"task_runner": {"kind": "dask", "address": f"tcp://somebody:{HIDDEN}@host:8786"}},
            {"extractor": {"name": "resnet18", "weights": URLS[0]}},
        ],
        ids=["path", "glob", "address", "weights"],
    )
    def test_in_any_other_place_too(
        self, project: Path, capsys: pytest.CaptureFixture[str], tree: dict[str, Any]
    ) -> None:
        described(project, tree)
        assert evaluate.main(["config.yaml", "--plan"]) == 2
        captured = capsys.readouterr()
        assert "credentials do not belong in a URL" in captured.err
        assert HIDDEN not in captured.out + captured.err

    @pytest.mark.parametrize(
        "url",
        ["s3a://bucket/u@v:w", "s3://b/#?&", "file:///a/b@c:d", "abfs://features@account/x", "sftp://me@host/a@b"],
    )
    def test_what_only_looks_like_one_is_none(self, url: str) -> None:
        assert refusal_of(url) == ""

    def test_in_a_command_are_in_no_note_of_a_lock(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "program.py").write_text(LOCKED)
        secret = [
            "--password",
            HIDDEN,
            f"--api-key={HIDDEN}",
            f"AWS_SECRET_ACCESS_KEY={HIDDEN}",
            f"db://u:{HIDDEN}@h/x",
        ]
        done = run("program.py", *secret, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "program.py --password ***" in done.stdout
        assert HIDDEN not in done.stdout
        for file in (tmp_path / "cache").rglob("*"):
            assert file.is_dir() or HIDDEN.encode() not in file.read_bytes(), file
