"""Grouping: the published plans, what every strategy must keep to, and refusals of records."""

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gwsmm.grouping.linkage import Linkage, into
from gwsmm.grouping.partitions import count, every, fit, sizes_of
from gwsmm.grouping.partitions import drawn as draw
from gwsmm.grouping.record import read_record
from gwsmm.grouping.recorded import Recorded
from gwsmm.results import plan_content, write_json
from gwsmm.types import Distances, InputError, Item, Label, Plan, Responses, partition

NAMES = (  # in the order of the paper's numbers 1 to 9
    "anna_vs_carla",
    "breaking_down_hydrogen_peroxide",
    "carlos_javier_atomic_model",
    "dry_ice_model",
    "gas_filled_balloons",
    "layers_in_test_tube",
    "model_for_making_water",
    "namis_careful_experiment",
    "natural_sugar",
)
AVERAGE = into(5, "average")
FEW = settings(max_examples=25, deadline=None, derandomize=True)


def distances(values, names=NAMES):
    values = np.asarray(values, dtype=float)
    n = len(values)
    solved = np.ones((n, n), dtype=bool)
    return Distances(
        tuple(names[:n]), values, "GW loss", {"converged": solved, "estimated": ~solved}
    )


def items_of(names):
    nothing = Responses(("",), np.zeros((1, 1), np.uint8))
    return [Item(n, (Label("E1"),), "multilabel", nothing, nothing, nothing) for n in names]


class Tried:
    """What merging would do, by the distances alone: an item loses its mean distance to the others.

    Counts what is asked for.
    """

    def __init__(self, distances):
        self.distances, self.asked = distances, []

    @property
    def items(self):
        return items_of(self.distances.names)

    def losses(self, groups):
        self.asked += groups
        at = self.distances.names.index
        return [
            tuple(sum(self.distances.values[at(a), at(b)] for b in group) for a in group)
            for group in groups
        ]

    def drifts(self, groups, signal):
        assert signal in ("distance", "cka")
        return self.losses(groups)

    def cosines(self):
        return 1 - self.distances.similarity()


def planned(grouping, which):
    return grouping(which, Tried(which))


FIELDS = {"method": "average", "encoders": 5, "threshold": None, "storage": None, "largest": None}


def up_to(threshold, method="average"):
    return Linkage(**FIELDS | {"method": method, "encoders": None, "threshold": threshold})


