"""Whether distances between items predict what it costs to merge them.

Both are symmetric [N, N] matrices. Their entries are not independent, since every item has N − 1
of them, so tests and intervals go by items and not by pairs.
"""

from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray

from gwsmm.evidence.bootstrap import Interval

Matrix = NDArray[np.float64]


def spearman(distances: Matrix, losses: Matrix) -> float:
    """Rank correlation of the entries above the diagonal; nan where one side is constant."""
    from scipy.stats import spearmanr

    above = np.triu_indices(len(distances), 1)
    one, other = distances[above], losses[above]
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one, other).statistic)


def without_items(matrix: Matrix) -> Matrix:
    """What is left of each pair after the least-squares share of its two items, μ + α_i + α_j.

    An item that is hard to merge with anybody has large losses to all; what is left says who goes
    with whom. Four items are needed for anything to be left. What is as large as rounding is
    rounded away: pairs that are equally far apart must have equal ranks.
    """
    n = len(matrix)
    rows, columns = np.triu_indices(n, 1)
    design = np.zeros((len(rows), n))
    at = np.arange(len(rows))
    design[at, rows] = design[at, columns] = 1  # spans the constant too
    pairs = matrix[rows, columns]
    left = np.zeros_like(matrix)
    residuals = pairs - design @ np.linalg.lstsq(design, pairs, rcond=None)[0]
    scale = float(np.abs(pairs).max()) or 1.0
    left[rows, columns] = scale * np.round(residuals / scale, 12)
    found: Matrix = left + left.T
    return found


@dataclass(frozen=True, kw_only=True)
class Association:
    """How the rank correlation of two matrices is judged.

    Attributes:
        draws: permutations of the items for the test, where there are more than so many.
        level: of the interval.
        seed: of the draws.
    """

    draws: int
    level: float
    seed: int

    def mantel(self, distances: Matrix, losses: Matrix) -> float:
        """The p-value of a rank correlation as far from zero, items being exchanged: Mantel's test.

        Of the permutations themselves the observed one is always counted, so that p is never 0.
        Source: Mantel (1967); Phipson and Smyth (2010) for drawn permutations.
        """
        observed = spearman(distances, losses)
        if np.isnan(observed):
            return float("nan")
        above = np.triu_indices(len(losses), 1)
        ranked, other = _ranks(distances), _ranks(losses)[above]
        orders = self._orders(len(losses))
        drawn = ranked[orders[:, above[0]], orders[:, above[1]]]  # [P, pairs]
        extreme = np.abs(drawn @ other) >= np.abs(ranked[above] @ other) * (1 - 1e-9)
        if factorial(len(losses)) <= self.draws:
            return float(extreme.mean())
        return float((1 + extreme.sum()) / (1 + len(extreme)))

    def _orders(self, n: int) -> NDArray[np.int64]:
        """[P, n]: every permutation, or so many drawn ones."""
        if factorial(n) <= self.draws:
            return np.array(list(permutations(range(n))))
        random = np.random.default_rng(self.seed)
        return random.permuted(np.tile(np.arange(n), (self.draws, 1)), axis=1)

    def interval(self, distances: Matrix, losses: Matrix, *, apart: bool = False) -> Interval:
        """The rank correlation with its jackknife interval: every item is left out once.

        On Fisher's scale, with Student's quantile of N − 1 degrees of freedom. An item that is left
        out takes its pairs along, so that m' of m independent ones remain, and the jackknife counts
        the chance in each single pair (N − 1)(m / m' − 1) times: twice and more. All but once is
        taken away again, by the variance that the correlation of independent pairs would have. Of
        fewer than five items there is no interval.

        Args:
            distances: between the items.
            losses: of merging two of them.
            apart: from the items' own shares, which are taken from both sides, whichever items are
                left, and from the number of independent pairs.

        Source: Snijders and Borgatti (1999), "Non-parametric standard errors and tests for network
        statistics"; Fieller, Hartley and Pearson (1957) for the variance 1.06 / (pairs − 3).
        """
        from scipy.stats import t

        def correlation(at: NDArray[np.int64]) -> float:
            sides = [matrix[np.ix_(at, at)] for matrix in (distances, losses)]
            return spearman(*map(without_items, sides)) if apart else spearman(*sides)

        n = len(losses)
        value = correlation(np.arange(n))
        without = np.array([correlation(np.delete(np.arange(n), out)) for out in range(n)])
        if n < 5 or np.isnan([value, *without]).any():
            return Interval(value, np.nan, np.nan)
        near_one = 1 - 1e-6
        fisher = np.arctanh(np.clip(without, -near_one, near_one))
        jackknife = (n - 1) / n * np.square(fisher - fisher.mean()).sum()
        pairs, fewer = (k * (k - 1) / 2 - (k if apart else 0) for k in (n, n - 1))
        times = (n - 1) * (pairs / fewer - 1)
        chance = 1.06 / max(pairs - 3, 1)
        variance = max(jackknife - (times - 1) * chance, jackknife / times)
        half = np.sqrt(variance) * t.ppf((1 + self.level) / 2, n - 1)
        centre = np.arctanh(np.clip(value, -near_one, near_one))
        return Interval(value, float(np.tanh(centre - half)), float(np.tanh(centre + half)))


def _ranks(matrix: Matrix) -> Matrix:
    """The entries above the diagonal as centred ranks, on both sides of it."""
    from scipy.stats import rankdata

    above = np.triu_indices(len(matrix), 1)
    ranks = rankdata(matrix[above])
    ranked = np.zeros(matrix.shape)
    ranked[above] = ranks - ranks.mean()
    found: Matrix = ranked + ranked.T
    return found
