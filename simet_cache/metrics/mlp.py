"""A small perceptron that tells two kinds of rows apart, trained for a fixed budget and without any global state.

Every random number comes from a generator of its own, so neither torch's global one nor other threads matter. The
budget is fixed, with a learning rate that falls to zero: no epoch is picked, so none is picked by what it is scored on.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from simet_cache.metrics.rows import Floats, slices
from simet_cache.metrics.standard import Single

HIDDEN = (256, 128)
BATCH = 512
EPOCHS = 8
FEWEST_STEPS = 200  # of small sets, where eight epochs are few steps
RATE, DECAY, DROPPED = 1e-3, 1e-4, 0.2


def scores(rows: Single, *, labels: Single, scored: Single, seed: int, device: str) -> Floats:
    """Train on ``rows`` and return the logit of each of the ``scored`` rows, shape (n,).

    Args:
        rows: Standardised rows to learn from, shape (N, D).
        labels: 1 or 0 for each of them, shape (N,).
        scored: Standardised rows to score, shape (n, D).
        seed: Of weights, batches and dropout.
        device: Where to compute.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        generator = torch.Generator(device=device).manual_seed(seed)
        weights = _initial(rows.shape[1], generator)
        _train(weights, torch.from_numpy(rows).to(device), torch.from_numpy(labels).to(device), generator)
        with torch.no_grad():
            parts = slices(len(scored), 8 * BATCH)
            found = torch.cat([_logits(weights, torch.from_numpy(scored[part]).to(device), None) for part in parts])
    return np.asarray(found.cpu().numpy(), dtype=np.float64)


def _initial(width: int, generator: Any) -> list[Any]:
    """Weights and offsets of each layer, drawn as ``torch.nn.Linear`` draws them."""
    sizes, found = (width, *HIDDEN, 1), []
    for before, after in pairwise(sizes):
        for shape in ((after, before), (after,)):
            layer = torch.empty(shape, dtype=torch.float32, device=generator.device)
            found.append(layer.uniform_(-(before**-0.5), before**-0.5, generator=generator).requires_grad_())
    return found


def _train(weights: list[Any], rows: Any, labels: Any, generator: Any) -> None:
    steps = -(-len(rows) // BATCH)
    epochs = max(EPOCHS, -(-FEWEST_STEPS // steps))
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
    for epoch in range(epochs):
        order = torch.randperm(len(rows), generator=generator, device=generator.device)
        for step, part in enumerate(slices(len(rows), BATCH)):
            optimiser.param_groups[0]["lr"] = RATE * (1 - (epoch * steps + step) / (epochs * steps))
            optimiser.zero_grad()
            batch = order[part]
            loss = binary_cross_entropy_with_logits(_logits(weights, rows[batch], generator), labels[batch])
            torch.autograd.backward(loss)
            optimiser.step()


def _logits(weights: list[Any], rows: Any, generator: Any) -> Any:
    """One number for each row; with dropout where a generator is given."""
    for layer in range(len(HIDDEN)):
        rows = torch.relu(torch.nn.functional.linear(rows, weights[2 * layer], weights[2 * layer + 1]))
        if generator is not None:
            kept = torch.empty_like(rows, requires_grad=False).bernoulli_(1 - DROPPED, generator=generator)
            rows = rows * kept / (1 - DROPPED)
    return torch.nn.functional.linear(rows, weights[-2], weights[-1])[:, 0]
