"""Lists of references and extractors, what is left out of their product, steps, and what runs it all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect import flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from simet_cache.config import EvaluationConfig, ExtractorConfig, TaskRunnerConfig
from simet_cache.config_file import config_from_folders, load_config
from simet_cache.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
SWEEP = """\
references:
- {path: real/a}
- {glob: 'real/[bc]'}
datasets:
- {path: plain}
- {glob: 'runs/checkpoint-{step}/samples'}
extractors:
- {name: resnet18, weights: random}
- {name: resnet18, weights: random, seed: 1}
metrics: [fid, kid]
"""  # what is added to it stands in line 11
CHECKPOINTS = ["checkpoint-5", "checkpoint-40", "checkpoint-300"]
SUFFIXES = ["resnet18_random0", "resnet18_random1"]

Load = Callable[..., EvaluationConfig]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, which is the working directory."""
    for folder in ("real/a", "real/b", "real/c", "plain", *(f"runs/{name}/samples" for name in CHECKPOINTS)):
        put(tmp_path / folder)
    for folder in ("empty", "runs/checkpoint-last/samples"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "w.pth").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(project: Path) -> Load:
    """Write a YAML file and load it."""

    def load(text: str, *overrides: str) -> EvaluationConfig:
        (project / "c.yaml").write_text(text)
        return load_config("c.yaml", overrides)

    return load


def put(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(folder / "a.png")


def refused(load: Load, text: str, *overrides: str) -> list[str]:
    """The lines of the error; the working directory is called ``.`` in them."""
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    return [line.replace(f"{Path.cwd()}/", "./") for line in caught.value.problems]


def names(sets: Any) -> list[str]:
    return [one.name for one in sets]


def product(config: EvaluationConfig) -> set[tuple[str, str, str, str]]:
    """All values that are asked for, seed by seed."""
    return {
        (one.reference.name, one.dataset.name, str(one.extractor.seed), metric)
        for one in config.comparisons()
        for metric in one.metrics
    }


# Lists, and one alone


def test_a_sweep_is_the_product_of_its_lists(load: Load) -> None:
    config = load(SWEEP)
    assert names(config.all_references) == ["a", "b", "c"]
    assert names(config.datasets) == ["plain", *CHECKPOINTS]
    assert [one.suffix for one in config.all_extractors] == SUFFIXES
    assert config.reference is None
    assert config.extractor is None
    found = list(config.comparisons())
    assert len(found) == 3 * 4 * 2
    assert all(one.metrics == {"fid": {}, "kid": {}} for one in found)
    assert [(one.extractor.seed, one.reference.name, one.dataset.name) for one in found[:5]] == [
        *((0, "a", name) for name in names(config.datasets)),
        (0, "b", "plain"),
    ]


def test_a_plain_configuration_is_a_sweep_of_one(load: Load) -> None:
    config = load("reference: {path: real/a}\ndatasets: [{path: plain}]")
    assert config.all_references == (config.reference,)
    assert config.all_extractors == (config.extractor,) == (ExtractorConfig(),)
    (one,) = config.comparisons()
    assert one.metrics == config.metrics
    assert one.metrics == config.metrics_for(reference="a", dataset="plain", extractor=config.all_extractors[0])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "references: [{path: real/a}]\nreference: {path: real/a}\ndatasets: [{path: plain}]",
            "c.yaml:2: reference: expected reference or references, found both; leave one of them out",
        ),
        (
            "datasets: [{path: plain}]",
            "c.yaml: reference: expected one dataset here, or several under references; found neither",
        ),
        (
            "reference:\ndatasets: [{path: plain}]",
            "c.yaml:1: reference: expected one dataset here, or several under references; found neither",
        ),
        (
            SWEEP + "extractor: {}",
            "c.yaml:11: extractor: expected extractor or extractors, found both; leave one of them out",
        ),
        (
            SWEEP.replace("{path: real/a}", "{path: real/z}"),
            "c.yaml:2: references.0.path: no such folder: ./real/z",
        ),
        (SWEEP.replace("{path: real/a}", "{path: empty}"), "c.yaml:2: references.0.path: no image in ./empty"),
        (SWEEP.replace("[bc]", "[xy]"), "c.yaml:3: references.1.glob: no folder matches ./real/[xy]"),
        (
            SWEEP.replace("[bc]", "[ab]"),
            "c.yaml:3: references.1: two references are called 'a', both of ./real/a; leave one out, or give them a"
            " 'name' each",
        ),
        (
            SWEEP.replace("{path: real/a}", "{pth: real/a}"),
            "c.yaml:2: references.0: expected a mapping with one of the"
            " keys path, glob, torchvision, digits, found pth. Did you mean 'path'?",
        ),
        (
            SWEEP.replace("{path: real/a}", "{path: real/a, nam: x}"),
            "c.yaml:2: references.0.nam: unknown key. Did you mean 'name'?",
        ),
        (
            SWEEP.replace(", seed: 1", ""),
            "c.yaml:9: extractors.1: makes the same features as extractors.0 (resnet18_random0); leave one of them out",
        ),
        (
            SWEEP.replace(", seed: 1", ", batch_size: 7"),
            "c.yaml:9: extractors.1: makes the same features as extractors.0 (resnet18_random0); leave one of them out",
        ),
        (
            SWEEP.replace("name: resnet18, weights: random, seed", "name: resnet81, weights: random, seed"),
            "c.yaml:9: extractors.1.name: no extractor 'resnet81'. Did you mean 'resnet18'?",
        ),
        (SWEEP.replace("seed: 1", "sed: 1"), "c.yaml:9: extractors.1.sed: unknown key. Did you mean 'seed'?"),
        (
            SWEEP.replace("seed: 1", "layer: 3"),
            "c.yaml:9: extractors.1.layer: only fid_inception has layers to choose from",
        ),
    ],
)
def test_what_may_be_wrong_with_the_lists(load: Load, text: str, line: str) -> None:
    assert refused(load, text) == [line]


