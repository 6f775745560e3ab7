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
    candidates = [fit(train, item.train.labels, strength) for strength in strengths]
    losses = [_loss(validation, item.validation.labels, *head) for head in candidates]
    return as_state(*candidates[int(np.argmin(losses))])


def as_state(weight: Array, bias: Array) -> State:
    """A head as it is kept."""
    import torch

    return {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}


def standardised(features: Array) -> tuple[Array, Array, Array]:
    """Features [n, d] of mean 0 and spread 1, and the mean [d] and spread [d] that they had."""
    centre, spread = features.mean(0), features.std(0) + 1e-8
    return (features - centre) / spread, centre, spread


def features(frozen: Frozen, texts: Sequence[str], tick: Callable[[float], None]) -> Array:
    """[n, d]: what the head sees of n texts."""
    from gwsmm.network import infer

    ids = frozen.encoder.tokenize(texts)
    seen = infer(frozen.network, ids, frozen.encoder.padding, frozen.network.represent, tick)
    return seen.double().numpy()


def _loss(seen: Array, labels: NDArray[np.uint8], weight: Array, bias: Array) -> float:
    """Binary cross-entropy, mean over responses and labels."""
    logits = seen @ weight.T + bias
    return float((np.logaddexp(0, logits) - labels * logits).mean())
