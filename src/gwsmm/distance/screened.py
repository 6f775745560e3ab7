"""Distances of many items: near pairs are solved, far ones are excluded by a lower bound."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.anchors import Anchored, Anchors, anchors_of
from gwsmm.distance.gw_exact import GwExact
from gwsmm.distance.gw_quantized import GwQuantized
from gwsmm.distance.space import of_loss
from gwsmm.types import STRICT, Cloud, Pair

Index = tuple[int, int]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Screened:
    """The nearest `neighbours` of every item, proven by bounds; estimates for the other pairs.

    Lower bounds of all pairs are one matrix operation. Each item's pairs are solved in the order
    of their bounds until the bound of the next is above its `neighbours`-th smallest value: no
    pair that was left out can be nearer. A sample of the other pairs is solved as well, from which
    an isotonic regression of value on bound estimates the rest; estimates are marked, and never
    below the bound. Where `budget` ends the search before the bounds do, the pairs that are
    not excluded are marked `converged: false` beside `estimated: true`. O(N²) for the bounds and
    about N · `neighbours` solved pairs. Choose it from a hundred items on.

    Attributes:
        distance: what is solved, `gw_exact` or `gw_quantized`; its quantity is this one's.
        neighbours: per item.
        sample: other pairs solved, per item, drawn evenly over the order of their bounds.
        budget: pairs solved at most, per item; null: as many as the bounds ask for.

    Source: Mémoli (2011), the first and second lower bound, and `spectral_signature`; the screen is
    ours.
    """

    compares: ClassVar[str] = "clouds"

    distance: GwExact | GwQuantized
    neighbours: Annotated[int, Field(ge=1)]
    sample: Annotated[int, Field(ge=1)]
    budget: Annotated[int, Field(ge=1)] | None

    @property
    def title(self) -> str:
        """That of the distance that is solved."""
        return self.distance.title

    def prepare(self, subject: Cloud) -> Anchored | Anchors:
        """What the distance needs of one item."""
        return self.distance.prepare(subject)

    def __call__(self, a: Any, b: Any) -> Pair:
        """One pair, solved."""
        return self.distance(a, b)

    def screen(self, prepared: Iterable[Anchored | Anchors]) -> "Screen":
        """The bounds of all pairs."""
        from scipy.spatial.distance import pdist, squareform

        # copies, as a part of an item that is on disk holds the whole of it
        signatures = np.stack([anchors_of(each).signatures.copy() for each in prepared])
        kinds = range(signatures.shape[1])
        losses = np.max([pdist(signatures[:, kind], "sqeuclidean") for kind in kinds], axis=0)
        bounds = np.array([of_loss(loss, self.distance.quantity) for loss in losses])
        return Screen(squareform(bounds), self.neighbours, self.sample, self.budget)


@plain_dataclass(frozen=True, eq=False)
class Screen:
    """Which pairs to solve next, and what to say of the others.

    Attributes:
        bounds: [N, N], lower bounds of the values; zero on the diagonal.
    """

    bounds: NDArray[np.float64]
    neighbours: int
    sample: int
    budget: int | None

    def next(self, solved: Mapping[Index, Pair]) -> list[Index]:
        """The pairs to solve in this round; none when the bounds, or the budget, allow no more."""
        n = len(self.bounds)
        chosen: set[Index] = set() if solved else self._spaced()
        done = self._matrix(solved)
        spent, reach = np.isfinite(done).sum(axis=1), self._reach(done)
        for i in range(n):
            possible = self._possible(done[i], i, reach[i])
            left = n if self.budget is None else self.budget - int(spent[i])
            for j in possible[: max(0, min(self.neighbours, left))].tolist():
                chosen.add((i, j) if i < j else (j, i))
        return sorted(chosen - set(solved))

    def rest(self, solved: Mapping[Index, Pair]) -> dict[Index, Pair]:
        """Estimates of the pairs that were not solved."""
        from sklearn.isotonic import IsotonicRegression

        done = self._matrix(solved)
        rows, columns = np.nonzero(np.triu(~np.isfinite(done), 1))
        if not len(rows):
            return {}
        known = [(self.bounds[pair], each.value) for pair, each in solved.items()]
        fit = IsotonicRegression(out_of_bounds="clip").fit(*zip(*known, strict=True))
        bounds = self.bounds[rows, columns]
        values = np.maximum(fit.predict(bounds), bounds)
        reach = self._reach(done)
        excluded = bounds > np.maximum(reach[rows], reach[columns])
        return {
            (i, j): Pair(value, converged=out, bound=bound, starts=0, estimated=True)
            for i, j, value, out, bound in zip(
                *(x.tolist() for x in (rows, columns, values, excluded, bounds)), strict=True
            )
        }

    def _reach(self, done: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N]: the value beyond which an item's neighbours cannot lie."""
        count = min(self.neighbours, len(done) - 1)
        reach: NDArray[np.float64] = np.sort(done, axis=1)[:, count - 1]
        return reach

    def _possible(self, done: NDArray[np.float64], i: int, reach: float) -> NDArray[np.int64]:
        """The items that may still be among the nearest of item i, nearest bound first."""
        others = np.flatnonzero(~np.isfinite(done) & (self.bounds[i] <= reach))
        others = others[others != i]
        order = np.argsort(self.bounds[i, others], kind="stable")
        nearest: NDArray[np.int64] = others[order]
        return nearest

    def _matrix(self, solved: Mapping[Index, Pair]) -> NDArray[np.float64]:
        matrix = np.full(self.bounds.shape, np.inf)
        for (i, j), pair in solved.items():
            matrix[i, j] = matrix[j, i] = pair.value
        return matrix

    def _spaced(self) -> set[Index]:
        """A sample of pairs, evenly over the order of their bounds: the same at every run."""
        n = len(self.bounds)
        rows, columns = np.triu_indices(n, 1)
        order = np.argsort(self.bounds[rows, columns], kind="stable")
        at = np.linspace(0, len(order) - 1, min(len(order), n * self.sample)).astype(int)
        return {(int(rows[k]), int(columns[k])) for k in order[at]}
