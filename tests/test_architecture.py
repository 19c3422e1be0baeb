"""The house stands as it was drawn: imports go one way, flows -> tasks -> simet_cache."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOOR = {"simet_cache": 1, "tasks": 2, "flows": 3}
FILES = [file for package in FLOOR for file in sorted((ROOT / package).rglob("*.py"))]


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_never_point_upwards(file: Path) -> None:
    own = FLOOR[file.relative_to(ROOT).parts[0]]
    above = {name for name in imported(file) if FLOOR.get(name, 0) > own}
    assert not above


def test_only_the_policies_and_their_records_import_prefect() -> None:
    library = [file for file in FILES if file.relative_to(ROOT).parts[0] == "simet_cache"]
    assert [file.name for file in library if "prefect" in imported(file)] == [
        "derived_policy.py",
        "engine.py",
        "feature_tasks.py",
        "policy.py",
        "records.py",
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_is_loaded_that_could_run_code(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "os.system"}
        if name == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)


@pytest.mark.parametrize("module", ["simet_cache.store", "simet_cache.codec", "simet_cache.derived"])
def test_the_store_needs_neither_torch_nor_prefect(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'prefect') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