@pytest.mark.parametrize("key", ["references", "extractors", "exclude"])
def test_a_list_is_a_list(load: Load, key: str) -> None:
    text = SWEEP if key == "exclude" else SWEEP.replace(SWEEP[SWEEP.index(key) :], "")
    text = "reference: {path: real/a}\ndatasets: [{path: plain}]\n"
    assert refused(load, f"{text}{key}: {{}}")[0] == f"c.yaml:3: {key}: expected a list, found an empty mapping"
    if key != "exclude":
        assert refused(load, f"{text}{key}: []")[0] == f"c.yaml:3: {key}: expected at least one entry, found none"


def test_a_list_that_is_wrong_is_not_also_missing(load: Load) -> None:
    lines = refused(load, "references: [{path: nowhere}]\ndatasets: [{path: plain}]")
    assert lines == ["c.yaml:1: references.0.path: no such folder: ./nowhere"]


def test_files_of_weights_in_a_list_are_relative_to_the_file(load: Load, project: Path) -> None:
    config = load(SWEEP.replace("weights: random, seed: 1", "weights: w.pth"))
    assert config.all_extractors[1].weights_file == project / "w.pth"
    assert config.all_extractors[1].suffix.startswith("resnet18_w")


def test_weights_that_cannot_be_read_have_a_place(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("simet_cache.extractors.weights._sha256", unreadable)
    assert refused(load, SWEEP.replace("weights: random, seed: 1", "weights: w.pth")) == [
        "c.yaml:9: extractors.1.weights: cannot read the weights file ./w.pth: Permission denied"
    ]
    text = "reference: {path: real/a}\ndatasets: [{path: plain}]\nextractor: {name: resnet18, weights: w.pth}\n"
    assert refused(load, text + "exclude: [{extractor: resnet50}]") == [
        "c.yaml:3: extractor.weights: cannot read the weights file ./w.pth: Permission denied"
    ]
    assert load(text)  # of one alone nobody asks for the suffix here


def test_a_suffix_follows_its_file_of_weights(load: Load, project: Path) -> None:
    config = ExtractorConfig(name="resnet18", weights=str(project / "w.pth"))
    before = config.suffix
    (project / "w.pth").write_bytes(b"others, of another size")
    assert config.suffix != before


def test_an_override_reaches_into_the_lists(load: Load) -> None:
    config = load(SWEEP, "references.0.name=x", "extractors.1.seed=7", "exclude=[{dataset: plain}]")
    assert names(config.all_references) == ["x", "b", "c"]
    assert config.all_extractors[1].seed == 7
    assert refused(load, SWEEP, "references.1.glob=nowhere/*") == [
        "--set references.1.glob: references.1.glob: no folder matches ./nowhere/*"
    ]
    assert refused(load, SWEEP, "extractors.1.name=resnet81") == [
        "--set extractors.1.name: extractors.1.name: no extractor 'resnet81'. Did you mean 'resnet18'?"
    ]
    assert refused(load, SWEEP + "exclude: [{dataset: plain}]", "exclude.0.dataset=plane") == [
        "--set exclude.0.dataset: exclude.0.dataset: no dataset is called 'plane'. Did you mean 'plain'?"
    ]


# What the README and the examples show


def test_the_sweep_of_the_readme(load: Load, project: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("# sweep.yaml\n")[2].partition("```")[0]
    for folder in ("data/train", "data/test", *(f"runs/{run}/checkpoint-90000/samples" for run in ("draft_1", "big"))):
        put(project / folder)
    config = load(text.replace(", old_*", ""))
    found = {
        (one.reference.name, one.dataset.name, one.extractor.name): list(one.metrics) for one in config.comparisons()
    }
    assert len(found) == 2 * 2 * 2 - 2
    assert found["train", "big_checkpoint-90000", "resnet50"] == ["fid", "kid", "authenticity"]
    assert found["test", "draft_1_checkpoint-90000", "fid_inception"] == ["fid", "kid"]
    assert refused(load, text)[0].endswith("exclude.1.dataset: no dataset is called 'old_*'.")


def test_the_example() -> None:
    config = load_config(ROOT / "examples" / "sweep.yaml")
    assert len(list(config.comparisons())) == 2 * 3 * 2 - 1


# What is left out


@pytest.mark.parametrize(
    ("exclude", "left_out"),
    [
        ("{reference: b}", lambda r, d, e, m: r == "b"),
        ("{reference: [a, c]}", lambda r, d, e, m: r in "ac"),
        ("{dataset: checkpoint-*}", lambda r, d, e, m: d != "plain"),
        ("{dataset: checkpoint-*, reference: a}", lambda r, d, e, m: d != "plain" and r == "a"),
        ("{extractor: '*random1'}", lambda r, d, e, m: e == "1"),
        ("{extractor: resnet18, reference: b}", lambda r, d, e, m: r == "b"),  # by its name
        ("{metric: kid}", lambda r, d, e, m: m == "kid"),
        ("{metric: '?id', dataset: plain}", lambda r, d, e, m: d == "plain"),
        (
            "{metric: kid, extractor: '*1', dataset: [plain, '*-5']}",
            lambda r, d, e, m: (m, e) == ("kid", "1") and d in ("plain", "checkpoint-5"),
        ),
        (
            "{reference: a, metric: kid}, {dataset: plain}, {reference: a, metric: fid, extractor: '*0'}",
            lambda r, d, e, m: d == "plain" or (r == "a" and (m == "kid" or e == "0")),
        ),
    ],
)
def test_what_matches_every_key_of_an_entry_is_left_out(
    load: Load, exclude: str, left_out: Callable[..., bool]
) -> None:
    everything = product(load(SWEEP))
    assert len(everything) == 3 * 4 * 2 * 2
    found = load(f"{SWEEP}exclude: [{exclude}]")
    assert product(found) == {one for one in everything if not left_out(*one)}
    for one in found.comparisons():
        where = {"reference": one.reference.name, "dataset": one.dataset.name, "extractor": one.extractor}
        assert found.metrics_for(**where) == one.metrics


def test_what_is_left_out_altogether_is_still_listed_and_in_no_comparison(load: Load) -> None:
    config = load(SWEEP + "exclude: [{dataset: plain}]")
    assert "plain" in names(config.datasets)
    assert "plain" not in {one.dataset.name for one in config.comparisons()}
    assert config.metrics_for(reference="a", dataset="plain", extractor=config.all_extractors[0]) == {}


@pytest.mark.parametrize(
    ("exclude", "line"),
    [
        ("[{dataset: plane}]", "exclude.0.dataset: no dataset is called 'plane'. Did you mean 'plain'?"),
        ("[{dataset: plain}, {dataset: [plain, x*]}]", "exclude.1.dataset: no dataset is called 'x*'."),
        ("[{reference: plain}]", "exclude.0.reference: no reference is called 'plain'."),
        ("[{extractor: resnet50}]", "exclude.0.extractor: no extractor is called 'resnet50'. Did you mean 'resnet18'?"),
        ("[{metric: recall}]", "exclude.0.metric: no metric is called 'recall'."),
        ("[{datasets: plain}]", "exclude.0.datasets: unknown key. Did you mean 'dataset'?"),
        ("[{}]", "exclude.0: expected reference, dataset, extractor, metric or several of them"),
        ("[{dataset: }]", "exclude.0: expected reference, dataset, extractor, metric or several of them"),
        ("[{dataset: []}]", "exclude.0.dataset: expected at least one entry, found none"),
        ("[{dataset: 3}]", "exclude.0.dataset: expected a list, found 3"),
        ("[{dataset: [3]}]", "exclude.0.dataset.0: expected text, found 3"),
        ("[plain]", "exclude.0: expected a mapping, found 'plain'"),
        ("[{dataset: '*'}]", "exclude: nothing is left to compare"),
        ("[{metric: fid}, {metric: kid, dataset: '*'}]", "exclude: nothing is left to compare"),
    ],
)
def test_what_may_be_wrong_with_what_is_left_out(load: Load, exclude: str, line: str) -> None:
    assert refused(load, f"{SWEEP}exclude: {exclude}") == [f"c.yaml:11: {line}"]


def test_each_entry_has_its_line(load: Load) -> None:
    lines = refused(load, SWEEP + "exclude:\n- {dataset: plain}\n- reference: a\n  metric: x\n")
    assert lines == ["c.yaml:14: exclude.1.metric: no metric is called 'x'."]


# Restraints in a sweep


@pytest.mark.parametrize(
    ("restraint", "line"),
    [
        ("references: [z]", "restraints.fid.references: no reference is called 'z'."),
        ("references: [a, 'z*']", "restraints.fid.references: no reference is called 'z*'."),
        (
            "extractors: [resnet81]",
            "restraints.fid.extractors: no extractor is called 'resnet81'. Did you mean 'resnet18'?",
        ),
        ("references: a", "restraints.fid.references: expected a list, found 'a'"),
        ("reference: [a]", "restraints.fid.reference: unknown key. Did you mean 'references'?"),
    ],
)
def test_a_restraint_is_about_something(load: Load, restraint: str, line: str) -> None:
    text = f"{SWEEP}restraints: {{fid: {{upper_bound: 3, {restraint}}}}}"
    assert refused(load, text) == [f"c.yaml:11: {line}"]


def test_restraints_by_suffix_name_and_reference(load: Load) -> None:
    restraint = "{upper_bound: 3, references: [a, b], extractors: ['*random1'], datasets: [check*]}"
    found = load(f"{SWEEP}restraints: {{fid: {restraint}}}").restraints["fid"]
    assert found.applies_to("checkpoint-5", reference="b", extractor=("resnet18_random1", "resnet18"))
    assert not found.applies_to("checkpoint-5", reference="c", extractor=("resnet18_random1", "resnet18"))
    assert not found.applies_to("checkpoint-5", reference="b", extractor=("resnet18_random0", "resnet18"))
    assert not found.applies_to("plain", reference="b", extractor=("resnet18_random1", "resnet18"))


def test_a_restraint_on_what_is_left_out(load: Load) -> None:
    text = f"{SWEEP}restraints: {{fid: {{upper_bound: 3, references: [a], extractors: ['*0']}}}}\nexclude:\n"
    assert refused(load, f"{text}- {{reference: a, extractor: '*0', metric: fid}}") == [
        "c.yaml:11: restraints.fid: all that it is about is left out by 'exclude'"
    ]
    assert load(f"{text}- {{reference: a, extractor: '*0', metric: kid}}")
    assert load(f"{text}- {{reference: a, dataset: plain, extractor: '*0'}}")


def test_copies_are_restrained_whatever_the_metrics_are(load: Load) -> None:
    text = f"{SWEEP}restraints: {{max_copies: {{upper_bound: 0, references: [a], extractors: ['*0']}}}}\nexclude:\n"
    assert load(f"{text}- {{reference: a, extractor: '*0', metric: fid}}")
    assert refused(load, f"{text}- {{reference: a, extractor: '*0'}}") == [
        "c.yaml:11: restraints.max_copies: all that it is about is left out by 'exclude'"
    ]


# Labels and logits in a sweep


def test_labels_are_wanted_of_what_takes_part(load: Load, project: Path) -> None:
    for folder in ("real/a", "real/b", "plain"):
        put(project / folder / "class")
    text = SWEEP.replace("real/a}", "real/a, classes: true}").replace("plain}", "plain, classes: true}")
    text = text.replace("[fid, kid]", "[fid, tstr]")
    assert refused(load, text) == [
        "c.yaml:3: references.1.classes: tstr needs labels: one folder for each class in ./real/b and 1 more,"
        " and classes: true",
        "c.yaml:6: datasets.1.classes: tstr needs labels: one folder for each class in"
        " ./runs/checkpoint-5/samples and 2 more, and classes: true",
    ]
    exclude = "{metric: tstr, reference: [b, c]}, {metric: tstr, dataset: check*}"
    config = load(f"{text}exclude: [{exclude}]")
    assert {one.dataset.name for one in config.comparisons() if config.wants_labels(one.metrics)} == {"plain"}
    lines = refused(load, f"{text}exclude: [{{metric: tstr, reference: [b, c]}}]")
    assert [line.partition(": tstr")[0] for line in lines] == ["c.yaml:6: datasets.1.classes"]
    (one,) = refused(load, f"{text}exclude: [{{metric: tstr, reference: b}}, {{metric: tstr, dataset: check*}}]")
    assert "./real/c, and" in one


def test_labels_of_nobody_are_needed_where_all_that_needs_them_is_left_out(load: Load) -> None:
    text = SWEEP.replace("[fid, kid]", "[fid, tstr]") + "exclude: [{metric: tstr}]"
    config = load(text)
    assert not any(config.wants_labels(one.metrics) for one in config.comparisons())
    assert refused(load, f"{text}\nper_class: true")


def test_logits_are_wanted_of_every_extractor_that_takes_part(load: Load) -> None:
    text = SWEEP.replace("[fid, kid]", "[fid, inception_score]").replace(
        "{name: resnet18, weights: random}", "{name: fid_inception, weights: random, layer: logits}"
    )
    assert refused(load, text) == [
        "c.yaml:10: metrics.1: needs logits, and resnet18_random1 has none: leave it out there, with"
        " exclude: [{extractor: resnet18_random1, metric: inception_score}]"
    ]
    config = load(text + "exclude: [{extractor: resnet18_random1, metric: inception_score}]")
    assert {one.extractor.name for one in config.comparisons() if "inception_score" in one.metrics} == {"fid_inception"}


# Steps


@pytest.mark.parametrize(
    ("pattern", "folders", "expected"),
    [
        (
            "s/ckpt-{step}",
            ["s/ckpt-100", "s/ckpt-20", "s/ckpt-3", "s/ckpt-x", "s/ckpt-1x", "s/ckpt-"],
            [("ckpt-3", 3), ("ckpt-20", 20), ("ckpt-100", 100)],
        ),
        ("s/{step}", ["s/10", "s/9", "s/a"], [("9", 9), ("10", 10)]),
        ("s/{step}/out", ["s/10/out", "s/9/out", "s/8/in"], [("9", 9), ("10", 10)]),
        ("s/ckpt-{step}-ema", ["s/ckpt-10-ema", "s/ckpt-9-ema", "s/ckpt-8"], [("ckpt-9-ema", 9), ("ckpt-10-ema", 10)]),
        ("s/ckpt-{step}", ["s/ckpt-0010", "s/ckpt-9"], [("ckpt-9", 9), ("ckpt-0010", 10)]),
        ("s/*{step}", ["s/a1000", "s/b2000"], [("a1000", 1000), ("b2000", 2000)]),  # all of its digits
        ("s/{step}*", ["s/1000k", "s/2000"], [("1000k", 1000), ("2000", 2000)]),
        ("s/*-{step}-*", ["s/a1-20-x", "s/b-3-y"], [("b-3-y", 3), ("a1-20-x", 20)]),
        (
            "s/*/ckpt-{step}",
            ["s/a/ckpt-10", "s/a/ckpt-9", "s/b/ckpt-1"],
            [("a_ckpt-9", 9), ("a_ckpt-10", 10), ("b_ckpt-1", 1)],
        ),  # run by run
        (
            "s/**/ckpt-{step}",
            ["s/a/b/ckpt-10", "s/ckpt-9", "s/ckpt-7/x"],
            [("ckpt-7", 7), ("ckpt-9", 9), ("a_b_ckpt-10", 10)],
        ),
        ("s/ckpt-{step}/**/x", ["s/ckpt-10/x", "s/ckpt-9/a/b/x"], [("ckpt-9_a_b", 9), ("ckpt-10", 10)]),
        ("s/**/ckpt-{step}/**/x", ["s/a/ckpt-10/x", "s/ckpt-9/b/x"], [("ckpt-9_b", 9), ("a_ckpt-10", 10)]),
        ("s/ckpt-[12]{step}", ["s/ckpt-10", "s/ckpt-21", "s/ckpt-31"], [("ckpt-10", 0), ("ckpt-21", 1)]),
        ("s/{no name}", ["s/{no name}", "s/x"], [("{no name}", None)]),  # braces around no name mean themselves
        ("s/[{]step}", ["s/{step}", "s/1"], [("{step}", None)]),  # and these do where they are escaped
        ("s/[{]a}-{step}", ["s/{a}-1", "s/b-1"], [("{a}-1", 1)]),
        ("s/.ckpt-{step}", ["s/.ckpt-1", "s/.ckpt-1/x"], None),
    ],
)
def test_a_step_is_a_number_and_the_order(
    load: Load, project: Path, pattern: str, folders: list[str], expected: list[tuple[str, int | None]] | None
) -> None:
    for folder in folders:
        (project / folder).mkdir(parents=True)
    text = f"reference: {{path: real/a}}\ndatasets: [{{glob: '{pattern}'}}]"
    if expected is None:
        assert refused(load, text) == [f"c.yaml:2: datasets.0.glob: no folder matches ./{pattern}"]
    else:
        assert [(one.name, one.step) for one in load(text).datasets] == expected


def test_a_step_beside_a_folder_whose_name_looks_like_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = project / "run {step} [1]"
    put(home / "real")
    put(home / "sets" / "ckpt-7")
    (home / "c.yaml").write_text("reference: {path: real}\ndatasets: [{glob: 'sets/ckpt-{step}'}]")
    (one,) = load_config(home / "c.yaml").datasets
    assert (one.name, one.step, one.path) == ("ckpt-7", 7, home / "sets" / "ckpt-7")


def test_a_step_may_be_said_by_hand(load: Load) -> None:
    config = load("reference: {path: real/a}\ndatasets: [{path: plain, step: 1000}, {digits: noise, step: 0}]")
    assert [one.step for one in config.datasets] == [1000, 0]
    assert config.reference.step is None


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        ("{glob: '{step}/{step}'}", "datasets.0.glob: expected {step} once, found it 2 times in ./{step}/{step}"),
        ("{glob: 'runs/{step}'}", "datasets.0.glob: no folder matches ./runs/{step}"),
        (
            "{glob: 'runs/*', step: 3}",
            "datasets.0: a glob finds the steps itself; write {step} in the pattern in place of 'step'",
        ),
        ("{path: plain, step: -1}", "datasets.0.step: expected 0 or more, found -1"),
        ("{path: plain, step: true}", "datasets.0.step: expected a number, found true"),
        ("{path: plain, step: x}", "datasets.0.step: expected a whole number, found 'x'"),
        (
            "{path: 'runs/checkpoint-{step}'}",
            "datasets.0.path: no such folder: ./runs/checkpoint-{step}. Patterns stand under 'glob'",
        ),
        ("{path: 'runs/*'}", "datasets.0.path: no such folder: ./runs/*. Patterns stand under 'glob'"),
    ],
)
def test_what_may_be_wrong_with_a_step(load: Load, dataset: str, line: str) -> None:
    assert refused(load, f"reference: {{path: real/a}}\ndatasets: [{dataset}]") == [f"c.yaml:2: {line}"]


