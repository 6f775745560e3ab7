"""Gromov-Wasserstein: the authors' toy values, what every distance must keep to, and the matrix."""

import warnings
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import ClassVar
from uuid import uuid4

import numpy as np
import pytest
from conftest import CONF, build
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from pydantic import ValidationError
from safetensors.numpy import save_file
from scipy.sparse import csr_array
from scipy.spatial.distance import pdist, squareform

from gwsmm.distance import published
from gwsmm.distance.anchors import explore, lifted
from gwsmm.distance.descent import Start, descend, loss, scale, vertex
from gwsmm.distance.pairwise import Pairwise, load_distances
from gwsmm.distance.published import Published
from gwsmm.distance.stability import Halving, Stability, load_stability
from gwsmm.distance.subjects import CloudOf, CloudWithFeatures
from gwsmm.execute import Processes, Serial
from gwsmm.grouping.linkage import cut, into
from gwsmm.report.figures import heat_map
from gwsmm.store import Key, Store
from gwsmm.types import (
    Cloud,
    Distances,
    InputError,
    Item,
    Label,
    Pair,
    Responses,
    TaskVector,
    partition,
)

PUBLISHED = Published(cost="euclidean", normalisation="none", quantity="loss")
FEW = settings(max_examples=8, deadline=None, derandomize=True)
GW = sorted(  # what compares clouds up to isometry
    path.stem
    for path in (CONF / "distance").glob("*.yaml")
    if build("distance", f"distance={path.stem}").compares == "clouds"
    and path.stem != "sliced_wasserstein"
)
CLOSED = ("gw_flb", "gw_slb", "gw_tlb", "gw_spectral")  # that solve nothing step by step
SEEDS = st.integers(0, 10_000)


def pytest_generate_tests(metafunc):
    """`gw` stands for every strategy in `conf/` that sees clouds up to isometry."""
    if "gw" in metafunc.fixturenames:
        metafunc.parametrize("gw", [build("distance", f"distance={n}") for n in GW], ids=GW)


def cloud(points, name="an item", weights=None):
    points = np.asarray(points, dtype=np.float64)
    even = np.full(len(points), 1 / len(points))
    return Cloud(name, points, even if weights is None else np.asarray(weights))


def subject(distance, each):
    """What the distance compares, made of a cloud or of an array of points."""
    made = each if isinstance(each, Cloud) else cloud(each)
    if distance.compares in ("clouds", "common"):
        return made
    if distance.compares == "weights":
        return TaskVector(made.name, {"layer": made.points.astype(np.float32)})
    if distance.compares == "labels":
        words = tuple(
            Label(f"E{i + 1}", f"word{x:.3f}".replace(".", "x"))
            for i, x in enumerate(made.points[:, 0])
        )
        nothing = Responses((), np.zeros((0, len(words)), dtype=np.uint8))
        name = f"{made.name} {made.points.sum():.6f}"
        prompt = " ".join(word.description for word in words)
        return Item(name, words, "multilabel", nothing, nothing, nothing, prompt)
    return CloudWithFeatures(made, made.points[:, :2])


def between(distance, a, b):
    """The pair of two clouds, or of two arrays of points."""
    one, other = (distance.prepare(subject(distance, each)) for each in (a, b))
    return distance(one, other)


