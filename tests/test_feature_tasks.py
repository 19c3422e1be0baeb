"""feature_task: what may be in a suffix, what has to be, and what it takes for a function."""

from __future__ import annotations

import enum
import functools
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from prefect import task
from prefect.cache_policies import INPUTS, NO_CACHE
from torch.utils.data import DataLoader, TensorDataset

from simet_cache import FeatureSet, feature_key, feature_task

pytestmark = pytest.mark.usefixtures("prefect_server")
DATA = TensorDataset(torch.arange(40, dtype=torch.float32).reshape(10, 4))


def loader() -> DataLoader:
    return DataLoader(DATA, batch_size=4)


def pixels(batches: DataLoader, factor: float = 1.0) -> np.ndarray:
    return torch.cat([batch[0] for batch in batches]).numpy() * np.float32(factor)


def key(suffix: str) -> str:
    return feature_key(DATA, suffix=suffix, batch_size=4)


class Colour(enum.Enum):
    RED = 1


class Scaler:
    """A model with a text of its own that says nothing about its weights."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __repr__(self) -> str:
        return "Scaler()"

    def __call__(self, loader: DataLoader) -> np.ndarray:
        return pixels(loader, self.factor)

    def extract(self, loader: DataLoader) -> np.ndarray:
        return pixels(loader, self.factor)


class NamedScaler(Scaler):
    @property
    def feature_identity(self) -> str:
        return f"by{self.factor}"


# Suffixes


@pytest.mark.parametrize(
    "model",
    [torch.nn.Linear(2, 2), np.ones(3), torch.ones(3), Scaler(1.0), [1], {"a": 1}, Path("weights.pth"), len, object()],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("suffix", ["clip_{model}", "clip_{model!r}", "clip_{model!s:>3}"])
def test_no_suffix_holds_the_text_of_an_object(tmp_path: Path, model: Any, suffix: str) -> None:
    @feature_task(cache_dir=tmp_path, suffix=suffix)
    def extract(loader: DataLoader, model: Any) -> np.ndarray:
        return pixels(loader)

    state = extract(loader(), model, return_state=True)
    assert state.is_failed()
    assert f"the suffix names 'model' of type {type(model).__name__}, whose text says nothing" in state.message
    assert not list(tmp_path.glob("*.pkl"))


@pytest.mark.parametrize(
    ("model", "suffix"),
    [
        ("vitb32", "clip_vitb32"),
        (3, "clip_3"),
        (0.5, "clip_0.5"),
        (True, "clip_True"),
        (None, "clip_None"),
        (Colour.RED, "clip_Colour.RED"),
        (np.int64(3), "clip_3"),
        (torch.float16, "clip_torch.float16"),
        (NamedScaler(2.0), "clip_by2.0"),
    ],
    ids=repr,
)
def test_what_says_what_it_is_fills_in_a_suffix(tmp_path: Path, model: Any, suffix: str) -> None:
    @feature_task(cache_dir=tmp_path, suffix="clip_{model}")
    def extract(loader: DataLoader, model: Any) -> np.ndarray:
        return pixels(loader)

    assert extract(loader(), model).key == key(suffix)
    assert extract(loader(), model, return_state=True).name == "Cached"


def test_a_suffix_may_take_a_part_of_a_parameter(tmp_path: Path) -> None:
    @feature_task(cache_dir=tmp_path, suffix="{model.factor:.1f}_{sizes[0]:0{width}d}")
    def extract(loader: DataLoader, model: Scaler, sizes: dict[int, Any], width: int) -> np.ndarray:
        return pixels(loader)

    assert extract(loader(), Scaler(2.0), [7], 3).key == key("2.0_007")


def test_an_explicit_suffix_names_every_parameter_or_is_told_which_do_not_matter(tmp_path: Path) -> None:
    def extract(loader: DataLoader, model: str, layer: int = 1, progress: bool = False) -> np.ndarray:
        return pixels(loader, layer)

    def with_own(loader: DataLoader, suffix: str, device: str = "cpu") -> np.ndarray:
        return pixels(loader)

    with pytest.raises(TypeError, match=r"would not know: layer, progress; say .* or ignore=\('layer', 'progress'\)"):
        feature_task(cache_dir=tmp_path, suffix="clip_{model}")(extract)
    with pytest.raises(TypeError, match="would not know: device"):
        feature_task(cache_dir=tmp_path)(with_own)
    with pytest.raises(TypeError, match=r"\(loader, model, layer, progress\), found progres"):
        feature_task(cache_dir=tmp_path, suffix="{model}{layer}", ignore=("progres",))(extract)
    with pytest.raises(TypeError, match="found progress"):
        feature_task(cache_dir=tmp_path, suffix="{model}{layer}", ignore="progress")(extract)
    made = feature_task(cache_dir=tmp_path, suffix="clip_{model}_{layer}", ignore=("progress",))(extract)
    handles = [made(loader(), "a", layer, progress=progress) for layer in (1, 2) for progress in (False, True)]
    assert [handle.key for handle in handles] == [key(f"clip_a_{layer}") for layer in (1, 1, 2, 2)]
    own = feature_task(cache_dir=tmp_path, ignore=("device",))(with_own)
    assert own(loader(), "mine", device="cuda").key == key("mine")


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"cache_policy": NO_CACHE},
        {"cache_policy": INPUTS},
        {"cache_key_fn": lambda *_: "mine"},
        {"result_storage_key": "mine"},
        {"persist_result": False},
        {"result_serializer": "pickle"},
        {"cache_result_in_memory": True},
    ],
    ids="-".join,
)
def test_no_option_leads_around_the_store(tmp_path: Path, options: dict[str, Any]) -> None:
    extract = feature_task(cache_dir=tmp_path, suffix="s")(pixels_alone)
    with pytest.raises(TypeError, match=f"feature_task decides {next(iter(options))} itself"):
        extract.with_options(**options)
    with pytest.raises(TypeError, match="itself"):
        extract.with_options(name="other").with_options(**options)


def test_other_options_are_the_callers(tmp_path: Path) -> None:
    extract = feature_task(cache_dir=tmp_path, suffix="s")(pixels_alone)
    changed = extract.with_options(name="other", retries=2, refresh_cache=True, tags=["gpu"])
    assert (changed.name, changed.retries, changed.tags) == ("other", 2, {"gpu"})
    assert [changed(loader(), return_state=True).name for _ in range(2)] == ["Completed", "Completed"]
    assert extract(loader(), return_state=True).name == "Cached"
    sent = cloudpickle.loads(cloudpickle.dumps(changed.with_options(refresh_cache=False)))
    assert sent(loader(), return_state=True).name == "Cached"
    with pytest.raises(TypeError, match="itself"):
        sent.with_options(cache_policy=NO_CACHE)


# What is decorated


def test_it_has_to_be_told_the_folder() -> None:
    for use in (lambda: feature_task(pixels), lambda: feature_task()(pixels)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"write @feature_task\(cache_dir='...'\)"):
            use()


def test_a_partial_is_a_function_with_its_parameters(tmp_path: Path) -> None:
    doubled = functools.partial(pixels, factor=2.0)
    with pytest.raises(TypeError, match="pixels has parameters that its key would not know: factor"):
        feature_task(cache_dir=tmp_path, suffix="pixels")(doubled)
    extract = feature_task(cache_dir=tmp_path, suffix="pixels_{factor}")(doubled)
    assert extract.name == "pixels"
    assert [extract(loader(), return_state=True).name for _ in range(2)] == ["Completed", "Cached"]
    assert extract(loader()).key == key("pixels_2.0")
    assert extract(loader(), factor=3.0).key == key("pixels_3.0")
    with pytest.raises(TypeError, match="by position; give it by name"):
        feature_task(cache_dir=tmp_path)(functools.partial(lambda model, loader: pixels(loader), "a"))


@pytest.mark.parametrize("make", [lambda scaler: scaler, lambda scaler: scaler.extract], ids=["object", "bound method"])
def test_an_object_that_is_called_is_in_the_suffix(tmp_path: Path, make: Any) -> None:
    with pytest.raises(TypeError, match="would not know: self"):
        feature_task(cache_dir=tmp_path, suffix="scaled")(make(Scaler(2.0)))
    state = feature_task(cache_dir=tmp_path, suffix="{self}")(make(Scaler(2.0)))(loader(), return_state=True)
    assert "the suffix names 'self' of type Scaler, whose text says nothing" in state.message
    tasks = [feature_task(cache_dir=tmp_path, suffix="scaled_{self}")(make(NamedScaler(by))) for by in (2.0, 3.0)]
    handles = [one(loader()) for one in tasks]
    assert [handle.key for handle in handles] == [key("scaled_by2.0"), key("scaled_by3.0")]
    np.testing.assert_array_equal(handles[1].load(), pixels(loader(), 3.0))
    assert [one(loader(), return_state=True).name for one in tasks] == ["Cached", "Cached"]
    ignored = feature_task(cache_dir=tmp_path, suffix="scaled", ignore=("self",))(make(Scaler(2.0)))
    assert ignored(loader()).key == key("scaled")


def test_methods_and_their_objects(tmp_path: Path) -> None:
    class Model(NamedScaler):
        @feature_task(cache_dir=tmp_path, suffix="model_{self}")
        def features(self, loader: DataLoader) -> np.ndarray:
            return pixels(loader, self.factor)

        @staticmethod
        @feature_task(cache_dir=tmp_path, suffix="plain")
        def plain(loader: DataLoader) -> np.ndarray:
            return pixels(loader)

    assert [Model(by).features(loader()).key for by in (2.0, 3.0)] == [key("model_by2.0"), key("model_by3.0")]
    assert Model(2.0).features(loader(), return_state=True).name == "Cached"
    assert Model(2.0).plain(loader()).key == key("plain")
    with pytest.raises(TypeError, match="write @staticmethod above @feature_task"):
        feature_task(cache_dir=tmp_path)(staticmethod(pixels))


def test_what_is_no_such_function_is_refused_with_the_reason(tmp_path: Path) -> None:
    class Async:
        async def __call__(self, loader: DataLoader) -> np.ndarray:
            return pixels(loader)

    def yields(loader: DataLoader) -> Any:
        yield pixels(loader)

    for function, why in (
        (Async(), "is async"),
        (yields, "yields"),
        (3, "takes a function, found int"),
        (max, "no signature"),
        (lambda *args: args, "no parameter"),
        (lambda **options: options, "no parameter"),
    ):
        with pytest.raises(TypeError, match=why):
            feature_task(cache_dir=tmp_path)(function)  # type: ignore[arg-type]


def test_a_feature_task_is_plain_inside_of_another_task(tmp_path: Path) -> None:
    extract = feature_task(cache_dir=tmp_path, suffix="s")(pixels_alone)

    @task
    def outer() -> FeatureSet:
        return extract.fn(loader())

    assert outer().key == key("s")
    assert extract(loader(), return_state=True).name == "Cached"


def pixels_alone(loader: DataLoader) -> np.ndarray:
    return pixels(loader)
