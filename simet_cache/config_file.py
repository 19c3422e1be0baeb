"""From a YAML file, ``--set`` and the command line to an ``EvaluationConfig``; every problem with its place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simet_cache.config.evaluation import EvaluationConfig
from simet_cache.config.messages import lines
from simet_cache.config.patterns import escape
from simet_cache.config.written import Place, Source, apply_override, read_yaml
from simet_cache.errors import ConfigError

_PATHS = {"path", "glob", "root", "cache_dir", "output"}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> EvaluationConfig:
    """Read and validate a configuration file.

    Args:
        path: The YAML file. Paths in it are relative to its folder, defaults too.
        overrides: ``key=value`` each, with dots in the key and YAML for the value: ``restraints.fid.upper_bound=40``.
            Paths in them are relative to the working directory.

    Raises:
        ConfigError: With one line for each problem.
    """
    path = Path(os.path.expanduser(path))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot read the configuration: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: expected a YAML file in UTF-8: {error}"]) from error
    return _validated(read_yaml(text, path), overrides)


def config_from_folders(real: str, synth: Sequence[str], overrides: Sequence[str] = ()) -> EvaluationConfig:
    """The configuration that ``--real DIR --synth DIR [DIR ...]`` stands for, relative to the working directory.

    Raises:
        ConfigError: With one line for each problem.
    """
    tree = {"reference": {"path": real}, "datasets": [{"path": folder} for folder in synth]}
    origins: dict[Place, tuple[str, Path]] = {(): ("command line", Path.cwd()), ("reference",): ("--real", Path.cwd())}
    origins |= {("datasets", number): ("--synth", Path.cwd()) for number in range(len(synth))}
    return _validated(Source(tree, origins), overrides)


def _validated(source: Source, overrides: Sequence[str]) -> EvaluationConfig:
    for override in overrides:
        apply_override(source, override)
    for name in ("cache_dir", "output"):  # their defaults follow the file, too
        source.tree.setdefault(name, str(EvaluationConfig.model_fields[name].default))
    _absolute(source, source.tree, ())
    try:
        return EvaluationConfig.model_validate(source.tree)
    except ValidationError as error:
        raise ConfigError(list(dict.fromkeys(lines(error, source)))) from error


def _absolute(source: Source, tree: Any, place: Place) -> None:
    """Make every path absolute, relative to whoever wrote it."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        inner = (*place, key)
        if key == "parts":  # of a dataset: text, whatever it is called
            continue
        if isinstance(value, (dict, list)):
            _absolute(source, value, inner)
        elif isinstance(value, str) and (key in _PATHS or _is_weights_file(inner, value)):
            base, path = source.origin(inner)[1], os.path.expanduser(value)
            while path.startswith("../"):  # a base has no links in it, so that its parent is what the path means
                base, path = base.parent, path[3:]
            tree[key] = os.path.join(escape(str(base)) if key == "glob" else str(base), path)


def _is_weights_file(place: Place, value: str) -> bool:
    of_extractor = place == ("extractor", "weights") or (place[0] == "extractors" and place[2:] == ("weights",))
    return of_extractor and value not in {"default", "random"}