def drawn(seed, n=9, names=NAMES):
    """Distances between n items without ties, not of groups either."""
    random = np.random.default_rng(seed)
    upper = np.zeros((n, n))
    upper[np.triu_indices(n, 1)] = random.uniform(1, 9, n * (n - 1) // 2)
    return distances(upper + upper.T, names)


def numbers(plan):
    """The groups by the paper's numbers, largest and first ones first."""
    groups = [tuple(NAMES.index(name) + 1 for name in group) for group in plan.groups]
    return sorted(groups, key=lambda group: (-len(group), group))


GW_PLAN = [(1, 2, 8), (4, 6, 7), (3,), (5,), (9,)]
PUBLISHED = {
    "gw_published": GW_PLAN,
    "experts": [(7, 8, 9), (1, 2), (5, 6), (3,), (4,)],
    "gpt_o1": [(3, 4, 8, 9), (5, 6), (1,), (2,), (7,)],
}


def anything():
    """Distances that a record must not look at."""
    return drawn(3)


@pytest.mark.parametrize("record", PUBLISHED)
def test_the_published_matrices_give_the_published_plans(record):
    grouping = Recorded(record=record, method="average", encoders=5)
    grouping.check(items_of(NAMES))
    assert numbers(planned(grouping, anything())) == PUBLISHED[record]


def test_the_plan_of_the_notebook_has_four_encoders():
    plan = planned(Recorded(record="gw_published", method="average", encoders=4), anything())
    assert numbers(plan) == [(1, 2, 8), (4, 6, 7), (3, 9), (5,)]


@pytest.mark.parametrize("record", PUBLISHED)
def test_the_items_of_a_shipped_record_stand_in_the_order_of_the_paper(record):
    assert tuple(read_record(record).items) == NAMES


def test_the_published_similarities():
    gw, experts, llm = (np.array(read_record(record).similarity) for record in PUBLISHED)
    assert gw[0].tolist() == [1.0, 0.97, 0.43, 0.76, 0.49, 0.67, 0.74, 0.97, 0.0]
    assert gw[8].tolist() == [0.0, 0.21, 0.78, 0.42, 0.1, 0.68, 0.41, 0.17, 1.0]
    assert gw[3].tolist() == [0.76, 0.8, 0.71, 1.0, 0.5, 0.86, 0.93, 0.79, 0.42]
    assert gw[5].tolist() == [0.67, 0.74, 0.87, 0.86, 0.53, 1.0, 0.89, 0.72, 0.68]
    assert sorted(set(experts.ravel().tolist())) == [0.2, 0.5, 0.6, 0.8, 1.0]
    assert llm[4].tolist() == [0.2, 0.2, 0.3, 0.3, 1.0, 0.9, 0.2, 0.3, 0.3]


@pytest.mark.parametrize("factor", [1.0, 0.013, 4e5])
def test_the_published_plan_comes_of_distances_as_of_similarities(factor):
    similarity = np.array(read_record("gw_published").similarity)
    plan = planned(AVERAGE, distances(factor * (1 - similarity)))
    assert numbers(plan) == GW_PLAN
    assert plan.source == "average linkage of the GW loss"


def test_the_published_plan_does_not_hang_on_the_root():
    similarity = np.array(read_record("gw_published").similarity)
    assert numbers(planned(AVERAGE, distances(np.sqrt(1 - similarity)))) == GW_PLAN


def test_single_linkage_gives_the_published_plan_and_complete_does_not():
    plans = {
        method: numbers(
            planned(Recorded(record="gw_published", method=method, encoders=5), anything())
        )
        for method in ("single", "complete")
    }
    assert plans["single"] == GW_PLAN
    assert {(3, 6), (4, 7)} < set(plans["complete"])


# What every strategy must keep to; records name the nine items of the paper.


@FEW
@given(seed=st.integers(0, 10_000))
def test_a_plan_is_a_partition_in_the_order_of_the_items(any_grouping, seed):
    any_grouping.check(items_of(NAMES))
    plan = planned(any_grouping, drawn(seed))
    assert sorted(name for group in plan.groups for name in group) == sorted(NAMES)
    assert all(list(group) == sorted(group, key=NAMES.index) for group in plan.groups)
    assert list(plan.groups) == sorted(plan.groups, key=lambda group: NAMES.index(group[0]))
    assert plan.source
    assert planned(any_grouping, drawn(seed)) == plan


@FEW
@given(seed=st.integers(0, 10_000), order=st.permutations(range(9)))
def test_permuting_the_items_permutes_the_plan(any_grouping, seed, order):
    before = drawn(seed)
    names = [NAMES[i] for i in order]
    after = distances(before.values[np.ix_(order, order)], names)
    one, other = planned(any_grouping, before), planned(any_grouping, after)
    assert {frozenset(group) for group in one.groups} == {frozenset(g) for g in other.groups}


@FEW
@given(seed=st.integers(0, 10_000), factor=st.floats(1e-6, 1e6))
def test_the_unit_of_the_distances_does_not_matter(any_grouping, seed, factor):
    plain = drawn(seed)
    scaled = distances(plain.values * factor)
    assert planned(any_grouping, scaled).groups == planned(any_grouping, plain).groups


def tied(n):
    return distances(np.ones((n, n)) - np.eye(n))


@pytest.mark.parametrize("encoders", range(1, 10))
@pytest.mark.parametrize("method", ["average", "single", "complete"])
@pytest.mark.parametrize("which", [drawn(1), tied(9), distances(np.zeros((9, 9)))],
                         ids=["distinct", "all tied", "all zero"])  # fmt: skip
def test_exactly_as_many_groups_as_encoders(encoders, method, which):
    plan = planned(into(encoders, method), which)
    assert len(plan.groups) == encoders
    assert sorted(name for group in plan.groups for name in group) == sorted(NAMES)


@pytest.mark.parametrize("record", PUBLISHED)
@pytest.mark.parametrize("encoders", range(1, 10))
def test_exactly_as_many_groups_as_encoders_of_a_record(encoders, record):
    plan = planned(Recorded(record=record, method="average", encoders=encoders), anything())
    assert len(plan.groups) == encoders


def test_every_strategy_that_counts_encoders_counts_them_right(any_grouping):
    if getattr(any_grouping, "encoders", None) is None:
        return
    for encoders in range(1, 10):
        assert len(planned(replace(any_grouping, encoders=encoders), drawn(0)).groups) == encoders
    replace(any_grouping, encoders=9).check(items_of(NAMES))
    with pytest.raises(InputError, match=r"^grouping.encoders=10: .*only 9 items.*at most 9$"):
        replace(any_grouping, encoders=10).check(items_of(NAMES))


def test_a_lower_threshold_never_joins_more():
    which, before = drawn(4), 10
    for threshold in np.linspace(0, 1, 21):
        groups = planned(up_to(threshold), which).groups
        assert len(groups) <= before
        before = len(groups)
    assert before == 1


@pytest.mark.parametrize("method", ["average", "single", "complete"])
def test_the_ends_of_the_threshold(method):
    lowest, highest = (up_to(t, method) for t in (0.0, 1.0))
    for which in (drawn(2), tied(9)):
        assert len(planned(lowest, which).groups) == 9
        assert len(planned(highest, which).groups) == 1
    # Items at distance zero are one even at threshold zero.
    twins = drawn(2).values.copy()
    twins[0] = twins[4]
    twins[:, 0] = twins[:, 4]
    twins[0, 0] = twins[0, 4] = twins[4, 0] = 0
    assert (NAMES[0], NAMES[4]) in planned(lowest, distances(twins)).groups


def test_the_ends_and_the_pairs(configured):
    for name, groups in (("all", 1), ("none", 9), ("pairs", 5), ("random", 5)):
        plan = planned(configured("grouping", f"grouping={name}"), drawn(0))
        assert len(plan.groups) == groups


@FEW
@given(seed=st.integers(0, 10_000), limit=st.integers(2, 9))
@pytest.mark.parametrize("method", ["average", "single", "complete", "ward"])
def test_a_limit_that_does_not_bind_changes_nothing(method, seed, limit):
    points = np.random.default_rng(seed).normal(size=(9, 2))  # Ward needs points
    which = distances(np.linalg.norm(points[:, None] - points, axis=-1))
    free = planned(Linkage(**FIELDS | {"method": method}), which)
    same = planned(Linkage(**FIELDS | {"method": method, "largest": 9}), which)
    assert free == same
    limited = Linkage(**FIELDS | {"method": method, "largest": limit})
    assert max(map(len, planned(limited, which).groups)) <= limit


def test_groups_that_cannot_be_so_few_are_refused():
    with pytest.raises(InputError, match=r"^grouping.largest=2: 4 encoders for 9 items need .* 3"):
        Linkage(**FIELDS | {"encoders": 4, "largest": 2}).check(items_of(NAMES))


def test_two_groups_are_not_joined_where_the_rest_could_not_become_few_enough():
    def twos(count):
        near = 0.5 * np.kron(np.eye(count), [[0, 1], [1, 0]])
        return distances(np.ones(near.shape) - np.eye(2 * count) - near)

    trios = Linkage(**FIELDS | {"encoders": 2, "largest": 3})
    assert planned(trios, twos(2)).groups == (NAMES[:2], NAMES[2:4])
    groups = planned(trios, twos(3)).groups  # not into the three nearest pairs
    assert sorted(map(len, groups)) == [3, 3]
    assert NAMES[:2] == groups[0][:2]


def joined_greedily(which, encoders, largest):
    """The groups of average linkage up to a size; None where they cannot be joined to so few."""
    groups = [(name,) for name in which.names]
    at = which.names.index

    def apart(pair):
        return np.mean([which.values[at(a), at(b)] for a in pair[0] for b in pair[1]])

    while len(groups) > encoders:
        pairs = [pair for pair in combinations(groups, 2) if sum(map(len, pair)) <= largest]
        if not pairs:
            return None
        one, other = min(pairs, key=apart)
        groups = [each for each in groups if each not in (one, other)] + [one + other]
    return {frozenset(group) for group in groups}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 9),
    encoders=st.integers(1, 9),
    spare=st.integers(0, 2),
)
@pytest.mark.parametrize("method", ["average", "single", "complete", "ward"])
def test_so_few_groups_of_a_largest_size_are_found_wherever_there_are_any(
    method, seed, n, encoders, spare
):
    encoders = min(encoders, n)
    largest = max(2, -(-n // encoders)) + spare
    points = np.random.default_rng(seed).normal(size=(n, 2))  # Ward needs points
    which = distances(np.linalg.norm(points[:, None] - points, axis=-1))
    rule = Linkage(**FIELDS | {"method": method, "encoders": encoders, "largest": largest})
    rule.check(items_of(which.names))
    groups = planned(rule, which).groups
    assert len(groups) == encoders
    assert max(map(len, groups)) <= largest
    if method == "average" and (greedy := joined_greedily(which, encoders, largest)):
        assert {frozenset(group) for group in groups} == greedy


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sizes=SIZES, rooms=SIZES)
def test_groups_fit_into_rooms_where_some_way_to_put_them_does(sizes, rooms):
    ways = product(range(len(rooms)), repeat=len(sizes))
    put = (np.bincount(way, weights=sizes, minlength=len(rooms)) for way in ways)
    some = any((filled <= rooms).all() for filled in put)
    assert fit(tuple(sorted(sizes, reverse=True)), tuple(sorted(rooms))) == some


@pytest.mark.parametrize(("share", "groups"), [(1.0, 9), (0.5, 4), (1 / 3, 3), (0.112, 1)])
def test_as_many_encoders_as_fit_into_the_share_of_storage(share, groups):
    rule = Linkage(**FIELDS | {"encoders": None, "storage": share})
    rule.check(items_of(NAMES))
    assert len(planned(rule, drawn(1)).groups) == groups


def test_a_share_of_storage_into_which_no_encoder_fits_is_refused_with_one_that_does():
    rule = Linkage(**FIELDS | {"encoders": None, "storage": 0.11})
    with pytest.raises(InputError, match=r"^grouping.storage=0.11: .* at least 0.112$"):
        rule.check(items_of(NAMES))


def test_ward_is_refused_where_there_are_no_points():
    ward = Linkage(**FIELDS | {"method": "ward"})
    far = distances(np.array([[0, 1, 9], [1, 0, 1], [9, 1, 0.0]]))
    with pytest.raises(InputError, match=r"^grouping.method=ward: .*choose average"):
        planned(replace(ward, encoders=2), far)


@FEW
@given(seed=st.integers(0, 10_000), n=st.integers(2, 7))
def test_pairs_are_the_best_of_all_matchings(configured, seed, n):
    which = drawn(seed, n)
    plan = planned(configured("grouping", "grouping=pairs"), which)
    sizes = [2] * (n // 2) + [1] * (n % 2)
    totals = [total(which, groups) for groups in every(which.names, sizes)]
    assert sorted(map(len, plan.groups), reverse=True) == sizes
    assert total(which, plan.groups) == pytest.approx(min(totals))


def total(which, groups):
    return sum(sum(losses) for losses in Tried(which).losses(groups))


@FEW
@given(seed=st.integers(0, 10_000), encoders=st.integers(1, 5))
def test_the_oracle_finds_the_best_of_all_partitions(configured, seed, encoders):
    which = drawn(seed, 5)
    oracle = replace(configured("grouping", "grouping=oracle"), encoders=encoders)
    sizes = [s for s in product(range(1, 6), repeat=encoders) if sum(s) == 5]
    best = min(
        total(which, groups)
        for size in {tuple(sorted(s)) for s in sizes}
        for groups in every(which.names, size)
    )
    assert total(which, planned(oracle, which).groups) == pytest.approx(best)
    beam = planned(replace(oracle, most=1, beam=100), which)  # so wide that nothing is left out
    assert total(which, beam.groups) == pytest.approx(best)


@pytest.mark.parametrize("name", ["validated", "drift"])
def test_joining_greedily_never_asks_twice_and_starts_with_the_best_pair(configured, name):
    which = drawn(5)
    tried = Tried(which)
    grouping = configured("grouping", f"grouping={name}")
    plan = replace(grouping, encoders=8)(which, tried)
    assert len(tried.asked) == len(set(tried.asked)) == 9 + 36
    (pair,) = [group for group in plan.groups if len(group) == 2]
    assert total(which, [pair]) == min(total(which, [p]) for p in combinations(NAMES, 2))


def test_greedy_weights_joins_the_likest_task_vectors_whatever_the_distance(configured):
    which = drawn(6)
    tried = Tried(which)
    unlike = distances(drawn(7).values)
    plan = configured("grouping", "grouping=greedy_weights")(unlike, tried)
    assert plan.groups == planned(into(5, "complete"), which).groups


def test_unlike_weights_joins_the_widest_angles_whatever_the_distance(configured):
    which = drawn(6)
    tried, unlike = Tried(which), distances(drawn(7).values)
    grouping = configured("grouping", "grouping=unlike_weights")
    at = {name: i for i, name in enumerate(NAMES)}

    def inside(plan):
        pairs = [pair for group in plan.groups for pair in combinations(group, 2)]
        return sum(1 - which.values[at[a], at[b]] for a, b in pairs)

    widest = max(combinations(NAMES, 2), key=lambda p: which.values[at[p[0]], at[p[1]]])
    assert widest in replace(grouping, encoders=8)(unlike, tried).groups
    for encoders in range(2, 9):
        plan = replace(grouping, encoders=encoders)(unlike, tried)
        assert len(plan.groups) == encoders
        likest = replace(configured("grouping", "grouping=greedy_weights"), encoders=encoders)
        assert inside(plan) < inside(likest(unlike, tried))
    assert not tried.asked  # nothing is merged to find out


SIZES = [(1,), (2, 2), (2, 1, 1), (3, 2, 2), (3, 3, 1, 1)]


@pytest.mark.parametrize("sizes", SIZES)
def test_every_partition_of_these_sizes_is_there_once(sizes):
    names = "abcdefgh"[: sum(sizes)]
    found = [frozenset(map(frozenset, groups)) for groups in every(names, sizes)]
    assert len(found) == len(set(found)) == count(sizes)
    assert all(sizes_of([*groups]) == sizes for groups in found)


def test_all_partitions_are_drawn_alike():
    random = np.random.default_rng(0)
    seen = Counter(
        frozenset(map(frozenset, draw("abcde", (2, 2, 1), random))) for _ in range(15_000)
    )
    assert len(seen) == count((2, 2, 1)) == 15
    assert max(seen.values()) - min(seen.values()) < 200  # about six standard deviations


def test_two_near_items_are_joined_first():
    values = np.ones((4, 4)) - np.eye(4)
    values[1, 3] = values[3, 1] = 0.1
    plan = planned(into(3, "average"), distances(values, "abcd"))
    assert plan.groups == (("a",), ("b", "d"), ("c",))
    assert plan.merged_items == ("b", "d")
    assert plan.group_of("d") == ("b", "d")


def test_similarity_is_one_minus_the_share_of_the_largest_distance():
    values = np.array([[0, 1, 4], [1, 0, 2], [4, 2, 0.0]])
    wanted = [[1, 0.75, 0], [0.75, 1, 0.5], [0, 0.5, 1]]
    assert distances(values).similarity().tolist() == wanted
    assert distances(np.zeros((2, 2))).similarity().tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoders": None, "threshold": None},
        {"encoders": 3, "threshold": 0.5},
        {"encoders": 0},
        {"encoders": None, "threshold": 1.5},
        {"method": "centroid"},
        {"encodres": 3},
    ],
    ids=str,
)
def test_linkage_refuses_what_it_cannot_do(wrong):
    with pytest.raises(ValidationError):
        Linkage(**(FIELDS | wrong))


