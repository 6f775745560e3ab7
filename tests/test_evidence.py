"""Intervals, tests and controls: against other implementations, and by what they must satisfy."""

from dataclasses import astuple
from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from gwsmm.evidence.association import Association, spearman, without_items
from gwsmm.evidence.bootstrap import Bootstrap, difference, mean, ratio
from gwsmm.evidence.control import Control
from gwsmm.evidence.counting import LABEL_KAPPAS, MEASUREMENT, METRICS, ORDINAL, ahead
from gwsmm.evidence.testing import holm, keeps, paired_t, wilcoxon
from gwsmm.items.ordinal import encode
from gwsmm.metrics import score
from gwsmm.study import estimates
from gwsmm.study.estimates import item_change, over_responses
from gwsmm.types import partition

NEAR = 1e-9
BOOTSTRAP = Bootstrap(repeats=500, level=0.95, seed=0)
ASSOCIATION = Association(draws=2000, level=0.95, seed=0)
FEW = settings(max_examples=25, deadline=None, derandomize=True)


def rated(seed, n=60, labels=4, right=0.8):
    random = np.random.default_rng(seed)
    truth = (random.random((n, labels)) < 0.4).astype(np.uint8)
    wrong = random.random((n, labels)) > right
    return truth, np.where(wrong, 1 - truth, truth).astype(np.uint8)


@FEW
@given(seed=st.integers(0, 10_000), labels=st.integers(1, 6), n=st.integers(2, 50))
def test_metrics_as_sums_are_those_of_the_evaluation(seed, labels, n):
    truth, said = rated(seed, n, labels)
    wanted = score(truth, said).as_dict()
    for name, metric in METRICS.items():
        assert metric.of(truth, said) == pytest.approx(wanted[name], abs=1e-6)  # torchmetrics: fp32


@FEW
@given(seed=st.integers(0, 10_000), most=st.integers(1, 5))
def test_kappas_are_those_of_scikit_learn(seed, most):
    random = np.random.default_rng(seed)
    rated, said = random.integers(0, most + 1, size=(2, 80))
    rated[:2], said[:2] = [0, most], [most, 0]  # every side varies
    for name, weights in (("qwk", "quadratic"), ("kappa", None)):
        found = ORDINAL[name].of(encode(rated, most), encode(said, most))
        wanted = cohen_kappa_score(rated, said, weights=weights, labels=range(most + 1))
        assert found == pytest.approx(wanted, abs=NEAR)


def test_kappa_of_labels():
    truth, said = rated(1)

    def kappas() -> np.ndarray:
        return LABEL_KAPPAS.value(LABEL_KAPPAS.counts(truth, said).sum(axis=0))

    each = kappas()
    for i, found in enumerate(each):
        assert found == pytest.approx(cohen_kappa_score(truth[:, i], said[:, i]), abs=NEAR)
    assert MEASUREMENT["label_kappa"].of(truth, said) == pytest.approx(np.mean(each), abs=NEAR)
    truth[:, 0], said[:, 0] = 0, 0  # a label that nobody gives has no kappa
    assert np.isnan(kappas()[0])
    mean = MEASUREMENT["label_kappa"].of(truth, said)
    assert mean == pytest.approx(np.mean(each[1:]), abs=NEAR)
    assert np.isnan(MEASUREMENT["label_kappa"].of(truth[:, :1], said[:, :1]))


@FEW
@given(seed=st.integers(0, 10_000))
def test_a_group_is_ahead_by_the_difference_of_its_metric_and_that_of_the_others(seed):
    truth, said = rated(seed)
    inside = np.random.default_rng(seed).random((len(truth), 1)) < 0.3
    marked = [np.hstack([each, inside]).astype(np.uint8) for each in (truth, said)]
    here = inside[:, 0]
    for metric in (*METRICS.values(), *MEASUREMENT.values()):
        wanted = metric.of(truth[here], said[here]) - metric.of(truth[~here], said[~here])
        assert ahead(metric).of(*marked) == pytest.approx(wanted, abs=NEAR, nan_ok=True)
    for nobody in (here, ~here):  # a group is ahead of nobody, and nobody of a group
        alone = [each[nobody] for each in marked]
        assert np.isnan(ahead(METRICS["micro_f1"]).of(*alone))


