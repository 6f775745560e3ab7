"""The matrix of distances between all items."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Artefact
from gwsmm.distance.distance import Distance, Screens
from gwsmm.distance.solving import Solved, Solver, prepared
from gwsmm.distance.subjects import Subject
from gwsmm.execute import Execute
from gwsmm.store import Store
from gwsmm.types import Distances, Pair


@dataclass(frozen=True, kw_only=True)
class Pairwise:
    """The stage: all items → `distances.safetensors`, every unordered pair at most once."""

    stage: ClassVar[str] = "distances"
    version: ClassVar[int] = 2

    distance: Distance[object, object]

    def __call__(
        self, subject: Sequence[Subject], folder: Path, pieces: Store, execute: Execute
    ) -> None:
        """Prepare each item once and solve the pairs side by side, but those solved before."""
        from safetensors.numpy import save_file

        with prepared(self.distance, subject, folder, execute, label="spaces") as items:
            solved = self._solved(Solver(self.distance, subject, items, pieces, execute))
        save_file(_arrays(len(subject), solved), folder / "distances.safetensors")

    def pairs(self, subject: Sequence[Subject]) -> int:
        """Unordered pairs of items; see `Solves`."""
        return comb(len(subject), 2)

    def _solved(self, solver: Solver) -> Solved:
        items = solver.items
        if not isinstance(self.distance, Screens):
            return solver(list(combinations(range(len(items)), 2)))
        solved: Solved = {}
        screen = self.distance.screen(each.load() for each in items)
        while chosen := screen.next({pair: found for pair, (found, _) in solved.items()}):
            solved |= solver(chosen)
        rest = screen.rest({pair: found for pair, (found, _) in solved.items()})
        return solved | {pair: (found, 0.0) for pair, found in rest.items()}


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
