"""Where a plan stands among plans of the same sizes that know nothing of the items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Standing:
    """A plan among random ones.

    Attributes:
        percentile: share of the others that are worse, ties counting half, in per cent.
        p: how often a plan that was drawn by chance is as good, this one being one of them.
        plans: how many it is held against.
    """

    percentile: float
    p: float
    plans: int


def standing(value: float, others: Sequence[float], *, complete: bool) -> Standing:
    """Where a score stands among those of random plans; exact where these are all there are.

    Args:
        value: of the plan; more is better.
        others: of the random plans.
        complete: whether these are all plans of the sizes, with the plan itself among them.

    Source: Phipson and Smyth (2010), "Permutation p-values should never be zero".
    """
    scores = np.asarray(others, dtype=float)
    if not len(scores):
        return Standing(np.nan, np.nan, 0)
    near = 1e-12 * max(1.0, float(np.abs(scores).max()))
    equal = np.abs(scores - value) <= near
    percentile = 100 * float(np.mean(((scores < value) & ~equal) + 0.5 * equal))
    as_good = int(((scores > value) | equal).sum())
    p = as_good / len(scores) if complete else (1 + as_good) / (1 + len(scores))
    return Standing(percentile, p, len(scores))