# Records.

GOOD = {
    "source": "two teachers",
    "items": ["a", "b", "c"],
    "similarity": [[1, 0.9, 0.2], [0.9, 1, 0.3], [0.2, 0.3, 1]],
}
PLAN = {"source": "two teachers", "groups": [["c"], ["b", "a"]]}
ABC = ["a", "b", "c"]


def expert(path, encoders=2):
    return Recorded(record=str(path), method="average", encoders=encoders)


def changed(**parts):
    return {k: v for k, v in (GOOD | parts).items() if v is not None}


def similarity(i, j, value, both=True):
    matrix = [list(row) for row in GOOD["similarity"]]
    matrix[i][j] = value
    if both:
        matrix[j][i] = value
    return changed(similarity=matrix)


@pytest.mark.parametrize("content", [GOOD, PLAN], ids=["matrix", "plan"])
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_written_record_gives_its_plan(content, suffix, tmp_path):
    path = tmp_path / f"record.{suffix}"
    path.write_text(json.dumps(content) if suffix == "json" else yaml.safe_dump(content))
    grouping = expert(path)
    grouping.check(items_of(ABC))
    plan = planned(grouping, drawn(0, 3, "abc"))
    assert plan == Plan((("a", "b"), ("c",)), "two teachers")


def test_a_record_may_name_the_items_in_another_order(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(GOOD))
    plan = planned(expert(path), drawn(0, 3, "cba"))
    assert plan.groups == (("c",), ("b", "a"))


