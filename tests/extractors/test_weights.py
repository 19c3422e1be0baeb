"""Weights: safe to read, and either all there or one sentence about what is missing."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision.models import ResNet50_Weights, get_model, resnet18
from torchvision.models.densenet import DenseNet
from torchvision.models.vision_transformer import VisionTransformer

from simet_cache.config import ExtractorConfig
from simet_cache.errors import WeightsError
from simet_cache.extractors import check_weights, fid_inception, frechet_label, make_extractor, torchvision_models
from simet_cache.extractors import weights as w

URL = "https://weights.invalid/models/tiny-0123abcd.pth"


class Touch:
    """Runs a command where it is unpickled without restriction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def layers() -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)))


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def published(path: Path, value: object) -> Path:
    """A file under a published name: its digest stands in it."""
    saved(path, value)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"{path.stem}-{digest[:8]}{path.suffix}"))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Reading a file


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_as_training_scripts_save_it(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    model = layers()
    state: Any = {prefix + name: value for name, value in model.state_dict().items()}
    path = saved(tmp_path / "w.pth", {wrapper: state, "epoch": 3, "args": {"lr": 0.1}} if wrapper else state)
    assert equal(w.read_file(path), model.state_dict())


def test_data_parallel_keeps_the_versions_of_its_modules(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", nn.DataParallel(layers()).state_dict())
    assert w.read_file(path)._metadata == layers().state_dict()._metadata  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_malicious_file_does_not_run(tmp_path: Path, wrapped: bool) -> None:
    ran = tmp_path / "ran"
    attack = {"state_dict": {"a": Touch(ran)}} if wrapped else Touch(ran)
    path = saved(tmp_path / "w.pth", attack)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(attack))
    for file in (path, plain):
        with pytest.raises(WeightsError, match="is no file of weights that can be loaded safely; expected a state"):
            w.read_file(file)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([torch.ones(2)], "holds a list; expected a state dict of tensors"),
        (torch.ones(2), "holds a Tensor; expected a state dict of tensors"),
        ({}, "holds a dict of something else; expected a state dict: tensors by name"),
        ({"a": 3}, "holds a dict of something else; expected a state dict: tensors by name"),
        ({"a": torch.ones(2), "b": [1]}, "holds a dict of something else; expected a state dict: tensors by name"),
        ({0: torch.ones(2)}, "holds a dict of something else; expected a state dict: tensors by name"),
    ],
)
def test_a_file_that_holds_something_else(tmp_path: Path, value: object, found: str) -> None:
    path = saved(tmp_path / "w.pth", value)
    with pytest.raises(WeightsError) as caught:
        w.read_file(path)
    assert str(caught.value) == f"{path} {found}"


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04" + bytes(40), bytes(range(256))])
def test_a_file_that_is_no_such_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="is no file of weights that can be loaded safely"):
        w.read_file(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        w.read_file(tmp_path / "w.pth")
    assert str(caught.value) == f"cannot read the weights file {tmp_path}/w.pth: No such file or directory"


@pytest.mark.parametrize("modern", [True, False])
def test_damaged_files_give_a_sentence_or_tensors(tmp_path: Path, modern: bool) -> None:
    """Damaged bytes make torch's unpickler raise almost anything, IndexError and struct.error among it."""
    path = tmp_path / "w.pth"
    torch.save(layers().state_dict(), path, _use_new_zipfile_serialization=modern)
    whole = path.read_bytes()
    rng = random.Random(0)
    failures = 0
    for attempt in range(300):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if attempt % 3 == 0 else whole)
        for _ in range(rng.choice([1, 2, 5])):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                w.read_file(path)
        except WeightsError:
            failures += 1
    assert failures > 100


# Loading into a model


def test_what_the_model_lacks_is_left_out(tmp_path: Path) -> None:
    """A fine-tuned head has other classes, and is not there any more."""
    model, tuned = resnet18(), resnet18(num_classes=10)
    model.fc = nn.Identity()
    w.load_into(model, w.read_file(saved(tmp_path / "w.pth", tuned.state_dict())), "tuned")
    assert equal(model.state_dict(), {k: v for k, v in tuned.state_dict().items() if not k.startswith("fc.")})


