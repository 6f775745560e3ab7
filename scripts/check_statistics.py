"""How often the intervals hold a known truth, the tests cry wolf, and find what is there.

Every study is simulated many times over: items whose true scores are drawn, responses that are
scored by two models, merges of pairs that lose by chance or by a distance, and plans. Coverage is
at a nominal 95 %, false positives at a nominal 5 %.
"""

import argparse
import json
from collections.abc import Callable

import numpy as np
import pandas as pd
from bench_parts import BENCH, Row
from numpy.typing import NDArray

from gwsmm.evidence.association import Association, spearman, without_items
from gwsmm.evidence.bootstrap import Bootstrap, Interval, difference, mean, ratio
from gwsmm.evidence.counting import MEASUREMENT, METRICS, ORDINAL, Metric, ahead
from gwsmm.evidence.standing import standing
from gwsmm.evidence.testing import holm, keeps, paired_t, wilcoxon
from gwsmm.grouping.partitions import drawn, every
from gwsmm.items.ordinal import encode

LEVEL = 0.95
ALPHA = 0.05
Random = np.random.Generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--draws", type=int, default=1000, help="of a bootstrap, of a permutation")
    asked = parser.parse_args()
    rows: list[Row] = []
    for name, study in COVERAGE.items():
        random = np.random.default_rng([0, len(rows)])
        truth, interval = study(asked.draws)
        held = [_holds(interval(random), truth) for _ in range(asked.repetitions)]
        rows.append({"what": name, "kind": "coverage", "share": float(np.mean(held))})
        print(rows[-1], flush=True)
    for kind, tests in (("false positives", FALSE), ("found", _there())):
        for name, test in tests.items():
            random = np.random.default_rng([1, len(rows)])
            p = [test(random, asked.draws) for _ in range(asked.repetitions)]
            share = float(np.mean(np.array(p) <= ALPHA))
            rows.append({"what": name, "kind": kind, "share": share})
            print(rows[-1], flush=True)
    by_kind = {kind: [float(row["share"]) for row in rows if row["kind"] == kind]
               for kind in ("coverage", "false positives")}  # fmt: skip
    keys = {
        "coverage_lowest": min(by_kind["coverage"]),
        "coverage_highest": max(by_kind["coverage"]),
        "false_positive_highest": max(by_kind["false positives"]),
        "repetitions": asked.repetitions,
    }
    BENCH.mkdir(parents=True, exist_ok=True)
    (BENCH / "statistics.json").write_text(json.dumps(keys | {"rows": rows}, indent=2) + "\n")
    table = pd.DataFrame(rows)
    table["share"] = [f"{100 * share:.1f} %" for share in table["share"]]
    text = table.to_markdown(index=False)
    (BENCH / "statistics.md").write_text(text + "\n")
    print(text)


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


Study = Callable[[int], tuple[float, Callable[[Random], Interval]]]
"""Of the draws: the truth, and the interval of one simulated study."""


# One item: two models score the same responses, and err together more often than by chance.


def _answers(random: Random, n: int, seeds: int = 1) -> list[NDArray[np.uint8]]:
    """Truth and the decisions of the two models of every seed, [n, 4] each."""
    prevalence = np.array([0.5, 0.3, 0.2, 0.1])
    hard = random.random((n, 1)) < 0.3  # responses on which both err more
    truth = random.random((n, 4)) < prevalence
    said = [
        truth ^ (random.random((n, 4)) < np.where(hard, 3 * e, e)) for e in (0.05, 0.08) * seeds
    ]
    return [each.astype(np.uint8) for each in (truth, *said)]


def _scores(random: Random, n: int) -> list[NDArray[np.uint8]]:
    """Truth and a model's decisions [n, 3], of scores from 0 to 3."""
    rated = random.choice(4, n, p=[0.3, 0.35, 0.25, 0.1])
    off = random.choice([-1, 0, 1], n, p=[0.15, 0.7, 0.15])
    return [encode(each, 3) for each in (rated, np.clip(rated + off, 0, 3))]