# Names from paths, and parts


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["x/ckpt-500/samples", "x/ckpt-900/samples"], ["ckpt-500", "ckpt-900"]),
        (["x/ckpt-500/samples/", "x/ckpt-900/../ckpt-900/samples"], ["ckpt-500", "ckpt-900"]),
        (["x/ckpt-500/samples", "x/ckpt-900/samples", "plain"], ["ckpt-500", "ckpt-900", "plain"]),
        (["x/ckpt-500", "x/ckpt-900"], ["ckpt-500", "ckpt-900"]),  # the last component alone tells them apart
        (["x/ckpt-500", "y/ckpt-500"], ["x", "y"]),
        (["x/1/out/s", "x/2/out/s", "y/1/out/s"], ["x_1", "x_2", "y_1"]),
        (["x/1/s", "x/2/s", "1"], ["x_1", "x_2", "1"]),  # a name that another one has is none
        (["x/1/s", "x/2/s", "x/1/t", "x/2/t"], ["1_s", "2_s", "1_t", "2_t"]),
        (["s", "x/s"], [None, "x"]),
    ],
)
@pytest.mark.parametrize("written", ["command", "file"])
def test_folders_of_one_name_are_called_after_what_differs(
    load: Load, project: Path, folders: list[str], expected: list[str | None], written: str
) -> None:
    for folder in folders:
        put(project / folder)
    if written == "command":
        config = config_from_folders("real/a", folders)
    else:
        config = load(json.dumps({"reference": {"path": "real/a"}, "datasets": [{"path": one} for one in folders]}))
    assert names(config.datasets) == [name or project.name for name in expected]