TABLES = {
    "plan": "item,group\nb,1\na,1\nc,2\n",
    "matrix": ",a,b,c\na,1,0.9,0.2\nb,0.9,1,0.3\nc,0.2,0.3,1\n",
}


@pytest.mark.parametrize("name", ["record.csv", "RECORD.CSV"])
@pytest.mark.parametrize("table", TABLES)
def test_a_table_gives_its_plan(table, name, tmp_path):
    path = tmp_path / name
    path.write_text(TABLES[table])
    expert(path).check(items_of(ABC))
    assert planned(expert(path), drawn(0, 3, "abc")).groups == (("a", "b"), ("c",))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there are no rows"),
        ("item,group\na,1\nb\n", "row 3 has 1 cells and not an item and its group"),
        ("item,group\na,1\nb, \n", "row 3, item b, names no group"),
        (
            ",a,b\nb,1,0.5\na,0.5,1\n",
            "the names in the first column are not those in the first row",
        ),
        (",a,b,c\na,1,x,0\nb,x,1,0\nc,0,0,1\n", "similarity.0.1: "),
        (",a,b,c\na,1,0.1\nb,0.1,1\nc,0,0\n", "must have a row and a column for each of 3 `items`"),
        ('item,group\n"a,1\n', "this is no JSON, YAML or CSV: "),
    ],
)
def test_a_table_that_is_no_record_is_refused_in_one_line(text, reason, tmp_path):
    (tmp_path / "record.csv").write_text(text)
    line = refused(expert(tmp_path / "record.csv"))
    assert line.startswith(f"{tmp_path / 'record.csv'}: ")
    assert reason in line


