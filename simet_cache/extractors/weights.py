"""Weights of extractors: downloaded, drawn at random from a seed, or read from a file."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.hub import download_url_to_file, get_dir
from torch.overrides import TorchFunctionMode

from simet_cache.errors import WeightsError

if TYPE_CHECKING:
    from simet_cache.config import ExtractorConfig

log = logging.getLogger(__name__)

StateDict = dict[str, torch.Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Weights:
    """Which weights a model has, as they were found at one moment: by their digest, wherever the file lies.

    Attributes:
        identity: For manifests: the name of the published file, ``sha256:...`` of any other, or the seed.
        suffix: What they add to the suffix of the extractor: nothing for a published file.
        url: The published file that these are; None where they are others.
        path: The file; None for random weights, and for a published file that is still to be downloaded.
        sha256: Of the file at that moment.
        in_hub: Whether the file is the one that torch's hub folder has under the published name.
    """

    identity: str
    suffix: str = ""
    url: str | None = None
    path: Path | None = None
    sha256: str | None = None
    in_hub: bool = False


def find(config: ExtractorConfig, published: Sequence[str], *, default: str) -> Weights:
    """Which weights a configuration means: a file's digest decides, and neither its name nor its place.

    Args:
        config: Of the extractor.
        published: The URLs of all files that are published for this model; their names hold the head of the sha256.
        default: The one of them that ``weights: default`` means.

    Raises:
        WeightsError: The file cannot be read.
    """
    if config.weights == "random":
        return Weights(f"random, seed {config.seed}", f"_random{config.seed}")
    path = config.weights_file or hub_file(default)
    in_hub = config.weights_file is None
    if in_hub and not path.is_file():
        return Weights(_name(default), url=default, in_hub=True)
    sha256 = digest_of(path)
    url = next((one for one in published if is_published(sha256, one)), None)
    if url is not None:
        return Weights(_name(url), url=url, path=path, sha256=sha256, in_hub=in_hub)
    if path.name in map(_name, published):
        _warn_of_name(path, sha256)
    return Weights(f"sha256:{sha256}", f"_w{sha256[:8]}", path=path, sha256=sha256, in_hub=in_hub)


def load(weights: Weights) -> StateDict:
    """The tensors of weights that were found before: from the same bytes as the digest, which must still be theirs.

    Raises:
        WeightsError: They cannot be had, are no state dict, or the file was replaced since they were found.
    """
    path = weights.path
    if path is None:
        if weights.url is None:
            raise WeightsError(f"there is no file of weights for {weights.identity}")
        path = hub_file(weights.url)
        if not path.is_file():  # another process may have downloaded it meanwhile
            fetch(weights.url)
    try:
        data = _bytes_of(path)
        sha256 = hashlib.sha256(data).hexdigest()
        if weights.sha256 not in (None, sha256):
            raise WeightsError(
                f"the weights file {path} was replaced during this run: expected sha256 {weights.sha256}, as when the"
                f" key was made, found {sha256}. Nothing is stored; run again, and give each checkpoint its own file"
            )
        if weights.url is not None and not is_published(sha256, weights.url):
            raise WeightsError(
                f"expected the published weights in {path}, found another file (sha256 {sha256}), which was put there"
                " during this run. Nothing is stored; remove it, so that it is downloaded again, and run again"
            )
        return _state_in(data, path)
    except _UnreadableError as error:
        if weights.in_hub:
            raise WeightsError(f"{path} is damaged ({error}); remove it, so that it is downloaded again") from error
        raise


def hub_file(url: str) -> Path:
    """Where torch keeps the file behind a URL."""
    return Path(get_dir(), "checkpoints", _name(url))


def fetch(url: str) -> None:
    """Download a published file into torch's hub folder, checked against the digest in its name.

    Raises:
        WeightsError: It cannot be had; the message names the ways out.
    """
    file = hub_file(url)
    head = _published_head(url)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        log.info("downloading %s to %s", url, file)
        download_url_to_file(url, str(file), head, progress=os.isatty(2))
    except Exception as error:  # the network makes it raise almost anything
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise WeightsError(
            f"cannot download the weights from {url} ({reason}); set extractor.weights=path/to/{file.name} to a copy of"
            f" that file, or put it into {file.parent}, or set extractor.weights=random, whose values compare with no"
            " published ones"
        ) from error


def read_file(path: Path) -> StateDict:
    """The state dict in a file, tensors only: nothing in it can run.

    Raises:
        WeightsError: The file is missing, or holds something else.
    """
    return _state_in(_bytes_of(path), path)


class _UnreadableError(WeightsError):
    """A file that is no file of weights at all."""


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read the weights file {path}: {error.strerror or error}") from error


def _state_in(data: bytes, path: Path) -> StateDict:
    try:
        state = _loaded(data, path)
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        raise _UnreadableError(
            f"{path} is no file of weights that can be loaded safely; expected a state dict"
        ) from error
    for wrapper in ("state_dict", "model"):  # as training scripts save them
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}; expected a state dict of tensors")
    if not state or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
        raise WeightsError(f"{path} holds a dict of something else; expected a state dict: tensors by name")
    return renamed(state, lambda name: "" if name == "module" else name.removeprefix("module."))


def _loaded(data: bytes, path: Path) -> Any:
    if path.suffix == ".safetensors":  # torch.load knows them by the name of the file, which bytes do not have
        from safetensors.torch import load as load_safetensors  # type: ignore[import-not-found]  # noqa: PLC0415

        return load_safetensors(data)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


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


def digest_of(path: Path) -> str:
    """The sha256 of a file of weights, in hexadecimal digits; the file is read once for each of its versions.

    Raises:
        WeightsError: The file cannot be read.
    """
    try:
        status = path.stat()
        return _sha256(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except OSError as error:
        raise WeightsError(f"cannot read the weights file {path}: {error.strerror or error}") from error


def is_published(sha256: str, url: str) -> bool:
    """Whether a file with this digest is the one behind a URL: torch hub's names hold the head of the sha256."""
    head = _published_head(url)
    return head is not None and sha256.startswith(head)


def _published_head(url: str) -> str | None:
    found = re.search(r"-([0-9a-f]{8,})\.\w+$", url)
    return found[1] if found else None


def _name(url: str) -> str:
    return url.rsplit("/", 1)[1]


@cache
def _warn_of_name(path: Path, sha256: str) -> None:
    """Once for each file in a process."""
    log.warning(
        "%s has the name of published weights and is another file (sha256 %s): its features get a suffix of their own,"
        " _w%s, and compare with no published values. Remove it if it should be the published file",
        path,
        sha256,
        sha256[:8],
    )


@lru_cache(maxsize=64)
def _sha256(path: Path, version: tuple[int, ...]) -> str:  # noqa: ARG001 - a changed file is another key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
