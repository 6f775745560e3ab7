"""Partial Gromov-Wasserstein: what it leaves out, what it keeps, and its limit at mass one."""

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from gwsmm.distance import gw_partial
from gwsmm.distance.gw_partial import GwPartial, _Problem
from gwsmm.distance.published import Published
from gwsmm.types import Cloud

PUBLISHED = Published(cost="euclidean", normalisation="none", quantity="loss")
PARTIAL = GwPartial(
    cost="euclidean", normalisation="none", quantity="loss", mass=0.9, normalise=True
)
MASSES = (0.1, 0.5, 0.8, 0.9, 0.95, 1.0)


def cloud(points, weights=None):
    even = np.full(len(points), 1 / len(points))
    return Cloud("an item", np.asarray(points), even if weights is None else np.asarray(weights))


def between(distance, a, b):
    one, other = (each if isinstance(each, Cloud) else cloud(each) for each in (a, b))
    return distance(distance.prepare(one), distance.prepare(other))


def points(seed, n=10, d=3):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) + 10


def contaminated(seed):
    """Sixty points, and the same with six of them sent far away, shuffled; which are the six."""
    random = np.random.default_rng(seed)
    clean, order = points(seed, 60), random.permutation(60)
    far = clean.copy()
    far[:6] = 300 * random.normal(size=(6, 3))
    return clean, far[order], np.flatnonzero(order < 6)


# All of the mass.


def test_mass_one_from_the_product_is_the_published_solver():
    for seed in range(6):
        a, b = points(seed, 15), points(seed + 50, 15)
        one, other = (PARTIAL.prepare(cloud(each)) for each in (a, b))
        product = np.full((15, 15), 1 / 225)
        found = _Problem(one, other, 1.0).descend(product).loss
        assert found == pytest.approx(between(PUBLISHED, a, b).value, rel=1e-9)


def test_mass_one_is_at_or_below_the_published_value():
    for seed in range(6):
        a, b = points(seed, 17), points(seed + 50, 22)
        found = between(replace(PARTIAL, mass=1.0), a, b)
        assert found.value <= between(PUBLISHED, a, b).value * (1 + 1e-6)
        assert found.converged
        assert found.starts == 2


# Part of the mass.


@pytest.mark.parametrize("seed", range(3))
def test_outliers_are_left_out(seed):
    clean, far, outliers = contaminated(seed)
    assert between(PUBLISHED, clean, far).value > 1_000
    assert between(PARTIAL, clean, far).value == pytest.approx(0, abs=1e-6)
    one, other = (PARTIAL.prepare(cloud(each)) for each in (clean, far))
    problem = _Problem(one, other, 0.9)
    plans = [problem.descend(0.9 * np.full((60, 60), 1 / 3600))]
    plans.append(problem.descend(problem.linear(_profile_costs(one, other))))
    best = min(plans, key=lambda each: each.loss)
    assert best.plan[:, outliers].sum() < 1e-12


def _profile_costs(a, b):
    return ((a.profiles[:, None] - b.profiles[None]) ** 2).sum(-1)


@pytest.mark.parametrize("mass", MASSES)
def test_a_plan_carries_the_mass_and_respects_the_weights(mass):
    random = np.random.default_rng(0)
    p, q = random.dirichlet(np.ones(12)), random.dirichlet(np.ones(17))
    one = PARTIAL.prepare(cloud(points(1, 12), p))
    other = PARTIAL.prepare(cloud(points(2, 17), q))
    plan = _Problem(one, other, mass).descend(mass * np.outer(p, q)).plan
    assert plan.sum() == pytest.approx(mass, abs=1e-12)
    assert plan.min() >= 0
    assert (plan.sum(1) <= p + 1e-12).all()
    assert (plan.sum(0) <= q + 1e-12).all()
    found = replace(PARTIAL, mass=mass)(one, other)
    assert found.converged
    assert found.marginal_error < 1e-12


