"""One temperature per item, by validation loss."""

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.decision.rule import HALF, Rule, Validated
from gwsmm.types import STRICT

_STEPS = 200  # on either side of 1; at a limit of 10 neighbours differ by 1.2 %


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Temperature:
    """T = argmin_T Σ [log(1 + exp(z/T)) - y z/T] over validation responses and labels; p = σ(z/T).

    One number for all labels of an item. The loss is convex in 1/T; it is searched on a grid from
    1/limit to limit, evenly spaced in log T, which holds 1 and needs no start or tolerance. Of
    equally good temperatures that nearest to 1 is taken. T stays at 1 where no label of the item
    is both given and missing in validation, as in a single response: any sharpening would pay.

    No decision changes, and a response that is more probable than another stays so. Needs
    validation responses, no gradients. Choose it where the probabilities themselves are used, for
    instance to send doubtful responses to a human rater.

    Attributes:
        limit: largest temperature, and 1 / smallest; above 1. It bounds the confidence where the
            validation responses are all scored right.

    Source: Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks,
    section 4.2, with the sigmoid in place of the softmax.
    """

    fitted: ClassVar[bool] = True

    limit: Annotated[float, Field(gt=1)]

    def __call__(self, validated: Validated) -> Rule:
        """The temperature, thresholds of one half."""
        labels = validated.labels
        thresholds = (HALF,) * labels.shape[1]
        if (labels == labels[0]).all():
            return Rule(1.0, thresholds)
        steps = np.arange(-_STEPS, _STEPS + 1)
        steps = steps[np.argsort(abs(steps), kind="stable")]  # the first of equal minima is taken
        candidates = self.limit ** (steps / _STEPS)
        logits = validated.logits.astype(np.float64)
        losses = [_loss(logits / each, labels) for each in candidates]
        return Rule(float(candidates[int(np.argmin(losses))]), thresholds)


def _loss(logits: NDArray[np.float64], labels: NDArray[np.uint8]) -> float:
    """Negative log-likelihood, mean over responses and labels."""
    return float((np.logaddexp(0, logits) - labels * logits).mean())
