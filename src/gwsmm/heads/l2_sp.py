"""Heads fitted to convergence, held near what they were fine-tuned to."""

from functools import partial
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
Flat = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class L2SP:
    """argmin over w, b of mean log(1 + e^z) − y z + ½ strength ‖w − w_own‖², z = w x + b.

    Logistic regression per label as in `refit`, on standardised features, pulled towards the item's
    own weights instead of towards zero: strong, it has these, with a bias fitted to the shared
    encoder, which is not penalised; weak, it is free. A label that is constant in training gets no
    weights, and a bias that is sure of it, whatever its own head says. The strength is the one of
    `strengths` with the lowest validation loss, one for all labels of an item. Convex: start and
    order of the responses do not matter. Choose it where the shared encoder gives nearly the
    features that the head was trained on, as after `distill` or with a coded difference: what the
    head learned with its encoder is then worth keeping.

    Attributes:
        strengths: candidates, per training response, on standardised features.

    Source: Li, Grandvalet and Davoine (2018), "Explicit inductive bias for transfer learning with
    convolutional networks": L2-SP, the penalty on the distance from the starting point.
    """

    version: ClassVar[int] = 2

    strengths: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]

    def __call__(self, frozen: Frozen) -> State:
        """The head of lowest validation loss; see `Heads`."""
        own = frozen.member.state("head")
        weight, bias = (own[name].double().numpy() for name in ("weight", "bias"))
        return best_head(frozen, self.strengths, partial(_fit, (weight, bias)))


def _fit(own: Head, features: Array, labels: NDArray[np.uint8], strength: float) -> Head:
    weight, bias = (part.copy() for part in own)
    always, never = labels.all(axis=0), ~labels.any(axis=0)  # their bias has no finite optimum
    weight[always | never], bias[always], bias[never] = 0, CONSTANT, -CONSTANT
    varies = ~(always | never)
    if varies.any():
        free = own[0][varies], own[1][varies]
        weight[varies], bias[varies] = _minimum(*free, features, labels[:, varies], strength)
    return weight, bias


def _minimum(
    weight: Array, bias: Array, features: Array, labels: NDArray[np.uint8], strength: float
) -> Head:
    from scipy.optimize import minimize
    from scipy.special import expit

    standard, centre, spread = standardised(features)
    n, (width, d) = len(labels), weight.shape
    start = features @ weight.T + bias

    def objective(flat: Flat) -> tuple[float, Flat]:
        moved = flat.reshape(width, d + 1)
        logits = start + standard @ moved[:, :d].T + moved[:, d]
        slope = (expit(logits) - labels) / n
        gradient = np.column_stack([slope.T @ standard + strength * moved[:, :d], slope.sum(0)])
        loss = (np.logaddexp(0, logits) - labels * logits).sum() / n
        return float(loss + strength / 2 * (moved[:, :d] ** 2).sum()), gradient.ravel()

    found = minimize(
        objective,
        np.zeros(width * (d + 1)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _ITERATIONS, "maxfun": 2 * _ITERATIONS, "ftol": 1e-12, "gtol": 1e-8},
    )
    moved = found.x.reshape(width, d + 1)
    change = moved[:, :d] / spread
    return weight + change, bias + moved[:, d] - change @ centre
