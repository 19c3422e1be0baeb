"""What a person reads who mistypes a configuration: every problem in one line, with its place; never a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from simet_cache.config import EvaluationConfig, FolderConfig, TorchvisionConfig
from simet_cache.config_file import config_from_folders, load_config
from simet_cache.errors import ConfigError, DatasetError
from simet_cache.metrics import Intervals

REFERENCE = "reference: {path: data/real}\n"
GOOD = REFERENCE + "datasets:\n- {path: samples/10k}\n"  # what is added to it stands in line 4
TOP_KEYS = (
    "references, reference, datasets, cache_dir, output, keep_runs, extractors, extractor, metrics, exclude, intervals,"
    " per_class, restraints, on_bad_image, max_pixels, on_stale, verify, fingerprint, remote, force_recompute,"
    " shard_size, keep_shards, max_in_flight, retries, extraction_limit, device_locks, task_runner"
)

Load = Callable[..., EvaluationConfig]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, which is the working directory."""
    for folder in ("data/real", "samples/10k", "samples/20k"):
        put(tmp_path / folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(project: Path) -> Load:
    """Write a YAML file and load it."""

    def load(text: str | bytes, *overrides: str) -> EvaluationConfig:
        path = project / "c.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_config("c.yaml", overrides)

    return load


def put(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(folder / "a.png")


def refused(load: Load, text: str | bytes, *overrides: str) -> list[str]:
    """The lines of the error; the working directory is called ``.`` in them."""
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    assert str(caught.value).splitlines() == caught.value.problems  # a line for each, and nothing else
    return [line.replace(f"{Path.cwd()}/", "./") for line in caught.value.problems]


def names(config: EvaluationConfig) -> list[str]:
    return [dataset.name for dataset in config.datasets]


def applies(config: EvaluationConfig, metric: str, dataset: str) -> bool:
    return config.restraints[metric].applies_to(dataset, reference="real", extractor=("inception_v3",))


# What is good


def test_the_issues_ten_lines_work_as_written(load: Load, project: Path) -> None:
    for checkpoint in ("ckpt-20k", "ckpt-30k"):
        put(project / "samples" / checkpoint)
    config = load(
        "cache_dir: cache/features\n"
        "reference: {name: real, path: data/real}          # or {torchvision: CIFAR10, root: data, split: test}\n"
        "datasets:\n"
        "  - {name: ckpt-10k, path: samples/10k, subset: {size: 10000, seed: 0}}\n"
        "  - {glob: samples/*}\n"
        "extractor: {name: inception_v3, weights: default, batch_size: 128, device: auto}\n"
        "metrics: [fid, kid, precision, recall]\n"
        "restraints: {fid: {upper_bound: 40.0, datasets: [ckpt-*]}, precision: {lower_bound: 0.7}}\n"
        "output: results\n"
    )
    assert config.cache_dir == project / "cache" / "features"
    assert config.output == project / "results"
    assert (config.reference.name, config.reference.path) == ("real", project / "data" / "real")
    assert names(config) == ["ckpt-10k", "10k", "20k", "ckpt-20k", "ckpt-30k"]
    assert config.datasets[0].subset.model_dump() == {"size": 10000, "seed": 0}
    assert config.metrics == {"fid": {}, "kid": {}, "precision": {}, "recall": {}}
    assert [name for name in names(config) if applies(config, "fid", name)] == [
        "ckpt-10k",
        "ckpt-20k",
        "ckpt-30k",
    ]
    assert all(applies(config, "precision", name) for name in names(config))


def test_every_field_but_two_has_a_default(load: Load, project: Path) -> None:
    config = load(GOOD)
    assert names(config) == ["10k"]
    assert config.reference.name == "real"
    assert config.cache_dir == project / "cache" / "features"
    assert config.output == project / "results"
    assert list(config.metrics) == ["fid", "kid", "precision", "recall"]
    assert config.extractor.name == "fid_inception"
    assert config.extractor.batch_size == 128
    assert (config.on_bad_image, config.force_recompute, config.restraints) == ("stop", False, {})


@pytest.mark.parametrize(
    "metrics",
    [
        "[fid, {precision: {k: 5}}, {recall: }]",
        "{fid: {}, precision: {k: 5}, recall: {}}",
        "{fid: , precision: {k: 5}, recall: }",
        "[{fid: {}, precision: {k: 5}}, recall]",
    ],
)
def test_metrics_as_a_list_and_as_a_mapping_say_the_same(load: Load, metrics: str) -> None:
    assert load(f"{GOOD}metrics: {metrics}").metrics == {"fid": {}, "precision": {"k": 5}, "recall": {}}


def test_a_validated_configuration_survives_json(load: Load) -> None:
    config = load(GOOD + "restraints: {fid: {upper_bound: 3, datasets: ['*k']}}\nmetrics: [fid, {recall: {k: 4}}]")
    assert EvaluationConfig.model_validate_json(config.model_dump_json()) == config


def test_a_bound_in_scientific_notation_is_a_number(load: Load) -> None:
    """YAML 1.1 takes ``1e-3`` for text."""
    assert load(GOOD + "restraints: {fid: {upper_bound: 1e-3}}").restraints["fid"].upper_bound == 0.001


@pytest.mark.parametrize("written", ["3", "{upper_bound: 3}", "'3'"])
def test_how_many_copies_of_real_rows_are_allowed(load: Load, written: str) -> None:
    config = load(f"{GOOD}metrics: [recall]\nrestraints: {{max_copies: {written}}}")
    assert config.restraints["max_copies"].upper_bound == 3
    assert applies(config, "max_copies", "10k")
    assert EvaluationConfig.model_validate_json(config.model_dump_json()) == config
    assert load(GOOD, "restraints.max_copies=0").restraints["max_copies"].upper_bound == 0


# Paths


def test_paths_are_relative_to_the_file_and_in_overrides_to_the_working_directory(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "c.yaml").write_text(GOOD + "extractor: {name: resnet18, weights: notes.txt}\ncache_dir: a/b")
    put(project / "elsewhere" / "sets" / "mine")
    monkeypatch.chdir(project / "elsewhere")
    config = load_config("../c.yaml", ["datasets.0.path=sets/mine", "output=out"])
    assert config.reference.path == project / "data" / "real"
    assert config.extractor.weights_file == project / "notes.txt"
    assert config.cache_dir == project / "a" / "b"
    assert [dataset.path for dataset in config.datasets] == [project / "elsewhere" / "sets" / "mine"]
    assert config.output == project / "elsewhere" / "out"


def test_paths_in_the_folder_above_are_told_without_dots(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link of that name leads elsewhere, and so does ``..`` behind it."""
    put(project / "real [1]" / "a")
    (project / "configs").mkdir()
    (project / "configs" / "link").symlink_to(project / "data" / "real", target_is_directory=True)
    text = "reference: {path: link/..}\ndatasets: [{glob: '../real */*'}]\noutput: ../results/digits"
    (project / "configs" / "c.yaml").write_text(text)
    monkeypatch.chdir(project / "configs")
    config = load_config("c.yaml", ["cache_dir=../../features"])
    assert str(config.output) == f"{project}/results/digits"
    assert str(config.cache_dir) == f"{project.parent}/features"
    assert [str(one.path) for one in config.datasets] == [f"{project}/real [1]/a"]
    assert config.reference.path.resolve() == project / "data"


def test_defaults_are_relative_to_the_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "c.yaml").write_text(GOOD)
    monkeypatch.chdir("/")
    config = load_config(project / "c.yaml", ["extractor.batch_size=8"])
    assert (config.cache_dir, config.output) == (project / "cache" / "features", project / "results")


def test_a_home_folder_and_absolute_paths(load: Load, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project / "home"))
    put(project / "home" / "set")
    config = load(f"reference: {{path: {project}/data/real}}\ndatasets: [{{path: ~/set}}]", "output=~/out")
    assert config.reference.path == project / "data" / "real"
    assert config.datasets[0].path == project / "home" / "set"
    assert config.output == project / "home" / "out"


def test_the_home_of_nobody_is_an_ordinary_name(load: Load, project: Path) -> None:
    assert load(GOOD, "output=~nobody-of-this-name/x").output == project / "~nobody-of-this-name" / "x"
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config("~nobody-of-this-name/c.yaml")


def test_folders_on_the_command_line(project: Path) -> None:
    config = config_from_folders("data/real", ["samples/10k", str(project / "samples/20k")], ["extractor.batch_size=8"])
    assert config.reference.path == project / "data" / "real"
    assert names(config) == ["10k", "20k"]
    assert config.cache_dir == project / "cache" / "features"
    assert (config.extractor.name, config.extractor.batch_size) == ("fid_inception", 8)
    with pytest.raises(ConfigError) as caught:
        config_from_folders("data/reel", ["samples/10k", "samples/30k"], ["extractor.nme=x"])
    assert caught.value.problems == [
        f"--real: reference.path: no such folder: {project}/data/reel. Did you mean 'real'?",
        f"--synth: datasets.1.path: no such folder: {project}/samples/30k. Did you mean '20k'?",
        "--set extractor.nme: extractor.nme: unknown key. Did you mean 'name'?",
    ]


# Patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("samples/*", ["10k", "20k"]),
        ("samples/1*", ["10k"]),
        ("./samples/*", ["10k", "20k"]),
        ("runs/*/samples", ["a", "b"]),
        ("runs/*/out/*/x", ["a_out_1", "a_out_2"]),
        ("runs/**/samples", ["a", "b"]),
        ("samples/**", ["samples", "10k", "20k"]),
        ("samples", ["samples"]),
        ("samples/10k", ["10k"]),
        ("*/real", ["data"]),
    ],
)
def test_a_pattern_names_its_sets_by_what_it_leaves_open(
    load: Load, project: Path, pattern: str, expected: list[str]
) -> None:
    for folder in ("runs/a/samples", "runs/b/samples", "runs/a/out/1/x", "runs/a/out/2/x", "samples/.hidden"):
        (project / folder).mkdir(parents=True)
    config = load(f"{REFERENCE}datasets: [{{glob: '{pattern}', classes: true, subset: {{size: 1, seed: 3}}}}]")
    assert names(config) == expected
    assert all(dataset.classes and dataset.subset.seed == 3 for dataset in config.datasets)


def test_a_pattern_beside_a_folder_whose_name_looks_like_one(project: Path) -> None:
    home = project / "run [1] *"
    put(home / "real")
    put(home / "sets" / "one")
    (home / "c.yaml").write_text("reference: {path: real}\ndatasets: [{glob: sets/*}]")
    config = load_config(home / "c.yaml")
    assert names(config) == ["one"]
    assert config.datasets[0].path == home / "sets" / "one"


# What is bad, one by one


@pytest.mark.parametrize(
    ("added", "line"),
    [
        # unknown keys
        ("extracter: {}", "extracter: unknown key. Did you mean 'extractor'?"),
        ("foo: {}", f"foo: unknown key. Known here: {TOP_KEYS}"),
        ("max_copies: 0", "max_copies: unknown key; it is one of the restraints, as in restraints: {max_copies: 0}"),
        ("extractor: {nam: x}", "extractor.nam: unknown key. Did you mean 'name'?"),
        (
            "restraints: {fid: {upper_bond: 3}}",
            "restraints.fid.upper_bond: unknown key. Did you mean 'upper_bound'?",
        ),
        # wrong types
        ("extractor: 3", "extractor: expected a mapping, found 3"),
        ("task_runner:", "task_runner: expected a mapping, found nothing"),
        ("extractor: []", "extractor: expected a mapping, found an empty list"),
        ("extractor: {name: }", "extractor.name: expected text, found nothing"),
        ("extractor: {name: [a]}", "extractor.name: expected text, found a list"),
        ("extractor: {seed: 1.5}", "extractor.seed: expected a whole number, found 1.5"),
        ("extractor: {batch_size: x}", "extractor.batch_size: expected a whole number, found 'x'"),
        ("extractor: {batch_size: }", "extractor.batch_size: expected a whole number, found nothing"),
        ("extractor: {batch_size: true}", "extractor.batch_size: expected a number, found true"),
        ("extractor: {weights: 3}", "extractor.weights: expected text, found 3"),
        ("extractor: {layer: true}", "extractor.layer: expected text, found true"),
        ("restraints: [fid]", "restraints: expected a mapping, found a list"),
        ("restraints: {fid: 40}", "restraints.fid: expected a mapping, found 40"),
        ("restraints: {fid: {upper_bound: x}}", "restraints.fid.upper_bound: expected a number, found 'x'"),
        ("restraints: {fid: {upper_bound: yes}}", "restraints.fid.upper_bound: expected a number, found true"),
        ("restraints: {fid: {upper_bound: .nan}}", "restraints.fid.upper_bound: expected a finite number, found nan"),
        (
            "restraints: {fid: {upper_bound: 3, datasets: 10k}}",
            "restraints.fid.datasets: expected a list, found '10k'",
        ),
        ("force_recompute: maybe", "force_recompute: expected true or false, found 'maybe'"),
        ("cache_dir: 3", "cache_dir: expected a path, found 3"),
        ("cache_dir:", "cache_dir: expected a path, found nothing"),
        ("output: 2001-01-01", "output: expected a path, found 2001-01-01"),
        # values out of range
        ("extractor: {batch_size: 0}", "extractor.batch_size: expected 1 or more, found 0"),
        ("extractor: {workers: -1}", "extractor.workers: expected 0 or more, found -1"),
        ("extractor: {name: resnet18, image_size: 4}", "extractor.image_size: expected 8 or more, found 4"),
        ("extractor: {precision: fp16}", "extractor.precision: expected 'float32' or 'amp', found 'fp16'"),
        (
            "extractor: {device: tpu}",
            "extractor.device: expected auto, cpu, mps, cuda or cuda:1 and so on, found 'tpu'",
        ),
        (
            "extractor: {device: 'cuda:x'}",
            "extractor.device: expected auto, cpu, mps, cuda or cuda:1 and so on, found 'cuda:x'",
        ),
        ("on_bad_image: ignore", "on_bad_image: expected 'stop' or 'skip', found 'ignore'"),
        ("on_stale: ignore", "on_stale: expected 'recompute', 'error' or 'reuse', found 'ignore'"),
        ("verify: yes", "verify: expected 'quick' or 'full', found true"),
        ("fingerprint: md5", "fingerprint: expected 'stat' or 'content', found 'md5'"),
        ("remote: bucket/prefix", "remote: expected a URL like s3://bucket/prefix, found 'bucket/prefix'"),
        # extractors and what they take
        (
            "extractor: {name: inception_v4}",
            "extractor.name: no extractor 'inception_v4'. Did you mean 'inception_v3'?",
        ),
        (
            "extractor: {name: zzzzzz}",
            "extractor.name: no extractor 'zzzzzz'. Use fid_inception, inception_v3 or a torchvision model.",
        ),
        (
            "extractor: {name: inception_v3, image_size: 64}",
            "extractor.image_size: inception_v3 always sees 299 pixels; leave it out",
        ),
        (
            "extractor: {image_size: 64}",
            "extractor.image_size: fid_inception always sees 299 pixels; leave it out",
        ),
        ("extractor: {name: inception_v3, layer: 64}", "extractor.layer: only fid_inception has layers to choose from"),
        (
            "extractor: {name: fid_inception, layer: 65}",
            "extractor.layer: fid_inception has 64, 192, 768, 2048, logits_unbiased, logits; found '65'",
        ),
        ("extractor: {seed: 3}", "extractor.seed: only 'weights: random' has a seed"),
        (
            "extractor: {weights: nofile.pth}",
            "extractor.weights: expected 'default', 'random' or a file of weights; no such file: ./nofile.pth",
        ),
        (
            "extractor: {weights: defualt}",
            "extractor.weights: expected 'default', 'random' or a file of weights; no such file: ./defualt."
            " Did you mean 'default'?",
        ),
        (
            "extractor: {weights: data}",
            "extractor.weights: expected 'default', 'random' or a file of weights; no such file: ./data",
        ),
        # metrics
        ("metrics: fid", "metrics: expected names of metrics, like [fid, kid]; found 'fid'"),
        ("metrics:", "metrics: expected names of metrics, like [fid, kid]; found nothing"),
        ("metrics: []", "metrics: expected at least one entry, found none"),
        ("metrics: {}", "metrics: expected at least one entry, found none"),
        (
            "metrics: [3]",
            "metrics: expected names of metrics, or mappings of a name to parameters; found 3",
        ),
        ("metrics: [fid, fid]", "metrics: the metric 'fid' stands twice"),
        ("metrics: [fid, {fid: {}}]", "metrics: the metric 'fid' stands twice"),
        ("metrics: {fid: 3}", "metrics.fid: expected a mapping, found 3"),
        ("metrics: [kid, {fid: 3}]", "metrics.1.fid: expected a mapping, found 3"),
        (
            "metrics: {precision: {k: 0}}",
            "metrics.precision: k: expected a whole number of at least 1, found 0; set the metric's parameter k",
        ),
        # intervals and labels
        ("intervals: 3", "intervals: expected a mapping, found 3"),
        ("intervals: {level: 95}", "intervals.level: expected less than 1, found 95"),
        ("intervals: {level: true}", "intervals.level: expected a number, found true"),
        ("intervals: {seed: -1}", "intervals.seed: expected 0 or more, found -1"),
        ("intervals: {levle: 0.9}", "intervals.levle: unknown key. Did you mean 'level'?"),
        ("per_class: some", "per_class: expected true or false, found 'some'"),
        (
            "metrics: [inception_score]",
            "metrics.0: needs logits: extractor {name: fid_inception, layer: logits_unbiased},"
            " which the other metrics then share",
        ),
        # restraints
        ("restraints: {fid: {}}", "restraints.fid: expected lower_bound, upper_bound or both"),
        ("restraints: {fid: {upper_bound: }}", "restraints.fid: expected lower_bound, upper_bound or both"),
        (
            "restraints: {fid: {lower_bound: 4, upper_bound: 3}}",
            "restraints.fid: lower_bound 4.0 is above upper_bound 3.0",
        ),
        (
            "restraints: {fidd: {upper_bound: 3}}",
            "restraints.fidd: 'fidd' is not among the metrics. Did you mean 'fid'?",
        ),
        ("restraints: {max_copies: -1}", "restraints.max_copies.upper_bound: expected 0 or more, found -1"),
        (
            "restraints: {max_copies: {lower_bound: 1}}",
            "restraints.max_copies.lower_bound: a number of copies has an upper_bound alone",
        ),
        ("restraints: {max_copies: yes}", "restraints.max_copies: expected a mapping, found true"),
        ("restraints: {max_copies: few}", "restraints.max_copies.upper_bound: expected a number, found 'few'"),
        (
            "restraints: {max_copys: 0}",
            "restraints.max_copys: 'max_copys' is not among the metrics. Did you mean 'max_copies'?",
        ),
        (
            "restraints: {max_copys: {upper_bound: 0}}",
            "restraints.max_copys: 'max_copys' is not among the metrics. Did you mean 'max_copies'?",
        ),
        (
            "restraints: {max_copies: {upper_bound: 0, datasets: [10m]}}",
            "restraints.max_copies.datasets: no dataset is called '10m'. Did you mean '10k'?",
        ),
        (
            "restraints: {fid: {upper_bound: 3, datasets: [10m]}}",
            "restraints.fid.datasets: no dataset is called '10m'. Did you mean '10k'?",
        ),
        (
            "restraints: {fid: {upper_bound: 3, datasets: [real]}}",
            "restraints.fid.datasets: no dataset is called 'real'.",
        ),
        (
            "restraints: {fid: {upper_bound: 3, datasets: []}}",
            "restraints.fid.datasets: expected at least one entry, found none",
        ),
        # keys
        ("output: a\noutput: b", "output: this key stands twice"),
        ("cache_dir: s3://b/x", "cache_dir: expected a folder of this machine, found a URL; name a bucket as remote"),
        ("output: 's3://b'", "output: expected a folder of this machine, found a URL; name a bucket as remote"),
        ("3: 4", "3: expected text as a key; put it in quotes"),
        ("null: 4", "null: expected text as a key; put it in quotes"),
        ("? [a, b]\n: 3", "?: expected text as a key; put it in quotes"),
        ("metrics: {3: {}}", "metrics.3: expected text as a key; put it in quotes"),
    ],
)
def test_one_line_says_what_is_wrong_and_where(load: Load, added: str, line: str) -> None:
    number = 5 if "\noutput" in added else 4
    assert refused(load, GOOD + added) == [f"c.yaml:{number}: {line}"]


@pytest.mark.parametrize(("added", "wanted"), [("per_class: true", "per_class"), ("metrics: [fid, tstr]", "tstr")])
def test_labels_that_nobody_can_know(load: Load, added: str, wanted: str) -> None:
    assert refused(load, GOOD + added) == [
        f"c.yaml:1: reference.classes: {wanted} needs labels: one folder for each class in ./data/real,"
        " and classes: true",
        f"c.yaml:3: datasets.0.classes: {wanted} needs labels: one folder for each class in ./samples/10k,"
        " and classes: true",
    ]


def test_labels_of_folders_and_of_the_digits(load: Load) -> None:
    text = "reference: {digits: reference}\ndatasets: [{path: samples/10k, classes: true}]\n"
    for more, wanted in {"per_class: true": True, "metrics: [trts]": True, "": False}.items():
        config = load(text + more)
        assert config.wants_labels(config.metrics) is wanted


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("", None),
        ("intervals: false", None),
        ("intervals: true", Intervals(0.95, 0)),
        ("intervals: {}", Intervals(0.95, 0)),
        ("intervals: {level: 0.9, seed: 3}", Intervals(0.9, 3)),
    ],
)
def test_intervals(load: Load, added: str, expected: Intervals | None) -> None:
    found = load(GOOD + added).intervals
    assert (found and found.asked()) == expected


@pytest.mark.parametrize(
    "metrics",
    ["[FID, {Precision: {k: 5}}, KID_Subsets, FD-infinity]", "[fid, {PRECISION: {k: 5}}, kid-subsets, FDinfinity]"],
)
def test_metrics_may_be_spelt_as_papers_spell_them(load: Load, metrics: str) -> None:
    config = load(
        f"{GOOD}metrics: {metrics}\nrestraints: {{Fid: {{upper_bound: 40}}, FD-Infinity: {{upper_bound: 30}}}}\n"
    )
    assert config.metrics == {"fid": {}, "precision": {"k": 5}, "kid_subsets": {}, "fd_infinity": {}}
    assert list(config.restraints) == ["fid", "fd_infinity"]
    assert EvaluationConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("written", ["FID", "Fid", "fid"])
@pytest.mark.parametrize("overridden", ["FID", "fid"])
def test_an_override_replaces_what_is_spelt_otherwise(load: Load, written: str, overridden: str) -> None:
    text = f"{GOOD}metrics: [{written}, {{Precision: {{k: 3}}}}]\nrestraints: {{{written}: {{upper_bound: 40}}}}\n"
    config = load(text, f"restraints.{overridden}.upper_bound=0.1", "metrics.PRECISION.k=5")
    assert {name: one.upper_bound for name, one in config.restraints.items()} == {"fid": 0.1}
    assert config.metrics == {"fid": {}, "precision": {"k": 5}}
    assert list(load(GOOD, "metrics=[FID, KID]", f"restraints.{overridden}.upper_bound=1").restraints) == ["fid"]


@pytest.mark.parametrize(
    ("added", "line"),
    [
        ("metrics: [FID, fid]", "metrics: the metric 'fid' stands twice"),
        ("metrics: {FID: {}, Fid: {}}", "metrics: the metric 'fid' stands twice"),
        ("restraints: {FID: {upper_bound: 3}, fid: {upper_bound: 4}}", "restraints: the metric 'fid' stands twice"),
        ("restraints: {FID: {}}", "restraints.FID: expected lower_bound, upper_bound or both"),
        (
            "restraints: {Mind: {upper_bound: 3}}",
            "restraints.Mind: 'mind' is not among the metrics. These are fid, kid, precision, recall.",
        ),
        (
            "restraints: {FD (inception_v3): {upper_bound: 3}}",
            "restraints.FD (inception_v3): 'FD (inception_v3)' is not among the metrics."
            " These are fid, kid, precision, recall.",
        ),
        (
            "restraints: {FIDD: {upper_bound: 3}}",
            "restraints.FIDD: 'FIDD' is not among the metrics. Did you mean 'fid'?",
        ),
        ("exclude: [{metric: FIDD}]", "exclude.0.metric: no metric is called 'FIDD'. Did you mean 'fid'?"),
        (
            "metrics: [KID, {Precision: {k: 0}}]",
            "metrics.1.Precision: k: expected a whole number of at least 1, found 0; set the metric's parameter k",
        ),
    ],
)
def test_what_is_wrong_is_said_where_it_stands_whatever_the_spelling(load: Load, added: str, line: str) -> None:
    assert refused(load, GOOD + added) == [f"c.yaml:4: {line}"]


@pytest.mark.parametrize("metric", ["FID", "[Fid, KID]", "'F*'", "'?ID'", "'[F-K]ID'"])
def test_an_exclusion_may_spell_metrics_as_papers_do(load: Load, metric: str) -> None:
    config = load(f"{GOOD}metrics: [fid, kid, precision]\nexclude: [{{metric: {metric}}}]")
    (one,) = config.comparisons()
    assert "fid" not in one.metrics
    assert "precision" in one.metrics


@pytest.mark.parametrize("metrics", ["{%s: {}}", "[kid, %s]"])
def test_an_unknown_metric(load: Load, metrics: str) -> None:
    (line,) = refused(load, f"{GOOD}metrics:\n  {metrics % 'fidd'}")
    place = "1" if metrics.startswith("[") else "fidd"
    assert line.startswith(
        f"c.yaml:5: metrics.{place}: Unknown metric 'fidd'. Did you mean 'fid'? The metrics are: fid,"
    )


def test_an_unknown_parameter_of_a_metric(load: Load) -> None:
    (line,) = refused(load, f"{GOOD}metrics:\n- fid\n- precision: {{kk: 5}}")
    assert line.startswith("c.yaml:6: metrics.1.precision: Unknown parameter of metric 'precision': 'kk'.")
    assert "Did you mean 'k'?" in line


@pytest.mark.parametrize(
    ("reference", "line"),
    [
        ("{path: data/reel}", "reference.path: no such folder: ./data/reel. Did you mean 'real'?"),
        ("{path: nowhere/at/all}", "reference.path: no such folder: ./nowhere/at/all"),
        ("{path: notes.txt}", "reference.path: expected a folder of images, found a file: ./notes.txt"),
        ("{path: notes.txt/x}", "reference.path: no such folder: ./notes.txt/x"),
        ("{path: empty}", "reference.path: no image in ./empty"),
        ("{path: 3}", "reference.path: expected a path, found 3"),
        ("{path: }", "reference.path: expected a path, found nothing"),
        ("{path: data/real, pth: x}", "reference.pth: unknown key. Did you mean 'path'?"),
        (
            "{glob: samples/*}",
            "reference: expected a mapping with one of the keys path, torchvision, digits, found glob,"
            " which may name many; several references stand under references",
        ),
        (
            "data/real",
            "reference: expected a mapping with one of the keys path, torchvision, digits, found 'data/real'",
        ),
        (
            "{pth: data/real}",
            "reference: expected a mapping with one of the keys path, torchvision, digits, found pth."
            " Did you mean 'path'?",
        ),
        ("{}", "reference: expected a mapping with one of the keys path, torchvision, digits, found an empty mapping"),
        ("", "reference: expected one dataset here, or several under references; found neither"),
    ],
)
def test_what_may_be_wrong_with_the_reference(load: Load, reference: str, line: str) -> None:
    assert refused(load, f"reference: {reference}\ndatasets: [{{path: samples/10k}}]") == [f"c.yaml:1: {line}"]


SAME_FOLDER = ", both of ./samples/10k; leave one out, or give them a 'name' each"
KINDS = "expected a mapping with one of the keys path, glob, torchvision, digits"


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        ("{path: samples/1k}", "datasets.1.path: no such folder: ./samples/1k. Did you mean '10k'?"),
        (f"{{path: {'a' * 300}}}", f"datasets.1.path: no such folder: ./{'a' * 300}"),
        ("{glob: sample/*}", "datasets.1.glob: no folder matches ./sample/*"),
        ("{glob: '*.txt'}", "datasets.1.glob: no folder matches ./*.txt"),
        ("{glob: samples/*, name: x}", "datasets.1: a glob names its datasets itself; leave out 'name'"),
        ("{path: samples/20k, subset: 5}", "datasets.1.subset: expected a mapping, found 5"),
        ("{path: samples/20k, subset: {}}", "datasets.1.subset.size: this key is required"),
        ("{path: samples/20k, subset: {size: 0}}", "datasets.1.subset.size: expected 1 or more, found 0"),
        ("{path: samples/20k, subset: {size: no}}", "datasets.1.subset.size: expected a number, found false"),
        (
            "{path: samples/20k, subset: {size: 5, sed: 1}}",
            "datasets.1.subset.sed: unknown key. Did you mean 'seed'?",
        ),
        ("{path: samples/20k, clases: true}", "datasets.1.clases: unknown key. Did you mean 'classes'?"),
        (
            "{path: samples/20k, root: x}",
            "datasets.1.root: unknown key. Known here: name, step, parts, subset, path, classes, bit_depth",
        ),
        ("{path: samples/20k, classes: 5}", "datasets.1.classes: expected true or false, found 5"),
        ("{path: samples/20k, name: 5}", "datasets.1.name: expected text, found 5"),
        (
            "{path: samples/20k, glob: samples/*}",
            "datasets.1.glob: this dataset has 'path' already; leave one of them out",
        ),
        (
            "{path: samples/20k, torchvision: CIFAR10}",
            "datasets.1.torchvision: this dataset has 'path' already; leave one of them out",
        ),
        ("{path: samples/10k}", f"datasets.1: two datasets are called '10k'{SAME_FOLDER}"),
        ("{path: samples/20k/../10k}", f"datasets.1: two datasets are called '10k'{SAME_FOLDER}"),
        ("{glob: samples/*}", f"datasets.1: two datasets are called '10k'{SAME_FOLDER}"),
        ("samples/10k", f"datasets.1: {KINDS}, found 'samples/10k'"),
        ("null", f"datasets.1: {KINDS}, found nothing"),
        ("{name: x}", f"datasets.1: {KINDS}, found name"),
        (
            "{torchvision: CIFAR11, root: data}",
            "datasets.1.torchvision: torchvision has no dataset 'CIFAR11'. Did you mean 'CIFAR10'?",
        ),
        ("{torchvision: zzz, root: data}", "datasets.1.torchvision: torchvision has no dataset 'zzz'."),
        ("{torchvision: CIFAR10}", "datasets.1.root: this key is required"),
        (
            "{torchvision: CIFAR10, root: data, split: tst}",
            "datasets.1.split: torchvision's CIFAR10 has train and test, found 'tst'",
        ),
        (
            "{torchvision: FakeData, root: data, split: test}",
            "datasets.1.split: torchvision's FakeData has no splits; leave it out",
        ),
        (
            "{torchvision: SVHN, root: data, split: tset}",
            "datasets.1.split: torchvision's SVHN: Unknown value 'tset' for argument split."
            " Valid values are {'train', 'test', 'extra'}.",
        ),
        (
            "{torchvision: EMNIST, root: data}",
            "datasets.1.split: torchvision's EMNIST: EMNIST.__init__() missing 1 required positional argument: 'split'",
        ),
        (
            "{digits: refrence}",
            "datasets.1.digits: digits has no part 'refrence';"
            " it has reference, held-out, noise, blur, three-classes. Did you mean 'reference'?",
        ),
        ("{digits: noise, seed: -1}", "datasets.1.seed: expected 0 or more, found -1"),
    ],
)
def test_what_may_be_wrong_with_a_dataset(load: Load, dataset: str, line: str) -> None:
    assert refused(load, f"{GOOD}- {dataset}") == [f"c.yaml:4: {line}"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (REFERENCE, ["c.yaml: datasets: this key is required"]),
        (
            "datasets: [{path: samples/10k}]",
            ["c.yaml: reference: expected one dataset here, or several under references; found neither"],
        ),
        (REFERENCE + "datasets: []", ["c.yaml:2: datasets: expected at least one entry, found none"]),
        (REFERENCE + "datasets: {path: samples/10k}", ["c.yaml:2: datasets: expected a list, found a mapping"]),
        (REFERENCE + "datasets:", ["c.yaml:2: datasets: expected a list, found nothing"]),
    ],
)
def test_a_reference_and_datasets_are_required(load: Load, text: str, lines: list[str]) -> None:
    assert refused(load, text) == lines


def test_all_problems_come_at_once(load: Load) -> None:
    text = """\
reference: {path: data/reel}
datasets:
- {path: samples/10k, subset: {size: many}}
- {torchvision: CIFAR11}
extractor:
  nam: x
  device: tpu
metrics:
  - fid
  - precision: {kk: 3}
restraints:
  kid:
    lower_bound: 1
  fid: {upper_bound: big}
foo: 3
"""
    lines = refused(load, text)
    assert [line.partition(": ")[0] for line in lines] == [
        f"c.yaml:{number}" for number in (1, 3, 4, 4, 7, 6, 10, 14, 15)
    ]
    text = text.replace("kk", "k").replace("big", "2")  # the metrics are known now, and so is what is not among them
    assert "c.yaml:12: restraints.kid: 'kid' is not among the metrics. Did you mean 'fid'?" in refused(load, text)


def test_a_reference_that_cannot_be_listed(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def has_images(root: Path) -> bool:
        raise DatasetError(f"cannot list folder {root}: permission denied")

    monkeypatch.setattr("simet_cache.config.datasets.has_images", has_images)
    assert refused(load, GOOD) == ["c.yaml:1: reference.path: cannot list folder ./data/real: permission denied"]


def test_an_empty_dataset_is_no_reason_to_stop_the_others(load: Load) -> None:
    assert names(load(GOOD + "- {path: empty}")) == ["10k", "empty"]


# Files that are no configuration


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "c.yaml: expected a mapping with at least 'reference' and 'datasets', found nothing"),
        ("# nothing", "c.yaml: expected a mapping with at least 'reference' and 'datasets', found nothing"),
        ("- a", "c.yaml: expected a mapping with at least 'reference' and 'datasets', found a list"),
        ("3", "c.yaml: expected a mapping with at least 'reference' and 'datasets', found 3"),
        ("\n\na: [", "c.yaml:3: no valid YAML: expected the node content, but found '<stream end>'"),
        ("a: b: c", "c.yaml:1: no valid YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 1", "c.yaml:2: no valid YAML: found character '\\t' that cannot start any token"),
        ("a: !foo x", "c.yaml:1: no valid YAML: could not determine a constructor for the tag '!foo'"),
        ("a: *b", "c.yaml:1: no valid YAML: found undefined alias 'b'"),
        ("a: 2001-99-99", "c.yaml:1: no valid YAML: '2001-99-99' is no timestamp: month must be in 1..12"),
        ("a: \0", "c.yaml: no valid YAML: unacceptable character #x0000: special characters are not allowed"),
        (GOOD + "---\na: 1", "c.yaml:4: no valid YAML: but found another document"),
        (
            b"\xff\xfea",
            "c.yaml: expected a YAML file in UTF-8:"
            " 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        ),
        ("[" * 5000, "c.yaml: no valid YAML: nested too deeply"),
        ("a: " + "[" * 2000 + "]" * 2000, "c.yaml: no valid YAML: nested too deeply"),
    ],
)
def test_no_configuration_at_all(load: Load, text: str | bytes, line: str) -> None:
    assert refused(load, text) == [line]


def test_a_byte_order_mark_does_no_harm(load: Load) -> None:
    assert names(load(b"\xef\xbb\xbf" + GOOD.encode())) == ["10k"]


@pytest.mark.parametrize(
    ("path", "reason"), [("missing.yaml", "No such file or directory"), ("samples", "Is a directory")]
)
def test_a_file_that_cannot_be_read(project: Path, path: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.problems == [f"{path}: cannot read the configuration: {reason}"]


def test_tags_do_not_run(load: Load, project: Path) -> None:
    attack = f"!!python/object/apply:os.system ['touch {project}/ran']"
    for lines in (refused(load, f"{GOOD}output: {attack}"), refused(load, GOOD, f"output={attack}")):
        assert "could not determine a constructor for the tag" in lines[0]
    assert not (project / "ran").exists()


# Anchors and aliases


def test_anchors_and_merge_keys(load: Load) -> None:
    config = load(
        "reference: &set {path: data/real, subset: &few {size: 1, seed: 2}}\n"
        "datasets:\n"
        "- *set\n"
        "- {<<: *set, name: again}\n"
        "- {<<: *set, path: samples/10k}\n"
        "- {path: samples/20k, subset: *few}\n"
    )
    assert names(config) == ["real", "again", "10k", "20k"]
    assert config.datasets[2].path.name == "10k"
    assert all(dataset.subset.seed == 2 for dataset in config.datasets)


def test_an_override_changes_one_of_the_values_behind_an_alias(load: Load) -> None:
    config = load("reference: &set {path: data/real}\ndatasets: [*set, {<<: *set, name: x}]", "datasets.0.name=y")
    assert (config.reference.name, names(config)) == ("real", ["y", "x"])


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a {<<: *a}",
        "reference: &a {path: data/real, x: [*a]}\ndatasets: [*a]",
    ],
)
def test_an_alias_to_itself(load: Load, text: str) -> None:
    assert refused(load, text) == ["c.yaml:1: no valid YAML: an alias stands inside of what it names"]
    assert refused(load, GOOD, "extractor=&a {name: *a}") == [
        "--set extractor=&a {name: *a}: the value is no valid YAML: an alias stands inside of what it names"
    ]


@pytest.mark.parametrize("kind", ["[{}]", "{{<<: [{}]}}"])
def test_few_lines_that_stand_for_endless_values(load: Load, kind: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {kind.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 12)]
    (line,) = refused(load, "\n".join(lines))
    assert line == "c.yaml: no valid YAML: more than 100000 values, aliases counted as what they stand for"


# --set


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("extractor.batch_size=8", lambda c: c.extractor.batch_size, 8),
        (" extractor.batch_size =8", lambda c: c.extractor.batch_size, 8),
        ("extractor.image_size=", lambda c: c.extractor.image_size, None),
        ("extractor={name: resnet18, weights: random}", lambda c: c.extractor.name, "resnet18"),
        ("datasets.0.name=a=b", names, ["a=b"]),
        ("datasets.0.path=samples/20k", names, ["20k"]),
        ("datasets.0={glob: samples/*}", names, ["10k", "20k"]),
        ("datasets=[{path: samples/20k, name: x}]", names, ["x"]),
        ("datasets.0.subset.size=1", lambda c: c.datasets[0].subset.size, 1),
        ("restraints.fid.upper_bound=40", lambda c: c.restraints["fid"].upper_bound, 40),
        ("restraints.fid={lower_bound: -1, datasets: ['*']}", lambda c: c.restraints["fid"].datasets, ["*"]),
        ("metrics=[fid]", lambda c: c.metrics, {"fid": {}}),
        ("metrics={kid: }", lambda c: c.metrics, {"kid": {}}),
        ("force_recompute=true", lambda c: c.force_recompute, True),
    ],
)
def test_a_value_is_replaced(
    load: Load, override: str, field: Callable[[EvaluationConfig], object], value: object
) -> None:
    assert field(load(GOOD, override)) == value


@pytest.mark.parametrize(
    ("metrics", "override", "expected"),
    [
        ("[fid, precision]", "metrics.precision.k=5", {"fid": {}, "precision": {"k": 5}}),
        ("[fid, {precision: {k: 3}}]", "metrics.precision.k=5", {"fid": {}, "precision": {"k": 5}}),
        ("[fid, {precision: }]", "metrics.precision.k=5", {"fid": {}, "precision": {"k": 5}}),
        ("{fid: , precision: }", "metrics.precision.k=5", {"fid": {}, "precision": {"k": 5}}),
        ("[fid, precision]", "metrics.kid=", {"fid": {}, "precision": {}, "kid": {}}),
        ("[fid, precision]", "metrics.1=kid", {"fid": {}, "kid": {}}),
        ("[fid, {precision: {}}]", "metrics.1.precision.k=5", {"fid": {}, "precision": {"k": 5}}),
        (None, "metrics.recall.k=5", {"fid": {}, "kid": {}, "precision": {}, "recall": {"k": 5}}),
    ],
)
def test_a_parameter_of_a_metric_in_any_form(
    load: Load, metrics: str | None, override: str, expected: dict[str, object]
) -> None:
    assert load(GOOD + (f"metrics: {metrics}" if metrics else ""), override).metrics == expected


def test_overrides_come_in_their_order_and_leave_the_default_alone(load: Load) -> None:
    assert load(GOOD, "metrics.recall.k=5", "metrics.recall.k=7").metrics["recall"] == {"k": 7}
    assert load(GOOD).metrics["recall"] == {}


def test_a_mapping_without_a_value_can_be_filled(load: Load) -> None:
    assert load(GOOD + "extractor:\nrestraints:", "extractor.batch_size=8", "restraints.fid.lower_bound=0")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("a", "--set a: expected key=value, like restraints.fid.upper_bound=40"),
        ("=3", "--set =3: expected key=value, like restraints.fid.upper_bound=40"),
        ("a=[", "--set a=[: the value is no valid YAML: expected the node content, but found '<stream end>'"),
        ("a=*x", "--set a=*x: the value is no valid YAML: found undefined alias 'x'"),
        (
            "a=2001-99-99",
            "--set a=2001-99-99: the value is no valid YAML: '2001-99-99' is no timestamp: month must be in 1..12",
        ),
        ("a={b: 1, b: 2}", "--set a={b: 1, b: 2}: b: this key stands twice"),
        ("metrics={3: {}}", "--set metrics={3: {}}: 3: expected text as a key; put it in quotes"),
        ("restraints=", "--set restraints: restraints: expected a mapping, found nothing"),
        ("extractor.nam=x", "--set extractor.nam: extractor.nam: unknown key. Did you mean 'name'?"),
        ("a..b=3", f"--set a..b: a: unknown key. Known here: {TOP_KEYS}"),
        ("cache_dir.x=3", "--set cache_dir.x: cache_dir: expected a path, found a mapping"),
        ("metrics=fid", "--set metrics: metrics: expected names of metrics, like [fid, kid]; found 'fid'"),
        (
            "datasets.1.path=x",
            "--set datasets.1.path=x: datasets is a list of 1, whose items are called 0, 1 and so on; it has no '1'",
        ),
        (
            "datasets.-1.path=x",
            "--set datasets.-1.path=x: datasets is a list of 1, whose items are called 0, 1 and so on; it has no '-1'",
        ),
        (
            "datasets.².path=x",
            "--set datasets.².path=x: datasets is a list of 1, whose items are called 0, 1 and so on; it has no '²'",
        ),
        ("datasets.0.path.x=3", "--set datasets.0.path.x=3: datasets.0.path is a value; it has no 'x'"),
        ("reference.path=nowhere", "--set reference.path: reference.path: no such folder: ./nowhere"),
        (
            "extractor.image_size=64",
            "--set extractor.image_size: extractor.image_size: fid_inception always sees 299 pixels; leave it out",
        ),
        (
            "restraints.fid={upper_bound: 3, datasets: [10m]}",
            "--set restraints.fid: restraints.fid.datasets: no dataset is called '10m'. Did you mean '10k'?",
        ),
    ],
)
def test_an_override_that_is_wrong(load: Load, override: str, line: str) -> None:
    assert refused(load, GOOD, override) == [line]


@pytest.mark.parametrize("metrics", ["[fid, 3]", "[fid, [precision]]", "[precision, precision]"])
def test_an_override_into_metrics_that_are_wrong_themselves(load: Load, metrics: str) -> None:
    override = "metrics.precision.k=5"
    assert refused(load, f"{GOOD}metrics: {metrics}", override) == [
        f"--set {override}: metrics is a list of 2, whose items are called 0, 1 and so on; it has no 'precision'"
    ]


def test_without_yaml_a_configuration_is_checked_all_the_same(project: Path) -> None:
    """Python code makes the same models."""
    config = EvaluationConfig(reference=FolderConfig(path="data/real"), datasets=[{"glob": "samples/*"}])
    assert names(config) == ["10k", "20k"]
    with pytest.raises(ValueError, match="split: torchvision's CIFAR10 has train and test"):
        TorchvisionConfig(torchvision="CIFAR10", root=os.curdir, split="val")


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("!!bool zzz", "'zzz' is no bool"),
        ("!!int ''", "'' is no int"),
        ("!!float ''", "'' is no float"),
        ("!!timestamp zzz", "'zzz' is no timestamp"),
        ("!!int " + "9" * 100_000, f"'{'9' * 199}... (100002 characters) is no int"),
        ("9" * 4000, f"'{'9' * 199}... (4002 characters) is too large a number"),
        ("0x" + "f" * 100_000, f"'0x{'f' * 197}... (100004 characters) is too large a number"),
        ("1" + ":1" * 1000, f"'{'1:' * 99}1... (2003 characters) is too large a number"),
    ],
)
def test_a_value_that_is_not_what_its_tag_says(load: Load, value: str, line: str) -> None:
    assert refused(load, f"{GOOD}\nkeep_runs: {value}\n") == [
        f"c.yaml:{len(GOOD.splitlines()) + 2}: no valid YAML: {line}"
    ]
    (said,) = refused(load, GOOD, f"keep_runs={value}")
    assert said.endswith(f"the value is no valid YAML: {line}"[-150:])


def test_many_problems_and_long_values_make_no_book(load: Load) -> None:
    found = refused(load, "reference: {path: samples/10k}\ndatasets:\n" + "- {pth: 1}\n" * 20_000)
    assert len(found) == 21
    assert found[-1] == "and 19980 more problems"
    (line,) = refused(load, f"{GOOD}\nkeep_runs: {'x' * 100_000}\n")
    assert len(line) < 400
    assert line.endswith("(100002 characters)")
    (line,) = refused(load, f"{GOOD}\n{'x' * 100_000}: 1\n")
    assert len(line) <= 2000
    assert len(str(ConfigError(["x" * 10_000] * 1000))) < 50_000
    twice = ConfigError(ConfigError(["x"] * 1000).problems)
    assert twice.problems[-1] == "and 980 more problems", "also when it has travelled from process to process"
