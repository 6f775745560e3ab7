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
from test_distance import PUBLISHED, carried, family_points, gap, points, stored, subject

from gwsmm.distance.gw_quantized import GwQuantized
from gwsmm.distance.pairwise import Pairwise
from gwsmm.distance.prepared import put_on_disk
from gwsmm.distance.stability import Halving, Stability, load_stability
from gwsmm.distance.subjects import CloudOf, HalfOf
from gwsmm.execute import Processes, Serial
from gwsmm.store import Store
from gwsmm.types import Cloud, Pair, UnfinishedError

SMALL = 100_000  # bytes


@dataclass(frozen=True)
class Drawn:
    """What a distance compares, drawn where it is needed."""

    name: str
    distance: object
    seed: int
    n: int
    d: int

    def load(self):
        even = np.full(self.n, 1 / self.n)
        return subject(self.distance, Cloud(self.name, points(self.seed, self.n, self.d), even))


def drawn(distance, items, n, d):
    return [Drawn(f"i{seed}", distance, seed, n, d) for seed in range(items)]


class Counting:
    """In this process; pairs are not solved, and what would go to other processes is measured."""

    workers = 1

    def __init__(self):
        self.sizes = []
        self.tasks = []

    def map(self, function, tasks, *, label, inside=None):
        if label in ("distances", "stability"):
            self.tasks += tasks
            results = [[(Pair(1.0), 0.0)] * len(block) for block, _ in tasks]
        else:
            results = [function(task) for task in tasks]
        self.sizes += [len(dumps(each)) for each in (*tasks, *results)]
        return results


def test_tasks_and_what_is_kept_of_items_between_them_are_small(any_distance, tmp_path):
    counting = Counting()
    Pairwise(distance=any_distance)(drawn(any_distance, 4, n=300, d=64), tmp_path, counting)
    assert counting.tasks
    assert max(counting.sizes) < SMALL


def test_tasks_of_half_samples_are_small(configured, tmp_path):
    distance, counting = configured("distance", "distance=gw_exact"), Counting()
    clouds = stored(tmp_path / "store", [points(seed, 600, 64) for seed in range(3)])
    stability = Stability(repeats=2, size=300, seed=0)
    stage = Halving(distance=distance, stability=stability, alike=False)
    stage([CloudOf(f"i{i}", made) for i, made in enumerate(clouds)], tmp_path, counting)
    assert len(counting.tasks) == 2 * 2 * 3
    assert max(counting.sizes) < SMALL


def test_a_task_of_many_pairs_is_about_few_items(tmp_path):
    (tmp_path / "notes").mkdir()
    counting = Counting()
    Pairwise(distance=gap(tmp_path / "notes"))(drawn(PUBLISHED, 200, n=2, d=1), tmp_path, counting)
    pairs = [pair for block, _ in counting.tasks for pair in block]
    assert sorted(pairs) == list(combinations(range(200), 2))
    assert {len(block) for block, _ in counting.tasks[:-1]} == {38}  # 19 900 pairs, 512 tasks
    items = [len(needed) for _, needed in counting.tasks]
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
    items, bytes_of = drawn(any_distance, 4, n=12, d=3), []
    for execute in (Serial(threads=1), Processes(jobs=2, threads=1)):
        out = tmp_path / str(execute.workers)
        out.mkdir()
        Pairwise(distance=any_distance)(items, out, Untimed(execute))
        assert [path.name for path in out.iterdir()] == ["distances.safetensors"]
        bytes_of.append((out / "distances.safetensors").read_bytes())
    assert bytes_of[0] == bytes_of[1]


class Untimed:
    """Elsewhere, and as if all pairs took no time."""

    def __init__(self, execute):
        self.execute = execute

    def map(self, function, tasks, *, label, inside=None):
        results = self.execute.map(function, tasks, label=label, inside=inside)
        if label != "distances":
            return results
        return [[(pair, 0.0) for pair, _ in block] for block in results]


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
    with pytest.raises(UnfinishedError, match=r"^distances of a, b: it ran out of memory"):
        carried(tmp_path, PUBLISHED, [points(seed) for seed in range(3)], "abc")


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
