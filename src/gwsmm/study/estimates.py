"""Overall figures with their intervals, and what tells conditions apart, over the items."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from hashlib import sha256

import numpy as np

from gwsmm.evidence.bootstrap import Bootstrap, Interval, difference, gain, mean, ratio
from gwsmm.evidence.counting import METRICS, Decisions, Metric
from gwsmm.evidence.testing import holm, keeps, paired_t, wilcoxon
from gwsmm.study.conditions import Condition, Numbers
from gwsmm.study.reading import RunFolder

Statistic = Callable[[Numbers], Numbers]
Seeds = Sequence[tuple[Decisions, Sequence[Decisions]]]
"""Of every seed the truth [n, L] and what is held against it."""
BOOTSTRAP = Bootstrap(repeats=2000, level=0.95, seed=0)
LEVEL = 0.05
ENOUGH = 0.99
"""The share of the individual score of which it is tested whether it is kept."""

_known: dict[tuple[Metric, Statistic, str], list[Interval]] = {}
"""What was found of decisions, by their content: the runs of a sweep share their individual models,
and its report asks for what every run's asked for."""
_MOST = 1 << 16  # that are remembered


def mean_over_items(condition: Condition, model: str, metric: str) -> Interval:
    """Of a model, weighted by responses; the interval draws items."""
    values = condition.scores(model, metric)[:, None]
    found = BOOTSTRAP.over_items(values, condition.responses, lambda means: means[..., 0])
    return _score(replace(found, value=float(condition.overall(model, metric).mean())))


def share_kept(condition: Condition, metric: str) -> Interval:
    """Merged as a share of individual, both weighted by responses; the interval draws items."""
    both = np.stack([condition.scores(m, metric) for m in ("individual", "merged")], axis=1)
    return BOOTSTRAP.over_items(both, condition.responses, ratio)


def gain_kept(condition: Condition, frozen: Condition, metric: str) -> Interval:
    """What merging keeps of what fine-tuning gained, over heads on the pretrained encoder.

    (merged − frozen) / (individual − frozen), all weighted by responses; nan where fine-tuning
    gained nothing. The interval draws items.

    Args:
        condition: whose gain it is.
        frozen: the control, with at least the same seeds; see `Condition.frozen`.
        metric: of all three.
    """
    control = frozen.at(condition.seeds).scores("merged", metric)
    three = [control, *(condition.scores(m, metric) for m in ("individual", "merged"))]
    return BOOTSTRAP.over_items(np.stack(three, axis=1), condition.responses, gain)


def mean_over_merged(condition: Condition, model: str, metric: str) -> Interval:
    """Of a model over the items that share an encoder; see `mean_over_items`."""
    values = condition.by_seed(model, metric)
    return _score(_over_merged(condition, [values], lambda means: means[..., 0]))


def share_kept_of_merged(condition: Condition, metric: str) -> Interval:
    """Merged as a share of individual over the items that share an encoder; see `share_kept`."""
    both = [condition.by_seed(model, metric) for model in ("individual", "merged")]
    return _over_merged(condition, both, ratio)


def gain_kept_of_merged(condition: Condition, frozen: Condition, metric: str) -> Interval:
    """The gain that is kept over the items that share an encoder; see `gain_kept`."""
    control = frozen.at(condition.seeds).by_seed("merged", metric)
    three = [control, *(condition.by_seed(m, metric) for m in ("individual", "merged"))]
    return _over_merged(condition, three, gain)


def _score(found: Interval) -> Interval:
    """The interval of what lies between 0 and 1."""
    low, high = np.clip([found.low, found.high], 0, 1)
    return Interval(found.value, float(low), float(high))


def _over_merged(condition: Condition, models: Sequence[Numbers], statistic: Statistic) -> Interval:
    """Items that some seed merged are drawn; each seed's mean is over those of its own.

    Args:
        condition: every seed of which merged some items.
        models: [seeds, N] of each of m.
        statistic: of the means over the seeds [..., m].
    """
    here = condition.merged.any(axis=0)
    weights = condition.merged * condition.by_seed("merged", "responses")
    values = np.stack(models, axis=-1)
    return BOOTSTRAP.over_items_of_runs(values[:, here], weights[:, here], statistic)


