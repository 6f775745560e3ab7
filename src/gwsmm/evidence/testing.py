"""Tests over items, each a pair of figures; scipy has most of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def paired_t(one: Numbers, other: Numbers) -> float:
    """The p-value of equal means of paired figures [N], two-sided: the paper's test."""
    from scipy.stats import ttest_rel

    if _constant(other - one):
        return 1.0 if np.allclose(one, other) else 0.0
    return float(ttest_rel(other, one).pvalue)


def wilcoxon(one: Numbers, other: Numbers) -> float:
    """The p-value of differences [N] symmetric about zero, two-sided, by signed ranks.

    Equal pairs are left out; exact where scipy has the exact distribution. Differences within 1e-6
    of one another are tied: figures are in single precision, which would tell them apart.
    """
    from scipy.stats import permutation_test, rankdata
    from scipy.stats import wilcoxon as signed_ranks

    differences = _tied(other - one)
    if len(differences) < 2:  # either sign of one is as likely
        return 1.0
    if len(differences) > _FEW:
        return float(signed_ranks(differences).pvalue)

    # As scipy does where ranks are tied, for all signs at once: hundreds of times faster.
    def statistic(signed: Numbers, axis: int) -> Numbers:
        ranks: Numbers = np.where(signed > 0, rankdata(np.abs(signed), axis=axis), 0)
        sums: Numbers = ranks.sum(axis=axis)
        return sums

    found = permutation_test(
        (differences,),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**_FEW,
    )
    return float(found.pvalue)


_FEW = 13  # differences, whose signs scipy enumerates where ranks are tied


def _tied(differences: Numbers) -> Numbers:
    """Signed numbers of the same order, equal where only rounding tells apart; without zeros."""
    sizes = np.abs(differences)
    order = np.argsort(sizes)
    levels = np.empty_like(sizes)
    levels[order] = np.cumsum(np.diff(sizes[order], prepend=0) > 1e-6)
    found: Numbers = np.sign(differences) * levels
    return found[levels > 0]


def keeps(individual: Numbers, merged: Numbers, share: float) -> float:
    """The p-value of keeping less than `share`: a small one says that at least so much is kept.

    One side of the two one-sided tests: nobody minds that merging gains. The test is Student's, of
    merged − share · individual over items, with the alternative that its mean is positive.

    Args:
        individual: [N] figures before.
        merged: [N] after.
        share: to be kept, e.g. 0.99.

    Source: Schuirmann (1987); Lakens (2017), "Equivalence tests".
    """
    from scipy.stats import ttest_1samp

    above = merged - share * individual
    if _constant(above):
        return 0.0 if above.mean() > 0 else 1.0
    return float(ttest_1samp(above, 0, alternative="greater").pvalue)


def _constant(values: Numbers) -> bool:
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for so many tests, in their order; nan stays nan and is not counted.

    Source: Holm (1979).
    """
    values = np.asarray(p, dtype=float)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    adjusted = np.full(len(values), np.nan)
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(each) for each in adjusted]