def _subgroup(random: Random, n: int) -> list[NDArray[np.uint8]]:
    """Truth and a model's decisions [n, 5], of which the last column is who is in a subgroup."""
    truth, said, worse = _answers(random, n)
    inside = random.random((n, 1)) < 0.25
    decided = np.where(inside, worse, said)
    return [np.hstack([each, inside]).astype(np.uint8) for each in (truth, decided)]


def _one_item(
    n: int,
    metric: Metric = METRICS["micro_f1"],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] = difference,
    answers: Callable[[Random, int], list[NDArray[np.uint8]]] = _answers,
) -> Study:
    def study(draws: int) -> tuple[float, Callable[[Random], Interval]]:
        truth, *models = answers(np.random.default_rng(7), 2_000_000)
        known = float(statistic(np.array([metric.of(truth, said) for said in models])))

        def interval(random: Random) -> Interval:
            truth, *models = answers(random, n)
            how = Bootstrap(repeats=draws, level=LEVEL, seed=int(random.integers(2**32)))
            return how.over_responses(metric, truth, models, statistic)

        return known, interval

    return study


# An item set: items of unlike size and difficulty, of which merging keeps unlike shares.

KEPT = 0.97


def _items(random: Random, n: int, kept: float = KEPT) -> tuple[NDArray[np.float64], ...]:
    """[n, 2] scores before and after, and [n] responses."""
    before = random.beta(16, 4, n)
    after = before * (kept + random.normal(0, 0.02, n))
    return np.stack([before, after], axis=1), random.integers(150, 280, n).astype(float)


