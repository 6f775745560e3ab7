"""Fused Gromov-Wasserstein, and fused with features suppressed: what both must keep to."""

import warnings
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import ot
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.spatial.distance import cdist, pdist, squareform

from gwsmm import comparing
from gwsmm.distance import gw_fused, gw_fused_select
from gwsmm.distance.gw_fused import GwFused, common_scale, feature_cost, starting_plan
from gwsmm.distance.gw_fused_select import GwFusedSelect, cost_by_feature, suppression
from gwsmm.distance.subjects import CloudWithFeatures
from gwsmm.execute import Serial
from gwsmm.features import Features, own_responses
from gwsmm.store import Store
from gwsmm.types import Cloud, InputError

FUSED = GwFused(
    cost="euclidean",
    normalisation="mean",
    quantity="loss",
    alpha=0.5,
    features="embedding",
    starts=("product", "wasserstein", "profiles"),
)
LASSO = GwFusedSelect(
    cost="euclidean",
    normalisation="mean",
    quantity="loss",
    alpha=0.5,
    features="embedding",
    starts=("product", "wasserstein", "profiles"),
    penalty="lasso",
    strength=0.05,
    budget=2.0,
    groups=1,
    max_iterations=50,
)
SELECTING = {
    "lasso": LASSO,
    "ridge": replace(LASSO, penalty="ridge"),
    "simplex": replace(LASSO, penalty="simplex", strength=0.0),
    "simplex with ridge": replace(LASSO, penalty="simplex"),
    "groups": replace(LASSO, groups=((0, 2),)),
}
BOTH = {"fused": FUSED, "lasso": LASSO}
FEW = settings(max_examples=6, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10_000)
EQUAL, LESS = 1e-9, 1e-12


@pytest.fixture(params=BOTH.values(), ids=BOTH, scope="module")
def either(request):
    return request.param


@pytest.fixture(params=SELECTING.values(), ids=SELECTING, scope="module")
def selecting(request):
    return request.param