def test_names_that_are_given_are_kept_and_those_of_references_are_made_alike(load: Load, project: Path) -> None:
    for folder in ("x/1/s", "x/2/s"):
        put(project / folder)
    config = load("references: [{path: x/1/s}, {path: x/2/s}]\ndatasets: [{path: x/1/s}, {path: x/2/s, name: s2}]")
    assert names(config.all_references) == ["1", "2"]
    assert names(config.datasets) == ["s", "s2"]
    text = "reference: {path: real/a}\ndatasets: [{path: x/1/s, name: s}, {path: x/2/s}]"
    assert refused(load, text) == ["c.yaml:2: datasets.1: two datasets are called 's'; give them a 'name' each"]


def test_of_one_folder_given_twice_the_second_is_refused(load: Load, project: Path) -> None:
    for folder in ("x/1/s", "x/2/s"):
        put(project / folder)
    with pytest.raises(ConfigError) as caught:
        config_from_folders("real/a", ["x/1/s", "x/2/s", "x/1/s"])
    assert caught.value.problems == [
        f"--synth: datasets.2: two datasets are called '1', both of {project}/x/1/s; leave one out, or give them a"
        " 'name' each"
    ]


def test_two_globs_that_find_folders_of_one_name(load: Load, project: Path) -> None:
    for folder in ("x/1/s", "x/2/s", "y/1/s"):
        put(project / folder)
    config = load("reference: {path: real/a}\ndatasets: [{glob: 'x/*/s'}, {glob: 'y/*/s'}, {path: plain}]")
    assert names(config.datasets) == ["x_1", "2", "y_1", "plain"]


