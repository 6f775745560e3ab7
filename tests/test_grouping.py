"""Grouping: the published plans, what every strategy must keep to, and refusals of records."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gwsmm.grouping.linkage import Linkage
from gwsmm.grouping.record import read_record
from gwsmm.grouping.recorded import Recorded
from gwsmm.results import plan_content, write_json
from gwsmm.types import Distances, InputError, Plan, partition

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
AVERAGE = Linkage(method="average", encoders=5, threshold=None)
FEW = settings(max_examples=25, deadline=None, derandomize=True)


def distances(values, names=NAMES):
    values = np.asarray(values, dtype=float)
    n = len(values)
    solved = np.ones((n, n), dtype=bool)
    return Distances(
        tuple(names[:n]), values, "GW loss", {"converged": solved, "estimated": ~solved}
    )


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
    grouping.check(NAMES)
    assert numbers(grouping(anything())) == PUBLISHED[record]


def test_the_plan_of_the_notebook_has_four_encoders():
    plan = Recorded(record="gw_published", method="average", encoders=4)(anything())
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
    plan = AVERAGE(distances(factor * (1 - similarity)))
    assert numbers(plan) == GW_PLAN
    assert plan.source == "average linkage of the GW loss"


def test_the_published_plan_does_not_hang_on_the_root():
    similarity = np.array(read_record("gw_published").similarity)
    assert numbers(AVERAGE(distances(np.sqrt(1 - similarity)))) == GW_PLAN


def test_single_linkage_gives_the_published_plan_and_complete_does_not():
    plans = {
        method: numbers(Recorded(record="gw_published", method=method, encoders=5)(anything()))
        for method in ("single", "complete")
    }
    assert plans["single"] == GW_PLAN
    assert {(3, 6), (4, 7)} < set(plans["complete"])


# What every strategy must keep to; records name the nine items of the paper.


@FEW
@given(seed=st.integers(0, 10_000))
def test_a_plan_is_a_partition_in_the_order_of_the_items(any_grouping, seed):
    any_grouping.check(NAMES)
    plan = any_grouping(drawn(seed))
    assert sorted(name for group in plan.groups for name in group) == sorted(NAMES)
    assert all(list(group) == sorted(group, key=NAMES.index) for group in plan.groups)
    assert list(plan.groups) == sorted(plan.groups, key=lambda group: NAMES.index(group[0]))
    assert plan.source
    assert any_grouping(drawn(seed)) == plan


@FEW
@given(seed=st.integers(0, 10_000), order=st.permutations(range(9)))
def test_permuting_the_items_permutes_the_plan(any_grouping, seed, order):
    before = drawn(seed)
    names = [NAMES[i] for i in order]
    after = distances(before.values[np.ix_(order, order)], names)
    one, other = any_grouping(before), any_grouping(after)
    assert {frozenset(group) for group in one.groups} == {frozenset(g) for g in other.groups}


@FEW
@given(seed=st.integers(0, 10_000), factor=st.floats(1e-6, 1e6))
def test_the_unit_of_the_distances_does_not_matter(any_grouping, seed, factor):
    plain = drawn(seed)
    scaled = distances(plain.values * factor)
    assert any_grouping(scaled).groups == any_grouping(plain).groups


def tied(n):
    return distances(np.ones((n, n)) - np.eye(n))


@pytest.mark.parametrize("encoders", range(1, 10))
@pytest.mark.parametrize("method", ["average", "single", "complete"])
@pytest.mark.parametrize("which", [drawn(1), tied(9), distances(np.zeros((9, 9)))],
                         ids=["distinct", "all tied", "all zero"])  # fmt: skip
def test_exactly_as_many_groups_as_encoders(encoders, method, which):
    plan = Linkage(method=method, encoders=encoders, threshold=None)(which)
    assert len(plan.groups) == encoders
    assert sorted(name for group in plan.groups for name in group) == sorted(NAMES)


@pytest.mark.parametrize("record", PUBLISHED)
@pytest.mark.parametrize("encoders", range(1, 10))
def test_exactly_as_many_groups_as_encoders_of_a_record(encoders, record):
    plan = Recorded(record=record, method="average", encoders=encoders)(anything())
    assert len(plan.groups) == encoders


def test_every_strategy_that_counts_encoders_counts_them_right(any_grouping):
    if getattr(any_grouping, "encoders", None) is None:
        assert len(any_grouping(drawn(0)).groups) in (1, 9)
        return
    for encoders in range(1, 10):
        assert len(replace(any_grouping, encoders=encoders)(drawn(0)).groups) == encoders
    replace(any_grouping, encoders=9).check(NAMES)
    with pytest.raises(InputError, match=r"^grouping.encoders=10: .*only 9 items.*at most 9$"):
        replace(any_grouping, encoders=10).check(NAMES)


def test_a_lower_threshold_never_joins_more():
    which, before = drawn(4), 10
    for threshold in np.linspace(0, 1, 21):
        groups = Linkage(method="average", encoders=None, threshold=threshold)(which).groups
        assert len(groups) <= before
        before = len(groups)
    assert before == 1


@pytest.mark.parametrize("method", ["average", "single", "complete"])
def test_the_ends_of_the_threshold(method):
    lowest, highest = (Linkage(method=method, encoders=None, threshold=t) for t in (0.0, 1.0))
    for which in (drawn(2), tied(9)):
        assert len(lowest(which).groups) == 9
        assert len(highest(which).groups) == 1
    # Items at distance zero are one even at threshold zero.
    twins = drawn(2).values.copy()
    twins[0] = twins[4]
    twins[:, 0] = twins[:, 4]
    twins[0, 0] = twins[0, 4] = twins[4, 0] = 0
    assert (NAMES[0], NAMES[4]) in lowest(distances(twins)).groups


def test_two_near_items_are_joined_first():
    values = np.ones((4, 4)) - np.eye(4)
    values[1, 3] = values[3, 1] = 0.1
    plan = Linkage(method="average", encoders=3, threshold=None)(distances(values, "abcd"))
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
        Linkage(**({"method": "average", "encoders": 5, "threshold": None} | wrong))


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
    grouping.check(ABC)
    plan = grouping(drawn(0, 3, "abc"))
    assert plan == Plan((("a", "b"), ("c",)), "two teachers")


def test_a_record_may_name_the_items_in_another_order(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(GOOD))
    plan = expert(path)(drawn(0, 3, "cba"))
    assert plan.groups == (("c",), ("b", "a"))


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
        grouping.check(names)
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
        ("record.json", b'{"source": "x", "groups": [["a"],}', "this is no JSON or YAML: "),
        ("record.yaml", b"source: x\ngroups: [[a, b\n", "this is no JSON or YAML: "),
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


def test_the_plan_of_a_run_can_be_given_to_another(any_grouping, tmp_path):
    plan = any_grouping(drawn(8))
    write_json(tmp_path / "plan.json", plan_content(plan))
    # The number of encoders is for matrices: a written plan is taken as it stands.
    again = Recorded(record=str(tmp_path / "plan.json"), method="single", encoders=2)
    again.check(NAMES)
    assert again(drawn(0)) == plan


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