def subject(seed, n=8, d=3, k=4, shift=0.0, name="an item"):
    """A cloud without symmetries, with features around `shift`."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(n, d)) * np.arange(1, d + 1)
    return made(points, random.normal(size=(n, k)) + shift, name=name)


def made(points, features, weights=None, name="an item"):
    even = np.full(len(points), 1 / len(points))
    return CloudWithFeatures(Cloud(name, points, even if weights is None else weights), features)


def both(distance, a, b):
    return distance.prepare(a), distance.prepare(b)


def between(distance, a, b):
    return distance(*both(distance, a, b))


def feature_costs(a, b):
    return feature_cost(*common_scale(a, b))


def picked(each, rows, weights=None):
    return made(each.cloud.points[rows], each.features[rows], weights)


def least_structure(a, b):
    """The least GW loss of two even clouds of like size, which is at a permutation.

    With Euclidean costs the objective is concave over the couplings.
    """
    n = len(a.space.weights)
    return min(
        np.mean((a.space.costs - b.space.costs[np.ix_(order, order)]) ** 2)
        for order in map(list, permutations(range(n)))
    )


# Both strategies.


@FEW
@given(seed=SEEDS)
def test_not_negative_symmetric_and_zero_to_itself(either, seed):
    a, b = subject(seed), subject(seed + 1, 11)
    there, back = between(either, a, b), between(either, b, a)
    assert there.value > 1e-3
    assert there.value == pytest.approx(back.value, rel=1e-7)
    assert between(either, a, a).value == pytest.approx(0, abs=EQUAL)
    assert there.converged
    assert there.iterations >= 1
    assert there.starts == 3
    assert there.spread >= 0
    assert there.marginal_error < EQUAL


@pytest.mark.parametrize("seed", range(4))
def test_features_that_many_responses_share_leave_it_symmetric(either, seed):
    random = np.random.default_rng(seed)
    a, b = (made(random.normal(size=(n, 3)), 1.0 * (random.random((n, 2)) < 0.4)) for n in (25, 21))
    assert between(either, a, b).value == between(either, b, a).value


def test_what_does_not_change_the_value(either):
    random = np.random.default_rng(0)
    a, b = subject(1, 9), subject(2, 7)
    value = between(either, a, b).value
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    moved = made(a.cloud.points @ rotation + 5, a.features)
    assert between(either, moved, b).value == pytest.approx(value, rel=1e-6)
    shuffled = picked(a, random.permutation(9))
    assert between(either, shuffled, b).value == pytest.approx(value, rel=1e-6)
    assert between(either, shuffled, a).value == pytest.approx(0, abs=EQUAL)
    away = [made(each.cloud.points, each.features + 7) for each in (a, b)]
    assert between(either, *away).value == pytest.approx(value, rel=1e-6)


def test_equal_distances_with_other_features_are_no_zero(either):
    a = subject(1)
    other = made(a.cloud.points, np.random.default_rng(9).normal(size=a.features.shape))
    assert between(either, a, other).value > 1e-3


def test_duplicated_points_are_heavier_points(either):
    a = subject(1, 6)
    twice = picked(a, [0, 0, 1, 2, 3, 4, 5], np.array([0.5, 0.5, 1, 1, 1, 1, 1]) / 6)
    plain = replace(either, normalisation="none")  # a mean over pairs counts points, not weight
    assert between(plain, twice, a).value == pytest.approx(0, abs=EQUAL)
    heavy = picked(a, range(6), np.array([2, 1, 1, 1, 1, 1]) / 7)
    assert between(plain, heavy, picked(a, [0, 0, 1, 2, 3, 4, 5])).value < 1e-9


def test_degenerate_clouds(either):
    a, alone = subject(1), subject(2, 1)
    constant = picked(subject(3, 1), [0] * 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x, y in ((alone, alone), (constant, constant)):
            assert between(either, x, y).value == 0
        for x, y in ((a, alone), (constant, a), (alone, constant)):
            found = between(either, x, y)
            assert np.isfinite(found.value)
            assert found.value > 0
            assert found.converged
            assert np.isfinite(found.spread)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_with_item_and_row(either, wrong):
    for place in ("points", "features"):
        a = subject(1, name="dry_ice")
        (a.cloud.points if place == "points" else a.features)[4, 2] = wrong
        with pytest.raises(InputError, match=r"'dry_ice'.* response 4"):
            either.prepare(a)


def test_the_root_is_that_of_the_loss(either):
    a, b = subject(1), subject(2)
    loss, root = between(either, a, b), between(replace(either, quantity="root"), a, b)
    assert root.value == pytest.approx(np.sqrt(loss.value))
    titles = [replace(x, quantity=q).title for x in BOTH.values() for q in ("loss", "root")]
    assert len(set(titles)) == 4


@pytest.mark.parametrize(
    "wrong", [{"alpha": 1.1}, {"alpha": -0.1}, {"starts": ()}, {"starts": ("random",)}]
)
def test_wrong_settings_are_refused(either, wrong):
    with pytest.raises(ValidationError):
        replace(either, **wrong)


def test_normalised_costs_do_not_see_the_scale_of_both_spaces(either):
    a, b = subject(1), subject(2)
    larger = [made(3 * each.cloud.points, 5 * each.features) for each in (a, b)]
    assert between(either, *larger).value == pytest.approx(between(either, a, b).value, rel=1e-6)
    raw = replace(either, normalisation="none")
    assert between(raw, *larger).value > 2 * between(raw, a, b).value


def test_features_are_scaled_by_their_mean_within_the_two_clouds():
    a, b = subject(1), subject(2, shift=3.0)
    x, y = common_scale(*both(FUSED, a, b))
    within = [np.mean(cdist(each, each, "sqeuclidean")) for each in (x, y)]
    assert np.mean(within) == pytest.approx(1)
    raw = cdist(a.features, b.features, "sqeuclidean")
    np.testing.assert_allclose(feature_cost(x, y) / raw, (feature_cost(x, y) / raw)[0, 0])


# Fused.


@pytest.mark.parametrize("start", ["product", "wasserstein", "profiles"])
def test_alpha_one_is_gromov_wasserstein_from_the_same_start(start):
    distance = replace(FUSED, alpha=1.0, starts=(start,))
    a, b = both(distance, subject(1), subject(2, 11))
    first = starting_plan(start, a, b, feature_costs(a, b))
    wanted = ot.gromov.gromov_wasserstein2(
        a.space.costs, b.space.costs, a.space.weights, b.space.weights, G0=first
    )
    assert distance(a, b).value == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("start", ["product", "wasserstein", "profiles"])
def test_alpha_zero_is_the_wasserstein_cost_of_the_features(start):
    distance = replace(FUSED, alpha=0.0, starts=(start,))
    a, b = both(distance, subject(1), subject(2, 11))
    wanted = ot.emd2(a.space.weights, b.space.weights, feature_costs(a, b))
    found = distance(a, b)
    assert found.value == pytest.approx(wanted)
    assert found.bound == pytest.approx(wanted)


@FEW
@given(seed=SEEDS, alpha=st.floats(0.05, 0.95))
def test_the_value_lies_between_its_bound_and_every_coupling(seed, alpha):
    distance = replace(FUSED, alpha=alpha)
    a, b = both(distance, subject(seed, 6), subject(seed + 1, 6))
    cost = feature_costs(a, b)
    found = distance(a, b)
    # Each term alone is at least its own minimum, and the sum is at most that of a start.
    least = (1 - alpha) * ot.emd2(a.space.weights, b.space.weights, cost)
    assert found.bound == pytest.approx(least)
    assert found.value >= least + alpha * least_structure(a, b) - LESS
    for start in distance.starts:
        plan = starting_plan(start, a, b, cost)
        gap = (a.space.costs[:, None, :, None] - b.space.costs[None, :, None, :]) ** 2
        structure = np.einsum("ijkl,ij,kl", gap, plan, plan)
        assert found.value <= (1 - alpha) * np.sum(cost * plan) + alpha * structure + LESS


def test_more_starts_never_give_more():
    a, b = subject(3, 12), subject(4, 12)
    alone = [between(replace(FUSED, starts=(s,)), a, b).value for s in FUSED.starts]
    found = between(FUSED, a, b)
    assert found.value == min(alone)
    assert found.spread == pytest.approx((max(alone) - min(alone)) / min(alone))


def test_the_root_keeps_the_triangle_inequality():
    """Of the global minimum, which the Wasserstein start finds where features say the coupling."""
    distance = replace(FUSED, normalisation="none", quantity="root")
    random, far = np.random.default_rng(0), 50 * np.eye(6)
    three = [made(random.normal(size=(6, 2)), far + random.normal(size=(6, 6))) for _ in range(3)]
    ab, bc, ac = (between(distance, three[i], three[j]).value for i, j in ((0, 1), (1, 2), (0, 2)))
    assert ac <= ab + bc + LESS
    assert ab <= ac + bc + LESS
    assert bc <= ab + ac + LESS


def test_profiles_are_quantiles_that_weights_count_in():
    a = subject(1, 6)
    twice = picked(a, [0, 0, 1, 2, 3, 4, 5])
    heavy = picked(a, range(6), np.array([2, 1, 1, 1, 1, 1]) / 7)
    plain = replace(FUSED, normalisation="none")
    one, other = (plain.prepare(each).profiles for each in (twice, heavy))
    np.testing.assert_allclose(one[1:], other)
    assert one.shape == (7, 100)
    costs = np.sort(squareform(pdist(a.cloud.points))[3])
    assert set(plain.prepare(a).profiles[3].round(9)) == set(costs.round(9))


def test_a_descent_that_ends_at_its_limit_is_not_converged(monkeypatch):
    monkeypatch.setattr(gw_fused, "_MAX_ITERATIONS", 1)
    assert not between(FUSED, subject(1, 20), subject(2, 20)).converged
    assert not between(LASSO, subject(1, 20), subject(2, 20)).converged


# With suppressed features.


def selections(distance, a, b):
    cost = feature_costs(a, b)
    return [distance.select(a, b, starting_plan(start, a, b, cost)) for start in distance.starts]


@FEW
@given(seed=SEEDS, strength=st.floats(0, 0.3))
def test_the_objective_never_rises_and_is_that_of_the_end(selecting, seed, strength):
    if selecting.strength:
        selecting = replace(selecting, strength=strength)
    a, b = both(selecting, subject(seed, 7), subject(seed + 1, 9, shift=0.5))
    for found in selections(selecting, a, b):
        assert len(found.trace) >= 3
        assert (np.diff(found.trace) <= LESS).all()
        plan, kept = found.solution.plan, 1 - found.weights
        x, y = common_scale(a, b)
        groups = np.unique(selecting.group_of(4), return_index=True)[1]
        w = found.weights[groups]
        penalty = w.sum() if selecting.penalty == "lasso" else (w**2).sum()
        gap = (a.space.costs[:, None, :, None] - b.space.costs[None, :, None, :]) ** 2
        by_hand = 0.5 * sum(
            share * np.sum(cdist(x[:, [r]], y[:, [r]], "sqeuclidean") * plan)
            for r, share in enumerate(kept)
        )
        by_hand += 0.5 * np.einsum("ijkl,ij,kl", gap, plan, plan) + selecting.strength * penalty
        assert found.solution.loss == pytest.approx(by_hand)


@FEW
@given(seed=SEEDS)
def test_the_value_lies_between_the_structure_term_and_fused(selecting, seed):
    a, b = both(selecting, subject(seed, 6), subject(seed + 1, 6, shift=0.5))
    least = selecting.alpha * least_structure(a, b)
    for start in selecting.starts:
        one = replace(selecting, starts=(start,))
        found = one(a, b)
        assert found.value >= least - LESS
        assert np.isnan(found.bound)
        if selecting is not SELECTING["simplex with ridge"]:  # its penalty has to be paid
            assert found.value <= replace(FUSED, starts=(start,))(a, b).value + LESS


@pytest.mark.parametrize("penalty", ["lasso", "ridge"])
def test_a_penalty_without_limit_leaves_fused(penalty):
    strong = replace(LASSO, penalty=penalty, strength=1e9)
    a, b = both(strong, subject(1), subject(2, 11))
    assert strong(a, b).value == pytest.approx(FUSED(a, b).value, rel=1e-6)
    assert all(found.weights.max() < 1e-6 for found in selections(strong, a, b))


@pytest.mark.parametrize("penalty", ["lasso", "ridge"])
def test_without_penalty_the_structure_term_is_left(penalty):
    free = replace(LASSO, penalty=penalty, strength=0.0, alpha=0.3, starts=("wasserstein",))
    a, b = both(free, subject(1), subject(2, 11))
    cost = feature_costs(a, b)
    first = starting_plan("wasserstein", a, b, cost)
    fused = gw_fused.descend(a, b, cost, 0.3, first).plan
    wanted = ot.gromov.gromov_wasserstein2(
        a.space.costs, b.space.costs, a.space.weights, b.space.weights, G0=fused
    )
    (found,) = selections(free, a, b)
    assert found.weights.tolist() == [1] * 4
    assert free(a, b).value == pytest.approx(0.3 * wanted, rel=1e-6)


def test_the_weights_are_of_their_kind():
    a, b = both(LASSO, subject(1), subject(2, shift=0.5))
    for name, distance in SELECTING.items():
        for found in selections(distance, a, b):
            w = found.weights
            assert ((w >= 0) & (w <= 1)).all()
            if name == "lasso":
                assert set(w) <= {0.0, 1.0}
            if name.startswith("simplex"):
                assert w.sum() == pytest.approx(2.0)
            if name == "groups":
                assert w[0] == w[2]


def test_the_weights_of_a_listed_group_are_those_of_the_sum():
    costs = np.array([0.02, 0.5, 0.04, 0.01])
    distance = replace(LASSO, groups=((0, 2),), strength=0.05)
    group_of = distance.group_of(4)
    assert group_of.tolist() == [0, 1, 0, 2]
    summed = np.array([0.06, 0.5, 0.01])
    wanted = suppression(summed, "lasso", 0.05, 1.0)[group_of]
    assert wanted.tolist() == [1, 1, 1, 0]  # neither 0.02 nor 0.04 alone is above the strength
    assert suppression(costs, "lasso", 0.05, 1.0).tolist() == [0, 1, 0, 0]
    assert replace(LASSO, groups=3).group_of(7).tolist() == [0, 0, 0, 1, 1, 1, 2]


@FEW
@given(seed=SEEDS, strength=st.floats(0, 2), budget=st.floats(0.1, 7))
@example(seed=0, strength=1e-166, budget=1.5)
def test_no_other_weights_are_better(seed, strength, budget):
    random = np.random.default_rng(seed)
    costs = random.exponential(size=5) * (random.random(5) < 0.8)
    for penalty, power in (("lasso", 1), ("ridge", 2), ("simplex", 2)):
        w = suppression(costs, penalty, strength, budget)
        others = random.random((2000, 5)) ** random.choice([0.2, 1, 5], (2000, 1))
        if penalty == "simplex":
            total = min(budget, 5)
            assert w.sum() == pytest.approx(total)
            others *= total / others.sum(axis=1, keepdims=True)
            others = others[(others <= 1).all(axis=1)]
            blend = random.random((len(others), 1)) * 0.2
            others = blend * others + (1 - blend) * w
        objective = -(others @ costs) + strength * (others**power).sum(axis=1)
        own = -(w @ costs) + strength * (w**power).sum()
        assert (own <= objective + 1e-9).all()
        assert ((w >= 0) & (w <= 1)).all()


def test_the_simplex_gives_to_the_largest_and_a_rest_to_the_next():
    costs = np.array([0.1, 3.0, 2.0, 0.5])
    assert suppression(costs, "simplex", 0.0, 1.0).tolist() == [0, 1, 0, 0]
    assert suppression(costs, "simplex", 0.0, 2.5).tolist() == [0, 1, 1, 0.5]
    assert suppression(costs, "simplex", 0.0, 9.0).tolist() == [1, 1, 1, 1]
    assert suppression(costs, "simplex", 1.0, 9.0).tolist() == [1, 1, 1, 1]


def test_cost_by_feature_is_that_of_the_arrays():
    random = np.random.default_rng(0)
    x, y, plan = random.normal(size=(5, 3)) + 9, random.normal(size=(6, 3)), random.random((5, 6))
    plan /= plan.sum()
    wanted = [np.sum(cdist(x[:, [r]], y[:, [r]], "sqeuclidean") * plan) for r in range(3)]
    np.testing.assert_allclose(cost_by_feature(x, y, plan), wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"penalty": "lasso", "strength": 0.01},
        {"penalty": "simplex", "strength": 0.0, "budget": 1.0},
        {"penalty": "lasso", "strength": 0.01, "groups": ((1, 2),)},
    ],
    ids=str,
)
def test_a_feature_that_sets_two_equal_clouds_apart_is_suppressed(change):
    a = subject(1, 10)
    shifted = a.features.copy()
    shifted[:, 2] += 8
    order = np.random.default_rng(3).permutation(10)
    b = picked(made(a.cloud.points, shifted), order)
    distance = replace(LASSO, **change)
    one, other = both(distance, a, b)
    paid = distance.strength
    assert distance(one, other).value == pytest.approx(paid, abs=EQUAL)
    assert FUSED(one, other).value > 1
    best = min(selections(distance, one, other), key=lambda each: each.solution.loss)
    wanted = [0, 1, 1, 0] if "groups" in change else [0, 0, 1, 0]
    assert best.weights.tolist() == wanted


def test_a_shift_of_one_feature_costs_no_more_than_the_strength():
    """Ridge pays λ for a feature that it suppresses wholly, however far that feature is shifted."""
    ridge = replace(LASSO, penalty="ridge", strength=0.01, normalisation="none")
    a = subject(1, 10)
    values = []
    for size in (10.0, 1000.0):
        b = made(a.cloud.points, a.features + size * np.array([0, 0, 0, 1]))
        values.append(between(ridge, a, b).value)
    assert values == pytest.approx([0.01, 0.01])


def test_an_alternation_that_ends_at_its_limit_is_not_converged(monkeypatch):
    monkeypatch.setattr(gw_fused_select, "_TOLERANCE", -1.0)  # never content
    found = between(LASSO, subject(1), subject(2))
    assert not found.converged


def test_groups_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"^distance.groups: feature 1 is there more than once$"):
        replace(LASSO, groups=((0, 1), (1, 2)))
    with pytest.raises(InputError, match=r"^distance.groups: there is no feature 9; .* have 4,"):
        replace(LASSO, groups=((0, 9),)).prepare(subject(1))
    with pytest.raises(ValidationError):
        replace(LASSO, groups=0)


# What the pipeline gives them.

READ = Features(vector="mean", layer=-1, split="train", size=12, common=10, seed=3)


@pytest.fixture(scope="module")
def compared(make_item, make_member, tiny, cpu, tmp_path_factory):
    """Two items' drawn labels and, by what is compared, their subjects."""
    folder = tmp_path_factory.mktemp("store")
    items = [make_item("one", ("gas", "heat"), seed=1), make_item("two", ("gas",), seed=2)]

    def subjects(compares, noise=0.1):
        members = [make_member(tiny, item, folder, seed=1, noise=noise) for item in items]
        x = SimpleNamespace(
            distance=SimpleNamespace(compares=compares),
            encoder=tiny,
            features=READ,
            trainer=cpu,
            execute=Serial(threads=1),
            kept=Store(folder),
        )
        drawn = [own_responses(READ, member).labels for member in members]
        return drawn, comparing.compared(x, members)

    return subjects


