"""Whether a distance predicts what merging items costs, and how a plan does among others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from gwsmm.evidence.association import Association, Matrix, without_items
from gwsmm.evidence.bootstrap import Interval
from gwsmm.evidence.standing import Standing, standing
from gwsmm.evidence.testing import holm
from gwsmm.study.conditions import Condition, Numbers, apart_from_plans, firsts
from gwsmm.study.reading import RunFolder

if TYPE_CHECKING:
    import pandas as pd

ASSOCIATION = Association(draws=10_000, level=0.95, seed=0)
LOSSES = {"micro_f1": "micro F1 lost", "loss": "cross-entropy gained"}
SPLITS = ("test", "validation")
_DRIFTS = {"drift": "drift by the distance", "drift_cka": "drift by CKA"}


@dataclass(frozen=True)
class Correlation:
    """A rank correlation between items' distances and losses.

    Attributes:
        spearman: with its interval over items.
        p: of the Mantel test.
        p_holm: adjusted for all tests of all predictions that are reported together.
    """

    spearman: Interval
    p: float
    p_holm: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """How well one signal predicts one loss, over all pairs of items; means over the seeds.

    Attributes:
        signal: what is known before, e.g. `GW loss`.
        size: of the groups that were merged.
        loss: what merging the two costs on average, of `LOSSES`; in larger groups, the mean over
            all groups that hold the two.
        split: whose responses the loss is of.
        signals: [N, N].
        losses: [N, N].
        raw: the rank correlation.
        apart: the same once every item's own share is taken from both sides; nan where nothing is
            left, as of the losses where all items are one group.
    """

    signal: str
    size: int
    loss: str
    split: str
    signals: Matrix
    losses: Matrix
    raw: Correlation
    apart: Correlation

    @property
    def views(self) -> tuple[bool, ...]:
        """What there is to look at: the pairs as they are, and apart from the items' own shares."""
        return (False,) if np.isnan(self.apart.spearman.value) else (False, True)

    def points(self, *, apart: bool) -> tuple[Numbers, Numbers]:
        """Signal and loss of every pair of items, with the items' own shares or apart from them."""
        above = np.triu_indices(len(self.signals), 1)
        signals, losses = (
            without_items(side)[above] if apart else side[above]
            for side in (self.signals, self.losses)
        )
        return signals, losses


def predictions(conditions: Sequence[Condition]) -> list[Prediction]:
    """Of every signal that the runs with merged pairs, or larger groups, know, for both losses.

    Conditions that differ in the plan alone merge the same groups: they are one, with the means
    over the seeds of which a run merged every group of the size.
    """
    found: list[tuple[str, int, str, str, Matrix, Matrix]] = []
    for split, condition in product(SPLITS, apart_from_plans(conditions)):
        tried = [run for run in condition.tried if len(run.names) > 3]
        sizes = sorted({size for run in tried for size in complete_sizes(run)})
        for size, (loss, said) in product(sizes, LOSSES.items()):
            runs = firsts(
                [run for run in tried if size in complete_sizes(run)], lambda run: run.seed
            )
            losses = np.mean([merging_losses(run, size, loss, split) for run in runs], axis=0)
            for signal, matrix in _signals(condition, runs, size).items():
                if not any(
                    [size, said, split] == of
                    and np.array_equal(matrix, m)
                    and np.array_equal(losses, x)
                    for _, *of, m, x in found
                ):
                    found.append((signal, size, said, split, matrix, losses))
    correlations = iter(_correlations([(matrix, losses) for *_, matrix, losses in found]))
    return [Prediction(*each, *next(correlations)) for each in found]


def _correlations(pairs: Sequence[tuple[Matrix, Matrix]]) -> list[tuple[Correlation, Correlation]]:
    """Raw and apart from the items' own shares, of signals and losses."""
    tests = [
        (
            ASSOCIATION.mantel(signals, losses),
            ASSOCIATION.mantel(without_items(signals), without_items(losses)),
        )
        for signals, losses in pairs
    ]
    p_holm = iter(holm([p for both in tests for p in both]))
    return [
        (
            Correlation(ASSOCIATION.interval(signals, losses), raw, next(p_holm)),
            Correlation(ASSOCIATION.interval(signals, losses, apart=True), apart, next(p_holm)),
        )
        for (signals, losses), (raw, apart) in zip(pairs, tests, strict=True)
    ]


