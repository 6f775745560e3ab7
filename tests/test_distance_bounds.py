"""The lower bounds of Gromov-Wasserstein, and Gromov-Wasserstein at low rank."""

import math
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ot import emd, emd2, emd2_1d
from ot.gromov import gromov_wasserstein
from scipy.spatial.distance import pdist, squareform

from gwsmm.distance.anchors import explore
from gwsmm.distance.bounds import (
    distance_signature,
    eccentricity_signature,
    profile_signatures,
    quantile_means,
    spectral_signature,
)
from gwsmm.distance.gw_exact import GwExact
from gwsmm.distance.gw_flb import GwFlb
from gwsmm.distance.gw_lowrank import Grouped, GwLowrank
from gwsmm.distance.gw_slb import GwSlb
from gwsmm.distance.gw_spectral import GwSpectral
from gwsmm.distance.gw_tlb import GwTlb
from gwsmm.distance.published import Published
from gwsmm.distance.space import Space, space
from gwsmm.types import Cloud, InputError

RAW = {"cost": "euclidean", "normalisation": "none", "quantity": "loss"}
MEMOLI = (GwFlb, GwSlb, GwTlb)
BOUNDS = (*MEMOLI, partial(GwSpectral, eigenvalues=100))
EXACT = GwExact(**RAW, anchors=50, starts=24, lifted=3, seed=0)  # low rank has as many starts
FEW = settings(max_examples=4, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10_000)


def points(seed, n=10, d=3):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) * np.arange(1, d + 1) + 10


def uneven(seed, n):
    weights = np.random.default_rng(seed).random(n) + 0.1
    return weights / weights.sum()


def cloud(points, weights=None):
    points = np.asarray(points, dtype=np.float64)
    even = np.full(len(points), 1 / len(points))
    return Cloud("x", points, even if weights is None else weights)


def between(distance, a, b):
    one, other = (each if isinstance(each, Cloud) else cloud(each) for each in (a, b))
    return distance(distance.prepare(one), distance.prepare(other))


def coupling(random, p, q):
    """A vertex of the couplings of these weights."""
    return emd(p, q, random.random((len(p), len(q))))


def loss(a, b, plan):
    """The objective as it is written."""
    off = (a.costs[:, None, :, None] - b.costs[None, :, None, :]) ** 2
    return np.einsum("ijkl,ij,kl", off, plan, plan)


# The bounds


@FEW
@given(seed=SEEDS)
def test_a_mean_of_quantiles_is_below_the_transport_in_one_dimension_and_meets_it(seed):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=7), random.exponential(size=5)
    p, q = uneven(seed, 7), uneven(seed + 1, 5)
    wanted = emd2_1d(x, y, p, q)
    found = [
        ((quantile_means(x, p, n) - quantile_means(y, q, n)) ** 2).sum()
        for n in (1, 2, 4, 16, 256, 65_536)
    ]
    assert found[0] == pytest.approx((p @ x - q @ y) ** 2)
    assert (np.diff(found) >= -1e-12).all()  # halving the bins can only raise it
    assert found[-1] <= wanted + 1e-12
    assert found[-1] == pytest.approx(wanted, rel=1e-3)
    even = [np.full(n, 1 / n) for n in (7, 5)]
    means = [quantile_means(each, w, 35) for each, w in zip((x, y), even, strict=True)]
    assert ((means[0] - means[1]) ** 2).sum() == pytest.approx(emd2_1d(x, y, *even))


@pytest.mark.parametrize("cost", ["euclidean", "squared_euclidean", "cosine"])
@pytest.mark.parametrize("bins", [1, 3, 300])
def test_no_coupling_is_below_a_bound(cost, bins):
    random = np.random.default_rng(bins)
    a = cloud(points(1, 6), uneven(1, 6))
    b = cloud(points(2, 9), uneven(2, 9))
    one, other = (space(each, cost, "none") for each in (a, b))
    plans = [coupling(random, a.weights, b.weights) for _ in range(100)]
    plans.append(np.outer(a.weights, b.weights))
    plans.append(gromov_wasserstein(one.costs, other.costs, a.weights, b.weights, "square_loss"))
    least = min(loss(one, other, plan) for plan in plans)
    for kind in BOUNDS:
        found = between(kind(**RAW | {"cost": cost}, bins=bins), a, b)
        assert 0 < found.value <= least * (1 + 1e-9)
        assert found.bound == found.value
        assert found.converged