def test_old_files_do_not_count_batches() -> None:
    old = {name: value for name, value in layers().state_dict().items() if "num_batches" not in name}
    model = layers()
    w.load_into(model, old, "old")
    assert equal({name: model.state_dict()[name] for name in old}, old)


def test_missing_tensors() -> None:
    state = layers().state_dict()
    del state["conv.weight"], state["norm.running_var"]
    with pytest.raises(WeightsError) as caught:
        w.load_into(layers(), state, "here.pth")
    assert str(caught.value) == "the weights of here.pth lack 2 of 7 tensors, first 'conv.weight'"


def test_tensors_of_another_shape() -> None:
    state = layers().state_dict()
    state["conv.weight"] = torch.zeros(4, 1, 1, 1)
    with pytest.raises(WeightsError) as caught:
        w.load_into(layers(), state, "here.pth")
    assert str(caught.value) == (
        "the weights of here.pth do not fit: 'conv.weight' has shape (4, 1, 1, 1), expected (4, 3, 1, 1)"
    )


def test_weights_of_another_model() -> None:
    with pytest.raises(WeightsError, match=r"the weights of x lack \d+ of \d+ tensors, first 'features.0.0.weight'"):
        w.load_into(get_model("mobilenet_v3_small", weights=None), resnet18().state_dict(), "x")


def test_weights_of_a_deeper_model_of_the_same_family(tmp_path: Path) -> None:
    """A ResNet-34 has every tensor of a ResNet-18, in the same shapes."""
    path = saved(tmp_path / "deeper.pth", get_model("resnet34", weights=None).state_dict())
    with pytest.raises(WeightsError) as caught:
        check_weights(ExtractorConfig(name="resnet18", weights=str(path)))
    assert str(caught.value) == (
        f"the weights of {path} do not fit: they are of another model, with 48 tensors more than this one,"
        " first 'layer1.2.conv1.weight'"
    )


@pytest.mark.parametrize(
    "name",
    ["resnet18", "vgg11", "googlenet", "inception_v3", "mobilenet_v3_small", "vit_b_32", "regnet_y_400mf"],
)
def test_a_model_with_its_heads_fits_one_without(tmp_path: Path, name: str) -> None:
    """With a projector beside it, and what profilers count in each of its modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how some will be initialised in future
        whole = get_model(name, weights=None)
    state = {key: torch.zeros((), dtype=one.dtype).expand(one.shape) for key, one in whole.state_dict().items()}
    counted = f"{next(iter(state)).rpartition('.')[0]}.total_ops"
    state |= {"projector.0.weight": torch.zeros(2, 2), counted: torch.ones(1)}
    check_weights(ExtractorConfig(name=name, weights=str(saved(tmp_path / "w.pth", state))))


def test_the_names_of_published_vision_transformers() -> None:
    """Their files are older than the modules; the model renames what it is given."""
    torch.manual_seed(0)
    model = VisionTransformer(image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16)
    published = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): torch.rand_like(value)
        for name, value in model.state_dict().items()
    }
    assert sum("linear_" in name for name in published) == 4
    w.load_into(model, published, "published")
    loaded = model.state_dict()
    assert torch.equal(
        loaded["encoder.layers.encoder_layer_0.mlp.3.weight"],
        published["encoder.layers.encoder_layer_0.mlp.linear_2.weight"],
    )


def test_mnasnet_reads_the_version_of_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = get_model("mnasnet0_5", weights=None)
    path = saved(tmp_path / "w.pth", published.state_dict())
    model = get_model("mnasnet0_5", weights=None)
    w.load_into(model, w.read_file(path), str(path))
    assert equal(model.state_dict(), published.state_dict())
    with pytest.raises(WeightsError, match="do not fit: version should be set to 1 or 2 instead of None"):
        w.load_into(model, dict(published.state_dict()), str(path))


def test_the_names_of_published_densenets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their files have dots where module names must not have them any more."""

    def tiny(name: str, *, weights: None) -> DenseNet:
        return DenseNet(growth_rate=4, block_config=(2, 1), num_init_features=8)

    monkeypatch.setattr(torchvision_models, "get_model", tiny)
    torch.manual_seed(0)
    model = tiny("densenet121", weights=None).eval()
    old = {
        name.replace(".norm1.", ".norm.1.")
        .replace(".conv1.", ".conv.1.")
        .replace(".norm2.", ".norm.2.")
        .replace(".conv2.", ".conv.2."): value
        for name, value in model.state_dict().items()
    }
    path = saved(tmp_path / "w.pth", old)
    built = make_extractor(ExtractorConfig(name="densenet121", weights=str(path))).build()
    model.classifier = nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(built(images), model(images), rtol=1e-5, atol=1e-6)