@pytest.mark.parametrize(
    ("pattern", "folders", "expected"),
    [
        (
            "s/{run}/ckpt-{step}/out",
            ["s/b/ckpt-10/out", "s/a/ckpt-10/out", "s/a/ckpt-9/out", "s/a/ckpt-x/out"],
            [("a_ckpt-9", 9, {"run": "a"}), ("a_ckpt-10", 10, {"run": "a"}), ("b_ckpt-10", 10, {"run": "b"})],
        ),
        (
            "s/{model}-{seed}/*",
            ["s/gan-1/x", "s/gan-2-b/y"],
            [("gan-1_x", None, {"model": "gan", "seed": "1"}), ("gan-2-b_y", None, {"model": "gan", "seed": "2-b"})],
        ),
        ("s/{run}{step}", ["s/ab120"], [("ab120", 120, {"run": "ab"})]),  # all of its digits
        ("s/{step}{run}", ["s/120ab"], [("120ab", 120, {"run": "ab"})]),
        ("s/*{run}x", ["s/abx"], [("abx", None, {"run": "b"})]),
        ("s/{a}{b}", ["s/xyz", "s/q/rs"], [("xyz", None, {"a": "x", "b": "yz"})]),  # within one component
        ("s/**/{run}/x", ["s/p/q/x"], [("p_q", None, {"run": "q"})]),
        ("s/[{]run}/{run}", ["s/{run}/a"], [("a", None, {"run": "a"})]),
        ("s/{run}[12]", ["s/a1", "s/b3"], [("a1", None, {"run": "a"})]),
    ],
)
def test_a_name_in_braces_is_a_part(
    load: Load, project: Path, pattern: str, folders: list[str], expected: list[tuple[str, int | None, dict[str, str]]]
) -> None:
    for folder in folders:
        (project / folder).mkdir(parents=True)
    config = load(f"reference: {{path: real/a}}\ndatasets: [{{glob: '{pattern}'}}]")
    assert [(one.name, one.step, one.parts) for one in config.datasets] == expected
    assert EvaluationConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_part_beside_a_folder_whose_name_looks_like_one(project: Path) -> None:
    home = project / "{run}"
    put(home / "real")
    put(home / "sets" / "a")
    (home / "c.yaml").write_text("reference: {path: real}\ndatasets: [{glob: 'sets/{run}'}]")
    (one,) = load_config(home / "c.yaml").datasets
    assert (one.parts, one.path) == ({"run": "a"}, home / "sets" / "a")