@pytest.mark.parametrize("kind", BOUNDS)
def test_a_bound_is_met_where_the_coupling_is_the_only_one(kind):
    # One point: Σ C[i, k]² w[i] w[k]. A factor of two that were lost would show here.
    a = points(1)
    wanted = np.mean(squareform(pdist(a)) ** 2)
    found = between(kind(**RAW, bins=100), a, points(2, n=1)).value
    assert found == pytest.approx(wanted)
    assert found == pytest.approx(between(Published(**RAW), a, points(2, n=1)).value)


def test_the_bounds_are_those_of_their_definition():
    a, b = points(1, 6), points(2, 4)
    one, other = squareform(pdist(a)), squareform(pdist(b))
    p, q = np.full(6, 1 / 6), np.full(4, 1 / 4)
    far = [np.sqrt((each**2).mean(axis=1)) for each in (one, other)]
    first = emd2_1d(*far, p, q)
    second = emd2_1d(one.ravel(), other.ravel(), np.outer(p, p).ravel(), np.outer(q, q).ravel())
    seen = np.array([[emd2_1d(row, col, p, q) for col in other] for row in one])
    third = emd2(p, q, seen)
    for kind, bins, wanted in ((GwFlb, 12, first), (GwSlb, 144, second), (GwTlb, 12, third)):
        assert between(kind(**RAW, bins=bins), a, b).value == pytest.approx(wanted)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_third_bound_is_above_the_others(seed):
    a, b = points(seed, 6), points(seed + 1, 4)
    first, second, third = (between(kind(**RAW, bins=144), a, b).value for kind in MEMOLI)
    assert max(first, second) <= third * (1 + 1e-9)
    assert third <= between(Published(**RAW), a, b).value


def test_the_first_and_the_second_bound_are_not_ordered():
    first, second = GwFlb(**RAW, bins=36), GwSlb(**RAW, bins=36)
    a, b = points(1, 6), points(2, 4)
    assert between(first, a, b).value < between(second, a, b).value
    # two rulers with the same distances between their marks, differently arranged
    rulers = [np.array(marks)[:, None] for marks in ([0, 1, 4, 10, 12, 17], [0, 1, 8, 11, 13, 17])]
    assert between(second, *rulers).value == pytest.approx(0, abs=1e-12)
    assert between(first, *rulers).value > 0.01
    assert between(GwTlb(**RAW, bins=36), *rulers).value > 0.01


@pytest.mark.parametrize(
    ("kind", "signature"),
    [
        (GwFlb, eccentricity_signature),
        (GwSlb, distance_signature),
        (partial(GwSpectral, eigenvalues=9), partial(spectral_signature, eigenvalues=9)),
    ],
)
def test_all_pairs_are_one_call(kind, signature):
    clouds = [cloud(points(seed, n)) for seed, n in enumerate((5, 8, 6))]
    spaces = [space(each, "euclidean", "mean") for each in clouds]
    distance = kind(**RAW | {"normalisation": "mean"}, bins=40)
    table = squareform(pdist([signature(each, 40) for each in spaces], "sqeuclidean"))
    for i in range(3):
        for j in range(i):
            assert between(distance, clouds[i], clouds[j]).value == pytest.approx(table[i, j])


@pytest.mark.parametrize("bins", [1, 7, 200])
def test_rows_of_profiles_are_signatures_of_their_own(bins):
    whole = space(cloud(points(1, 6), uneven(3, 6)), "euclidean", "none")
    rows = profile_signatures(whole, bins)
    assert rows.shape == (6, bins)
    # the mean of all quantiles is the mean distance, whatever the bins
    np.testing.assert_allclose(rows.mean(axis=1) * np.sqrt(bins), whole.costs @ whole.weights)


