"""Theorems about the distances that are not Gromov-Wasserstein."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr, wasserstein_distance

from gwsmm.distance.cka import Cka
from gwsmm.distance.label_overlap import LabelOverlap
from gwsmm.distance.procrustes import Procrustes
from gwsmm.distance.prompt_words import PromptWords
from gwsmm.distance.random_distance import Random
from gwsmm.distance.rsa import Rsa
from gwsmm.distance.sliced_wasserstein import SlicedWasserstein
from gwsmm.distance.task_vector_cosine import TaskVectorCosine
from gwsmm.types import Cloud, InputError, Item, Label, Pair, Responses, TaskVector

CKA, DEBIASED = Cka(debiased=False), Cka(debiased=True)
SPEARMAN = Rsa(correlation="spearman", cost="euclidean")
PEARSON = replace(SPEARMAN, correlation="pearson")
COSINE = replace(SPEARMAN, cost="cosine")
LOSS, ROOT = Procrustes(quantity="loss"), Procrustes(quantity="root")
SLICED = SlicedWasserstein(projections=32, seed=0, quantity="loss")
WEIGHTS = TaskVectorCosine(sketch=None, seed=0)
SKETCHED = replace(WEIGHTS, sketch=4096)
WORDS, RANDOM = LabelOverlap(), Random(seed=0)
QUESTIONS = PromptWords()

COMMON = [CKA, DEBIASED, SPEARMAN, PEARSON, COSINE, LOSS, ROOT]
CLOUDS = [*COMMON, SLICED, replace(SLICED, quantity="root")]


def named(distances):
    return pytest.mark.parametrize("distance", distances, ids=repr)


def cloud(points, name="an item", weights=None):
    points = np.asarray(points, dtype=np.float64)
    even = np.full(len(points), 1 / len(points))
    return Cloud(name, points, even if weights is None else np.asarray(weights))


def between(distance, a, b):
    """The value for two subjects, or for two arrays of points."""
    one, other = (cloud(each) if isinstance(each, np.ndarray | list) else each for each in (a, b))
    pair = distance(distance.prepare(one), distance.prepare(other))
    assert pair == Pair(pair.value)  # a closed form: no iterations, converged, no bound
    return pair.value


def points(seed, n=30, d=4):
    """A cloud without symmetries, away from the origin."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) * np.arange(1, d + 1) + 10


def rotation(seed, d=4):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def item(name, *labels):
    nothing = Responses((), np.zeros((0, len(labels)), np.uint8))
    rubric = tuple(Label(*each) for each in labels)
    return Item(name, rubric, "multilabel", *[nothing] * 3, prompt=f"What is {name}?")


