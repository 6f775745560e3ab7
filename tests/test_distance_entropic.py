"""Entropic Gromov-Wasserstein: what it approaches, what it bounds, and its transport solver."""

import warnings
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.distance import pdist, squareform

from gwsmm.distance import gw_entropic
from gwsmm.distance.gw_entropic import GwEntropic
from gwsmm.distance.published import Published
from gwsmm.distance.sinkhorn import rounded, sinkhorn
from gwsmm.types import Cloud

PUBLISHED = Published(cost="euclidean", normalisation="none", quantity="loss")
BLURRED = GwEntropic(
    cost="euclidean",
    normalisation="none",
    quantity="loss",
    method="pgd",
    epsilon=0.02,
    debias=False,
)
PROXIMAL = replace(BLURRED, method="ppa")
DEBIASED = replace(BLURRED, debias=True)
METHODS = pytest.mark.parametrize("distance", [BLURRED, PROXIMAL], ids=["pgd", "ppa"])


def cloud(points, weights=None):
    even = np.full(len(points), 1 / len(points))
    return Cloud("an item", np.asarray(points), even if weights is None else np.asarray(weights))


def between(distance, a, b):
    one, other = (each if isinstance(each, Cloud) else cloud(each) for each in (a, b))
    return distance(distance.prepare(one), distance.prepare(other))


def points(seed, n=10, d=3):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) + 10


def least(a, b):
    """The least loss: it is concave, so that a permutation attains it."""
    one, other = squareform(pdist(a)), squareform(pdist(b))
    orders = (np.ix_(order, order) for order in permutations(range(len(a))))
    return min(np.mean((one - other[order]) ** 2) for order in orders)


# The limits of ε.


def test_the_value_is_never_below_the_least_loss_and_reaches_it_as_epsilon_falls():
    pairs = [(points(seed, 6), points(seed + 50, 6)) for seed in range(8)]
    exact = np.array([least(a, b) for a, b in pairs])
    mean = []
    for epsilon in (0.5, 0.05, 0.005):
        found = np.array([between(replace(BLURRED, epsilon=epsilon), *p).value for p in pairs])
        assert (found >= exact - 1e-9).all()
        mean.append(np.mean(found / exact - 1))
    assert mean[0] > mean[1] > mean[2]
    reached = np.array([between(replace(PROXIMAL, epsilon=0.005), *p).value for p in pairs])
    assert (reached >= exact - 1e-9).all()
    assert np.median(reached / exact) < 1.001
    one_start = np.array([between(PUBLISHED, *p).value for p in pairs])
    assert np.mean(reached / exact) < np.mean(one_start / exact)


def test_less_entropy_less_loss():
    for seed in range(4):
        a, b = points(seed, 20), points(seed + 50, 23)
        ladder = [
            between(replace(BLURRED, epsilon=epsilon), a, b).value
            for epsilon in (2.0, 0.5, 0.1, 0.02, 0.005)
        ]
        for more, less in pairwise(ladder):
            assert less <= more * 1.01
        assert ladder[-1] < ladder[0] * 0.9


def test_all_entropy_is_the_product_coupling():
    a, b = points(1, 12), points(2, 9)
    one, other = squareform(pdist(a)), squareform(pdist(b))
    product = np.mean(one**2) + np.mean(other**2) - 2 * one.mean() * other.mean()
    found = between(replace(BLURRED, epsilon=1e4), a, b)
    assert found.value == pytest.approx(product, rel=1e-3)
    assert found.converged


def test_proximal_steps_end_at_or_below_where_they_start():
    for seed in range(5):
        a, b = points(seed, 25), points(seed + 50, 22)
        for epsilon in (0.1, 0.02):
            pgd, ppa = (
                between(replace(each, epsilon=epsilon), a, b) for each in (BLURRED, PROXIMAL)
            )
            assert ppa.value <= pgd.value * (1 + 1e-4)
            assert ppa.converged
            assert ppa.iterations > pgd.iterations


# What holds at any ε.


@METHODS
def test_the_marginals_are_met_whatever_sinkhorn_left(distance):
    weights = np.random.default_rng(0).dirichlet(np.ones(15))
    for epsilon in (1.0, 0.02, 1e-3):
        found = between(
            replace(distance, epsilon=epsilon), cloud(points(1, 15), weights), points(2, 21)
        )
        assert found.marginal_error < 1e-15


@METHODS
@pytest.mark.parametrize("debias", [False, True])
def test_the_two_spaces_and_the_order_of_points_make_no_difference(distance, debias):
    distance = replace(distance, debias=debias)
    for sizes in ((14, 11), (12, 12)):
        a, b = points(3, sizes[0]), points(4, sizes[1])
        value = between(distance, a, b).value
        assert value > 0
        assert between(distance, b, a).value == value
        shuffled = np.random.default_rng(0).permutation(a)
        assert between(distance, shuffled, b).value == pytest.approx(value, rel=1e-6)


@METHODS
def test_only_debiasing_brings_equal_clouds_to_zero(distance):
    a = points(5, 16)
    copy = np.random.default_rng(0).permutation(a)
    debiased = replace(distance, debias=True)
    assert between(replace(BLURRED, epsilon=0.1), a, a).value > 0.01
    assert between(debiased, a, a).value == 0
    assert between(debiased, a, copy).value == pytest.approx(0, abs=1e-7)
    assert between(debiased, np.repeat(a, 2, axis=0), a).value == pytest.approx(0, abs=1e-7)