def _signals(condition: Condition, runs: Sequence[RunFolder], size: int) -> dict[str, Matrix]:
    quantity = runs[0].distances.quantity
    name = f"{quantity} ({condition.name})" if condition.name else quantity
    signals = {name: np.mean([run.distances.values for run in runs], axis=0)}
    for column, said in _DRIFTS.items():
        if all(_tried(run, "test")[column].notna().all() for run in runs):
            label = f"{said} ({condition.name})" if condition.name else said
            signals[label] = np.mean([_shares(run, size, column, "test") for run in runs], axis=0)
    return signals


def merging_losses(run: RunFolder, size: int, loss: str, split: str) -> Matrix:
    """[N, N]: what it costs two items to be merged, mean of the two and of all groups of `size`."""
    table = _frame(run)
    own = table[(table["group"] == -1) & (table["split"] == split)].set_index("item")[loss]
    sign = 1 if loss == "loss" else -1
    return sign * _shares(run, size, loss, split, {str(k): float(v) for k, v in own.items()})


def _shares(
    run: RunFolder, size: int, column: str, split: str, own: Mapping[str, float] | None = None
) -> Matrix:
    """[N, N]: a column, less that of their own models, of two items in the groups that hold both.

    The mean over the two and over these groups, of which there must be every one of `size`.
    """
    at = {name: i for i, name in enumerate(run.names)}
    groups = [n for n, group in enumerate(run.controls["groups"]) if len(group) == size]
    matrix = np.zeros((len(at), len(at)))
    table = _tried(run, split)
    for _, part in table[table["group"].isin(groups)].groupby("group"):
        values = part.set_index("item")[column]
        less = {at[str(k)]: float(v) - (own[str(k)] if own else 0.0) for k, v in values.items()}
        for one, other in combinations(less, 2):
            matrix[one, other] += (less[one] + less[other]) / 2
            matrix[other, one] = matrix[one, other]
    return matrix / comb(len(at) - 2, size - 2)


def _frame(run: RunFolder) -> "pd.DataFrame":
    assert run.attempts is not None
    return run.attempts


def _tried(run: RunFolder, split: str) -> "pd.DataFrame":
    table = _frame(run)
    return table[(table["group"] >= 0) & (table["split"] == split)]


def complete_sizes(run: RunFolder) -> list[int]:
    """The sizes of which every group was merged."""
    sizes = [len(group) for group in run.controls["groups"]]
    n = len(run.names)
    return [size for size in sorted(set(sizes)) if sizes.count(size) == comb(n, size)]


@dataclass(frozen=True, eq=False)
class Place:
    """A condition's plan among random plans of the same sizes, by test micro F1 overall.

    Attributes:
        condition: its name.
        seed: of the run; plans of several seeds differ, so that each has its own place.
        score: of the plan.
        others: of the random plans.
        complete: whether these are all plans of these sizes.
        standing: among them.
    """

    condition: str
    seed: int
    score: float
    others: tuple[float, ...]
    complete: bool
    standing: Standing


def places(conditions: Sequence[Condition]) -> list[Place]:
    """Of every run that was held against random plans."""
    return [
        _place(condition.name, run)
        for condition in conditions
        for run in condition.tried
        if run.controls["plans"]
    ]


def adjusted(found: Sequence[Place]) -> list[float]:
    """The p-values of the standings, adjusted for all of them, which are reported together."""
    return holm([each.standing.p for each in found])


def _place(name: str, run: RunFolder) -> Place:
    table = _frame(run)
    of_test = table[table["split"] == "test"]
    groups = [tuple(group) for group in run.controls["groups"]]
    numbers, tried, values = (of_test[name].tolist() for name in ("group", "item", "micro_f1"))
    scores = {
        (groups[number] if number >= 0 else None, item): float(value)
        for number, item, value in zip(numbers, tried, values, strict=True)
    }
    weights = {item["name"]: item["test"] for item in run.results["items"]}

    def value(plan: Sequence[tuple[str, ...]]) -> float:
        of = {item: group for group in plan for item in group}
        each = [scores[of.get(item), item] for item in run.names]
        return float(np.average(each, weights=[weights[item] for item in run.names]))

    own = value([group for group in run.plan.groups if len(group) > 1])
    others = tuple(value([groups[i] for i in plan]) for plan in run.controls["plans"])
    complete = bool(run.controls["all_plans"])
    found = standing(own, others, complete=complete)
    return Place(name, run.seed, own, others, complete, found)