REFUSED = {
    "unknown item in a plan": ({"source": "x", "groups": [["a", "b"], ["d"]]}, "unknown item 'd'"),
    "item twice": ({"source": "x", "groups": [["a", "b"], ["c", "a"]]}, "'a' .* more than once"),
    "item lacking": ({"source": "x", "groups": [["a", "b"]]}, "'c' is in no group"),
    "no groups": ({"source": "x", "groups": []}, "'a' is in no group"),
    "matrix of other items": (changed(items=["a", "b", "z"]), "unknown item 'z'"),
    "matrix lacks an item": (
        changed(items=["a", "b"], similarity=[[1, 0.9], [0.9, 1]]),
        "'c' is in no group",
    ),
    "matrix names an item twice": (changed(items=["a", "b", "b"]), "'b' .* more than once"),
    "not symmetric": (similarity(0, 1, 0.8, both=False), "symmetric"),
    "above one": (similarity(0, 1, 1.2), "between 0 and 1"),
    "below zero": (similarity(0, 1, -0.1), "between 0 and 1"),
    "not a number": (similarity(0, 1, float("nan")), "between 0 and 1"),
    "diagonal": (similarity(1, 1, 0.9), "1 on the diagonal"),
    "too few rows": (changed(similarity=GOOD["similarity"][:2]), "each of 3 `items`"),
    "ragged": (changed(similarity=[[1, 0.9, 0.2], [0.9, 1], [0.2, 0.3, 1]]), "each of 3 `items`"),
    "matrix without items": (changed(items=None), "each of 0 `items`"),
    "both": (GOOD | {"groups": [["a", "b", "c"]]}, "either `groups`, or"),
    "neither": ({"source": "x"}, "either `groups`, or"),
    "no source": ({"groups": [["a", "b", "c"]]}, "source: Field required"),
    "unknown key": (GOOD | {"note": "hm"}, "note: Extra inputs are not permitted"),
    "text for a number": (similarity(0, 1, "0.9"), "similarity.0.1: "),
    "a list": ([1, 2], "record: "),
    "nothing": (None, "record: "),
}