def test_debiasing_subtracts_the_mean_of_the_own_values_and_stops_at_zero():
    for epsilon in (0.02, 0.5):
        blurred, debiased = (replace(each, epsilon=epsilon) for each in (BLURRED, DEBIASED))
        for seed in range(4):
            a, b = points(seed, 12), points(seed + 50, 13)
            own = (between(blurred, a, a).value + between(blurred, b, b).value) / 2
            wanted = max(0.0, between(blurred, a, b).value - own)
            assert between(debiased, a, b).value == pytest.approx(wanted, rel=1e-9)
    rooted = between(replace(DEBIASED, quantity="root"), points(1), points(2)).value
    assert rooted**2 == pytest.approx(between(DEBIASED, points(1), points(2)).value)


@METHODS
@pytest.mark.parametrize("factor", [1e-4, 1e3])
def test_epsilon_has_no_unit(distance, factor):
    a, b = points(6, 15), points(7, 12)
    plain, scaled = (between(distance, size * a, size * b).value for size in (1, factor))
    assert scaled == pytest.approx(factor**2 * plain, rel=1e-6)


@METHODS
@pytest.mark.parametrize("epsilon", [1e-8, 1e-3, 1e6])
def test_no_epsilon_overflows(distance, epsilon):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = between(replace(distance, epsilon=epsilon), points(8, 20) * 100, points(9, 20))
    assert np.isfinite(found.value)
    assert found.marginal_error < 1e-15


@METHODS
def test_points_of_no_weight_are_not_there(distance):
    a, b = points(1, 9), points(2, 7)
    more = cloud(np.vstack([a, points(3, 2) * 50]), [1 / 9] * 9 + [0, 0])
    assert between(distance, more, b).value == pytest.approx(between(distance, a, b).value)


@pytest.mark.parametrize("distance", [BLURRED, PROXIMAL, DEBIASED], ids=["pgd", "ppa", "debiased"])
def test_degenerate_clouds(distance):
    a, alone, constant = points(1), points(2, n=1), np.repeat(points(3, n=1), 7, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one, other in ((alone, alone), (constant, constant), (alone, constant)):
            assert between(distance, one, other).value == 0
            assert between(distance, one, other).converged
        far = [between(distance, a, each).value for each in (alone, constant)]
        own = between(replace(distance, debias=False), a, a).value
    second_moment = np.mean(squareform(pdist(a)) ** 2)  # the product is the only coupling
    wanted = second_moment - own / 2 if distance.debias else second_moment
    assert far == pytest.approx([wanted, wanted])


def test_convergence_is_not_claimed_where_it_was_not_reached(monkeypatch):
    a, b = points(1, 30), points(2, 30)
    assert between(BLURRED, a, b).converged
    assert between(PROXIMAL, a, b).converged
    monkeypatch.setattr(gw_entropic, "_MAX_ITERATIONS", 4)
    found = between(BLURRED, a, b)
    assert not found.converged
    assert found.iterations == 4
    assert found.marginal_error < 1e-15


def test_no_two_quantities_share_a_name():
    titles = {
        replace(BLURRED, method=method, debias=debias, quantity=quantity).title
        for method in ("pgd", "ppa")
        for debias in (False, True)
        for quantity in ("loss", "root", "half_root")
    }
    assert len(titles) == 12


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"method": "bapg"}, {"debias": "maybe"}])
def test_what_has_no_meaning_is_refused(wrong):
    with pytest.raises(ValidationError):
        replace(BLURRED, **wrong)


# Transport.


@pytest.mark.parametrize("epsilon", [1.0, 0.05, 0.01])
def test_sinkhorn_finds_the_coupling_of_the_least_cost_minus_entropy(epsilon):
    random = np.random.default_rng(0)
    costs, p, q = random.random((9, 7)), random.dirichlet(np.ones(9)), random.dirichlet(np.ones(7))
    found = sinkhorn(costs, (p, q), epsilon, g=np.zeros(7), tolerance=1e-12, limit=100)
    assert found.error <= 1e-12
    np.testing.assert_allclose(found.plan.sum(1), p, atol=1e-12)
    np.testing.assert_allclose(found.plan.sum(0), q, atol=1e-12)
    # A coupling of this form is the only minimiser.
    form = np.exp((found.f[:, None] + found.g - costs) / epsilon)
    np.testing.assert_allclose(found.plan, form, rtol=1e-9)


def test_sinkhorn_survives_what_empties_a_plain_kernel():
    costs = np.array([[0.0, 5e4], [1e5, 3e5]])
    half = np.full(2, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sinkhorn(costs, (half, half), 1.0, g=np.zeros(2), tolerance=1e-9, limit=100)
    np.testing.assert_allclose(found.plan, [[0, 0.5], [0.5, 0]], atol=1e-9)


def test_rounding_meets_the_marginals_and_moves_little():
    random = np.random.default_rng(0)
    p, q = random.dirichlet(np.ones(8)), random.dirichlet(np.ones(6))
    for noise in (0.0, 1e-6, 0.1, 1.0):
        plan = np.outer(p, q) * (1 + noise * random.random((8, 6)))
        moved = rounded(plan, p, q)
        assert (moved >= 0).all()
        np.testing.assert_allclose(moved.sum(1), p, atol=1e-15)
        np.testing.assert_allclose(moved.sum(0), q, atol=1e-15)
        missed = np.abs(plan.sum(1) - p).sum() + np.abs(plan.sum(0) - q).sum()
        assert np.abs(moved - plan).sum() <= 2 * missed + 1e-15