# Downloading


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub folder of torch's, and no network."""

    def urlopen(request: Any, *args: Any, **kwargs: Any) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_without_a_network_the_three_ways_out_are_named(hub: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        w.fetch(URL)
    assert str(caught.value) == (
        f"cannot download the weights from {URL} (Temporary failure in name resolution);"
        " set extractor.weights=path/to/tiny-0123abcd.pth to a copy of that file,"
        f" or put it into {hub}, or set extractor.weights=random, whose values compare with no published ones"
    )


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError(), EOFError(), ValueError("x")])
def test_a_network_may_fail_in_many_ways(hub: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def urlopen(request: Any, *args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    with pytest.raises(WeightsError, match=r"cannot download .* \(\w+\); set extractor.weights="):
        w.fetch(URL)


def found(config: ExtractorConfig, url: str) -> w.Weights:
    return w.find(config, [url], default=url)


def test_a_file_that_is_there_needs_no_network(hub: Path) -> None:
    state = layers().state_dict()
    path = published(hub / "tiny.pth", state)
    weights = found(ExtractorConfig(), f"https://weights.invalid/{path.name}")
    assert (weights.path, weights.suffix, weights.identity) == (path, "", path.name)
    assert equal(w.load(weights), state)


def test_a_damaged_or_malicious_file_in_the_hub_folder(hub: Path, tmp_path: Path) -> None:
    file = hub / "tiny-0123abcd.pth"
    for content in (b"", b"PK\x03\x04", pickle.dumps(Touch(tmp_path / "ran"))):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=r"is damaged .*; remove it, so that it is downloaded again") as caught:
            w.load(found(ExtractorConfig(), URL))
        assert str(caught.value).startswith(str(file))
    assert not (tmp_path / "ran").exists()


def test_a_download_is_checked_against_its_name(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name holds the head of the digest; a file with another one is not kept."""
    state = layers().state_dict()
    path = saved(tmp_path / "served.pth", state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("torch.hub.urlopen", lambda request, *_, **__: ServedFile(path))
    assert equal(w.load(found(ExtractorConfig(), f"https://weights.invalid/good-{digest[:8]}.pth")), state)
    with pytest.raises(WeightsError, match="invalid hash value"):
        w.fetch(URL)
    assert [file.name for file in hub.iterdir()] == [f"good-{digest[:8]}.pth"]


class ServedFile:
    """What urlopen gives for a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.headers = {"Content-Length": str(path.stat().st_size)}
        self.read = self._file.read
        self.close = self._file.close

    def info(self) -> ServedFile:
        return self

    def get_all(self, name: str) -> list[str]:
        return [self.headers[name]]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# Random numbers


def test_seeded_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = w.seeded(1, lambda: torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(w.seeded(1, lambda: torch.rand(3)), first)
    assert not torch.equal(w.seeded(2, lambda: torch.rand(3)), first)


_DIGEST = """
import hashlib, torch
from simet_cache.config import ExtractorConfig
from simet_cache.extractors import make_extractor
model = make_extractor(ExtractorConfig(name="mobilenet_v3_small", weights="random", seed=3)).build()
print(hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest())
"""


def test_random_weights_are_the_same_in_every_process(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    exec(_DIGEST, {})
    torch.manual_seed(2)
    exec(_DIGEST, {})
    done = subprocess.run(
        [sys.executable, "-c", _DIGEST],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    digests = {*capsys.readouterr().out.split(), done.stdout.strip()}
    assert len(digests) == 1


# Suffixes


def test_a_copy_of_the_official_file_adds_nothing_and_another_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"weights")
    config = ExtractorConfig(weights=str(path))
    digest = hashlib.sha256(b"weights").hexdigest()
    assert found(config, f"https://x/y/name_v2-{digest[:8]}.pth").suffix == ""
    assert found(config, f"https://x/y/name_v2-{digest[:10]}.pth").suffix == ""
    assert found(config, URL).suffix == f"_w{digest[:8]}"
    assert found(config, "https://x/y/name.pth").suffix == f"_w{digest[:8]}"
    path.write_bytes(b"weighty")
    assert found(config, URL).suffix == f"_w{hashlib.sha256(b'weighty').hexdigest()[:8]}"


def test_the_digest_of_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot read the weights file .*gone.pth: No such file or directory"):
        w.digest_of(tmp_path / "gone.pth")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vit_b_16", "swin_t", "inception_v3", "convnext_tiny"])
def test_seeded_weights_are_those_of_the_seed_whatever_other_threads_draw(name: str) -> None:
    options = {"init_weights": True} if name == "inception_v3" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = get_model(name, weights=None, **options).state_dict()
    state = torch.get_rng_state()
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            torch.rand(3, generator=None)

    others = threading.Thread(target=draw)
    others.start()
    try:
        found = w.seeded(3, lambda: get_model(name, weights=None, **options)).state_dict()
    finally:
        stop.set()
        others.join()
    assert all(torch.equal(found[part], expected[part]) for part in expected)
    torch.set_rng_state(state)


def test_seeded_leaves_the_global_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    w.seeded(3, lambda: torch.nn.Linear(3, 3))
    assert torch.equal(torch.get_rng_state(), state)


# Files that do not fit are found without building the model


@pytest.mark.parametrize("name", ["resnet18", "fid_inception"])
@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, {"conv1.weight": torch.zeros(3)}, {"other": torch.zeros(3)}])
def test_a_file_of_weights_is_refused_as_building_the_model_would_refuse_it(
    tmp_path: Path, name: str, content: object
) -> None:
    config = ExtractorConfig(name=name, weights=str(saved(tmp_path / "w.pth", content)))
    errors = []
    for look in (check_weights, lambda config: make_extractor(config).build()):
        with pytest.raises(WeightsError) as caught:
            look(config)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vit_b_16"])
def test_a_file_of_weights_that_fits_is_said_to_fit(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "w.pth", get_model(name, weights=None).state_dict())
    check_weights(ExtractorConfig(name=name, weights=str(path)))


def test_weights_that_are_published_or_random_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(w, "read_file", None)
    monkeypatch.setattr(w, "load", None)
    for weights in ("default", "random"):
        check_weights(ExtractorConfig(name="resnet18", weights=weights))


# What a file is called says nothing: its digest does


FID_NAME = fid_inception.URL.rsplit("/", 1)[1]


def test_another_file_under_the_published_name_is_not_the_published_one(
    hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In torch's hub folder, where `weights: default` finds it."""
    assert make_extractor(ExtractorConfig()).suffix == "fid_inception"  # what will be downloaded is checked
    path = saved(hub / FID_NAME, {"x": torch.zeros(1)})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for _ in range(2):
        extractor = make_extractor(ExtractorConfig())
    assert extractor.suffix == ExtractorConfig().suffix == f"fid_inception_w{digest[:8]}"
    assert extractor.identity["weights"] == f"sha256:{digest}"
    assert frechet_label(extractor.suffix) == f"FD (fid_inception_w{digest[:8]})"
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == (
        f"{path} has the name of published weights and is another file (sha256 {digest}): its features get a suffix"
        f" of their own, _w{digest[:8]}, and compare with no published values. Remove it if it should be the published"
        " file"
    )


def test_a_file_that_takes_the_place_of_another_is_another_at_once(hub: Path) -> None:
    suffixes = set()
    for value in range(2):
        saved(hub / FID_NAME, {"x": torch.full((1,), float(value))})
        suffixes.add(make_extractor(ExtractorConfig()).suffix)
    assert len(suffixes) == 2


def test_a_file_of_the_same_size_and_time_is_another(tmp_path: Path) -> None:
    """As `cp -p` and `os.replace` leave it: the inode or the time of the status differs."""
    path = tmp_path / "latest.pth"
    path.write_bytes(b"one")
    status = path.stat()
    config = ExtractorConfig(weights=str(path))
    before = make_extractor(config).suffix
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert make_extractor(config).suffix != before


def test_the_published_file_is_that_wherever_it_lies(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published(tmp_path / "weights-inception.pth", {"x": torch.zeros(1)})
    monkeypatch.setattr(fid_inception, "URL", f"https://weights.invalid/{path.name}")
    copies = [tmp_path / "mine.pth", hub / path.name]
    for copy in copies:
        copy.write_bytes(path.read_bytes())
    named = [ExtractorConfig(weights=str(copy)) for copy in copies]
    for config in (ExtractorConfig(), *named):
        extractor = make_extractor(config)
        assert (extractor.suffix, extractor.identity["weights"]) == ("fid_inception", path.name)


def test_the_same_file_makes_the_same_features_wherever_it_lies(hub: Path, tmp_path: Path) -> None:
    """Also those that stand in for torchvision's default, whose preprocessing differs from that of older weights."""
    name = ResNet50_Weights.DEFAULT.url.rsplit("/", 1)[1]
    stranger = saved(hub / name, {"x": torch.zeros(1)})
    copy = tmp_path / "mine.pth"
    copy.write_bytes(stranger.read_bytes())
    found, named = (
        make_extractor(ExtractorConfig(name="resnet50", **options)) for options in ({}, {"weights": str(copy)})
    )
    assert found.suffix == named.suffix != "resnet50_imagenet1k_v2"
    assert found.identity == named.identity


def test_a_file_in_the_hub_folder_that_does_not_fit_is_found_before_the_run(hub: Path) -> None:
    path = saved(hub / FID_NAME, {"x": torch.zeros(1)})
    with pytest.raises(WeightsError, match=rf"the weights of {path} lack \d+ of \d+ tensors"):
        check_weights(ExtractorConfig())


# What is loaded is what the key says


def test_a_model_has_the_weights_that_were_found_for_it(tmp_path: Path) -> None:
    """A training job overwrites its file between the plan and the extraction."""
    path = saved(tmp_path / "latest.pth", resnet18().state_dict())
    extractor = make_extractor(ExtractorConfig(name="resnet18", weights=str(path)))
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    extractor.build()
    saved(path, resnet18().state_dict())
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WeightsError) as caught:
        extractor.build()
    assert str(caught.value) == (
        f"the weights file {path} was replaced during this run: expected sha256 {before}, as when the key was made,"
        f" found {after}. Nothing is stored; run again, and give each checkpoint its own file"
    )


def test_tensors_and_digest_are_of_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is put in place right after the file was read."""
    path, real = saved(tmp_path / "latest.pth", {"x": torch.zeros(1)}), Path.read_bytes
    weights = found(ExtractorConfig(weights=str(path)), URL)

    def read_and_replace(self: Path) -> bytes:
        data = real(self)
        saved(path, {"x": torch.ones(1)})
        return data

    monkeypatch.setattr(Path, "read_bytes", read_and_replace)
    assert w.load(weights)["x"] == 0


def test_a_file_that_appears_in_the_hub_folder_after_the_key_was_made(hub: Path) -> None:
    """The key says the published file, which was to be downloaded."""
    weights = found(ExtractorConfig(), URL)
    assert weights.suffix == ""
    saved(hub / "tiny-0123abcd.pth", layers().state_dict())
    with pytest.raises(WeightsError, match=r"expected the published weights in .*tiny-0123abcd.pth, found another"):
        w.load(weights)
