"""The matrix of distances between all items."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, combinations
from math import comb
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Artefact
from gwsmm.distance.subjects import Subject
from gwsmm.execute import Execute
from gwsmm.types import Distances, Pair

_BLOCKS = 512  # tasks at most, so that many cheap pairs do not drown in handing them over
Loaded_contra = TypeVar("Loaded_contra", contravariant=True)
Prepared = TypeVar("Prepared")


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

    def screen(self, prepared: Sequence[object]) -> Choice:
        """The choice among all pairs of these items."""


@dataclass(frozen=True, kw_only=True)
class Pairwise:
    """The stage: all items → `distances.safetensors`, every unordered pair at most once."""

    stage: ClassVar[str] = "distances"
    version: ClassVar[int] = 2

    distance: Distance[object, object]

    def __call__(self, subject: Sequence[Subject], folder: Path, execute: Execute) -> None:
        """Prepare each item once and solve the pairs side by side."""
        from safetensors.numpy import save_file

        prepared = execute.map(_Prepare(self.distance), list(subject), label="spaces")
        solved = dict[tuple[int, int], tuple[Pair, float]]()
        if isinstance(self.distance, Screens):
            screen = self.distance.screen(prepared)
            while pairs := screen.next({pair: found for pair, (found, _) in solved.items()}):
                solved |= self._solve(prepared, pairs, execute)
            rest = screen.rest({pair: found for pair, (found, _) in solved.items()})
            solved |= {pair: (found, 0.0) for pair, found in rest.items()}
        else:
            solved |= self._solve(prepared, list(combinations(range(len(prepared)), 2)), execute)
        save_file(_arrays(len(prepared), solved), folder / "distances.safetensors")

    def pairs(self, subject: Sequence[Subject]) -> int:
        """Unordered pairs of items; see `Solves`."""
        return comb(len(subject), 2)

    def _solve(
        self, prepared: Sequence[object], pairs: Sequence[tuple[int, int]], execute: Execute
    ) -> dict[tuple[int, int], tuple[Pair, float]]:
        solved = solve(self.distance, prepared, pairs, execute, label=self.stage)
        return dict(zip(pairs, solved, strict=True))


def solve(
    distance: Distance[Any, Any],
    prepared: Sequence[object],
    pairs: Sequence[tuple[int, int]],
    execute: Execute,
    label: str,
) -> list[tuple[Pair, float]]:
    """These pairs of the prepared items side by side, each with its seconds."""
    size = distance.together if isinstance(distance, SolvesTogether) else 1
    size = max(size, len(pairs) // _BLOCKS)
    blocks = [pairs[at : at + size] for at in range(0, len(pairs), size)]
    tasks = [(block, {i: prepared[i] for pair in block for i in pair}) for block in blocks]
    return list(chain.from_iterable(execute.map(_Solve(distance), tasks, label=label)))


def _arrays(
    n: int, solved: Mapping[tuple[int, int], tuple[Pair, float]]
) -> dict[str, NDArray[Any]]:
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

    def __init__(self, distance: Distance[object, object]) -> None:
        self.distance = distance

    def __call__(self, subject: Subject) -> object:
        return self.distance.prepare(subject.load())


class _Solve:
    """One block of pairs, as a picklable function."""

    def __init__(self, distance: Distance[object, object]) -> None:
        self.distance = distance

    def __call__(
        self, task: tuple[Sequence[tuple[int, int]], dict[int, object]]
    ) -> list[tuple[Pair, float]]:
        block, prepared = task
        pairs = [(prepared[i], prepared[j]) for i, j in block]
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
