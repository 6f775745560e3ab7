"""Gromov-Wasserstein of many pairs at once: a batch is its pairs, and a value is of a coupling."""

import pickle
import warnings
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from gwsmm.distance.distance import SolvesTogether
from gwsmm.distance.gw_batched import Batched
from gwsmm.distance.published import Published
from gwsmm.types import Cloud, InputError

FIELDS = {
    "cost": "euclidean",
    "normalisation": "none",
    "quantity": "loss",
    "epsilon": 0.005,
    "polish": True,
    "together": 64,
    "device": "cpu",
}
POLISHED = Batched(**FIELDS)
ROUGH = replace(POLISHED, polish=False)
BOTH = pytest.mark.parametrize("distance", [POLISHED, ROUGH], ids=["polished", "rough"])
COSTS = pytest.mark.parametrize("cost", ["euclidean", "squared_euclidean", "cosine"])


def points(seed, n=10, d=3):
    """A cloud without symmetries, away from the origin."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) * np.arange(1, d + 1) + 10


def cloud(points, weights=None):
    points = np.asarray(points, dtype=np.float64)
    even = np.full(len(points), 1 / len(points))
    return Cloud("an item", points, even if weights is None else np.asarray(weights))


def weighted(seed, n):
    """A cloud of n points of unequal weights."""
    return cloud(points(seed, n), np.random.default_rng(seed).dirichlet(np.ones(n)))


def solved(distance, pairs):
    """The pairs of these clouds, or arrays of points, in one call."""
    sides = [[one if isinstance(one, Cloud) else cloud(one) for one in pair] for pair in pairs]
    return distance.solve([tuple(map(distance.prepare, pair)) for pair in sides])


def values(distance, pairs):
    return np.array([pair.value for pair in solved(distance, pairs)])


MIXED = [(weighted(n, n), weighted(n + 50, 13 - n)) for n in range(1, 13)]


@BOTH
def test_a_batch_of_any_sizes_is_its_pairs_one_by_one(distance):
    assert isinstance(distance, SolvesTogether)
    together = solved(distance, MIXED)
    alone = [solved(distance, [pair])[0] for pair in MIXED[1::5]]
    for one, other in zip(together[1::5], alone, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-9, abs=1e-9)
        assert (one.iterations, one.converged) == (other.iterations, other.converged)
    some = values(replace(distance, together=5), MIXED)
    np.testing.assert_allclose(some, [pair.value for pair in together], rtol=1e-9)
    assert solved(distance, []) == []


@BOTH
def test_padding_and_points_without_weight_change_nothing(distance):
    small, large = (points(1, 4), points(2, 5)), (points(3, 40), points(4, 30))
    alone, beside = values(distance, [small]), values(distance, [large, small])
    np.testing.assert_allclose(beside[1:], alone, rtol=1e-9)
    light = cloud(np.vstack([small[0], points(9, 2)]), [0.25] * 4 + [0, 0])
    np.testing.assert_allclose(values(distance, [(light, small[1])]), alone, rtol=1e-6)


@BOTH
def test_every_coupling_has_its_marginals_and_every_pair_converges(distance):
    for pair in solved(distance, MIXED):
        assert pair.marginal_error < 1e-14
        assert pair.converged
        assert pair.iterations >= 1
        assert pair.starts == 2
        assert pair.spread >= 0


@BOTH
def test_a_value_is_not_negative_and_symmetric(distance):
    there = values(distance, MIXED)
    back = values(distance, [(b, a) for a, b in MIXED])
    assert (there > 1e-6).all()
    np.testing.assert_array_equal(there, back)


@BOTH
def test_shuffling_rotating_and_moving_a_cloud_changes_nothing(distance):
    random = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    a, b = points(1, 11), points(2, 8)
    moved = [random.permutation(a), a @ rotation, a + random.normal(size=3) * 30]
    value, *others = values(distance, [(a, b), *((each, b) for each in moved)])
    np.testing.assert_allclose(others, value, rtol=1e-6)
    if distance.polish:  # an entropic plan of equal clouds is not the identity
        np.testing.assert_allclose(values(distance, [(a, each) for each in moved]), 0, atol=1e-9)


@COSTS
def test_a_cloud_is_at_zero_from_its_own_shuffled_copy(cost):
    random = np.random.default_rng(1)
    clouds = [points(seed, seed) for seed in range(2, 14)]
    pairs = [(each, random.permutation(each)) for each in clouds]
    found = values(replace(POLISHED, cost=cost), pairs)
    np.testing.assert_allclose(found, 0, atol=1e-12)


def brute_force(distance, a, b):
    """The least loss over all matchings, where by concavity a coupling of equal weights has it."""
    first, second = (distance.prepare(cloud(each)).space.costs for each in (a, b))
    return min(
        np.mean((first - second[np.ix_(order, order)]) ** 2)
        for order in map(list, permutations(range(len(a))))
    )


@COSTS
def test_a_value_lies_between_the_least_of_all_matchings_and_the_rough_one(cost):
    distance = replace(POLISHED, cost=cost)
    pairs = [(points(2 * s, 3 + s % 4), points(2 * s + 1, 3 + s % 4)) for s in range(12)]
    least = np.array([brute_force(distance, *pair) for pair in pairs])
    found, rough = values(distance, pairs), values(replace(distance, polish=False), pairs)
    assert (found >= least * (1 - 1e-9)).all()
    assert (found <= rough * (1 + 1e-9)).all()
    reached = found <= least * (1 + 1e-6)
    assert reached.mean() >= 0.5  # two starts are no search; that of one start is lower


def test_a_value_is_at_or_below_those_of_pot():
    from ot.batch import loss_quadratic_batch, solve_gromov_batch

    pairs = [(points(2 * s, 25), points(2 * s + 1, 25)) for s in range(6)]
    published = Published(cost="euclidean", normalisation="none", quantity="loss")
    single = [published(*(published.prepare(cloud(one)) for one in pair)).value for pair in pairs]
    prepared = [[POLISHED.prepare(cloud(one)) for one in pair] for pair in pairs]
    first, second = (np.stack([pair[side].space.costs for pair in prepared]) for side in (0, 1))
    even = np.full((6, 25), 1 / 25)
    plans = solve_gromov_batch(first, second, reg=0.1, a=even, b=even).plan
    batch = loss_quadratic_batch(even, even, first, second, plans, recompute_const=True)
    found = values(POLISHED, pairs)
    assert found.mean() <= np.mean(single) * (1 + 1e-9)
    assert (found <= batch * (1 + 1e-9)).all()


@BOTH
def test_less_entropy_is_nearer_to_the_polished_value(distance):
    pairs = [(points(2 * s, 20), points(2 * s + 1, 20)) for s in range(4)]
    warm, cold = (values(replace(distance, epsilon=e), pairs).mean() for e in (0.5, 0.005))
    assert cold < warm * (1 - 0.05 * (not distance.polish)) + 1e-12


@BOTH
def test_degenerate_clouds(distance):
    a, alone, constant = points(1), points(2, n=1), np.repeat(points(3, n=1), 7, axis=0)
    far = np.mean(np.linalg.norm(a[:, None] - a, axis=-1) ** 2)
    pairs = [(alone, alone), (constant, constant), (alone, constant), (a, alone), (a, constant)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = values(distance, pairs)
        values(distance, [(np.repeat(a, 2, axis=0), a), ([[0.0], [1.0]], [[5.0], [8.0]])])
    np.testing.assert_allclose(found, [0, 0, 0, far, far], rtol=1e-9, atol=1e-12)


def test_duplicated_points_are_heavier_points():
    a = points(1)
    twice = np.vstack([a, a[:3]])
    heavier = cloud(a, np.array([2] * 3 + [1] * 7) / 13)
    pairs = [(np.repeat(a, 2, axis=0), a), (heavier, twice)]
    np.testing.assert_allclose(values(POLISHED, pairs), 0, atol=1e-9)


def test_two_segments_by_hand():
    # Costs 1 and 3 off the diagonal: (3 - 1)² on half of the mass of T x T.
    found = values(POLISHED, [([[0.0], [1.0]], [[5.0], [8.0]])])
    assert found == pytest.approx(2.0)


def test_root_and_half_root_are_those_of_the_loss():
    a, b = points(1), points(2)
    loss, root, half = (
        values(replace(POLISHED, quantity=quantity), [(a, b)])[0]
        for quantity in ("loss", "root", "half_root")
    )
    assert root == pytest.approx(np.sqrt(loss), rel=1e-12)
    assert half == pytest.approx(root / 2, rel=1e-12)
    assert replace(POLISHED, quantity="root").title != POLISHED.title


def test_features_that_are_not_finite_are_refused_with_item_and_row():
    a = points(1)
    a[4, 2] = np.nan
    with pytest.raises(InputError, match=r"'an item'.*response 4"):
        POLISHED.prepare(cloud(a))


def test_a_prepared_cloud_can_be_sent_to_another_process():
    a, b = (POLISHED.prepare(cloud(points(seed))) for seed in (1, 2))
    sent = pickle.loads(pickle.dumps(a))  # noqa: S301 - as the worker processes do
    assert POLISHED(sent, b) == POLISHED(a, b)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_in_one_line_where_there_is_none():
    with pytest.raises(InputError, match=r"^distance.device=cuda.*distance.device=auto$"):
        replace(POLISHED, device="cuda").prepare(cloud(points(1)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@BOTH
def test_cuda_finds_what_the_cpu_finds(distance):
    there = values(replace(distance, device="cuda"), MIXED)
    np.testing.assert_allclose(there, values(distance, MIXED), rtol=1e-6)


@pytest.mark.parametrize("wrong", [{"epsilon": 0}, {"together": 0}, {"device": "tpu"}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Batched(**FIELDS | wrong)