@pytest.mark.parametrize("mass", [0.3, 0.7, 1.0])
def test_the_linear_problem_is_solved_whatever_the_sign_of_its_costs(mass):
    from scipy.optimize import linprog

    random = np.random.default_rng(1)
    p, q = random.dirichlet(np.ones(6)), random.dirichlet(np.ones(5))
    one, other = (PARTIAL.prepare(cloud(points(s, n), w)) for s, n, w in ((1, 6, p), (2, 5, q)))
    problem = _Problem(one, other, mass)
    bounds = np.vstack([np.kron(np.eye(6), np.ones(5)), np.kron(np.ones(6), np.eye(5))])
    for shift in (-100.0, 0.0, 100.0):
        costs = random.normal(size=(6, 5)) + shift
        wanted = linprog(
            costs.ravel(),
            A_ub=bounds,
            b_ub=np.concatenate([p, q]) + 1e-13,
            A_eq=np.ones((1, 30)),
            b_eq=[mass],
        )
        found = problem.linear(costs)
        assert found.sum() == pytest.approx(mass, abs=1e-12)
        assert np.vdot(costs, found) == pytest.approx(wanted.fun, abs=1e-8)


def test_the_loss_does_not_fall_as_mass_grows():
    for seed in range(5):
        a, b = points(seed, 8), points(seed + 50, 9)
        for normalise in (False, True):
            rising = replace(PARTIAL, normalise=normalise)
            found = [between(replace(rising, mass=mass), a, b).value for mass in MASSES]
            for less, more in pairwise(found):
                assert less <= more * 1.05 + 1e-9  # each is a minimum found, not the least
            assert found[0] < found[-1] / 2


def test_normalising_divides_by_the_square_of_the_mass():
    a, b = points(1), points(2)
    divided, plain = (
        between(replace(PARTIAL, mass=0.7, normalise=each), a, b).value for each in (True, False)
    )
    assert divided == pytest.approx(plain / 0.49)


# What holds at any mass.


@pytest.mark.parametrize("mass", [0.8, 1.0])
def test_the_two_spaces_and_the_order_of_points_make_no_difference(mass):
    distance = replace(PARTIAL, mass=mass)
    for seed, sizes in enumerate(((14, 11), (12, 12))):
        a, b = points(seed, sizes[0]), points(seed + 50, sizes[1])
        value = between(distance, a, b).value
        assert between(distance, b, a).value == value
        shuffled = np.random.default_rng(0).permutation(a)
        assert between(distance, shuffled, b).value == pytest.approx(value, rel=1e-6)
        assert between(distance, shuffled, a).value == pytest.approx(0, abs=1e-7)
        assert between(distance, a @ np.diag([1, -1, 1]) + 30, b).value == pytest.approx(
            value, rel=1e-6
        )


@pytest.mark.parametrize("mass", [0.5, 0.9, 1.0])
def test_degenerate_clouds(mass):
    distance = replace(PARTIAL, mass=mass)
    a, alone, constant = points(1), points(2, n=1), np.repeat(points(3, n=1), 7, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one, other in ((alone, alone), (constant, constant), (alone, constant)):
            found = between(distance, one, other)
            assert found.value == pytest.approx(0, abs=1e-12)
            assert found.converged
        far = [between(distance, a, each).value for each in (alone, constant)]
    assert far[0] > 0
    assert far[1] == pytest.approx(far[0], rel=0.2)
    assert between(distance, np.repeat(a, 2, axis=0), a).value == pytest.approx(0, abs=1e-7)


def test_the_spread_of_the_starts_is_told():
    found = [between(PARTIAL, points(seed, 20), points(seed + 50, 20)) for seed in range(4)]
    assert all(pair.starts == 4 for pair in found)
    assert max(pair.spread for pair in found) > 0.01


def test_convergence_is_not_claimed_where_it_was_not_reached(monkeypatch):
    a, b = points(1, 30), points(2, 30)
    assert between(PARTIAL, a, b).converged
    monkeypatch.setattr(gw_partial, "_MAX_ITERATIONS", 1)
    assert not between(PARTIAL, a, b).converged


@pytest.mark.parametrize("wrong", [{"mass": 0.0}, {"mass": 1.1}, {"normalise": "max"}])
def test_what_has_no_meaning_is_refused(wrong):
    with pytest.raises(ValidationError):
        replace(PARTIAL, **wrong)
