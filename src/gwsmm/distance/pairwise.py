"""The matrix of distances between all items."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import numpy as np

from gwsmm.artefact import Artefact
from gwsmm.execute import Execute
from gwsmm.features import load_cloud
from gwsmm.types import Cloud, Distances, Pair

Prepared = TypeVar("Prepared")


class Distance(Protocol[Prepared]):
    """A strategy that says how far apart two clouds are; symmetric in the two."""

    @property
    def title(self) -> str:
        """What the values are, under a name that no other quantity has."""

    def prepare(self, cloud: Cloud) -> Prepared:
        """What is needed of one cloud for all its pairs."""

    def __call__(self, a: Prepared, b: Prepared) -> Pair:
        """The distance between two prepared clouds."""


@dataclass(frozen=True, kw_only=True)
class Pairwise:
    """The stage: all clouds → `distances.safetensors`, every unordered pair solved once."""

    stage: ClassVar[str] = "distances"
    version: ClassVar[int] = 1

    distance: Distance[object]

    def __call__(
        self, subject: Sequence[tuple[str, Artefact]], folder: Path, execute: Execute
    ) -> None:
        """Prepare each cloud once and solve the pairs side by side."""
        from safetensors.numpy import save_file

        spaces = [self.distance.prepare(load_cloud(name, made)) for name, made in subject]
        n = len(spaces)
        pairs = list(combinations(range(n), 2))
        solved = execute.map(
            _Solve(self.distance), [(spaces[i], spaces[j]) for i, j in pairs], label=self.stage
        )
        values, iterations = np.zeros((n, n)), np.zeros((n, n), dtype=np.int64)
        converged = np.ones((n, n), dtype=np.uint8)
        for (i, j), pair in zip(pairs, solved, strict=True):
            values[i, j] = values[j, i] = pair.value
            iterations[i, j] = iterations[j, i] = pair.iterations
            converged[i, j] = converged[j, i] = pair.converged
        save_file(
            {"values": values, "iterations": iterations, "converged": converged},
            folder / "distances.safetensors",
        )


def load_distances(names: Sequence[str], made: Artefact, distance: Distance[object]) -> Distances:
    """The matrix that `Pairwise` wrote for the items of these names."""
    from safetensors.numpy import load_file

    tensors = load_file(made.file("distances.safetensors"))
    return Distances(
        tuple(names),
        tensors["values"],
        tensors["converged"].astype(bool),
        tensors["iterations"],
        distance.title,
    )


class _Solve:
    """One pair, as a picklable function."""

    def __init__(self, distance: Distance[object]) -> None:
        self.distance = distance

    def __call__(self, pair: tuple[object, object]) -> Pair:
        return self.distance(*pair)
