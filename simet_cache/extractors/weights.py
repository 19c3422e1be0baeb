"""Weights of extractors: downloaded, drawn at random from a seed, or read from a file."""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.hub import get_dir, load_state_dict_from_url
from torch.overrides import TorchFunctionMode

from simet_cache.errors import WeightsError

StateDict = dict[str, torch.Tensor]
T = TypeVar("T")


def download(url: str) -> StateDict:
    """The state dict behind a URL, from torch's hub folder where it is there already.

    Raises:
        WeightsError: It cannot be had; the message names the ways out.
    """
    try:
        state: StateDict = load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True, progress=os.isatty(2)
        )
    except Exception as error:  # the network and damaged bytes make it raise almost anything
        name = url.rsplit("/", 1)[1]
        file = Path(get_dir(), "checkpoints", name)
        if file.is_file():
            raise WeightsError(f"{file} is damaged ({error}); remove it, so that it is downloaded again") from error
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise WeightsError(
            f"cannot download the weights from {url} ({reason}); set extractor.weights=path/to/{name} to a copy of that"
            f" file, or put it into {file.parent}, or set extractor.weights=random, whose values compare with no"
            " published ones"
        ) from error
    return state


def read_file(path: Path) -> StateDict:
    """The state dict in a file, tensors only: nothing in it can run.

    Raises:
        WeightsError: The file is missing, or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"cannot read the weights file {path}: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        raise WeightsError(f"{path} is no file of weights that can be loaded safely; expected a state dict") from error
    for wrapper in ("state_dict", "model"):  # as training scripts save them
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}; expected a state dict of tensors")
    if not state or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
        raise WeightsError(f"{path} holds a dict of something else; expected a state dict: tensors by name")
    return renamed(state, lambda name: "" if name == "module" else name.removeprefix("module."))


def renamed(state: StateDict, rename: Callable[[str], str]) -> StateDict:
    """A state dict under other names, with the versions of its modules, by which models read old files."""
    result = OrderedDict((rename(name), value) for name, value in state.items())
    versions = getattr(state, "_metadata", {})
    vars(result)["_metadata"] = {rename(name): value for name, value in versions.items()}
    return result


def load_into(model: nn.Module, state: StateDict, source: str, *, assign: bool = False) -> None:
    """Load weights for every parameter that the model has; what else there is, like another head, is left out.

    A deeper model of the same family has all of these parameters and more of them in the same parts: it does not fit.

    Args:
        model: Whose weights they are to be.
        state: Tensors by name.
        source: What to call them in errors.
        assign: Make the tensors themselves the model's, which a model without memory (on ``meta``) needs.

    Raises:
        WeightsError: Parameters are missing, have other shapes, or are too many for a part of the model.
    """
    own = model.state_dict()
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if wrong:
        found, expected = tuple(state[wrong[0]].shape), tuple(own[wrong[0]].shape)
        raise WeightsError(f"the weights of {source} do not fit: {wrong[0]!r} has shape {found}, expected {expected}")
    try:  # not by name alone: some models rename what is in older files
        found = model.load_state_dict(state, strict=False, assign=assign)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"the weights of {source} do not fit: {str(error).splitlines()[-1].strip()}") from error
    # num_batches_tracked counts training steps and changes no output; old files do not have it
    missing = [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(f"the weights of {source} lack {len(missing)} of {len(own)} tensors, first {missing[0]!r}")
    surplus = [name for name in found.unexpected_keys if _is_surplus(model, name)]
    if surplus:
        raise WeightsError(
            f"the weights of {source} do not fit: they are of another model, with {len(surplus)} tensors more than this"
            f" one, first {surplus[0]!r}"
        )


def _is_surplus(model: nn.Module, name: str) -> bool:
    """Whether a tensor is of a part of the model that has weights; heads that were taken away have none."""
    *path, kind = name.split(".")
    part = model
    for step in path:
        if step not in part._modules or part._modules[step] is None:  # noqa: SLF001 - children() leaves None out
            break
        part = part.get_submodule(step)
    # what profilers and batch norms count in every module is no weight
    return kind in ("weight", "bias") and part is not model and len(part.state_dict()) > 0


def seeded(seed: int, build: Callable[[], T]) -> T:
    """Build something with random numbers from a seed, the same that ``torch.manual_seed`` would give.

    They come from a generator of their own: torch's is one for all threads, and others may draw from it meanwhile.
    """
    with _OwnRandomNumbers(torch.Generator().manual_seed(seed)):
        return build()


class _OwnRandomNumbers(TorchFunctionMode):
    """Hands a generator to every function that draws random numbers in this thread."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        drawn = {"generator": self._generator} if getattr(func, "__name__", "") in _DRAWING else {}
        return func(*args, **{**(kwargs or {}), **drawn})


# What initialises models, in torch.nn.init and below it.
_DRAWING = {
    *("kaiming_normal_", "kaiming_uniform_", "normal_", "orthogonal_", "sparse_", "trunc_normal_", "uniform_"),
    *("xavier_normal_", "xavier_uniform_"),
    *("bernoulli_", "normal", "rand", "randint", "randn", "random_", "randperm"),
}


def suffix_part(weights: Path, official_url: str) -> str:
    """What a weights file adds to the suffix: nothing for a copy of the official file, else its digest."""
    try:
        status = weights.stat()
        sha256 = _sha256(weights, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"cannot read the weights file {weights}: {error.strerror or error}") from error
    official = re.search(r"-([0-9a-f]{8,})\.\w+$", official_url)  # torch hub's convention: the head of the sha256
    if official and sha256.startswith(official[1]):
        return ""
    return f"_w{sha256[:8]}"


def identity(weights: Path | None, official_url: str) -> str:
    """The name of the published file, for a copy of it too; else the digest of the file."""
    if weights is None or not suffix_part(weights, official_url):
        return official_url.rsplit("/", 1)[1]
    status = weights.stat()
    return f"sha256:{_sha256(weights, status.st_size, status.st_mtime_ns)}"


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - a changed file is another key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