def points(seed, n=10, d=3):
    """A cloud without symmetries, away from the origin."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) * np.arange(1, d + 1) + 10


def matrix(distance, clouds):
    values = np.zeros((len(clouds), len(clouds)))
    for i, j in combinations(range(len(clouds)), 2):
        values[i, j] = values[j, i] = between(distance, clouds[i], clouds[j]).value
    return values


# The values that the authors' notebooks hold.


def test_the_toy_of_three_clouds():
    np.random.seed(0)  # noqa: NPY002 - the legacy generator of the notebook
    clouds = [np.random.normal(m, 1, (n, 2)) for m, n in ((0, 5), (5, 6), (2.5, 4))]  # noqa: NPY002
    values = matrix(PUBLISHED, clouds)
    found = [values[0, 1], values[0, 2], values[1, 2]]
    np.testing.assert_allclose(found, [0.8534, 0.6012, 1.0490], atol=5e-5)
    similarity = 1 - values / values.max()
    found = [similarity[0, 1], similarity[0, 2], similarity[1, 2]]
    np.testing.assert_allclose(found, [0.1865, 0.4269, 0], atol=5e-5)


def test_the_plan_of_the_toy(tmp_path):
    np.random.seed(0)  # noqa: NPY002
    clouds = [np.random.normal(m, 1, (n, 2)) for m, n in ((0, 5), (5, 6), (2.5, 4))]  # noqa: NPY002
    found = carried(tmp_path, PUBLISHED, clouds, "abc")
    plan = cut(1 - found.similarity(), found.names, into(2, "average"), "toy")
    assert plan.groups == (("a", "c"), ("b",))


def test_the_toy_of_nine_classes():
    random = np.random.mtrand.RandomState(42)
    clouds = []
    for _ in range(5):
        mean, sd, n = random.uniform(2, 3), random.uniform(0.5, 0.6), random.randint(11, 19)
        clouds.append(random.normal(mean, sd, (n, 50)))
    for _ in range(4):
        rate, n = random.uniform(1, 1.1), random.randint(11, 19)
        clouds.append(random.exponential(1 / rate, (n, 50)))
    assert [len(each) for each in clouds] == [13, 15, 15, 16, 15, 11, 11, 13, 17]
    first = [between(PUBLISHED, clouds[0], each).value for each in clouds]
    wanted = [0, 1.81531616, 1.45695947, 1.7899337, 1.46025831]
    wanted += [8.00339636, 13.22336838, 13.10569827, 11.39483416]
    np.testing.assert_allclose(first, wanted, rtol=1e-6, atol=1e-12)
    others = {(2, 3): 0.31854929, (3, 5): 0.30586533, (6, 7): 1.61164968, (8, 9): 5.45500507}
    for (i, j), value in others.items():  # numbered from 1
        found = between(PUBLISHED, clouds[i - 1], clouds[j - 1])
        assert found.value == pytest.approx(value, rel=1e-6)
        assert found.converged


# What every strategy must keep to.


@FEW
@given(seed=SEEDS)
def test_a_distance_is_symmetric_not_negative_and_above_its_bound(any_distance, seed):
    a, b = points(seed, 11), points(seed + 1, 11)
    there, back = between(any_distance, a, b), between(any_distance, b, a)
    assert there.value > 1e-6
    assert there.value == pytest.approx(back.value, rel=1e-7)
    assert np.isnan(there.bound) or there.bound <= there.value * (1 + 1e-9)
    assert there.marginal_error <= 1e-8
    assert there.converged
    assert not there.estimated


@FEW
@given(seed=SEEDS)
def test_clouds_of_any_two_sizes_can_be_compared(gw, seed):
    a, b = points(seed, 9), points(seed + 1, 13)
    there, back = between(gw, a, b), between(gw, b, a)
    assert there.value > 1e-6
    assert there.value == pytest.approx(back.value, rel=1e-7)
    assert between(gw, a, a).value == pytest.approx(0, abs=1e-7)
    assert there.starts >= 1
    assert there.spread >= 0


def test_solvers_count_their_steps(gw, request):
    found = between(gw, points(1), points(2))
    assert (found.iterations == 0) == any(name in request.node.callspec.id for name in CLOSED)


@FEW
@given(seed=SEEDS)
def test_shuffling_rotating_and_moving_a_cloud_changes_nothing(gw, seed):
    random = np.random.default_rng(seed)
    a, b = points(seed, 11), points(seed + 1, 8)
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    same = [a[random.permutation(11)], a @ rotation, a + random.normal(size=3) * 30]
    value = between(gw, a, b).value
    for moved in same:
        assert between(gw, moved, b).value == pytest.approx(value, rel=1e-6)
        assert between(gw, moved, a).value == pytest.approx(0, abs=1e-7)


@FEW
@given(seed=SEEDS)
def test_a_shuffled_copy_is_nearest(gw, seed):
    a = points(seed)
    copy = np.random.default_rng(seed).permutation(a)
    others = [points(seed + i, 10) for i in range(1, 6)]
    nearest = min(between(gw, a, other).value for other in others)
    assert between(gw, a, copy).value < nearest / 100


def test_degenerate_clouds(gw):
    a, alone, constant = points(1), points(2, n=1), np.repeat(points(3, n=1), 7, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert between(gw, alone, alone).value == 0
        assert between(gw, constant, constant).value == pytest.approx(0, abs=1e-12)
        assert between(gw, alone, constant).value == pytest.approx(0, abs=1e-12)
        to_one, to_many = (between(gw, a, b).value for b in (alone, constant))
    assert to_one > 0
    assert to_many == pytest.approx(to_one)


def test_duplicated_points_are_heavier_points(gw):
    a, b = points(1), points(2)
    assert between(gw, np.repeat(a, 2, axis=0), a).value == pytest.approx(0, abs=1e-9)
    twice = np.vstack([a, a[:3]])
    weights = np.array([2] * 3 + [1] * 7) / 13
    heavier = between(gw, cloud(a, weights=weights), cloud(twice))
    assert heavier.value < between(gw, a, b).value / 100


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_with_item_and_row(gw, wrong):
    a = points(1)
    a[4, 2] = wrong
    with pytest.raises(InputError) as error:
        gw.prepare(cloud(a, name="dry_ice"))
    line = str(error.value)
    assert "'dry_ice'" in line
    assert "response 4" in line
    assert "\n" not in line


# What the search of gw_exact promises.


def exact(configured, *overrides):
    return configured("distance", "distance=gw_exact", *overrides)


def brute_force(one, other):
    """The least loss of two clouds of equal size: an optimum is a permutation, by concavity."""
    return min(
        ((one - other[np.ix_(order, order)]) ** 2).mean()
        for order in map(list, permutations(range(len(one))))
    )


@pytest.mark.parametrize("cost", ["euclidean", "squared_euclidean", "cosine"])
def test_tiny_clouds_are_solved_to_the_optimum(configured, cost):
    distance, random, optimal = (
        exact(configured, f"distance.cost={cost}"),
        np.random.default_rng(0),
        0,
    )
    for _ in range(12):
        n, d = random.integers(3, 7), random.integers(2, 4)
        a, b = (distance.prepare(cloud(random.normal(size=(n, d)))) for _ in range(2))
        best, found = brute_force(a.space.costs, b.space.costs), distance(a, b).value
        assert found >= best * (1 - 1e-9) - 1e-12
        optimal += found <= best * (1 + 1e-9) + 1e-12
    assert optimal == 12


@pytest.mark.parametrize("cost", ["euclidean", "squared_euclidean", "cosine"])
@pytest.mark.parametrize("sizes", [(60, 60), (90, 70), (150, 130)])
def test_many_starts_are_never_worse_than_the_published_one(configured, cost, sizes):
    distance = exact(configured, f"distance.cost={cost}", "distance.anchors=40")
    a, b = (points(seed, n, 4) for seed, n in enumerate(sizes))
    plain = Published(cost=cost, normalisation="none", quantity="loss")
    found = between(distance, a, b)
    assert found.value <= between(plain, a, b).value * (1 + 1e-9)
    assert found.converged
    assert 0 < found.bound < found.value


def test_a_large_shuffled_copy_is_found_out(configured):
    a, random = points(1, 700, 5), np.random.default_rng(0)
    found = between(exact(configured), a, random.permutation(a))
    assert found.value == pytest.approx(0, abs=1e-9)


def test_the_anchors_loss_is_that_of_the_lifted_coupling(configured):
    distance = exact(configured, "distance.anchors=12")
    a, b = (distance.prepare(cloud(points(seed, n))) for seed, n in ((1, 60), (2, 45)))
    best = explore(a.anchors, b.anchors, starts=5, seed=0)[0]
    blocks = a.blocks @ best.coupling @ b.blocks.T
    np.testing.assert_allclose(blocks.sum(axis=1), a.space.weights)
    np.testing.assert_allclose(blocks.sum(axis=0), b.space.weights)
    by_anchors = a.anchors.energy + b.anchors.energy - 2 * best.value
    assert by_anchors == pytest.approx(loss(a.space, b.space, csr_array(blocks)))
    start = lifted(a, b, best.coupling)
    np.testing.assert_allclose(start.gradient, a.space.costs @ blocks @ b.space.costs)
    assert descend(a.space, b.space, start).loss < by_anchors


def test_a_descent_ends_where_no_vertex_is_better_in_the_linear_sense(configured):
    distance = exact(configured)
    a, b = (distance.prepare(cloud(points(seed, n))).space for seed, n in ((1, 40), (2, 55)))
    start = Start(
        a.costs @ np.outer(a.weights, b.weights) @ b.costs,
        (np.zeros(40), np.zeros(55)),
        tuple(np.indices((40, 55)).reshape(2, -1)),
    )
    found = descend(a, b, start)
    dense = found.coupling.toarray()
    gradient = a.costs @ dense @ b.costs
    best = vertex(a, b, gradient)
    assert (gradient * best).sum() <= (gradient * dense).sum() + 2e-7 * scale(a, b)
    assert found.coupling.nnz <= 40 + 55 - 1
    np.testing.assert_allclose(dense.sum(axis=1), a.weights)
    np.testing.assert_allclose(dense.sum(axis=0), b.weights)
    space = a.costs[:, None, :, None] - b.costs[None, :, None, :]
    assert found.loss == pytest.approx(np.einsum("ijkl,ij,kl", space**2, dense, dense))


def test_more_anchors_bring_the_quantized_value_down_to_the_exact_one(configured):
    a, b = points(1, 80), points(2, 80)
    values = [
        between(
            configured("distance", "distance=gw_quantized", f"distance.anchors={k}"), a, b
        ).value
        for k in (5, 20, 80)
    ]
    values.append(between(exact(configured, "distance.cost=euclidean"), a, b).value)
    assert values[0] > values[1] > values[2] >= values[3] * (1 - 1e-9)


@pytest.mark.parametrize("cost", ["euclidean", "squared_euclidean", "cosine"])
def test_a_lift_is_between_the_quantized_and_the_exact_value(configured, cost):
    alike, few = f"distance.cost={cost}", "distance.anchors=8"
    flat, lifted = (
        configured("distance", "distance=gw_quantized", few, alike, f"distance.lift={lift}")
        for lift in ("false", "true")
    )
    for seed in range(5):
        a, b = points(seed, 60), points(seed + 10, 70)
        found = between(lifted, a, b)
        assert found.value < between(flat, a, b).value
        assert found.value >= between(exact(configured, alike), a, b).value * (1 - 1e-9)
        assert found.marginal_error < 1e-12


# What a screen leaves out.


def family_points(family, member, n=30):
    random = np.random.default_rng([family, member])
    return random.normal(size=(n, 3)) * np.array([1.0, 2 + 3 * family, 1 + family])


@pytest.mark.parametrize("budget", ["null", 2])
def test_a_screen_leaves_out_only_what_its_bounds_exclude_or_says_so(configured, tmp_path, budget):
    settings = ["distance=screened", "distance.neighbours=2", "distance.sample=1"]
    distance = configured("distance", *settings, f"distance.budget={budget}")
    clouds = [family_points(family, member) for family in range(4) for member in range(3)]
    names = [f"i{at}" for at in range(12)]
    found = carried(tmp_path / "screened", distance, clouds, names)
    whole = carried(tmp_path / "whole", distance.distance, clouds, names)
    upper = np.triu_indices(12, 1)
    estimated = found.details["estimated"]
    assert 0 < estimated[upper].sum() < len(upper[0])
    assert (found.values[~estimated] == whole.values[~estimated]).all()
    assert (found.values >= found.details["bound"]).all()
    proven = estimated & found.converged
    for i, j in zip(*np.nonzero(proven), strict=True):
        nearest = np.sort(np.where(estimated[i], np.inf, whole.values[i])[np.arange(12) != i])[1]
        assert whole.values[i, j] > nearest
    if budget == "null":
        assert found.converged.all()
        for i in range(12):
            others = np.arange(12) != i
            wanted = np.sort(whole.values[i][others])[:2]
            np.testing.assert_array_equal(
                np.sort(found.values[i][others & ~estimated[i]])[:2], wanted
            )
    else:
        assert not found.converged.all()


def test_half_samples_in_which_all_items_are_equally_far_apart_have_no_ranks():
    names, square = ("a", "b", "c"), np.zeros((3, 3))
    ranked, flat = [[1.0, 2, 3], [3.0, 2, 1]], [[1.0, 2, 3], [0.0, 0, 0]]
    for halves, found in (([flat], None), ([flat, ranked], [-1])):
        which = Distances(names, square, "GW loss", {}, np.array(halves)).stability
        np.testing.assert_equal(which, found)


def test_half_samples_of_the_same_items_agree_and_of_noise_do_not(configured, tmp_path):
    distance = configured("distance", "distance=gw_slb")  # the cheapest
    stability = Stability(repeats=2, size=100, seed=0)

    def ranks(clouds, folder):
        store = Store(folder)
        subjects = [CloudOf(f"i{i}", c) for i, c in enumerate(stored(folder, clouds))]
        stage = Halving(distance=distance, stability=stability, alike=False)
        halves = load_stability(store.once(stage, subjects, Serial(threads=1)))
        assert halves.shape == (2, 2, 10)
        names, pair = tuple(f"i{i}" for i in range(5)), np.zeros((5, 5))
        return Distances(names, pair, "GW loss", {}, halves).stability

    apart = ranks([family_points(family, 0, 200) for family in range(5)], tmp_path / "a")
    assert apart.shape == (2,)
    assert (apart > 0.8).all()
    alike = ranks([points(seed, 200) for seed in range(5)], tmp_path / "b")
    assert alike.mean() < apart.mean()


# What the switches of the exact solver do.


def test_one_point_is_as_far_as_the_costs_are_large():
    a = points(1)  # the only coupling is the product: Σ C[i, k]² w[i] w[k]
    found = between(PUBLISHED, points(2, n=1), a).value
    assert found == pytest.approx(np.mean(squareform(pdist(a)) ** 2))


def test_two_segments_by_hand():
    # Costs 1 and 3 off the diagonal: (3 - 1)² on half of the mass of T x T.
    assert between(PUBLISHED, [[0.0], [1.0]], [[5.0], [8.0]]).value == pytest.approx(2.0)


COSTS = {"euclidean": "euclidean", "squared_euclidean": "sqeuclidean", "cosine": "cosine"}


@pytest.mark.parametrize("cost", COSTS)
def test_costs_are_those_of_scipy(cost):
    a = points(1)
    wanted = squareform(pdist(a, COSTS[cost]))
    space = replace(PUBLISHED, cost=cost).prepare(cloud(a))
    np.testing.assert_allclose(space.costs, wanted, atol=1e-12)
    assert space.weights.tolist() == [0.1] * 10
    for normalisation, reduce in {"mean": np.mean, "median": np.median, "max": np.max}.items():
        scaled = replace(PUBLISHED, cost=cost, normalisation=normalisation).prepare(cloud(a))
        np.testing.assert_allclose(scaled.costs, wanted / reduce(wanted), atol=1e-12)


@pytest.mark.parametrize("normalisation", ["none", "mean", "median", "max"])
def test_only_raw_costs_see_the_spread_of_a_cloud(normalisation):
    distance = replace(PUBLISHED, normalisation=normalisation)
    a, b = points(1), points(2)
    plain, scaled = (between(distance, a, factor * b).value for factor in (1, 1.5))
    if normalisation == "none":
        assert abs(scaled / plain - 1) > 0.1
        assert between(distance, 1.5 * a, 1.5 * b).value == pytest.approx(1.5**2 * plain)
    else:
        assert scaled == pytest.approx(plain, rel=1e-6)


def test_root_and_half_root_are_those_of_the_loss():
    a, b = points(1), points(2)
    loss, root, half = (
        between(replace(PUBLISHED, quantity=quantity), a, b).value
        for quantity in ("loss", "root", "half_root")
    )
    assert root == pytest.approx(np.sqrt(loss), rel=1e-12)
    assert half == pytest.approx(root / 2, rel=1e-12)


def test_the_root_keeps_the_triangle_inequality_where_the_loss_does_not():
    lines = [np.array([[0.0], [size]]) for size in (0.5, 1.0, 1.5)]
    loss = matrix(PUBLISHED, lines)
    root = matrix(replace(PUBLISHED, quantity="root"), lines)
    assert loss[0, 2] > loss[0, 1] + loss[1, 2] + 0.1
    assert root[0, 2] <= root[0, 1] + root[1, 2] + 1e-9


def test_a_zero_vector_has_no_cosine():
    zero = np.vstack([points(1), np.zeros(3)])
    with pytest.raises(InputError, match=r"^item 'x': the cosine cost .* distance.cost=euclidean$"):
        replace(PUBLISHED, cost="cosine").prepare(cloud(zero, name="x"))


@pytest.mark.parametrize("wrong", [{"cost": "manhattan"}, {"quantity": "gw"}, {"normalise": "max"}])
def test_unknown_switches_are_refused(wrong):
    fields = {"cost": "euclidean", "normalisation": "none", "quantity": "loss"}
    with pytest.raises(ValidationError):
        Published(**(fields | wrong))


# The matrix of all pairs.


def gap(folder):
    """A distance of the means that notes in a folder, which every process sees, what it was asked.

    A class of its own for each call: worker processes are sent it and import none of this file.
    """

    @dataclass(frozen=True)
    class Gap:
        title: ClassVar[str] = "gap of the means"

        def prepare(self, cloud):
            self._note(f"prepare {cloud.name}")
            return cloud.points.mean()

        def __call__(self, a, b):
            self._note(f"solve {a:g} {b:g}")
            return Pair(abs(a - b), abs(a - b) < 2.5, int(10 * a + b))

        def _note(self, what):
            (folder / f"{what} {uuid4().hex}").touch()

    return Gap()


def stored(folder, clouds):
    """The clouds as the features stage leaves them."""
    store = Store(folder)
    made = []
    for i, each in enumerate(clouds):
        tensors = {"points": np.asarray(each, dtype=np.float64)}
        tensors["weights"] = np.full(len(each), 1 / len(each))

        def write(result, tensors=tensors):
            save_file(tensors, result / "cloud.safetensors")

        made.append(store.fetch("features", Key(f"cloud{i}"), write))
    return made


def carried(folder, distance, clouds, names, execute=None):
    """The distances as the pipeline gets them."""
    subject = [CloudOf(n, c) for n, c in zip(names, stored(folder, clouds), strict=True)]
    stage = Pairwise(distance=distance)
    execute = execute or Serial(threads=1)
    store = Store(folder)
    made = store.fetch("distances", Key("all"), lambda out: stage(subject, out, store, execute))
    return load_distances(names, made, distance)


@pytest.mark.parametrize("execute", [Serial(threads=1), Processes(jobs=2, threads=1)], ids=repr)
def test_every_unordered_pair_is_solved_once_and_every_item_prepared_once(execute, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    clouds = [np.full((2, 1), float(i)) for i in range(4)]
    found = carried(tmp_path, gap(notes), clouds, "abcd", execute)
    noted = sorted(path.name.rpartition(" ")[0] for path in notes.iterdir())
    solved = [f"solve {i} {j}" for i, j in combinations(range(4), 2)]
    assert noted == sorted([f"prepare {name}" for name in "abcd"] + solved)
    assert found.names == ("a", "b", "c", "d")
    assert found.quantity == "gap of the means"
    index = np.arange(4)
    gaps = np.abs(index[:, None] - index[None])
    assert found.values.tolist() == gaps.tolist()
    assert found.converged.tolist() == (gaps < 2.5).tolist()
    assert found.details["iterations"].tolist() == found.details["iterations"].T.tolist()
    assert found.details["iterations"][1, 3] == 13


def test_the_matrix_is_that_of_the_pairs(gw, tmp_path):
    clouds = [points(seed, n) for seed, n in enumerate((6, 9, 7))]
    found = carried(tmp_path, gw, clouds, ("x", "y", "z"))
    np.testing.assert_array_equal(found.values, matrix(gw, clouds))
    assert found.quantity == gw.title
    assert found.converged.all()
    assert found.details["seconds"][0, 1] > 0


def test_the_three_quantities_of_one_name_are_told_apart():
    titles = {replace(PUBLISHED, quantity=q).title for q in ("loss", "root", "half_root")}
    assert len(titles) == 3


def test_a_pair_that_did_not_converge_is_marked_to_the_end(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "_MAX_ITERATIONS", 2)
    easy = np.zeros((3, 3))
    clouds = [points(1, 30), points(2, 30), easy]
    found = carried(tmp_path, PUBLISHED, clouds, "abc")
    assert found.converged.tolist() == [[True, False, True], [False, True, True], [True] * 3]
    axes = Figure().subplots()
    heat_map(axes, found, partition(["ab", "c"], "abc", "x"))
    marked = {text.get_position() for text in axes.texts if text.get_text().endswith("*")}
    assert marked == {(0, 1), (1, 0)}
    assert len(axes.texts) == 9
