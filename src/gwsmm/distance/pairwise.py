"""The matrix of distances between all items."""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain, combinations
from math import comb, isqrt
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Artefact
from gwsmm.distance.prepared import OnDisk, put_on_disk
from gwsmm.distance.subjects import Subject
from gwsmm.execute import Execute
from gwsmm.task import name_of
from gwsmm.types import Distances, Pair

_BLOCKS = 512  # tasks at most, so that many cheap pairs do not drown in handing them over
Loaded_contra = TypeVar("Loaded_contra", contravariant=True)
Prepared = TypeVar("Prepared")
Index = tuple[int, int]  # of a pair of items
Solved = dict[Index, tuple[Pair, float]]  # each with its seconds


class Distance(Protocol[Loaded_contra, Prepared]):
    """A strategy that says how far apart two items are; symmetric in the two."""

    @property
    def compares(self) -> str:
        """What `prepare` is given.

        `clouds`: a `Cloud` of each item's own responses under its own encoder; `common`: a `Cloud`
        of the same responses, row by row, under each item's encoder; `weights`: a `TaskVector`;
        `labels`: an `Item` without its test split; a `CloudWithFeatures`, the cloud of `clouds`
        with features of the same responses in a space common to all items:
        `clouds_with_embedding`: their vectors under the pretrained encoder;
        `clouds_with_label_statistics`: how many of the item's labels they show;
        `clouds_with_label_names`: which labels they show, by name.
        """

    @property
    def title(self) -> str:
        """What the values are, under a name that no other quantity has."""

    def prepare(self, subject: Loaded_contra) -> Prepared:
        """What is needed of one item for all its pairs."""

    def __call__(self, a: Prepared, b: Prepared) -> Pair:
        """The distance between two prepared items."""


@runtime_checkable
class SolvesTogether(Protocol):
    """A distance that is faster when it is given several pairs at once."""

    @property
    def together(self) -> int:
        """How many pairs to give."""

    def solve(self, pairs: Sequence[tuple[object, object]]) -> list[Pair]:
        """The distance of each pair, the same as one by one."""


class Choice(Protocol):
    """Which pairs are solved, round by round."""

    def next(self, solved: Mapping[tuple[int, int], Pair]) -> list[tuple[int, int]]:
        """The pairs to solve now; none at the end."""

    def rest(self, solved: Mapping[tuple[int, int], Pair]) -> dict[tuple[int, int], Pair]:
        """What to say of the pairs that were not solved."""


@runtime_checkable
class Screens(Protocol):
    """A distance that does not solve every pair."""

    def screen(self, prepared: Iterable[object]) -> Choice:
        """The choice among all pairs of these items, which are loaded one after the other."""


@dataclass(frozen=True, kw_only=True)
class Pairwise:
    """The stage: all items → `distances.safetensors`, every unordered pair at most once."""

    stage: ClassVar[str] = "distances"
    version: ClassVar[int] = 2

    distance: Distance[object, object]

    def __call__(self, subject: Sequence[Subject], folder: Path, execute: Execute) -> None:
        """Prepare each item once and solve the pairs side by side."""
        from safetensors.numpy import save_file

        with prepared(self.distance, subject, folder, execute, label="spaces") as items:
            solved = self._solved(items, execute)
        save_file(_arrays(len(subject), solved), folder / "distances.safetensors")

    def pairs(self, subject: Sequence[Subject]) -> int:
        """Unordered pairs of items; see `Solves`."""
        return comb(len(subject), 2)

    def _solved(self, items: Sequence[OnDisk], execute: Execute) -> Solved:
        if not isinstance(self.distance, Screens):
            pairs = list(combinations(range(len(items)), 2))
            return solve(self.distance, items, pairs, execute, label=self.stage)
        solved: Solved = {}
        screen = self.distance.screen(each.load() for each in items)
        while chosen := screen.next({pair: found for pair, (found, _) in solved.items()}):
            solved |= solve(self.distance, items, chosen, execute, label=self.stage)
        rest = screen.rest({pair: found for pair, (found, _) in solved.items()})
        return solved | {pair: (found, 0.0) for pair, found in rest.items()}