def test_the_standardised_difference_of_scores():
    random = np.random.default_rng(3)
    rated, said = random.integers(0, 4, size=(2, 200))
    found = MEASUREMENT["smd"].of(encode(rated, 3), encode(said, 3))
    spread = np.sqrt((rated.var() + said.var()) / 2)
    assert found == pytest.approx((said.mean() - rated.mean()) / spread, abs=NEAR)
    assert MEASUREMENT["smd"].of(encode(rated, 3), encode(rated, 3)) == 0
    always = [encode(np.full(5, score), 3) for score in (0, 2)]
    assert MEASUREMENT["smd"].of(always[1], always[1]) == 0
    assert np.isnan(MEASUREMENT["smd"].of(*always))  # no spread to measure it by


def test_one_response_has_no_interval():
    truth, said = rated(5, n=1)
    found = BOOTSTRAP.over_responses(METRICS["micro_f1"], truth, [truth, said], difference)
    assert np.isnan([found.low, found.high]).all()
    assert found.value <= 0


# Tests over items.


@FEW
@given(seed=st.integers(0, 10_000), n=st.integers(5, 40))
def test_the_tests_are_scipys_and_know_the_trivial_cases(seed, n):
    one, other = np.random.default_rng(seed).normal(size=(2, n))
    assert paired_t(one, other) == pytest.approx(stats.ttest_rel(one, other).pvalue, abs=NEAR)
    assert wilcoxon(one, other) == pytest.approx(stats.wilcoxon(one, other).pvalue, abs=NEAR)
    kept = stats.ttest_1samp(other - 0.99 * one, 0, alternative="greater").pvalue
    assert keeps(one, other, 0.99) == pytest.approx(kept, abs=NEAR)
    assert paired_t(one, one) == wilcoxon(one, one) == 1
    assert paired_t(one, one + 1) == 0
    assert keeps(np.ones(n), np.ones(n), 0.99) == 0
    assert keeps(np.ones(n), np.full(n, 0.98), 0.99) == 1


@FEW
@given(seed=st.integers(0, 10_000), items=st.integers(2, 20), n=st.integers(20, 300))
def test_differences_that_only_single_precision_tells_apart_are_tied(seed, items, n):
    random = np.random.default_rng(seed)
    right, change = random.integers(5, n - 5, items), random.integers(-2, 3, items)
    one, other = (np.float64(np.float32(each) / np.float32(n)) for each in (right, right + change))
    assert wilcoxon(one, other) == wilcoxon(np.zeros(items), change.astype(float))


def test_signed_ranks_with_ties_as_worked_out_by_hand():
    # of 2⁴ signs of the ranks 2, 2, 2, 4 two are as far from the middle: all + and all −
    assert wilcoxon(np.zeros(5), np.array([1, 1, 1, 2, 0.0])) == pytest.approx(2 / 16)


def test_holm_as_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    with_gap = holm([0.01, float("nan"), 0.02])
    assert with_gap[0] == pytest.approx(0.02)
    assert np.isnan(with_gap[1])
    assert holm([]) == []


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(0).random(20) ** 3
    wanted = multitest.multipletests(p, method="holm")[1]
    np.testing.assert_allclose(holm(p), wanted, rtol=0, atol=NEAR)


# Intervals.


def test_an_interval_over_responses_agrees_with_scipys_bootstrap():
    truth, said = rated(5, n=300)
    accuracy = METRICS["label_accuracy"]
    found = BOOTSTRAP.over_responses(accuracy, truth, [said], lambda m: m[..., 0])
    right = (truth == said).mean(axis=1)
    wanted = stats.bootstrap((right,), np.mean, rng=1, method="percentile").confidence_interval
    assert found.value == pytest.approx(right.mean())
    assert found.low == pytest.approx(wanted.low, abs=0.004)
    assert found.high == pytest.approx(wanted.high, abs=0.004)


