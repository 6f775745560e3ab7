"""How far a matrix of distances depends on which responses were drawn."""

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import Artefact
from gwsmm.distance.distance import Distance
from gwsmm.distance.solving import Solver, prepared
from gwsmm.distance.subjects import CloudOf, HalfOf
from gwsmm.execute import Execute
from gwsmm.store import Store
from gwsmm.types import STRICT, Cloud


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stability:
    """Spearman's correlation of the distances from disjoint samples of the same items' responses.

    Each repetition splits the responses in two at random, draws at most `size` of each half, and
    correlates the two matrices over the pairs of items.

    Attributes:
        repeats: 0 switches it off.
        size: samples are smaller than the clouds, so the correlation is a cautious one.
        seed: of the splits.
    """

    repeats: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=2)]
    seed: Annotated[int, Field(ge=0)]


@plain_dataclass(frozen=True, kw_only=True)
class Halving:
    """The stage: all clouds → `stability.safetensors`, the distances of both halves by repetition.

    Attributes:
        alike: the clouds are of the same responses, so that the halves must be as well.
    """

    stage: ClassVar[str] = "stability"
    version: ClassVar[int] = 2

    distance: Distance[Cloud, object]
    stability: Stability
    alike: bool

    def __call__(
        self, subject: Sequence[CloudOf], folder: Path, pieces: Store, execute: Execute
    ) -> None:
        """Compute the matrices of all halves, their pairs side by side."""
        from safetensors.numpy import save_file

        halves, n = self._halves(subject), len(subject)
        pairs = [
            pair for at in range(0, len(halves), n) for pair in combinations(range(at, at + n), 2)
        ]
        with prepared(self.distance, halves, folder, execute, label="half spaces") as items:
            solved = Solver(self.distance, halves, items, pieces, execute)(pairs)
        values = np.array([solved[pair][0].value for pair in pairs])
        values = values.reshape(self.stability.repeats, 2, -1)
        save_file({"values": values}, folder / "stability.safetensors")

    def pairs(self, subject: Sequence[CloudOf]) -> int:
        """Those of both halves of every repetition; see `Solves`."""
        return 2 * self.stability.repeats * comb(len(subject), 2)

    def _halves(self, subject: Sequence[CloudOf]) -> list[HalfOf]:
        """By repetition all items from one half of their responses, then all from the other."""
        random = np.random.default_rng(self.stability.seed)
        seeds = [int(random.integers(2**32)) for _ in range(self.stability.repeats)]
        return [
            HalfOf(own, (seed, 0 if self.alike else at), half, self.stability.size)
            for seed in seeds
            for half in (0, 1)
            for at, own in enumerate(subject)
        ]


def load_stability(made: Artefact) -> NDArray[np.float64]:
    """[repetitions, 2, pairs]: the distances of both halves, pairs as above the diagonal."""
    from safetensors.numpy import load_file

    values: NDArray[np.float64] = load_file(made.file("stability.safetensors"))["values"]
    return values