@contextmanager
def prepared(
    distance: Distance[Any, Any],
    subjects: Sequence[Subject],
    folder: Path,
    execute: Execute,
    label: str,
) -> Iterator[list[OnDisk]]:
    """The items prepared side by side, on disk within the block.

    They are computed once, as that can take longer than a pair, and read wherever pairs are solved.

    Args:
        distance: prepares them.
        subjects: the items.
        folder: of the result, which every worker sees.
        execute: where it is done.
        label: what the progress bar says.
    """
    disk = folder / "prepared"
    disk.mkdir()
    yield execute.map(_Prepare(distance, disk), subjects, label=label)
    shutil.rmtree(disk)  # after an error the store removes all that there is of the result


def solve(
    distance: Distance[Any, Any],
    items: Sequence[OnDisk],
    pairs: Sequence[Index],
    execute: Execute,
    label: str,
) -> Solved:
    """These pairs of the prepared items side by side, each with its seconds."""
    tasks = [
        (block, {i: items[i] for pair in block for i in pair}) for block in _blocks(distance, pairs)
    ]
    found = chain.from_iterable(execute.map(_Solve(distance), tasks, label=label))
    every = chain.from_iterable(block for block, _ in tasks)
    return dict(zip(every, found, strict=True))


def _blocks(distance: Distance[Any, Any], pairs: Sequence[Index]) -> list[Sequence[Index]]:
    """The pairs of each task."""
    size = max(1, len(pairs) // _BLOCKS)
    if isinstance(distance, SolvesTogether):
        size = max(distance.together, size)
    else:  # those of few items, in squares of the matrix and not in its rows
        side = isqrt(size)
        pairs = sorted(pairs, key=lambda pair: (pair[0] // side, pair[1] // side))
    return [pairs[at : at + size] for at in range(0, len(pairs), size)]


def _arrays(n: int, solved: Solved) -> dict[str, NDArray[Any]]:
    """One [n, n] array per field of `Pair`, and `seconds`."""
    nothing = Pair(0.0, bound=0.0, starts=0)
    arrays = {
        field.name: np.full((n, n), getattr(nothing, field.name)) for field in fields(Pair)
    } | {"seconds": np.zeros((n, n))}
    for (i, j), (pair, seconds) in solved.items():
        for name, array in arrays.items():
            array[i, j] = array[j, i] = seconds if name == "seconds" else getattr(pair, name)
    return arrays


def load_distances(
    names: Sequence[str],
    made: Artefact,
    distance: Distance[object, object],
) -> Distances:
    """The matrix that `Pairwise` wrote for the items of these names."""
    from safetensors.numpy import load_file

    tensors = load_file(made.file("distances.safetensors"))
    values = tensors.pop("value")
    return Distances(tuple(names), values, distance.title, tensors)


class _Prepare:
    """One item, as a picklable function."""

    def __init__(self, distance: Distance[Any, Any], disk: Path) -> None:
        self.distance, self.disk = distance, disk

    def __call__(self, subject: Subject) -> OnDisk:
        return put_on_disk(name_of(subject), self.distance.prepare(subject.load()), self.disk)


class _Solve:
    """One block of pairs, as a picklable function."""

    def __init__(self, distance: Distance[Any, Any]) -> None:
        self.distance = distance

    def __call__(self, task: tuple[Sequence[Index], dict[int, OnDisk]]) -> list[tuple[Pair, float]]:
        block, items = task
        loaded = {i: item.load() for i, item in items.items()}
        pairs = [(loaded[i], loaded[j]) for i, j in block]
        if isinstance(self.distance, SolvesTogether):
            started = time.perf_counter()
            solved = self.distance.solve(pairs)
            each = (time.perf_counter() - started) / len(pairs)
            return [(pair, each) for pair in solved]
        return [self._timed(a, b) for a, b in pairs]

    def _timed(self, a: object, b: object) -> tuple[Pair, float]:
        started = time.perf_counter()
        pair = self.distance(a, b)
        return pair, time.perf_counter() - started
