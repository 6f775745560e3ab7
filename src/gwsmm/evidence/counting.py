"""Metrics as functions of sums over responses, so that a resampled metric is a resampled sum."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gwsmm.items.ordinal import decode

Decisions = NDArray[np.uint8]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric of one item.

    Attributes:
        counts: truth [n, L] and decisions [n, L], of 0 and 1 → what every response adds [n, k].
        value: sums [..., k] over responses → the metric [...].
    """

    counts: Callable[[Decisions, Decisions], Numbers]
    value: Callable[[Numbers], Numbers]

    def of(self, truth: Decisions, decisions: Decisions) -> float:
        """The metric of these responses."""
        return float(self.value(self.counts(truth, decisions).sum(axis=0)))


def _share(part: Numbers, whole: Numbers) -> Numbers:
    """Part / whole; 0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)


def _overlap(truth: Decisions, decisions: Decisions) -> tuple[Numbers, Numbers]:
    """[n, L] each: twice the true positives, and the positives of both sides."""
    both = (truth & decisions).astype(np.float64)
    return 2 * both, truth.astype(np.float64) + decisions.astype(np.float64)


def _micro(truth: Decisions, decisions: Decisions) -> Numbers:
    return np.stack([each.sum(axis=1) for each in _overlap(truth, decisions)], axis=1)


def _macro(truth: Decisions, decisions: Decisions) -> Numbers:
    return np.concatenate(_overlap(truth, decisions), axis=1)


def _halves(sums: Numbers) -> tuple[Numbers, Numbers]:
    half = sums.shape[-1] // 2
    return sums[..., :half], sums[..., half:]


def _exact(truth: Decisions, decisions: Decisions) -> Numbers:
    right = (truth == decisions).all(axis=1)
    return np.stack([right, np.ones(len(truth))], axis=1)


def _right(truth: Decisions, decisions: Decisions) -> Numbers:
    return np.stack(
        [(truth == decisions).sum(axis=1), np.full(len(truth), truth.shape[1])], axis=1
    ).astype(float)


def _table(truth: Decisions, decisions: Decisions) -> Numbers:
    """[n, K²]: in which cell of the table of scores 0 … K − 1 a response stands."""
    size = truth.shape[1] + 1
    cell = decode(truth).astype(int) * size + decode(decisions)
    found: Numbers = np.eye(size**2)[cell]
    return found


def _kappa(sums: Numbers, power: int) -> Numbers:
    """1 − observed / expected disagreement; nan where both sides always give the same score."""
    size = round(sums.shape[-1] ** 0.5)
    table = sums.reshape(*sums.shape[:-1], size, size)
    table = table / table.sum(axis=(-2, -1), keepdims=True)
    expected = table.sum(axis=-1)[..., :, None] * table.sum(axis=-2)[..., None, :]
    apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    weights = (apart > 0).astype(float) if power == 0 else apart.astype(float) ** power
    by_chance = (weights * expected).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa: Numbers = 1 - (weights * table).sum(axis=(-2, -1)) / by_chance
    return np.where(by_chance > 0, kappa, np.nan)


def _labelled(truth: Decisions, decisions: Decisions) -> Numbers:
    """[n, 4 L]: in which cell of every label's table of 0 and 1 a response stands."""
    cell = 2 * truth.astype(int) + decisions
    return np.eye(4)[cell].reshape(len(truth), -1)


def _label_kappa(sums: Numbers) -> Numbers:
    return _kappa(sums.reshape(*sums.shape[:-1], -1, 4), 0)


def _mean_label_kappa(sums: Numbers) -> Numbers:
    """Mean over the labels that vary; nan where none does."""
    each = _label_kappa(sums)
    varies = ~np.isnan(each)
    found = _share(np.where(varies, each, 0).sum(-1), varies.sum(-1).astype(float))
    return np.where(varies.any(-1), found, np.nan)


def _moments(truth: Decisions, decisions: Decisions) -> Numbers:
    one, other = (
        side.sum(axis=1, dtype=float) for side in (truth, decisions)
    )  # of a score, or of how many labels are shown
    return np.stack([one, other, one**2, other**2, np.ones_like(one)], axis=1)


def _standardised(sums: Numbers) -> Numbers:
    n = sums[..., 4]
    mean, other = sums[..., 0] / n, sums[..., 1] / n
    spread = np.sqrt(np.maximum((sums[..., 2] / n - mean**2 + sums[..., 3] / n - other**2) / 2, 0))
    return np.where((spread > 0) | (mean == other), _share(other - mean, spread), np.nan)


METRICS: Mapping[str, Metric] = {
    "micro_f1": Metric(_micro, lambda sums: _share(*_halves(sums))[..., 0]),
    "macro_f1": Metric(_macro, lambda sums: _share(*_halves(sums)).mean(axis=-1)),
    "exact_match": Metric(_exact, lambda sums: _share(*_halves(sums))[..., 0]),
    "label_accuracy": Metric(_right, lambda sums: _share(*_halves(sums))[..., 0]),
}
"""The paper's four, as `gwsmm.metrics` has them."""

MEASUREMENT: Mapping[str, Metric] = {
    "label_kappa": Metric(_labelled, _mean_label_kappa),
    "smd": Metric(_moments, _standardised),
}
"""Of items of any kind: Cohen's kappa, mean over labels, and the standardised mean difference.

The latter is (mean predicted − mean rated) / √((s²_predicted + s²_rated) / 2) of the scores, or of
how many labels a response is said to show; beyond ±0.15 it is usually held to matter. nan where the
means differ and neither side varies.
Source: Williamson, Xi and Breyer (2012), "A framework for evaluation and use of automated scoring".
"""

ORDINAL: Mapping[str, Metric] = {
    "qwk": Metric(_table, lambda sums: _kappa(sums, 2)),
    "kappa": Metric(_table, lambda sums: _kappa(sums, 0)),
}
"""Of scores: Cohen's kappa with quadratic weights, and without weights."""


LABEL_KAPPAS = Metric(_labelled, _label_kappa)
"""Cohen's kappa [..., L] of every label; nan where nobody ever gives it, or both sides always do.

Of several values, and so no metric of an item.
"""


def ahead(metric: Metric) -> Metric:
    """How far those in a group are ahead of the others in a metric; nan: there are none of either.

    The last column of both sides is no label: it says who is in the group.
    """

    def counts(truth: Decisions, decisions: Decisions) -> Numbers:
        inside = truth[:, -1:].astype(float)
        each = metric.counts(truth[:, :-1], decisions[:, :-1])
        parts = [part for here in (inside, 1 - inside) for part in (here, each * here)]
        return np.concatenate(parts, axis=1)

    def value(sums: Numbers) -> Numbers:
        own, others = _halves(sums)
        there = (own[..., 0] > 0) & (others[..., 0] > 0)
        with np.errstate(invalid="ignore", divide="ignore"):  # of nobody nothing is known
            apart: Numbers = metric.value(own[..., 1:]) - metric.value(others[..., 1:])
        return np.where(there, apart, np.nan)

    return Metric(counts, value)