def _item_set(n: int, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Study:
    def study(draws: int) -> tuple[float, Callable[[Random], Interval]]:
        known = float(statistic(np.array([0.8, KEPT * 0.8])))

        def interval(random: Random) -> Interval:
            values, weights = _items(random, n)
            how = Bootstrap(repeats=draws, level=LEVEL, seed=int(random.integers(2**32)))
            return how.over_items(values, weights, statistic)

        return known, interval

    return study


def _merged_items(seeds: int) -> Study:
    """Of nine items every seed merges six others; what an item keeps hangs on the seed, too."""

    def study(draws: int) -> tuple[float, Callable[[Random], Interval]]:
        def interval(random: Random) -> Interval:
            values, responses = _items(random, 9)
            runs = np.repeat(values[None], seeds, axis=0)
            runs[..., 1] *= 1 + random.normal(0, 0.01, runs.shape[:2])
            chosen = random.permuted(np.tile(np.arange(9) < 6, (seeds, 1)), axis=1)
            here = chosen.any(axis=0)
            how = Bootstrap(repeats=draws, level=LEVEL, seed=int(random.integers(2**32)))
            weights = (chosen * responses)[:, here]
            return how.over_items_of_runs(runs[:, here], weights, ratio)

        return KEPT, interval

    return study


# Pairs: what merging two items loses hangs on the items themselves, on their distance, on chance.


def _pairs(random: Random, n: int, effect: float) -> tuple[NDArray[np.float64], ...]:
    """[n, n] distances and losses."""
    places, hard = random.normal(size=(n, 2)), random.normal(size=n)
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    chance = np.triu(random.normal(size=(n, n)), 1)
    losses = effect * apart + 0.3 * (hard[:, None] + hard) + chance + chance.T
    np.fill_diagonal(losses, 0)
    return apart, losses


def _known(effect: float, *, apart: bool) -> float:
    """The rank correlation of very many items."""
    many = [_pairs(np.random.default_rng([7, i]), 100, effect) for i in range(40)]
    sides = [tuple(map(without_items, each)) if apart else each for each in many]
    return float(np.mean([spearman(*each) for each in sides]))


def _correlation(n: int, *, apart: bool) -> Study:
    def study(draws: int) -> tuple[float, Callable[[Random], Interval]]:
        def interval(random: Random) -> Interval:
            how = Association(draws=draws, level=LEVEL, seed=0)
            return how.interval(*_pairs(random, n, 0.8), apart=apart)

        return _known(0.8, apart=apart), interval

    return study


COVERAGE: dict[str, Study] = {
    "micro F1 of one item, difference, 200 responses": _one_item(200),
    "micro F1 of one item, difference, 60 responses": _one_item(60),
    "the same, three seeds": _one_item(60, answers=lambda random, n: _answers(random, n, 3)),
    "weighted kappa of one item, 200 responses": _one_item(200, ORDINAL["qwk"], mean, _scores),
    "kappa of labels of one item, 200 responses": _one_item(
        200, MEASUREMENT["label_kappa"], mean, lambda random, n: _answers(random, n)[:2]
    ),
    "how far a quarter of 200 students is ahead in micro F1": _one_item(
        200, ahead(METRICS["micro_f1"]), mean, _subgroup
    ),
    "mean of 3 items": _item_set(3, lambda means: means[..., 1]),
    "mean of 5 items": _item_set(5, lambda means: means[..., 1]),
    "difference of 9 items": _item_set(9, difference),
    "share kept of 4 items": _item_set(4, ratio),
    "share kept of 9 items": _item_set(9, ratio),
    "share kept of 20 items": _item_set(20, ratio),
    "share kept of six merged of 9 items, three seeds": _merged_items(3),
    "rank correlation of pairs of 9 items": _correlation(9, apart=False),
    "rank correlation of pairs of 20 items": _correlation(20, apart=False),
    "the same of 9 items, without item effects": _correlation(9, apart=True),
    "the same of 20 items, without item effects": _correlation(20, apart=True),
}


# Nothing is there to be found.


def _no_difference(test: Callable[..., float]) -> Callable[[Random, int], float]:
    def p(random: Random, draws: int) -> float:
        before, after = random.normal(0.8, 0.05, (1, 9)) + random.normal(0, 0.02, (2, 9))
        return test(before, after)

    return p


def _just_less(random: Random, draws: int) -> float:
    values, _ = _items(random, 9, kept=0.99)
    return keeps(values[:, 0], values[:, 1], 0.99)


def _family(random: Random, draws: int) -> float:
    """The smallest of five adjusted p-values: whether any of five rows of a table is marked."""
    return min(holm([_no_difference(paired_t)(random, draws) for _ in range(5)]))


def _unrelated(n: int) -> Callable[[Random, int], float]:
    def p(random: Random, draws: int) -> float:
        how = Association(draws=draws, level=LEVEL, seed=int(random.integers(2**32)))
        return how.mantel(*_pairs(random, n, 0.0))

    return p


def _after_items(effect: float) -> Callable[[Random, int], float]:
    def p(random: Random, draws: int) -> float:
        how = Association(draws=draws, level=LEVEL, seed=int(random.integers(2**32)))
        return how.mantel(*(without_items(matrix) for matrix in _pairs(random, 9, effect)))

    return p


NAMES = tuple("abcdefg")
SIZES = (3, 2, 1, 1)


def _random_plan(complete: bool) -> Callable[[Random, int], float]:
    plans = list(every(NAMES, SIZES))

    def p(random: Random, draws: int) -> float:
        worth = {group: random.normal() for group in {g for plan in plans for g in plan}}

        def total(groups: tuple[tuple[str, ...], ...]) -> float:
            return sum(worth[tuple(sorted(group))] for group in groups)

        others = plans if complete else [drawn(NAMES, SIZES, random) for _ in range(99)]
        plan = drawn(NAMES, SIZES, random)
        return standing(total(plan), [total(each) for each in others], complete=complete).p

    return p


FALSE: dict[str, Callable[[Random, int], float]] = {
    "paired t of 9 items": _no_difference(paired_t),
    "Wilcoxon of 9 items": _no_difference(wilcoxon),
    "keeps 99 %, which is just not so": _just_less,
    "any of five tests, after Holm": _family,
    "permutations of 9 items": _unrelated(9),
    "permutations of 6 items, exact": _unrelated(6),
    "a plan among all plans of its sizes": _random_plan(True),
    "a plan among 99 random plans": _random_plan(False),
    "permutations of 9 items, after taking away the items": _after_items(0.0),
}


# Something is there, and a test may find it.


def _there() -> dict[str, Callable[[Random, int], float]]:
    return {
        f"the same, where they correlate by {_known(effect, apart=True):.2f}": _after_items(effect)
        for effect in (0.4, 0.6, 0.8, 1.2)
    }


if __name__ == "__main__":
    main()
