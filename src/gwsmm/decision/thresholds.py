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
    """t_l = argmax_t F1(1[p_l > t], y_l) over the validation responses, for every label l.

    The mean over labels of F1 falls apart into its labels, so each is searched for by itself, over
    the midpoints between neighbouring probabilities and one half; of equally good ones that nearest
    to one half is taken. A label stays at one half where nothing is better, or where validation has
    too few responses with or without it: the threshold of a rare label is the luckiest of many
    (the paper's "winner's curse"), and the best of a classifier that knows nothing says yes to
    everything. Midpoints never say yes to all, or no to all, which guards against the latter.

    The steps of an ordinal item are searched for in the same way; if after making them consistent
    the mean F1 of the steps is below that at one half, the item stays at one half.

    Needs validation responses, no gradients. Choose it where labels are rare and macro F1 counts;
    the probabilities are not changed. Micro F1 and accuracy may fall. With `heads=published` the
    head was trained on the same responses, which makes the thresholds optimistic.

    Attributes:
        least: validation responses that must have a label, and that must lack it; 1 or more.

    Source: Lipton, Elkan and Naryanaswamy (2014), Optimal Thresholding of Classifiers to Maximize
    F1 Measure.
    """

    fitted: ClassVar[bool] = True

    least: Annotated[int, Field(ge=1)]

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
        if min(positives, len(labels) - positives) < self.least:
            return HALF
        values = np.unique(probabilities.astype(np.float64))
        candidates = np.append((values[:-1] + values[1:]) / 2, HALF)
        # The first of equal maxima is taken: the nearest to one half, then the lower.
        candidates = candidates[np.lexsort((candidates, abs(candidates - HALF)))]
        f1 = _f1((probabilities[:, None] > candidates).astype(np.uint8), labels[:, None])
        return float(candidates[int(np.argmax(f1))])


def _f1(decisions: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[L]: F1 of every column, 0 where nothing is said and nothing true; labels may be [n, 1]."""
    right = (decisions & labels).sum(0, dtype=np.int64)
    either = decisions.sum(0, dtype=np.int64) + labels.sum(0, dtype=np.int64)
    f1: NDArray[np.float64] = 2 * right / np.maximum(either, 1)
    return f1
