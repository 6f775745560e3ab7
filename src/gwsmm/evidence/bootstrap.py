"""Intervals by resampling: of one item over its responses, of an item set over its items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gwsmm.evidence.counting import Metric

Numbers = NDArray[np.float64]

FEWEST = 3
"""Items of which an interval over items can be given."""


@dataclass(frozen=True)
class Interval:
    """An estimate and where its true value lies with the stated confidence; nan: not known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How to resample.

    Attributes:
        repeats: samples that are drawn.
        level: confidence, e.g. 0.95.
        seed: of the draws; the same for all figures, so that what is compared is compared on the
            same samples.
    """

    repeats: int
    level: float
    seed: int

    def over_responses(
        self,
        metric: Metric,
        truth: NDArray[np.uint8],
        models: Sequence[NDArray[np.uint8]],
        statistic: Callable[[Numbers], Numbers],
    ) -> Interval:
        """Of one item; responses are drawn, and every model scores the same ones.

        Args:
            metric: of each model.
            truth: [n, L] of 0 and 1.
            models: decisions [n, L] of each of the m models.
            statistic: of the models' metrics [..., m].
        """
        (found,) = self.each_over_responses(
            metric, truth, models, lambda values: statistic(values)[..., None]
        )
        return found

    def each_over_responses(
        self,
        metric: Metric,
        truth: NDArray[np.uint8],
        models: Sequence[NDArray[np.uint8]],
        statistic: Callable[[Numbers], Numbers],
    ) -> list[Interval]:
        """The same of q figures at once, of a metric that has several values or one.

        Args:
            metric: of each model.
            truth: [n, L] of 0 and 1.
            models: decisions [n, L] of each of the m models.
            statistic: of the models' metrics [..., m], or [..., m, v] of v values; gives [..., q].
        """
        counts = np.stack([metric.counts(truth, said) for said in models])  # [m, n, k]
        weights = self._draws(len(truth))
        sums = np.einsum("bn,mnk->bmk", weights, counts, optimize=True)
        values = statistic(metric.value(counts.sum(axis=1)))
        return self._percentiles(values, statistic(metric.value(sums)), len(truth))

    def over_items(
        self, values: Numbers, weights: Numbers, statistic: Callable[[Numbers], Numbers]
    ) -> Interval:
        """Of means over items; items are drawn, each with all its responses.

        What an item's responses add to the uncertainty is in the differences between items
        already. The interval is for items like these, not for these items alone.

        Args:
            values: [N, m], a row of m figures for every item.
            weights: [N], e.g. how many responses each item has.
            statistic: of the m weighted means [..., m].
        """
        return self.over_items_of_runs(values[None], weights[None], statistic)

    def over_items_of_runs(
        self, values: Numbers, weights: Numbers, statistic: Callable[[Numbers], Numbers]
    ) -> Interval:
        """Of the mean over runs of their means over items; as `over_items`.

        A run of whose items none is drawn says nothing of that sample.

        Args:
            values: [S, N, m], of S runs.
            weights: [S, N]; 0 where the run leaves the item out, as no item is by all.
            statistic: of the m means [..., m].
        """
        n = weights.shape[1]

        def of(drawn: Numbers) -> Numbers:
            sums = np.einsum("...n,sn,snm->...sm", drawn, weights, values, optimize=True)
            with np.errstate(invalid="ignore"):  # 0 / 0: none of a run's items was drawn
                return statistic(np.nanmean(sums / (drawn @ weights.T)[..., None], axis=-2))

        value = float(of(np.ones(n)))
        if n < FEWEST:
            return Interval(value, np.nan, np.nan)
        return self._about(value, of(self._draws(n)), n)

    def _draws(self, n: int) -> Numbers:
        """[B, n]: how often each of n is drawn."""
        return _draws(self.seed, self.repeats, n)

    def _percentiles(self, values: Numbers, replicates: Numbers, n: int) -> list[Interval]:
        """Quantiles of [B, q] that are pushed outwards, as the plain ones are a little too narrow.

        For a mean it makes up for the factor (n − 1) / n of the bootstrap's variance and for the
        normal quantile in the place of Student's. Source: Hesterberg (2015), "What teachers
        should know about the bootstrap", the expanded percentile interval. Of one response alone
        there is no interval.
        """
        ends = np.full((2, len(values)), np.nan)
        known = ~np.isnan(replicates).all(axis=0)
        if n > 1 and known.any():
            tail = _tail(self.level, n)
            ends[:, known] = np.nanquantile(replicates[:, known], [tail, 1 - tail], axis=0)
        return [Interval(*map(float, each)) for each in zip(values, *ends, strict=True)]

    def _about(self, value: float, replicates: Numbers, n: int) -> Interval:
        """As far to both sides as Student's interval with the bootstrap's standard error.

        No quantile of the samples lies beyond the lowest and the highest of n items, which is too
        near where they are few: of four, nine intervals in ten would be all that hold the truth.
        Source: as of the other, the t interval with bootstrap standard error, whose square is
        made up for the bootstrap's (n − 1) / n.
        """
        if np.isnan(replicates).all():
            return Interval(value, np.nan, np.nan)
        error = np.nanstd(replicates) * np.sqrt(n / (n - 1))
        reach = float(_student(self.level, n) * error)
        return Interval(value, value - reach, value + reach)


@lru_cache(maxsize=1 << 10)
def _student(level: float, n: int) -> float:
    """Student's quantile of n, on the side of the larger."""
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, n - 1))


@lru_cache(maxsize=1 << 10)
def _tail(level: float, n: int) -> float:
    """The share of samples beyond each end of an interval of this level; see `_percentiles`."""
    from scipy.stats import norm, t

    return float(norm.cdf(np.sqrt(n / (n - 1)) * t.ppf((1 - level) / 2, n - 1)))


@lru_cache(maxsize=2)  # of the responses of one item, and of the items: asked for in turn
def _draws(seed: int, repeats: int, n: int) -> Numbers:
    random = np.random.default_rng(seed)
    drawn = random.integers(n, size=(repeats, n)) + n * np.arange(repeats)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=repeats * n).reshape(repeats, n).astype(float)
    counts.flags.writeable = False
    return counts


def difference(models: Numbers) -> Numbers:
    """The second minus the first; of several such pairs [..., 2 S] the mean."""
    found: Numbers = (models[..., 1::2] - models[..., ::2]).mean(axis=-1)
    return found


def mean(models: Numbers) -> Numbers:
    """Over the models whose metric is known; nan: that of none is."""
    known = ~np.isnan(models)
    n = known.sum(axis=-1)
    total = np.where(known, models, 0).sum(axis=-1)
    found: Numbers = np.divide(total, n, out=np.full_like(total, np.nan), where=n > 0)
    return found


def ratio(models: Numbers) -> Numbers:
    """The second of two as a share of the first; nan where that is nothing."""
    whole = models[..., 0]
    return np.divide(models[..., 1], whole, out=np.full_like(whole, np.nan), where=whole != 0)


def gain(models: Numbers) -> Numbers:
    """What the third of three has of the way from the first to the second; nan: there is none."""
    least, most, merged = np.moveaxis(models, -1, 0)
    whole = most - least
    found: Numbers = np.divide(
        merged - least, whole, out=np.full_like(whole, np.nan), where=whole > 0
    )
    return found
