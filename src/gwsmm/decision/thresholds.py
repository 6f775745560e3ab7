"""One threshold per label, by F1 on validation responses."""

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.decision.rule import HALF, Rule, Validated, half, sigmoid
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Thresholds:
    """t_l = ½ + (t* - ½) m / (m + prior), with t* = argmax_t F1(1[p_l > t], y_l) for every label l.

    F1 is that of the validation responses, m how many of them have the label, or lack it if these
    are fewer. The mean over labels of F1 falls apart into its labels, so each is searched for by
    itself, over the midpoints between neighbouring probabilities and one half; of equally good
    ones that nearest to one half is taken. The best of many thresholds owes part of its lead to
    luck (the paper's "winner's curse"), the more the rarer the label: hence the shrinking, which is
    not in the paper. A label stays at one half where the shrunk threshold gains nothing, too. The
    best threshold of a classifier that knows nothing says yes to everything; midpoints never do.

    The steps of an ordinal item are searched for in the same way; if after making them consistent
    the mean F1 of the steps is not above that at one half, the item stays at one half.

    Needs validation responses, no gradients. Choose it where labels are rare or hard and macro F1
    counts; where the model is sure and well calibrated there is little to gain. The probabilities
    are not changed. Micro F1 and accuracy may fall. With `heads=published` the head was trained on
    the same responses, which makes the thresholds optimistic.

    Attributes:
        prior: how many responses with the label the wish to stay at one half counts as; 0: t*.

    Source: Lipton, Elkan and Naryanaswamy (2014), Optimal Thresholding of Classifiers to Maximize
    F1 Measure.
    """

    fitted: ClassVar[bool] = True

    prior: Annotated[float, Field(ge=0)]

    def __call__(self, validated: Validated) -> Rule:
        """The thresholds, temperature 1."""
        probabilities, labels = sigmoid(validated.logits), validated.labels
        columns = zip(probabilities.T, labels.T, strict=True)
        found = Rule(1.0, tuple(self._threshold(*column) for column in columns))
        plain = half(labels.shape[1])
        if validated.kind == "ordinal":  # for others no label has lost
            before, after = (
                _f1(rule.decide(validated.kind, probabilities), labels).mean()
                for rule in (plain, found)
            )
            return found if after > before else plain
        return found

    def _threshold(self, probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> float:
        """Of one label, [n] and [n]."""
        positives = int(labels.sum())
        fewer = min(positives, len(labels) - positives)
        if not fewer:
            return HALF
        values = np.unique(probabilities.astype(np.float64))
        candidates = np.append((values[:-1] + values[1:]) / 2, HALF)
        # The first of equal maxima is taken: the nearest to one half, then the lower.
        candidates = candidates[np.lexsort((candidates, abs(candidates - HALF)))]
        best = candidates[int(np.argmax(_at(candidates, probabilities, labels)))]
        shrunk = HALF + (best - HALF) * fewer / (fewer + self.prior)
        plain, found = _at(np.array([HALF, shrunk]), probabilities, labels)
        return float(shrunk) if found > plain else HALF


def _at(
    thresholds: NDArray[np.float64], probabilities: NDArray[np.float32], labels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """[k]: F1 of one label at each of k thresholds."""
    return _f1((probabilities[:, None] > thresholds).astype(np.uint8), labels[:, None])


def _f1(decisions: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[L]: F1 of every column, 0 where nothing is said and nothing true; labels may be [n, 1]."""
    right = (decisions & labels).sum(0, dtype=np.int64)
    either = decisions.sum(0, dtype=np.int64) + labels.sum(0, dtype=np.int64)
    f1: NDArray[np.float64] = 2 * right / np.maximum(either, 1)
    return f1