def test_parts_may_be_said_by_hand(load: Load) -> None:
    config = load("reference: {path: real/a}\ndatasets: [{path: plain, parts: {run: a, root: x}}]")
    assert config.datasets[0].parts == {"run": "a", "root": "x"}


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        ("{glob: '{run}/{run}'}", "datasets.0.glob: expected {run} once, found it 2 times in ./{run}/{run}"),
        ("{glob: 'runs/{metric}'}", "datasets.0.glob: results have a column 'metric' already; choose another name"),
        (
            "{glob: 'runs/*', parts: {run: a}}",
            "datasets.0: a glob finds the parts itself; write their names in braces in the pattern, like {run}",
        ),
        (
            "{path: plain, parts: {value: a}}",
            "datasets.0.parts.value: results have a column 'value' already; choose another name",
        ),
        ("{path: plain, parts: {'a b': a}}", "datasets.0.parts.a b: expected a name like run, found 'a b'"),
        ("{path: plain, parts: {step: '3'}}", "datasets.0.parts.step: the step has a key of its own, beside 'parts'"),
        *(
            (
                f"{{glob: 'runs/{braces}-*'}}",
                f"datasets.0.glob: no folder matches ./runs/{braces}-*. {braces} is no wildcard: a name in braces has"
                " letters, digits and _, like {run}",
            )
            for braces in ("{}", "{my run}", "{step:d}")
        ),
        ("{path: 'runs/{run}'}", "datasets.0.path: no such folder: ./runs/{run}. Patterns stand under 'glob'"),
    ],
)
def test_what_may_be_wrong_with_parts(load: Load, dataset: str, line: str) -> None:
    assert refused(load, f"reference: {{path: real/a}}\ndatasets: [{dataset}]") == [f"c.yaml:2: {line}"]