def refused(grouping, names=ABC):
    with pytest.raises(InputError) as error:
        grouping.check(items_of(names))
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_wrong_record_is_refused_in_one_line(case, suffix, tmp_path):
    content, reason = REFUSED[case]
    path = tmp_path / f"record.{suffix}"
    path.write_text(json.dumps(content) if suffix == "json" else yaml.safe_dump(content))
    line = refused(expert(path))
    assert line.startswith((f"{path}: ", "two teachers: ", "x: "))
    assert re.search(reason, line), line


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("record.json", b'{"source": "x", "groups": [["a"],}', "this is no JSON, YAML or CSV: "),
        ("record.yaml", b"source: x\ngroups: [[a, b\n", "this is no JSON, YAML or CSV: "),
        ("record.json", b'{"source": "\xe9"}', "not UTF-8 at byte 12"),
        ("record.yaml", b"", "record: "),
    ],
)
def test_a_file_that_is_no_record_is_refused_in_one_line(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    line = refused(expert(tmp_path / name))
    assert line.startswith(f"{tmp_path / name}: ")
    assert reason in line


def test_a_missing_record_is_refused_with_those_that_are_shipped(tmp_path):
    for path in (tmp_path / "nothing.json", tmp_path):
        line = refused(expert(path))
        assert line.startswith(f"grouping.record={path}: there is no such file")
        assert line.endswith("experts, gpt_o1, gw_published")


def test_a_record_in_nobodys_home_is_refused():
    line = refused(expert("~nobody-of-this-name/plan.json"))
    assert line.startswith("grouping.record=~nobody-of-this-name/plan.json: there is no such home")


def test_the_plan_of_a_run_can_be_given_to_another(any_grouping, tmp_path):
    plan = planned(any_grouping, drawn(8))
    write_json(tmp_path / "plan.json", plan_content(plan))
    # The number of encoders is for matrices: a written plan is taken as it stands.
    again = Recorded(record=str(tmp_path / "plan.json"), method="single", encoders=2)
    again.check(items_of(NAMES))
    assert planned(again, drawn(0)) == plan


@FEW
@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), max_size=6))
def test_partition_accepts_partitions_and_nothing_else(groups):
    flat = sorted(name for group in groups for name in group)
    if flat == sorted("abcdef"):
        plan = partition(groups, "abcdef", "x")
        assert {frozenset(group) for group in plan.groups} == {frozenset(g) for g in groups}
    else:
        with pytest.raises(InputError, match="partition"):
            partition(groups, "abcdef", "x")