@pytest.mark.parametrize("kind", BOUNDS)
def test_the_root_of_a_bound_is_a_pseudometric(kind):
    root = kind(**RAW | {"quantity": "root"}, bins=36)
    clouds = [points(seed, n) for seed, n in enumerate((6, 9, 4, 7))]
    size = len(clouds)
    d = np.array([[between(root, a, b).value for b in clouds] for a in clouds])
    np.testing.assert_allclose(d, d.T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(d.diagonal(), 0, atol=1e-7)
    through = np.array([d[i] + d[i][:, None] for i in range(size)])
    assert (d <= through.min(axis=0) + 1e-9).all()


def test_the_titles_tell_the_bounds_apart():
    titles = {
        kind(**RAW | {"quantity": quantity}, bins=4).title
        for kind in BOUNDS
        for quantity in ("loss", "root", "half_root")
    }
    assert len(titles) == 12
    assert "GW loss, first lower bound" in titles


# Low rank


def low(rank, **changed):
    return GwLowrank(**RAW | changed, rank=rank, seed=0)


@pytest.mark.parametrize("seed", [3, 290])
def test_at_full_rank_low_rank_is_exact(seed):
    a, b = cloud(points(seed, 9), uneven(seed, 9)), cloud(points(seed + 1, 13))
    exact = between(EXACT, a, b).value
    assert between(low(13), a, b).value == pytest.approx(exact, rel=1e-9)
    assert exact <= between(Published(**RAW), a, b).value * (1 + 1e-9)
    # every coupling has the rank of the smaller cloud; the starts are coarser in the larger
    assert between(low(9), a, b).value == pytest.approx(exact, rel=5e-2)
    assert between(low(9), a, a).value == pytest.approx(0, abs=1e-9)


def test_rank_one_is_the_product_coupling():
    a, b = cloud(points(1, 9), uneven(1, 9)), cloud(points(2, 7))
    one, other = (space(each, "euclidean", "none") for each in (a, b))
    wanted = loss(one, other, np.outer(a.weights, b.weights))
    assert between(low(1), a, b).value == pytest.approx(wanted)


@pytest.mark.parametrize("cost", ["euclidean", "squared_euclidean", "cosine"])
def test_the_loss_falls_with_the_rank_to_the_exact_one_and_marginals_are_right(cost):
    a, b = cloud(points(1, 30)), cloud(points(2, 25), uneven(2, 25))
    found = [between(low(rank, cost=cost), a, b) for rank in (1, 2, 5, 12, 25)]
    losses = [each.value for each in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] <= losses[0] / 2
    assert all(each.marginal_error < 1e-12 for each in found)
    assert all(each.converged for each in found)
    assert all(each.bound <= each.value for each in found)


def blobs(seed, sizes):
    random = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 20.0]])
    return np.vstack([c + random.normal(size=(n, 2)) for c, n in zip(centres, sizes, strict=True)])


@pytest.mark.parametrize("cost", ["euclidean", "squared_euclidean"])
@pytest.mark.parametrize("rank", [2, 3])
def test_the_value_is_near_the_best_that_many_random_groupings_lead_to(cost, rank):
    from gwsmm.distance.gw_lowrank import _Problem

    distance = low(rank, cost=cost)
    a, b = (distance.prepare(cloud(blobs(*each))) for each in ((1, (5, 4, 3)), (2, (3, 6, 5))))
    found = distance(a, b).value
    random = np.random.default_rng(0)
    p, q = a.anchored.anchors.space.weights, b.anchored.anchors.space.weights
    problem = _Problem(a, b)
    couplings = [coupling(random, p, q) for _ in range(10)]
    best = min(problem.ascend(s).loss for each in couplings for s in problem.starts(each))
    assert found <= best * 1.02


def test_no_step_is_worse_than_the_start():
    distance = low(4)
    a, b = (distance.prepare(cloud(points(seed, n))) for seed, n in ((1, 40), (2, 30)))
    one, other = a.anchored, b.anchored
    start = explore(one.anchors, other.anchors, 24, 0)[0].coupling
    plan = one.blocks.toarray() @ start @ other.blocks.toarray().T
    assert distance(a, b).value < loss(one.space, other.space, plan)


def test_squared_distances_are_a_product_of_two_thin_matrices():
    distance = low(3, cost="squared_euclidean", normalisation="mean")
    subject = cloud(points(1, 40))
    prepared = distance.prepare(subject)
    assert [each.shape for each in prepared.factors] == [(40, 5), (5, 40)]
    whole = prepared.anchored.space.costs
    np.testing.assert_allclose(prepared.costs_times(np.eye(40)), whole, atol=1e-12)
    other = distance.prepare(cloud(points(2, 30)))
    dense = [Grouped(each.anchored, (each.anchored.space.costs,)) for each in (prepared, other)]
    assert distance(prepared, other).value == pytest.approx(distance(*dense).value, rel=1e-6)


@pytest.mark.parametrize("rank", [4, 10])
def test_order_place_and_rotation_change_nothing_at_any_rank(rank):
    random = np.random.default_rng(1)
    a, b = points(1, 10), points(2, 9)
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    value = between(low(rank), a, b).value
    assert between(low(rank), b, a).value == pytest.approx(value, rel=1e-9)
    for moved in (random.permutation(a), a @ rotation, a + 30):
        assert between(low(rank), moved, b).value == pytest.approx(value, rel=1e-6)


