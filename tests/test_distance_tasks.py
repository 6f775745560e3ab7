"""What the tasks of the distances carry and keep, wherever they run."""

import os
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from pickle import dumps

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_distance import PUBLISHED, carried, family_points, gap, points, stored, subject

from gwsmm.distance.gw_quantized import GwQuantized
from gwsmm.distance.pairwise import Pairwise, load_distances
from gwsmm.distance.prepared import put_on_disk
from gwsmm.distance.stability import Halving, Stability, load_stability
from gwsmm.distance.subjects import CloudOf, HalfOf
from gwsmm.execute import Processes, Serial
from gwsmm.store import Store, key_of
from gwsmm.types import Cloud, UnfinishedError

SMALL = 100_000  # bytes


@dataclass(frozen=True)
class Drawn:
    """What a distance compares, drawn where it is needed."""

    name: str
    distance: object
    seed: int
    n: int
    d: int

    @property
    def digest(self):
        return repr(self)

    def load(self):
        even = np.full(self.n, 1 / self.n)
        return subject(self.distance, Cloud(self.name, points(self.seed, self.n, self.d), even))


def drawn(distance, items, n, d):
    return [Drawn(f"i{seed}", distance, seed, n, d) for seed in range(items)]


class Counting:
    """Items are prepared in this process; what would go to other processes is measured.

    Pairs are not solved: `blocks` are those that would be.
    """

    workers = 1

    def __init__(self):
        self.sizes = []
        self.blocks = []

    def map(self, function, tasks, *, label, inside=None):
        results = [function(task) for task in tasks]
        self.sizes += [len(dumps(each)) for each in (*tasks, *results)]
        return results

    def each(self, stage, subjects, execute):
        self.blocks = subjects
        self.sizes += [len(dumps((key_of(stage, each), each))) for each in subjects]
        raise Seen

    def watch(self, stage, subject, folder):
        with pytest.raises(Seen):
            stage(subject, folder, self, self)


class Seen(Exception):
    """The blocks are known."""


def test_tasks_and_what_is_kept_of_items_between_them_are_small(any_distance, tmp_path):
    counting = Counting()
    items = drawn(any_distance, 4, n=300, d=64)
    counting.watch(Pairwise(distance=any_distance), items, tmp_path)
    assert counting.blocks
    assert max(counting.sizes) < SMALL


def test_tasks_of_half_samples_are_small(configured, tmp_path):
    distance, counting = configured("distance", "distance=gw_exact"), Counting()
    clouds = stored(tmp_path / "store", [points(seed, 600, 64) for seed in range(3)])
    stability = Stability(repeats=2, size=300, seed=0)
    stage = Halving(distance=distance, stability=stability, alike=False)
    counting.watch(stage, [CloudOf(f"i{i}", made) for i, made in enumerate(clouds)], tmp_path)
    assert len(counting.blocks) == 2 * 2 * 3
    assert max(counting.sizes) < SMALL


def test_a_task_of_many_pairs_is_about_few_items(tmp_path):
    (tmp_path / "notes").mkdir()
    counting = Counting()
    stage = Pairwise(distance=gap(tmp_path / "notes"))
    counting.watch(stage, drawn(PUBLISHED, 200, n=2, d=1), tmp_path)
    pairs = [pair for block in counting.blocks for pair in block.pairs]
    assert sorted(pairs) == list(combinations(range(200), 2))
    assert {len(block.pairs) for block in counting.blocks[:-1]} == {38}  # 19 900 pairs, 512 tasks
    items = [len(block.members) for block in counting.blocks]
    assert max(items) < 30  # in the order of rows it would be 39


def test_a_screen_of_several_rounds_prepares_each_item_once(configured, tmp_path, monkeypatch):
    prepared, prepare = Counter(), GwQuantized.prepare

    def counted(self, cloud):
        prepared[cloud.name] += 1
        return prepare(self, cloud)

    monkeypatch.setattr(GwQuantized, "prepare", counted)
    settings = ["distance=screened", "distance.neighbours=2", "distance.sample=1"]
    distance = configured("distance", *settings)
    names = [f"i{at}" for at in range(12)]
    clouds = [family_points(family, member) for family in range(4) for member in range(3)]
    carried(tmp_path, distance, clouds, names)
    assert prepared == dict.fromkeys(names, 1)