def test_models_that_say_the_same_do_not_differ():
    truth, said = rated(6)
    found = BOOTSTRAP.over_responses(METRICS["micro_f1"], truth, [said, said], difference)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    values = np.repeat(np.random.default_rng(0).random((9, 1)), 2, axis=1)
    kept = BOOTSTRAP.over_items(values, np.arange(1.0, 10), ratio)
    assert (kept.value, kept.low, kept.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("items", [3, 5, 12])
def test_an_interval_over_items_is_students(items):
    values = np.random.default_rng(2).normal(size=(items, 1))
    found = Bootstrap(repeats=20_000, level=0.95, seed=1).over_items(
        values, np.ones(items), lambda m: m[..., 0]
    )
    wanted = stats.ttest_1samp(values[:, 0], 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=0.02, abs=0.02)


def test_runs_count_the_same_and_each_by_its_own_items():
    random = np.random.default_rng(3)
    values, weights = random.random((2, 6, 1)), random.random((2, 6))
    weights[0, :2] = weights[1, 4:] = 0
    found = BOOTSTRAP.over_items_of_runs(values, weights, lambda m: m[..., 0])
    each = [np.average(v, weights=w) for v, w in zip(values[..., 0], weights, strict=True)]
    assert found.value == pytest.approx(np.mean(each))
    twice = BOOTSTRAP.over_items_of_runs(
        np.concatenate([values, values]), np.concatenate([weights, weights]), lambda m: m[..., 0]
    )
    assert astuple(twice) == pytest.approx(astuple(found))


def test_seeds_that_score_the_same_responses_are_drawn_together():
    random = np.random.default_rng(4)
    truth, _ = rated(8, n=100)

    def run(truth):
        models = [truth ^ (random.random(truth.shape) < error) for error in (0.1, 0.2)]
        said = dict(zip(("individual", "merged"), models, strict=True)) | {"truth": truth}
        return SimpleNamespace(decisions=lambda item: said)

    def ends(*runs):
        found = item_change(runs, "apples", "label_accuracy")
        assert found.low < found.value < found.high
        return astuple(found)

    one, other, elsewhere = run(truth), run(truth), run(truth[::-1])
    assert ends(one, one) == pytest.approx(ends(one))
    apart = np.mean([ends(one), ends(other)], axis=0)
    value, low, high = ends(one, other)
    assert value == pytest.approx(apart[0])
    assert apart[1] < low < high < apart[2]
    # other responses: the mean of each end
    assert ends(one, elsewhere) == pytest.approx(np.mean([ends(one), ends(elsewhere)], axis=0))


def test_of_two_items_there_is_no_interval():
    found = BOOTSTRAP.over_items(np.ones((2, 1)), np.ones(2), lambda m: m[..., 0])
    assert found.value == 1
    assert np.isnan([found.low, found.high]).all()


def test_the_same_seed_gives_the_same_interval_and_more_confidence_a_wider_one():
    truth, said = rated(7)
    metric = METRICS["macro_f1"]

    def at(level):
        made = Bootstrap(repeats=500, level=level, seed=0)
        return made.over_responses(metric, truth, [said], lambda m: m[..., 0])

    assert at(0.9) == at(0.9)
    assert at(0.99).low < at(0.9).low < at(0.9).high < at(0.99).high


# Whether distances predict.


def symmetric(seed, n=7):
    values = np.random.default_rng(seed).random((n, n))
    return np.triu(values, 1) + np.triu(values, 1).T


def test_the_rank_correlation_is_scipys_of_the_pairs():
    one, other = symmetric(0), symmetric(1)
    above = np.triu_indices(7, 1)
    wanted = stats.spearmanr(one[above], other[above]).statistic
    assert spearman(one, other) == pytest.approx(wanted, abs=NEAR)
    assert spearman(one, one**3) == pytest.approx(1)
    assert np.isnan(spearman(one, np.ones((7, 7))))


def test_the_permutation_test_counts_permutations_of_items():
    one, other = symmetric(0, 5), symmetric(1, 5)
    found = ASSOCIATION.mantel(one, other)
    observed = abs(spearman(one, other))
    extreme = [
        abs(spearman(one[np.ix_(order, order)], other)) >= observed - 1e-12
        for order in permutations(range(5))
    ]
    assert found == pytest.approx(np.mean(extreme))
    assert ASSOCIATION.mantel(one, one) <= 2 / 120
    drawn = Association(draws=100, level=0.95, seed=0).mantel(one, one)
    assert 1 / 101 <= drawn < 0.1


def test_what_items_add_is_taken_away():
    random = np.random.default_rng(4)
    items, who = random.normal(size=6), 0.01 * symmetric(5, 6)
    added = items[:, None] + items + who
    left = without_items(added - np.diag(added.diagonal()))
    assert left == pytest.approx(without_items(who), abs=1e-9)
    assert without_items(items[:, None] + items) == pytest.approx(0, abs=1e-9)
    assert left.sum(axis=1) == pytest.approx(0, abs=1e-9)
    assert (left == left.T).all()


def test_pairs_that_are_equally_far_apart_stay_so_without_their_items():
    groups = np.array([0, 0, 0, 1, 1, 1, 1])
    far = (groups[:, None] != groups).astype(float)
    left = without_items(far)[np.triu_indices(7, 1)]
    assert len(np.unique(left)) == 3  # inside one, inside the other, between the two
    assert np.isnan(spearman(without_items(np.ones((7, 7)) - np.eye(7)), symmetric(1)))
    assert np.isnan(spearman(without_items(np.zeros((7, 7))), symmetric(1)))


def test_an_interval_of_a_correlation_holds_it_and_needs_five_items():
    one = symmetric(2, 9)
    noisy = one + 0.5 * symmetric(3, 9)
    found = ASSOCIATION.interval(one, noisy)
    assert -1 <= found.low < found.value < found.high <= 1
    assert found.value == spearman(one, noisy)
    few = ASSOCIATION.interval(one[:4, :4], noisy[:4, :4])
    assert np.isnan([few.low, few.high]).all()


# Controls.

NAMES = tuple("abcdefg")


def control(**fields):
    return Control(
        **({"sizes": (2,), "plans": 1000, "most": 1000, "drift": True, "seed": 0} | fields)
    )


def plan(*groups):
    return partition([list(group) for group in groups], NAMES, "test")


def test_all_plans_of_the_same_sizes_where_they_are_few():
    found = control()(plan("abc", "de", "f", "g"), NAMES)
    assert found.all_plans
    assert len(found.plans) == len(set(found.plans)) == 35 * 6
    assert plan("abc", "de", "f", "g").groups in found.plans
    assert {*combinations(NAMES, 2), *combinations(NAMES, 3)} == set(found.groups)


@pytest.mark.parametrize("limits", [{"plans": 50}, {"most": 20}])
def test_drawn_plans_where_they_are_many(limits):
    found = control(**limits)(plan("abc", "de", "f", "g"), NAMES)
    assert not found.all_plans
    assert 0 < len(found.plans) <= limits.get("plans", 209)
    merged = {group for each in found.plans for group in each if len(group) > 1}
    assert len(merged) <= limits.get("most", 1000)
    assert merged | {("a", "b", "c"), ("d", "e")} <= set(found.groups)
    assert all(sorted(map(len, each)) == [1, 1, 2, 3] for each in found.plans)


@pytest.mark.parametrize("seed", range(4))
def test_the_plan_itself_is_not_among_drawn_plans(seed):
    pair = plan("ab", *"cdefg")
    found = control(plans=20, seed=seed)(pair, NAMES)
    assert not found.all_plans
    assert pair.groups not in found.plans
    assert len(found.plans) == 20  # the others are


@pytest.mark.parametrize("groups", [["abcdefg"], list("abcdefg")])
def test_a_plan_that_has_no_other_of_its_sizes_has_no_controls(groups):
    found = control(sizes=())(plan(*groups), NAMES)
    assert found.groups == found.plans == ()


def test_nothing_is_tried_that_was_not_asked_for():
    found = control(sizes=(), plans=0)(plan("abc", "defg"), NAMES)
    assert found.groups == ()


@pytest.mark.parametrize("most", [1, 1 << 16])
def test_what_is_remembered_of_decisions_is_what_they_say(monkeypatch, most):
    monkeypatch.setattr(estimates, "_known", {})
    monkeypatch.setattr(estimates, "_MOST", most)
    some, others, wider = rated(1), rated(2), rated(3, labels=5)
    asked = [
        (METRICS[metric], [(truth, [said, truth][:models])], statistic)
        for truth, said in (some, others, wider, some)
        for metric in ("micro_f1", "exact_match")
        for models, statistic in ((1, mean), (2, mean), (2, difference))
    ]
    once = [over_responses(*each) for each in asked]
    assert len({astuple(each) for each in once}) == len(asked) * 3 // 4
    assert len(estimates._known) <= most
    # transposed in memory, the same decisions
    again = [
        over_responses(metric, [(np.asfortranarray(truth), models)], statistic)
        for metric, [(truth, models)], statistic in asked
    ]
    assert again == once
    for (metric, [(truth, models)], statistic), found in zip(asked, once, strict=True):
        assert found == estimates.BOOTSTRAP.over_responses(metric, truth, models, statistic)