# The spectral bound


def spectral(**changed):
    return GwSpectral(
        **RAW | {"cost": "squared_euclidean", "bins": 90, "eigenvalues": 20} | changed
    )


def test_the_terms_of_the_spectral_bound_add_up_to_the_loss_of_any_coupling():
    """The identity behind the bound, on a coupling that is no minimum."""
    a, b = cloud(points(1, 6), uneven(1, 6)), cloud(points(2, 9), uneven(2, 9))
    plan = coupling(np.random.default_rng(0), a.weights, b.weights)
    one, other = (each.points - each.weights @ each.points for each in (a, b))
    far = [(each**2).sum(axis=1) for each in (one, other)]
    grams = (Space(each @ each.T, whole.weights) for each, whole in ((one, a), (other, b)))
    wanted = 2 * ((far[0][:, None] - far[1]) ** 2 * plan).sum() + 4 * loss(*grams, plan)
    wanted += 2 * (far[0] @ a.weights - far[1] @ b.weights) ** 2
    spaces = (space(each, "squared_euclidean", "none") for each in (a, b))
    assert loss(*spaces, plan) == pytest.approx(wanted)


def test_variances_along_axes_are_the_spectrum():
    a = points(1, 40)
    found = spectral_signature(space(cloud(a), "squared_euclidean", "none"), 5, 6)
    variances = np.sort(np.linalg.eigvalsh(np.cov(a.T, bias=True)))[::-1]
    np.testing.assert_allclose(found[6:], [*(2 * variances), 0, 0, 0], atol=1e-10)
    assert found[5] == pytest.approx(np.sqrt(2) * variances.sum())


def test_the_spectral_bound_is_met_by_a_cloud_that_is_only_stretched():
    """Its points keep their order, from the centre and along every axis."""
    a = points(1, 30)
    found = between(spectral(), a, 1.3 * a)
    assert found.value == pytest.approx(
        loss(
            *(space(cloud(each), "squared_euclidean", "none") for each in (a, 1.3 * a)),
            np.eye(30) / 30,
        )
    )


@FEW
@given(seed=SEEDS)
def test_the_spectral_bound_only_rises_with_bins_and_eigenvalues(seed):
    a, b = points(seed, 8), points(seed + 1, 6)
    by_bins = [between(spectral(bins=n), a, b).value for n in (1, 2, 4, 240)]
    by_axes = [between(spectral(eigenvalues=n), a, b).value for n in (1, 2, 3, 9)]
    assert (np.diff(by_bins) >= -1e-9).all()
    assert (np.diff(by_axes) >= -1e-9).all()


# All five


@pytest.mark.parametrize("distance", [k(**RAW, bins=9) for k in BOUNDS] + [low(3)])
@pytest.mark.parametrize("normalisation", ["none", "mean", "median", "max"])
def test_degenerate_clouds(distance, normalisation):
    distance = replace(distance, normalisation=normalisation)
    a, alone = points(1), points(2, n=1)
    constant, twice = np.repeat(points(3, n=1), 7, axis=0), np.repeat(points(4, 3), 5, axis=0)
    uneven_cloud = cloud(points(5, 6), uneven(5, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in (alone, constant):
            for other in (alone, constant):
                assert between(distance, one, other).value == pytest.approx(0, abs=1e-12)
            assert between(distance, a, one).value > 0
        assert between(distance, a, twice).value > 0
        assert math.isfinite(between(distance, uneven_cloud, twice).value)


@pytest.mark.parametrize("distance", [k(**RAW, bins=9) for k in BOUNDS] + [low(3)])
def test_features_that_are_not_finite_are_refused(distance):
    wrong = points(1)
    wrong[4, 2] = np.nan
    with pytest.raises(InputError, match="response 4"):
        distance.prepare(cloud(wrong))


@pytest.mark.parametrize("distance", [k(**RAW, bins=9) for k in BOUNDS] + [low(3)])
def test_root_and_half_root_are_those_of_the_loss(distance):
    a, b = points(1), points(2)
    whole, root, half = (
        between(replace(distance, quantity=quantity), a, b)
        for quantity in ("loss", "root", "half_root")
    )
    assert root.value == pytest.approx(math.sqrt(whole.value))
    assert half.value == pytest.approx(root.value / 2)
    assert half.bound == pytest.approx(math.sqrt(whole.bound) / 2)