def test_matrices_are_those_of_one_process_and_nothing_else_is_kept(
    any_distance, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers find this module
    items, arrays = drawn(any_distance, 4, n=12, d=3), []
    for execute in (Serial(threads=1), Processes(jobs=2, threads=1)):
        out = tmp_path / str(execute.workers)
        out.mkdir()
        Pairwise(distance=any_distance)(items, out, Store(out / "store"), execute)
        assert sorted(path.name for path in out.iterdir()) == ["distances.safetensors", "store"]
        arrays.append(load_file(out / "distances.safetensors"))
        assert (arrays[-1].pop("seconds") >= 0).all()
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        assert (array.dtype, array.shape) == (arrays[1][name].dtype, arrays[1][name].shape)
        assert array.tobytes() == arrays[1][name].tobytes()


def test_half_samples_are_those_of_one_process(tmp_path):
    stability = Stability(repeats=2, size=10, seed=0)
    stage = Halving(distance=PUBLISHED, stability=stability, alike=False)
    found = []
    for execute in (Serial(threads=1), Processes(jobs=2, threads=1)):
        folder = tmp_path / str(execute.workers)
        clouds = stored(folder, [points(seed, 30) for seed in range(4)])
        items = [CloudOf(f"i{i}", made) for i, made in enumerate(clouds)]
        found.append(load_stability(Store(folder).once(stage, items, execute)))
    np.testing.assert_array_equal(*found)


def test_the_halves_of_a_cloud_are_disjoint_and_samples_of_them(tmp_path):
    own = CloudOf("x", stored(tmp_path, [points(0, 21)])[0])
    first, second = (HalfOf(own, (5, 1), half, 100).load() for half in (0, 1))
    assert (len(first.points), len(second.points)) == (11, 10)
    both = np.vstack([first.points, second.points])
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(points(0, 21), axis=0))
    few = HalfOf(own, (5, 1), 1, 4).load()
    assert set(map(tuple, few.points)) < set(map(tuple, second.points))
    assert few.weights.tolist() == [0.25] * 4


def test_memory_that_is_wanting_for_a_pair_is_told_by_its_items(tmp_path, monkeypatch):
    def hungry(self, a, b):
        raise MemoryError

    monkeypatch.setattr(type(PUBLISHED), "__call__", hungry)
    with pytest.raises(UnfinishedError, match=r"^pairs of a, b: it ran out of memory"):
        carried(tmp_path, PUBLISHED, [points(seed) for seed in range(3)], "abc")


def test_pairs_that_were_solved_before_a_kill_are_not_solved_again(tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    notes.mkdir()
    distance, store = gap(notes), Store(tmp_path / "store")
    stage, here = Pairwise(distance=distance), Serial(threads=1)
    clouds = stored(tmp_path / "store", [np.full((2, 1), float(i)) for i in range(5)])
    items = [CloudOf(f"i{i}", made) for i, made in enumerate(clouds)]
    solve = type(distance).__call__

    def killed(self, a, b):
        if len(solved(notes)) == 4:
            raise KeyboardInterrupt
        return solve(self, a, b)

    with monkeypatch.context() as patch:
        patch.setattr(type(distance), "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            store.once(stage, items[:4], here)
    four = store.once(stage, items[:4], here)
    assert solved(notes) == [f"solve {i} {j}" for i, j in combinations(range(4), 2)]
    found = load_distances(["a", "b", "c", "d"], four, distance)
    index = np.arange(4)
    assert found.values.tolist() == np.abs(index[:, None] - index).tolist()
    assert found.details["iterations"][1, 3] == 13
    store.once(stage, items, here)  # of one item more nothing but its own pairs
    assert solved(notes) == sorted(f"solve {i} {j}" for i, j in combinations(range(5), 2))
    assert store.used.keys() == {"distances"}  # and no run needs a piece


def solved(notes):
    return sorted(path.name.rpartition(" ")[0] for path in notes.glob("solve *"))


# What is on disk of an item


@dataclass(frozen=True)
class Part:
    costs: np.ndarray
    others: tuple


def test_a_prepared_item_comes_back_from_disk_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = points(0, 6, 4)
    arrays = {
        "columns": np.asfortranarray(rows),
        "few": rows[::2, 1:],
        "none": np.zeros((0, 3)),
        "yes": rows > 10,
        "one": np.array(3.5),
    }
    item = {"part": Part(rows, (rows, "word", 2.5)), "arrays": list(arrays.values())}
    kept = put_on_disk("x", item, Path())
    assert len(dumps(kept)) < 2_000
    assert not kept.file.is_absolute()  # another machine may see it under another folder
    back = kept.load()
    np.testing.assert_array_equal(back["part"].costs, rows)
    np.testing.assert_array_equal(back["part"].others[0], rows)
    assert back["part"].others[1:] == ("word", 2.5)
    for given, found in zip(arrays.values(), back["arrays"], strict=True):
        np.testing.assert_array_equal(given, found)
        assert given.dtype == found.dtype
        assert given.flags.fnc == found.flags.fnc
    assert kept.file.stat().st_size < 2 * rows.nbytes + 9 * 64 + 200  # an array is written once


def test_an_item_without_arrays_leaves_no_file(tmp_path):
    kept = put_on_disk("x", frozenset(["a word"]), tmp_path)
    assert kept.load() == {"a word"}
    assert not list(tmp_path.iterdir())