def task_vector(seed, name="an item"):
    random = np.random.default_rng(seed)
    shapes = {"embeddings": (50, 8), "bias": (8,), "query": (8, 8)}
    return TaskVector(
        name, {k: random.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    )


SUBJECTS = {
    "clouds": lambda seed: cloud(points(seed, 20 + seed % 3)),
    "common": lambda seed: cloud(points(seed)),
    "weights": task_vector,
    "labels": lambda seed: item(f"item {seed}", (f"E{seed}", f"says why {seed} is hot")),
}


# What all of them keep to.


@named([*CLOUDS, WEIGHTS, SKETCHED, WORDS, QUESTIONS, RANDOM])
@pytest.mark.parametrize("seed", range(4))
def test_a_control_is_not_negative_symmetric_and_zero_to_itself(distance, seed):
    a, b = (SUBJECTS[distance.compares](each) for each in (seed, seed + 10))
    there, back = between(distance, a, b), between(distance, b, a)
    assert there > 1e-6
    assert there == pytest.approx(back, rel=1e-9)
    if distance != RANDOM:  # which is never asked
        assert between(distance, a, a) == pytest.approx(0, abs=1e-7)


@named([*CLOUDS, WEIGHTS, SKETCHED, WORDS, QUESTIONS, RANDOM])
def test_preparing_and_solving_twice_gives_the_same(distance):
    a, b = (SUBJECTS[distance.compares](each) for each in (1, 2))
    assert between(distance, a, b) == between(distance, a, b)


def test_what_each_compares_and_how_the_values_are_called():
    compared = {each: each.compares for each in (*CLOUDS, WEIGHTS, WORDS, RANDOM)}
    assert {each for each in compared if compared[each] == "common"} == {*COMMON}
    assert {each for each in compared if compared[each] == "clouds"} == {*CLOUDS} - {*COMMON}
    assert WEIGHTS.compares == "weights"
    assert WORDS.compares == RANDOM.compares == "labels"
    told_apart = [CKA, DEBIASED, SPEARMAN, PEARSON, LOSS, ROOT, *CLOUDS[-2:], WEIGHTS, SKETCHED]
    assert len({each.title for each in (*told_apart, WORDS, RANDOM)}) == len(told_apart) + 2


@named([*CLOUDS])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_with_item_and_row(distance, wrong):
    a = points(1)
    a[4, 2] = wrong
    with pytest.raises(InputError, match=r"^item 'dry_ice': the features of response 4 are not .*"):
        distance.prepare(cloud(a, "dry_ice"))


@named(CLOUDS)
def test_degenerate_clouds(distance):
    a, alone, constant = points(1, 7), points(2, 1), np.repeat(points(3, 1), 7, axis=0)
    blank, twice = np.zeros((7, 4)), np.repeat(points(4, 4), 2, axis=0)[:7]
    few = [] if distance == DEBIASED else [alone, points(5, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in (constant, twice, *few, *([] if distance == COSINE else [blank])):
            assert between(distance, each, each) == pytest.approx(0, abs=1e-7)
        assert np.isfinite(between(distance, a, twice))
        if distance in COMMON:
            assert between(distance, a, constant) == pytest.approx(1)
            assert between(distance, constant, constant @ rotation(1) * 3) == 0


# Those that compare the encoders on the same responses.


@named(COMMON)
def test_other_numbers_of_responses_are_refused(distance):
    a, b = cloud(points(1, 7), "apples"), cloud(points(2, 9), "boats")
    with pytest.raises(InputError, match=r"^items 'apples' and 'boats': 7 and 9 rows .*") as error:
        between(distance, a, b)
    assert "\n" not in str(error.value)


@named(COMMON)
@pytest.mark.parametrize("shape", [(30, 4), (8, 20)], ids=["many rows", "many columns"])
def test_rotating_reflecting_and_scaling_one_cloud_changes_nothing(distance, shape):
    a, b = points(1, *shape), points(2, *shape)
    value = between(distance, a, b)
    turned, mirrored = a @ rotation(3, shape[1]), a * np.where(np.arange(shape[1]) == 0, -1, 1)
    order = np.random.default_rng(4).permutation(len(a))
    for same in (turned, mirrored, 7 * a, 1e-3 * a):
        assert between(distance, same, b) == pytest.approx(value, rel=1e-7)
        assert between(distance, same, a) == pytest.approx(0, abs=1e-6)
    assert between(distance, a[order], b[order]) == pytest.approx(value, rel=1e-7)
    assert between(distance, a[order], a) > 0.1  # which row is which response matters


@named(COMMON)
def test_moving_one_cloud_changes_nothing_unless_angles_are_compared(distance):
    a, b = points(1), points(2)
    step = np.array([30.0, -5, 2, 0])
    changed = between(distance, a + step, b) - between(distance, a, b)
    if distance == COSINE:  # angles are seen from the origin
        assert abs(changed) > 0.01
    else:
        assert changed == pytest.approx(0, abs=1e-9)


@named([CKA, DEBIASED, SPEARMAN, LOSS])
def test_stretching_one_direction_is_no_invariance(distance):
    a = points(1)
    assert between(distance, a * [9, 1, 1, 1], a) > 0.1


@named(COMMON)
def test_a_control_grows_with_noise_from_a_copy_to_independence(distance):
    random = np.random.default_rng(0)
    a, noise = random.normal(size=(300, 5)) + 1, random.normal(size=(300, 5))
    found = [between(distance, a + level * noise, a) for level in (0, 0.1, 0.3, 1, 3, 1000)]
    assert all(less < more for less, more in pairwise(found))
    independent = between(distance, a, random.normal(size=(300, 5)) + 1)
    assert found[1] < independent / 8
    assert found[-1] == pytest.approx(independent, rel=0.2)


def test_independent_features_are_one_apart_only_where_the_bias_is_removed():
    random = np.random.default_rng(0)
    clouds = [random.normal(size=(60, 40)) for _ in range(12)]
    pairs = list(pairwise(clouds))
    assert np.mean([between(CKA, a, b) for a, b in pairs]) < 0.7
    assert np.mean([between(DEBIASED, a, b) for a, b in pairs]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("shape", [(30, 4), (8, 20)], ids=["many rows", "many columns"])
def test_cka_is_that_of_the_gram_matrices(shape):
    """Kornblith et al.: HSIC = tr(K H L H); Song et al.: the same without the diagonals."""
    a, b = points(1, *shape), points(2, *shape) ** 2
    n = len(a)
    centre = np.eye(n) - 1 / n

    def hsic(x, y):
        return np.trace(x @ x.T @ centre @ y @ y.T @ centre)

    def unbiased(x, y):
        k, m = x @ x.T, y @ y.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        one = np.ones(n)
        middle = one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
        return np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)

    for distance, of in ((CKA, hsic), (DEBIASED, unbiased)):
        wanted = 1 - of(a, b) / np.sqrt(of(a, a) * of(b, b))
        assert between(distance, a, b) == pytest.approx(wanted, rel=1e-9)


def test_cka_by_hand():
    # Centred columns u = (1, -1, 0, 0) and v = (0, 0, 1, -1): X = [u v], Y = [u 0].
    u, v = np.array([1.0, -1, 0, 0]), np.array([0, 0, 1.0, -1])
    x, y = np.column_stack([u, v]), np.column_stack([u, 0 * v])
    assert between(CKA, x, y) == pytest.approx(1 - 4 / np.sqrt(8 * 4))
    assert between(CKA, y, np.column_stack([v])) == pytest.approx(1)  # nothing in common


def test_debiasing_needs_four_responses():
    assert between(DEBIASED, points(1, 4), points(2, 4)) <= 2
    with pytest.raises(InputError, match=r"^item 'x': debiased CKA needs four .*=false or .*"):
        DEBIASED.prepare(cloud(points(1, 3), "x"))


def test_rsa_is_the_correlation_of_the_dissimilarities():
    a, b = points(1), points(2)
    for distance, correlation in ((SPEARMAN, spearmanr), (PEARSON, pearsonr), (COSINE, spearmanr)):
        wanted = 1 - correlation(*(pdist(each, distance.cost) for each in (a, b))).statistic
        assert between(distance, a, b) == pytest.approx(wanted, rel=1e-9)


def test_rsa_by_hand():
    # Distances 1, 3, 2 and 2, 1, 3 of three points on a line: ranks 1 3 2 and 2 1 3.
    a, b = [[0.0], [1.0], [3.0]], [[0.0], [2.0], [-1.0]]
    assert between(SPEARMAN, a, b) == pytest.approx(1.5)
    assert between(PEARSON, a, b) == pytest.approx(1.5)


def test_ranks_forgive_what_bends_all_dissimilarities_alike():
    a, b = np.sort(points(1, 12, 1), axis=0), points(2, 12, 3)
    # The square root of a distance is a distance too: embed it, all of its dimensions kept.
    costs = np.abs(a - a.T)
    centre = np.eye(12) - 1 / 12
    values, vectors = np.linalg.eigh(-centre @ costs @ centre / 2)
    bent = vectors * np.sqrt(values.clip(0))
    np.testing.assert_allclose(pdist(bent) ** 2, pdist(a), atol=1e-9)
    assert between(SPEARMAN, bent, b) == pytest.approx(between(SPEARMAN, a, b), abs=1e-3)
    assert between(SPEARMAN, bent, a) < 1e-3 < 0.01 < between(PEARSON, bent, a)


def test_cosines_forgive_a_factor_for_every_response():
    a, b = points(1), points(2)
    factors = np.random.default_rng(3).uniform(0.5, 2, size=(30, 1))
    assert between(COSINE, a * factors, b) == pytest.approx(between(COSINE, a, b), rel=1e-7)
    assert abs(between(SPEARMAN, a * factors, b) - between(SPEARMAN, a, b)) > 0.01


def test_equal_dissimilarities_have_no_order_to_correlate():
    corners = np.eye(6) @ rotation(1, 6)  # all as far apart, but for rounding
    assert between(SPEARMAN, corners, np.eye(6)) == 0
    assert between(SPEARMAN, corners, points(1, 6)) == 1


def test_procrustes_is_scipys_without_its_scale():
    a, b = points(1), points(2) ** 2
    disparity = scipy_procrustes(a, b)[2]
    loss = between(LOSS, a, b)
    assert loss == pytest.approx(2 - 2 * np.sqrt(1 - disparity), rel=1e-9)
    assert between(ROOT, a, b) == pytest.approx(np.sqrt(loss), rel=1e-12)


def test_procrustes_by_hand():
    # Of norm one: X = [u v] / 2 and Y = u / √2, so that Xᵀ Y = (1 / √2, 0).
    u, v = np.array([1.0, -1, 0, 0]), np.array([0, 0, 1.0, -1])
    x, y = np.column_stack([u, v]), np.column_stack([u])  # of other widths
    assert between(LOSS, x, y) == pytest.approx(2 - np.sqrt(2))
    assert between(LOSS, y, np.column_stack([v])) == pytest.approx(2)  # nothing in common


def test_the_root_of_procrustes_keeps_the_triangle_inequality_where_the_loss_does_not():
    # Of one column each, at angles 0, 0.5 and 1 to each other: a loss is 2 - 2 cos.
    u, v = np.array([[1.0], [-1], [0], [0]]), np.array([[0], [0], [1.0], [-1]])
    a, b, c = (np.cos(angle) * u + np.sin(angle) * v for angle in (0, 0.5, 1))
    loss = [between(LOSS, *pair) for pair in ((a, c), (a, b), (b, c))]
    root = [between(ROOT, *pair) for pair in ((a, c), (a, b), (b, c))]
    assert loss[0] > loss[1] + loss[2] + 0.01
    assert root[0] <= root[1] + root[2] + 1e-9


# Sliced Wasserstein.


def test_on_a_line_it_is_the_distance_of_quantiles():
    a, b = [[0.0], [1.0]], [[5.0], [8.0]]
    assert between(SLICED, a, b) == pytest.approx((5**2 + 7**2) / 2)
    assert between(replace(SLICED, quantity="root"), a, b) == pytest.approx(np.sqrt(37))


def test_weights_and_sizes_are_those_of_the_mass():
    a, b = points(1, 10), points(2, 7)
    twice = np.vstack([a, a[:3]])
    heavier = cloud(a, weights=np.array([2] * 3 + [1] * 7) / 13)
    assert between(SLICED, heavier, twice) == pytest.approx(0, abs=1e-9)
    assert between(SLICED, heavier, b) == pytest.approx(between(SLICED, twice, b), rel=1e-9)
    assert between(SLICED, a, b) != pytest.approx(between(SLICED, twice, b), rel=1e-2)
    assert between(SLICED, np.random.default_rng(0).permutation(a), a) == pytest.approx(0)
    # Between positions 0 and 1 a squared distance is the distance itself.
    ups, downs = [[1.0], [0.0], [0.0]], [[1.0], [1.0], [0.0], [0.0], [0.0]]
    wanted = wasserstein_distance([1, 0, 0], [1, 1, 0, 0, 0])
    assert between(SLICED, ups, downs) == pytest.approx(wanted)


def test_it_sees_where_a_cloud_lies_and_how_it_is_turned():
    a, b = points(1), points(2)
    step = np.array([3.0, 0, 0, 0])
    assert between(SLICED, a + step, a) > 0.1
    assert between(SLICED, a @ rotation(3), a) > 0.1
    together = between(SLICED, a + step, b + step)
    assert together == pytest.approx(between(SLICED, a, b), rel=1e-7)
    assert between(SLICED, 2 * a, 2 * b) == pytest.approx(4 * between(SLICED, a, b))


def test_a_step_is_seen_by_its_share_of_each_direction():
    # W2² of a translated cloud is (θᵀ step)², on average |step|² / d.
    a, step = points(1), np.array([3.0, 0, 0, 4.0])
    many = replace(SLICED, projections=4000)
    assert between(many, a + step, a) == pytest.approx(25 / 4, rel=0.05)
    assert between(replace(many, seed=1), a + step, a) != between(many, a + step, a)


def test_the_root_keeps_the_triangle_inequality_where_the_loss_does_not():
    a, b, c = (points(1) + size for size in (0, 1, 2))
    root = replace(SLICED, quantity="root")
    assert between(SLICED, a, c) > between(SLICED, a, b) + between(SLICED, b, c) + 0.1
    assert between(root, a, c) <= between(root, a, b) + between(root, b, c) + 1e-9


# The cosine of the task vectors.


def moved(name="an item", **tensors):
    return TaskVector(name, {k: np.asarray(v, np.float32) for k, v in tensors.items()})


def test_cosines_by_hand():
    a = moved(w=[[3.0, 0.0]], b=[4.0])
    assert between(WEIGHTS, a, moved(w=[[3.0, 0.0]], b=[0.0])) == pytest.approx(1 - 3 / 5)
    assert between(WEIGHTS, a, moved(w=[[0.0, 7.0]], b=[0.0])) == 1
    assert between(WEIGHTS, a, moved(w=[[-6.0, 0.0]], b=[-8.0])) == pytest.approx(2)
    assert between(WEIGHTS, a, moved(b=[8.0], w=[[6.0, 0.0]])) == pytest.approx(0, abs=1e-12)


@named([WEIGHTS, SKETCHED])
def test_an_encoder_that_did_not_move_is_one_from_any_other(distance):
    still, other = moved(w=[[0.0, 0.0]], b=[0.0]), moved(w=[[3.0, 0.0]], b=[4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert between(distance, still, still) == 0
        assert between(distance, still, other) == between(distance, other, still) == 1


def test_sums_are_in_float64():
    # In float32 the small entries would be lost beside the large one.
    small = np.full(100_000, 1e-3)
    a, b = moved(w=[3e3, *small]), moved(w=[-3e3, *small])
    assert 1 - between(WEIGHTS, a, b) == pytest.approx((0.1 - 9e6) / (0.1 + 9e6), rel=1e-12)
    assert between(WEIGHTS, a, b) - 2 == pytest.approx(-2 * 0.1 / 9e6, rel=1e-3)


def test_it_grows_with_noise():
    a, noise = task_vector(1), task_vector(2)
    noisy = [
        TaskVector("x", {k: a.tensors[k] + level * noise.tensors[k] for k in a.tensors})
        for level in (0.1, 0.3, 1, 3)
    ]
    found = [between(WEIGHTS, a, each) for each in noisy]
    assert all(less < more for less, more in pairwise(found))
    assert between(WEIGHTS, a, noise) == pytest.approx(1, abs=0.2)


def test_a_sketch_is_near_the_cosine_and_nearer_the_larger_it_is():
    random = np.random.default_rng(0)
    a = random.normal(size=20_000)
    b = 0.6 * a + 0.8 * random.normal(size=20_000)
    exact = between(WEIGHTS, moved(w=a), moved(w=b))
    errors = {
        size: np.sqrt(
            np.mean(
                [
                    (between(replace(WEIGHTS, sketch=size, seed=s), moved(w=a), moved(w=b)) - exact)
                    ** 2
                    for s in range(20)
                ]
            )
        )
        for size in (100, 2500)
    }
    assert errors[100] < 1.5 / np.sqrt(100)
    assert errors[2500] < 1.5 / np.sqrt(2500)
    assert errors[2500] < errors[100] / 2


def test_a_sketch_does_not_depend_on_the_order_of_the_tensors_and_is_small():
    a, b = task_vector(1), task_vector(2)
    turned = TaskVector("x", dict(reversed(a.tensors.items())))
    assert between(SKETCHED, turned, b) == between(SKETCHED, a, b)
    small = replace(SKETCHED, sketch=16).prepare(a)
    assert sum(part.size for part in small.parts.values()) == 16


def test_task_vectors_that_are_not_finite_are_refused_with_item_and_tensor():
    for wrong in (np.nan, np.inf):
        with pytest.raises(InputError, match=r"^item 'dry_ice': the change of 'b' is not finite.*"):
            WEIGHTS.prepare(moved("dry_ice", w=[1.0], b=[wrong]))


# The overlap of the rubrics.


def test_overlaps_by_hand():
    a = item("a", ("E1", "Claims that the gas is heated."), ("E2", "Names particles."))
    b = item("b", ("E1", "claims that particles move"))
    # Of e1, e2, claims, gas, heated, names, particles and move they share e1, claims, particles.
    assert between(WORDS, a, b) == pytest.approx(1 - 3 / 8)
    assert between(WORDS, a, item("c", ("other", "Nothing shared"))) == 1


def test_the_order_the_case_and_stop_words_of_a_rubric_mean_nothing():
    a = item("a", ("E1", "The gas_particles MOVE"), ("E2", ""))
    same = item("b", ("e2", ""), ("E1", "and move: these particles of a gas, Gas"))
    assert between(WORDS, a, same) == 0


def test_labels_without_descriptions_overlap_by_their_names():
    three, five = (item(str(n), *((f"E{i}",) for i in range(1, n + 1))) for n in (3, 5))
    assert between(WORDS, three, five) == pytest.approx(2 / 5)
    assert between(WORDS, three, item("again", ("E1",), ("E2",), ("E3",))) == 0


def test_rubrics_without_a_word():
    assert between(WORDS, item("a", ("–",)), item("b", ("the",))) == 0
    assert between(WORDS, item("a", ("–",)), item("b", ("E1",))) == 1


def test_the_overlap_keeps_the_triangle_inequality():
    random = np.random.default_rng(0)
    rubrics = [item(str(i), *((w,) for w in random.choice(list("bcdefg"), 3))) for i in range(12)]
    values = np.array([[between(WORDS, a, b) for b in rubrics] for a in rubrics])
    assert (values[:, None] <= values[:, :, None] + values[None] + 1e-12).all()


# The random one.


def test_random_distances_depend_on_the_names_and_the_seed_alone():
    a, b, c = (item(name, ("E1",)) for name in "abc")
    assert between(RANDOM, a, b) == between(RANDOM, item("a", ("other", "words")), b)
    assert between(RANDOM, a, b) != between(RANDOM, a, c)
    assert between(RANDOM, a, b) != between(Random(seed=1), a, b)


def test_random_distances_are_the_same_in_every_process():
    code = (
        "from gwsmm.distance.random_distance import Random; print(Random(seed=0)('a', 'b').value)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {str(RANDOM("b", "a").value)}


def test_random_distances_are_uniform_and_above_zero():
    values = [RANDOM(f"item {i}", f"item {j}").value for i in range(60) for j in range(i)]
    assert 0 < min(values) < max(values) <= 1
    counts, _ = np.histogram(values, 10, (0, 1))
    assert np.abs(counts - 177).max() < 5 * np.sqrt(177)


# Settings.


@pytest.mark.parametrize(
    ("distance", "wrong"),
    [
        (CKA, {"debiased": "perhaps"}),
        (SPEARMAN, {"cost": "squared_euclidean"}),
        (SPEARMAN, {"correlation": "kendall"}),
        (LOSS, {"quantity": "half_root"}),
        (SLICED, {"projections": 0}),
        (SLICED, {"seed": -1}),
        (WEIGHTS, {"sketch": 1}),
        (RANDOM, {"seed": -1}),
    ],
    ids=repr,
)
def test_unknown_switches_are_refused(distance, wrong):
    with pytest.raises(ValidationError):
        replace(distance, **wrong)


def asks(text):
    return replace(item("x", ("E1",)), prompt=text)


def test_questions_are_apart_by_the_cosine_of_their_word_counts():
    fractions, decimals = asks("What is 1/2 of 6? Say why."), asks("WHAT is .5 of 6?")
    # what is 1 2 of 6 say why · what is 5 of 6
    assert between(QUESTIONS, fractions, decimals) == pytest.approx(1 - 4 / np.sqrt(8 * 5))
    assert between(QUESTIONS, fractions, asks("say why: what is of 6, 2 1")) == 0
    assert between(QUESTIONS, fractions, asks("Nothing shared")) == 1
    twice = asks("why why")
    weight = 1 + np.log(2)
    expected = 1 - weight / np.hypot(weight, 1)
    assert between(QUESTIONS, twice, asks("why why not")) == pytest.approx(expected)


def test_an_item_without_a_question_is_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"item 'x' has no question; give .*items\.prompt=COLUMN"):
        QUESTIONS.prepare(asks("–"))


@pytest.mark.parametrize(
    ("name", "built"),
    [
        ("cka", CKA),
        ("rsa", SPEARMAN),
        ("procrustes", LOSS),
        ("sliced_wasserstein", replace(SLICED, projections=256)),
        ("task_vector_cosine", WEIGHTS),
        ("label_overlap", WORDS),
        ("prompt_words", QUESTIONS),
        ("random", RANDOM),
    ],
)
def test_the_configuration_builds_it(configured, name, built):
    assert configured("distance", f"distance={name}") == built
