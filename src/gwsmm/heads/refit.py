"""Heads fitted to convergence on the merged encoder's features."""

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.heads.fitting import Frozen
from gwsmm.types import STRICT

_ITERATIONS = 5_000
_CONSTANT = 10.0  # logit of a label that is constant in training: sure, but finite


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Refit:
    """L2-regularised logistic regression per label, on features that are computed once.

    The strength of the regularisation is the one of `strengths` with the lowest validation loss,
    one for all labels of an item. Convex: start and order of the responses do not matter.

    Attributes:
        strengths: candidates for 1 / C, per training response, on standardised features.

    Source: the linear probe of Alain and Bengio (2016); scikit-learn's `LogisticRegression`.
    """

    strengths: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]

    def __call__(self, frozen: Frozen) -> State:
        """The head of lowest validation loss; see `Heads`."""
        import torch

        item = frozen.member.item
        train = self._features(frozen, item.train.texts, lambda done: frozen.tick(0.8 * done))
        validation = self._features(frozen, item.validation.texts, lambda done: None)
        frozen.tick(0.9)
        candidates = [_fit(train, item.train.labels, strength) for strength in self.strengths]
        losses = [_loss(validation, item.validation.labels, *head) for head in candidates]
        weight, bias = candidates[int(np.argmin(losses))]
        return {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}

    def _features(
        self, frozen: Frozen, texts: Sequence[str], tick: Callable[[float], None]
    ) -> NDArray[np.float64]:
        from gwsmm.network import infer

        ids = frozen.encoder.tokenize(texts)
        features = infer(
            frozen.network, ids, frozen.encoder.padding, frozen.network.represent, tick
        )
        return features.double().numpy()


def _fit(
    features: NDArray[np.float64], labels: NDArray[np.uint8], strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight [L, d] and bias [L] on the features as they come, fitted on standardised ones."""
    from sklearn.linear_model import LogisticRegression

    centre, spread = features.mean(0), features.std(0) + 1e-8
    standard = (features - centre) / spread
    weight = np.zeros((labels.shape[1], features.shape[1]))
    bias = np.zeros(labels.shape[1])
    for i, column in enumerate(labels.T):
        if column.min() == column.max():
            bias[i] = _CONSTANT if column[0] else -_CONSTANT
            continue
        inverse = 1 / (strength * len(column))
        model = LogisticRegression(C=inverse, max_iter=_ITERATIONS).fit(standard, column)
        weight[i] = model.coef_[0] / spread
        bias[i] = model.intercept_[0] - weight[i] @ centre
    return weight, bias


def _loss(
    features: NDArray[np.float64],
    labels: NDArray[np.uint8],
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
) -> float:
    """Binary cross-entropy, mean over responses and labels."""
    logits = features @ weight.T + bias
    return float((np.logaddexp(0, logits) - labels * logits).mean())
