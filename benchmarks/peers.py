"""The same metric as this project and as others compute it, on features that are memory-mapped.

Each entry of ``SIDES`` makes ready what is not to be timed, and returns what is, which returns the values. Peers are
called as their documentation has it; rows they would get image batch by image batch come in blocks of ``BATCH``.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

BATCH = 4096
FOLDS = 5
FEW = 50  # rows of that other comparison

Array = Any
Values = dict[str, float]
Ready = Callable[[], Values]
Side = Callable[[Array, Array, str], Ready]  # real, synth, device

PRDC = ("precision", "recall", "density", "coverage")


def torch_fidelity_fid(real: Array, synth: Array, _: str) -> Ready:
    import torch
    from torch_fidelity import metric_fid as theirs

    def values() -> Values:
        statistics = [theirs.fid_features_to_statistics(torch.from_numpy(rows)) for rows in (synth, real)]
        return {"fid": theirs.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]}

    return values


def clean_fid_fid(real: Array, synth: Array, _: str) -> Ready:
    from cleanfid import fid as theirs

    def values() -> Values:
        first, second = ((np.mean(rows, axis=0), np.cov(rows, rowvar=False)) for rows in (synth, real))
        return {"fid": float(theirs.frechet_distance(*first, *second))}

    return values


def torchmetrics_fid(real: Array, synth: Array, device: str) -> Ready:
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    extractor: Any = torch.nn.Identity()
    extractor.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=extractor).set_dtype(torch.float64).to(device)

    def values() -> Values:
        feed(metric, real, synth, device)
        return {"fid": float(metric.compute())}

    return values


def feed(metric: Any, real: Array, synth: Array, device: str) -> None:
    import torch

    metric.reset()
    for rows, is_real in ((real, True), (synth, False)):
        for start in range(0, len(rows), BATCH):
            metric.update(torch.from_numpy(rows[start : start + BATCH]).to(device), real=is_real)


def torch_fidelity_kid(real: Array, synth: Array, _: str) -> Ready:
    import torch
    from torch_fidelity import metric_kid as theirs

    def values() -> Values:
        rows = torch.from_numpy(synth), torch.from_numpy(real)
        found = theirs.kid_features_to_metric(*rows, kid_subset_size=subset_size(real, synth), verbose=False)
        return {"kid": found["kernel_inception_distance_mean"], "kid std": found["kernel_inception_distance_std"]}

    return values


def clean_fid_kid(real: Array, synth: Array, _: str) -> Ready:
    from cleanfid import fid as theirs

    return lambda: {"kid": theirs.kernel_distance(real, synth)}


def torchmetrics_kid(real: Array, synth: Array, device: str) -> Ready:
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    identity = torch.nn.Identity()
    metric = KernelInceptionDistance(feature=identity, subset_size=subset_size(real, synth)).to(device)

    def values() -> Values:
        feed(metric, real, synth, device)
        mean, std = metric.compute()
        return {"kid": float(mean), "kid std": float(std)}

    return values


def subset_size(real: Array, synth: Array) -> int:
    return min(1000, len(real), len(synth))


def torch_fidelity_prc(real: Array, synth: Array, device: str, *, full: bool = True) -> Ready:
    import torch
    from torch_fidelity import metric_prc as theirs

    count = theirs.calculate_precision_recall_full if full else theirs.calculate_precision_recall_part

    def values() -> Values:
        precision, recall = count(torch.from_numpy(synth).to(device), torch.from_numpy(real).to(device))
        return {"precision": precision, "recall": recall}

    return values


def torch_fidelity_prc_in_parts(real: Array, synth: Array, device: str) -> Ready:
    """As its ``save_cpu_ram`` has it: without matrices of all distances, which at N=50,000 are 10 GB each."""
    return torch_fidelity_prc(real, synth, device, full=False)


def prdc(real: Array, synth: Array, _: str) -> Ready:
    """All four at one k: precision and recall are therefore not those of k=3."""
    from prdc import compute_prdc

    def values() -> Values:
        with contextlib.redirect_stdout(io.StringIO()):
            found = compute_prdc(real, synth, nearest_k=5)
        return {name: float(found[name]) for name in ("density", "coverage")}

    return values


def plain_roc_auc(real: Array, synth: Array, _: str) -> Ready:
    """The plain way to a classifier test: scikit-learn's own perceptron on standardised folds, as many epochs as ours.

    It stands for what a person would write; simet's own code, whose time is quoted, is not at hand.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from simet_cache.metrics import mlp

    def values() -> Values:
        rows = np.concatenate([real, synth])
        labels = np.concatenate([np.ones(len(real)), np.zeros(len(synth))])
        scores = np.empty(len(rows))
        for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(rows, labels):
            perceptron = MLPClassifier(mlp.HIDDEN, batch_size=mlp.BATCH, max_iter=mlp.EPOCHS, random_state=0)
            model = make_pipeline(StandardScaler(), perceptron).fit(rows[train], labels[train])
            scores[test] = model.predict_proba(rows[test])[:, 1]
        return {"roc_auc": float(roc_auc_score(labels, scores))}

    return values


def ours(*metrics: str, known: tuple[str, ...] = (), intervals: bool = False) -> Side:
    """``evaluate`` of these metrics; the sets in ``known`` have stood in another comparison before, as in a sweep."""

    def ready(real: Array, synth: Array, device: str) -> Ready:
        from simet_cache.metrics import Summaries, evaluate

        sides: dict[str, Any] = {"real": real, "synth": synth}
        others = {"real": synth[:FEW], "synth": real[:FEW]}
        for side, other in (("real", "synth"), ("synth", "real")):
            if side in known:
                sides[side] = Summaries(sides[side], device=device)
                evaluate(**{side: sides[side], other: others[side]}, metrics=metrics, device=device)

        def values() -> Values:
            found = evaluate(**sides, metrics=metrics, intervals=intervals, device=device)
            shown = {name: value.value for name, value in found.items()}
            for name, value in found.items():
                if value.interval:
                    shown |= {f"{name} low": value.interval.low, f"{name} high": value.interval.high}
            assert not intervals or len(shown) == 3 * len(found), "no interval"
            return shown

        return values

    return ready


BOTH = ("real", "synth")

SIDES: Mapping[str, Side] = {
    "fid: torch-fidelity": torch_fidelity_fid,
    "fid: clean-fid": clean_fid_fid,
    "fid: torchmetrics": torchmetrics_fid,
    "fid": ours("fid"),
    "fid, real known": ours("fid", known=("real",)),
    "fid, both known": ours("fid", known=BOTH),
    "fid, interval": ours("fid", intervals=True),
    "kid: torch-fidelity": torch_fidelity_kid,
    "kid: clean-fid": clean_fid_kid,
    "kid: torchmetrics": torchmetrics_kid,
    "kid": ours("kid"),
    "kid, both known": ours("kid", known=BOTH),
    "kid, interval": ours("kid", intervals=True),
    "kid_subsets": ours("kid_subsets"),
    "prdc: torch-fidelity": torch_fidelity_prc,
    "prdc: torch-fidelity, in parts": torch_fidelity_prc_in_parts,
    "prdc: prdc": prdc,
    "prdc": ours(*PRDC),
    "prdc, both known": ours(*PRDC, known=BOTH),
    "prdc and kid": ours(*PRDC, "kid"),
    "roc_auc: scikit-learn": plain_roc_auc,
    "roc_auc": ours("roc_auc"),
}