def test_what_lies_beside_a_glob_is_known(load: Load, project: Path) -> None:
    for folder in ("s/a/ckpt-1/out", "s/a/ckpt-2", "s/a/ckpt-last/out", "s/a/other", "s/b", "s/.hidden/ckpt-1/out"):
        (project / folder).mkdir(parents=True)
    (project / "s" / "log.txt").touch()
    config = load("reference: {path: real/a}\ndatasets: [{glob: 's/*/ckpt-{step}/out'}, {glob: 'real/*'}]")
    (one,) = config.beside_globs
    assert one.glob == f"{project}/s/*/ckpt-{{step}}/out"
    assert [path.removeprefix(f"{project}/s/") for path in one.paths] == [
        ".hidden",
        "a/ckpt-2",
        "a/ckpt-last",
        "b",
        "log.txt",
    ]
    assert config.datasets[0].path == project / "s/a/ckpt-1/out"


# How it runs


def test_how_it_runs_has_defaults(load: Load) -> None:
    config = load(SWEEP)
    assert (config.shard_size, config.keep_shards, config.max_in_flight, config.retries) == (10_000, False, 8, 2)
    assert config.extraction_limit is None
    assert config.task_runner == TaskRunnerConfig(kind="threads", address=None, workers=None)


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("dask", TaskRunnerConfig(kind="dask")),
        ("threads", TaskRunnerConfig()),
        (
            "{kind: dask, address: 'tcp://host:8786', workers: 2}",
            TaskRunnerConfig(kind="dask", address="tcp://host:8786", workers=2),
        ),
        ("{kind: ray, address: auto}", TaskRunnerConfig(kind="ray", address="auto")),
        ("{workers: 3}", TaskRunnerConfig(workers=3)),
    ],
)
def test_a_task_runner_by_its_name_or_with_more(load: Load, added: str, expected: TaskRunnerConfig) -> None:
    assert load(f"{SWEEP}task_runner: {added}").task_runner == expected