def over_responses(metric: Metric, seeds: Seeds, statistic: Statistic) -> Interval:
    """Of one item; responses are drawn, the same for all models.

    Of several seeds the mean, over those of which it is known; where they score the same
    responses, these are drawn once for all. Of seeds with test responses of their own, some of
    which they have in common, it is the mean of each end, which is too wide rather than too narrow.

    Args:
        metric: of each model.
        seeds: of each the truth [n, L] and what the models decided.
        statistic: of the models' metrics [..., m], of one seed, or of several in turn.
    """
    (found,) = each_over_responses(metric, seeds, _Alone(statistic))
    return found


@dataclass(frozen=True)
class _Alone:
    """A statistic as the only one of several figures."""

    statistic: Statistic

    def __call__(self, values: Numbers) -> Numbers:
        return self.statistic(values)[..., None]


def each_over_responses(metric: Metric, seeds: Seeds, statistic: Statistic) -> list[Interval]:
    """The same of several figures at once; see `Bootstrap.each_over_responses`."""
    key = metric, statistic, _content(seeds)
    if key not in _known:
        if len(_known) == _MOST:
            _known.clear()
        _known[key] = _over_responses(metric, seeds, statistic)
    return list(_known[key])


def _content(seeds: Seeds) -> str:
    """A hash of the truth and the decisions of every seed."""
    seen = sha256()
    for truth, models in seeds:
        for each in (truth, *models):
            seen.update(f"{len(models)} {each.dtype} {each.shape} ".encode())
            seen.update(np.ascontiguousarray(each).data)
    return seen.hexdigest()


def _over_responses(metric: Metric, seeds: Seeds, statistic: Statistic) -> list[Interval]:
    first, _ = seeds[0]
    same = all(np.array_equal(truth, first) for truth, _ in seeds)
    drawn = [(first, [said for _, models in seeds for said in models])] if same else seeds
    found = [BOOTSTRAP.each_over_responses(metric, *part, statistic) for part in drawn]
    ends = np.array([[astuple(each) for each in part] for part in found])  # [seeds, q, 3]
    return [Interval(*each) for each in mean(np.moveaxis(ends, 0, -1)).tolist()]


def item_change(runs: Sequence[RunFolder], item: str, metric: str) -> Interval:
    """Merged minus individual of one item; see `over_responses`."""
    each = [run.decisions(item) for run in runs]
    seeds = [(own["truth"], [own["individual"], own["merged"]]) for own in each]
    return over_responses(METRICS[metric], seeds, difference)


@dataclass(frozen=True)
class Comparison:
    """A condition against another one, over the items.

    Attributes:
        change: in the weighted mean.
        t: p-value of the paired t-test: the paper's.
        wilcoxon: p-value of the signed-rank test.
        t_holm: `t`, adjusted for all that are compared in one table.
        wilcoxon_holm: likewise.
    """

    change: Interval
    t: float
    wilcoxon: float
    t_holm: float
    wilcoxon_holm: float


def compared(
    pairs: Sequence[tuple[Numbers, Numbers]], responses: Sequence[Numbers]
) -> list[Comparison]:
    """Of pairs of item scores [N], the second against the first; p-values adjusted over all.

    Args:
        pairs: what is compared.
        responses: [N] for each pair, the weights of the means.
    """
    t = [paired_t(one, other) for one, other in pairs]
    signed = [wilcoxon(one, other) for one, other in pairs]
    changes = [
        BOOTSTRAP.over_items(np.stack(pair, axis=1), weights, difference)
        for pair, weights in zip(pairs, responses, strict=True)
    ]
    return [
        Comparison(*each) for each in zip(changes, t, signed, holm(t), holm(signed), strict=True)
    ]


def kept_enough(conditions: Sequence[Condition], metrics: Sequence[str]) -> list[list[float]]:
    """Per metric, of every condition the p-value of keeping less than 99 % of the individual score.

    Holm's adjustment over all of them.
    """
    adjusted = holm(
        [
            keeps(c.scores("individual", metric), c.scores("merged", metric), ENOUGH)
            for metric in metrics
            for c in conditions
        ]
    )
    return [adjusted[at : at + len(conditions)] for at in range(0, len(adjusted), len(conditions))]
