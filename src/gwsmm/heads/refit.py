"""Heads fitted on the merged encoder's features."""

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.heads.fitting import Frozen
from gwsmm.heads.probing import CONSTANT, Array, Head, best_head, standardised
from gwsmm.types import STRICT

_ITERATIONS = 5_000


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Refit:
    """L2-regularised logistic regression per label, on features that are computed once.

    The strength of the regularisation is the one of `strengths` with the lowest validation loss,
    one for all labels of an item. Convex: start and order of the responses do not matter, but for
    scikit-learn's tolerance of 1e-4. On features of MiniLM it leaves logits within 0.2 of the
    optimum's at strengths from 0.01, but only within several at 0.0003; 1e-6 takes twice as long.

    Attributes:
        strengths: candidates for 1 / C, per training response, on standardised features.

    Source: the linear probe of Alain and Bengio (2016); scikit-learn's `LogisticRegression`.
    """

    version: ClassVar[int] = 2

    strengths: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]

    def __call__(self, frozen: Frozen) -> State:
        """The head of lowest validation loss; see `Heads`."""
        return best_head(frozen, self.strengths, _fit)


def _fit(features: Array, labels: NDArray[np.uint8], strength: float) -> Head:
    from sklearn.linear_model import LogisticRegression

    standard, centre, spread = standardised(features)
    weight = np.zeros((labels.shape[1], features.shape[1]))
    bias = np.zeros(labels.shape[1])
    for i, column in enumerate(labels.T):
        if column.min() == column.max():
            bias[i] = CONSTANT if column[0] else -CONSTANT
            continue
        inverse = 1 / (strength * len(column))
        model = LogisticRegression(C=inverse, max_iter=_ITERATIONS).fit(standard, column)
        weight[i] = model.coef_[0] / spread
        bias[i] = model.intercept_[0] - weight[i] @ centre
    return weight, bias