def test_the_embedding_is_that_of_the_pretrained_encoder_row_by_row(compared):
    _, subjects = compared(replace(FUSED, features="embedding").compares)
    _, own = compared("clouds")
    _, pretrained = compared("clouds", noise=0.0)  # as if fine-tuning had changed nothing
    for found, cloud, wanted in zip(subjects, own, pretrained, strict=True):
        loaded = found.load()
        np.testing.assert_array_equal(loaded.cloud.points, cloud.load().points)
        np.testing.assert_allclose(loaded.features, wanted.load().points, atol=1e-6)
        assert not np.allclose(loaded.features, loaded.cloud.points, atol=1e-3)
        assert len(loaded.features) == 12
    assert len({each.digest for each in [*subjects, *own, *pretrained]}) == 6


def test_label_features_are_those_of_the_drawn_responses(compared):
    drawn, subjects = compared(replace(FUSED, features="label_statistics").compares)
    for found, labels in zip(subjects, drawn, strict=True):
        wanted = np.stack([labels.mean(axis=1), np.log1p(labels.sum(axis=1))], axis=1)
        np.testing.assert_allclose(found.load().features, wanted)
    _, named = compared(replace(FUSED, features="label_names").compares)
    first, second = (each.load().features for each in named)
    np.testing.assert_array_equal(first, drawn[0])  # E1 and E2
    np.testing.assert_array_equal(second, np.hstack([drawn[1], np.zeros((12, 1))]))
    assert len({each.digest for each in [*subjects, *named]}) == 4


@pytest.mark.parametrize("distance", ["gw_fused", "gw_fused_select"])
@pytest.mark.parametrize("features", ["embedding", "label_statistics", "label_names"])
def test_what_the_pipeline_gives_can_be_compared(configured, compared, distance, features):
    built = configured("distance", f"distance={distance}", f"distance.features={features}")
    _, (one, other) = compared(built.compares)
    found = between(built, one.load(), other.load())
    assert found.value > 0
    assert found.converged
    assert between(built, one.load(), one.load()).value == pytest.approx(0, abs=EQUAL)


def test_groups_can_be_listed_in_a_configuration(configured):
    built = configured("distance", "distance=gw_fused_select", "distance.groups=[[0,1],[2,5]]")
    assert built.groups == ((0, 1), (2, 5))
