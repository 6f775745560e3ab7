"""Fitting a linear head to features that are computed once."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import State
from gwsmm.heads.fitting import Frozen

Array = NDArray[np.float64]
Head = tuple[Array, Array]
"""Weight [L, d] and bias [L], on the features as they come."""

CONSTANT = 10.0  # logit of a label that is constant in training: sure, but finite
_STILL = 1e-4
"""Spread, relative to magnitudes above 1, up to which a feature is constant.

A saturated unit varies by its rounding to fp32 alone. Standardised it would tell as much as any, by
a weight of millions, with which no logit in fp32 is right.
"""


def best_head(
    frozen: Frozen,
    strengths: Sequence[float],
    fit: Callable[[Array, NDArray[np.uint8], float], Head],
) -> State:
    """The head of lowest validation loss among those that `fit` makes at these strengths.

    Args:
        frozen: the item on its encoder.
        strengths: of the regularisation; of equally good ones the first.
        fit: makes a head of training features [n, d], labels [n, L] and a strength.
    """
    item = frozen.member.item
    train = features(frozen, item.train.texts, lambda done: frozen.tick(0.8 * done))
    validation = features(frozen, item.validation.texts, lambda done: None)
    frozen.tick(0.9)
    candidates = [as_state(*fit(train, item.train.labels, strength)) for strength in strengths]
    losses = [_loss(logits(validation, head), item.validation.labels) for head in candidates]
    return candidates[int(np.argmin(losses))]


def as_state(weight: Array, bias: Array) -> State:
    """A head as it is kept."""
    import torch

    return {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}


def logits(features: Array, head: State) -> Array:
    """[n, L], in the precision in which a kept head scores."""
    import torch

    seen = torch.from_numpy(features).float()
    return (seen @ head["weight"].T + head["bias"]).double().numpy()


def standardised(features: Array) -> tuple[Array, Array, Array]:
    """Features [n, d] of mean 0 and spread 1, and the mean [d] and spread [d] that they had.

    Those that are constant are zeros and had an infinite spread, by which a weight becomes zero.
    """
    centre, spread = features.mean(0), features.std(0) + 1e-8
    spread[spread <= _STILL * np.maximum(1, np.abs(centre))] = np.inf
    return (features - centre) / spread, centre, spread


def features(frozen: Frozen, texts: Sequence[str], tick: Callable[[float], None]) -> Array:
    """[n, d]: what the head sees of n texts."""
    from gwsmm.network import infer

    ids = frozen.encoder.tokenize(texts)
    seen = infer(frozen.network, ids, frozen.encoder.padding, frozen.network.represent, tick)
    return seen.double().numpy()


def _loss(logits: Array, labels: NDArray[np.uint8]) -> float:
    """Binary cross-entropy, mean over responses and labels."""
    return float((np.logaddexp(0, logits) - labels * logits).mean())