@pytest.mark.parametrize(
    ("added", "line"),
    [
        ("task_runner: dusk", "task_runner.kind: expected 'threads', 'dask' or 'ray', found 'dusk'"),
        ("task_runner: 3", "task_runner: expected a mapping, found 3"),
        (
            "task_runner: {kind: threads, address: x}",
            "task_runner.address: only a cluster has one: name its kind, dask or ray, or leave it out",
        ),
        (
            "task_runner: {address: x}",
            "task_runner.address: only a cluster has one: name its kind, dask or ray, or leave it out",
        ),
        ("task_runner: {kind: dask, adress: x}", "task_runner.adress: unknown key. Did you mean 'address'?"),
        ("task_runner: {kind: dask, address: ''}", "task_runner.address: expected text, found ''"),
        ("task_runner: {kind: dask, workers: 0}", "task_runner.workers: expected 1 or more, found 0"),
        ("shard_size: 0", "shard_size: expected 1 or more, found 0"),
        ("max_in_flight: 0", "max_in_flight: expected 1 or more, found 0"),
        ("retries: -1", "retries: expected 0 or more, found -1"),
        ("retries: true", "retries: expected a number, found true"),
        ("extraction_limit: ''", "extraction_limit: expected text, found ''"),
        ("extraction_limit: 3", "extraction_limit: expected text, found 3"),
        ("keep_shards: 3", "keep_shards: expected true or false, found 3"),
    ],
)
def test_what_may_be_wrong_with_how_it_runs(load: Load, added: str, line: str) -> None:
    assert refused(load, SWEEP + added) == [f"c.yaml:11: {line}"]


# As Prefect hands it on


def test_a_sweep_survives_json(load: Load) -> None:
    config = load(
        SWEEP
        + "exclude: [{dataset: plain, metric: [kid]}, {extractor: '*1', reference: b}]\n"
        + "restraints: {fid: {upper_bound: 3, references: [a], extractors: [resnet18]}}\n"
        + "task_runner: {kind: dask, workers: 2}\nintervals: true\nextraction_limit: gpus"
    )
    as_json = json.loads(json.dumps(config.model_dump(mode="json")))
    again = EvaluationConfig.model_validate(as_json)
    assert again == config
    assert product(again) == product(config)
    assert again.model_dump(mode="json") == as_json


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"metrics": ["fid", {"precision": {"k": 5}}]},
        {"metrics": {"fid": {}, "kid": None}},
        {"intervals": True},
        {"intervals": {"level": 0.9}},
        {"task_runner": "dask"},
        {"task_runner": {"kind": "ray", "address": "auto"}},
        {"exclude": [{"dataset": "checkpoint-5", "metric": ["kid", "fid"]}]},
        {"extractor": {"name": "fid_inception", "layer": 2048}},
        {"extractors": [{"name": "resnet18"}], "extractor": None},
        {"extractor": None, "extractors": None, "references": None, "intervals": None},  # a form sends its defaults
        {"reference": None, "references": [{"path": "real/a"}]},
    ],
)
def test_the_form_that_prefect_shows_takes_what_the_configuration_takes(project: Path, more: dict[str, Any]) -> None:
    """Prefect's server checks parameters of deployments against the flow's schema, and the flow against the models."""

    @flow
    def evaluate(config: EvaluationConfig) -> None:
        """Never run."""

    schema = parameter_schema(evaluate).model_dump_for_openapi()
    given = {"reference": {"path": "real/a"}, "datasets": [{"glob": "runs/checkpoint-{step}/samples"}], **more}
    assert validate({"config": given}, schema, preprocess=True, raise_on_error=False) == []
    config = EvaluationConfig.model_validate(given)
    assert validate({"config": config.model_dump(mode="json")}, schema, raise_on_error=False) == []
    assert validate({"config": {**given, "extracter": {}}}, schema, raise_on_error=False)
