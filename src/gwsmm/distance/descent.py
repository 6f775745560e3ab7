"""Descent of the Gromov-Wasserstein loss over couplings, for square loss.

With C1 and C2 Euclidean, squared Euclidean or cosine costs (all conditionally negative definite),
the loss of a coupling T with marginals p and q is

    L(T) = Σ C1² p p + Σ C2² q q − 2 F(T),    F(T) = ⟨C1 T C2, T⟩,

and F is convex on couplings (Maron and Lipman 2018). So the full step of a conditional gradient is
always the best step, every iterate is a vertex with at most n + m − 1 entries, and the method ends
after finitely many steps. Both facts are used here: couplings are sparse, a gradient C1 T C2
follows a step by the rows that changed, and the linear problem is solved on the few arcs whose
reduced cost under the last duals is small, which are enlarged until no other arc can help.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gwsmm.distance.space import Space

Array = NDArray[Any]
Sparse = Any  # a csr_array: what scipy's type stubs say of its products is of no use
Index = NDArray[np.integer[Any]]

TOLERANCE = 1e-7  # a step that gains less of the costs' scale is none
_ARCS = 6  # of small reduced cost per point, beside the coupling's own
_EVERY_31ST = 31  # entry is looked at to find their limit
_ALL = 40_000  # up to so many arcs, every arc is a candidate
_SINGLE = 250_000  # from so many on, gradients are kept in single precision
_STEPS = 1_000
_CANCELLED = 1e-3  # of the costs' scale: below, a difference of sums loses too many digits


@dataclass(frozen=True, eq=False)
class Descended:
    """A coupling that no step improves.

    Attributes:
        coupling: [n, m], with at most n + m − 1 entries.
        loss: its Gromov-Wasserstein loss.
        iterations: linear problems solved.
        converged: False if `_STEPS` were not enough.
    """

    coupling: Sparse
    loss: float
    iterations: int
    converged: bool


def scale(a: Space, b: Space) -> float:
    """Σ C1² p p + Σ C2² q q: the loss of a pair whose F is zero, an upper bound of every loss."""
    return float(a.weights @ a.costs**2 @ a.weights + b.weights @ b.costs**2 @ b.weights)


def loss(a: Space, b: Space, coupling: Sparse) -> float:
    """Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l] of a T with both marginals, free of cancellation."""
    turned = coupling.T.tocsr()
    whole = scale(a, b)
    value = whole - 2 * float(((turned @ (turned @ a.costs).T) * b.costs).sum())
    return value if value > _CANCELLED * whole else _small_loss(a, b, coupling)


def _small_loss(a: Space, b: Space, coupling: Sparse) -> float:
    """The same term by term, which is slower."""
    entries = coupling.tocoo()
    i, j = entries.coords
    total = 0.0
    for at in range(0, len(i), 512):  # keeps the memory linear in n + m
        block = slice(at, at + 512)
        off = a.costs[np.ix_(i[block], i)] - b.costs[np.ix_(j[block], j)]
        total += float(entries.data[block] @ (off * off) @ entries.data)
    return total


def vertex(a: Space, b: Space, gains: Array) -> Array:
    """The dense coupling of the largest Σ gains T."""
    from ot.lp import emd

    coupling: Array = emd(a.weights, b.weights, gains.max() - gains, center_dual=False)
    return coupling


@dataclass(frozen=True, eq=False)
class Climbed:
    """A dense coupling with its F, and the steps that led to it."""

    coupling: Array
    value: float
    steps: int


def climb(a: Space, b: Space, coupling: Array, limit: int) -> Climbed:
    """At most `limit` conditional gradient steps on F, dense, for small spaces."""
    gradient = a.costs @ coupling @ b.costs
    value = float((gradient * coupling).sum())
    enough = TOLERANCE * scale(a, b)
    for step in range(limit):
        moved = vertex(a, b, gradient)
        gradient = a.costs @ moved @ b.costs
        reached = float((gradient * moved).sum())
        if reached <= value + enough:
            return Climbed(coupling, value, step + 1)
        coupling, value = moved, reached
    return Climbed(coupling, value, limit)


@dataclass(frozen=True, eq=False)
class Start:
    """Where a descent begins.

    Attributes:
        gradient: [n, m], C1 T C2 of a coupling T.
        duals: of the linear problem that T came from, or an approximation: [n] and [m].
        arcs: rows and columns of arcs that can carry a coupling.
    """

    gradient: Array
    duals: tuple[Array, Array]
    arcs: tuple[Index, Index]


def descend(a: Space, b: Space, start: Start) -> Descended:
    """Conditional gradient and then exchanges of partners, until neither improves the loss."""
    problem = _Problem(a, b)
    state = problem.first(start)
    for step in range(2, _STEPS):
        moved = problem.linear_step(state, thorough=False)
        if moved is None:
            moved = problem.exchanges(state) or problem.linear_step(state, thorough=True)
        if moved is None:
            return Descended(state.coupling, loss(a, b, state.coupling), step, True)
        state = moved
    return Descended(state.coupling, loss(a, b, state.coupling), _STEPS, False)


@dataclass(frozen=True, eq=False)
class _State:
    """A vertex on the way: its gradient, F, the duals that led there and the arcs looked at."""

    coupling: Sparse
    gradient: Array
    value: float
    duals: tuple[Array, Array]
    arcs: tuple[Index, Index]


class _Problem:
    """Two spaces in the precision that gradients are kept in."""

    def __init__(self, a: Space, b: Space) -> None:
        self.shape = len(a.weights), len(b.weights)
        self.precision = np.float32 if np.prod(self.shape) >= _SINGLE else np.float64
        self.p = a.weights
        self.q = b.weights * (a.weights.sum() / b.weights.sum())
        self.c1, self.c2 = (each.costs.astype(self.precision) for each in (a, b))
        self.enough = TOLERANCE * scale(a, b)

    def first(self, start: Start) -> _State:
        """The vertex that the start's gradient leads to, whatever its value."""
        gradient = start.gradient.astype(self.precision)
        coupling, duals, arcs = self._linear(gradient, start.duals, start.arcs, thorough=False)
        gradient = self.c1 @ (coupling.astype(self.precision) @ self.c2)
        return self._at(coupling, gradient, duals, arcs)

    def linear_step(self, state: _State, thorough: bool) -> _State | None:
        """The vertex that maximises F's linear part at `state`; None if F does not grow."""
        own = state.coupling.tocoo().coords
        coupling, duals, arcs = self._linear(state.gradient, state.duals, own, thorough)
        return self._moved(state, coupling, duals, arcs)

    def exchanges(self, state: _State) -> _State | None:
        """Exchange the partners of two points wherever that helps, as often as it does.

        Moving d of mass from (i, j) and (k, l) to (i, l) and (k, j) changes F by
        2 d (G_il + G_kj − G_ij − G_kl) + 4 d² C1_ik C2_jl: the second term, which no linear step
        sees, is what makes a vertex that is optimal for its own gradient improvable.
        """
        found = None
        while (moved := self._exchange(found or state)) is not None:
            found = moved
        return found

    def _exchange(self, state: _State) -> _State | None:
        from scipy.sparse import csr_array

        i, new = state.arcs
        j, mass = _heaviest(state.coupling)
        k, other = _heaviest(state.coupling.T.tocsr())
        i, j, k, new, d = i, j[i], k[new], new, np.minimum(mass[i], other[new])
        g = state.gradient
        gain = 2 * d * (g[i, new] + g[k, j] - g[i, j] - g[k, new])
        gain += 4 * d**2 * self.c1[i, k] * self.c2[j, new]
        gain[(j == new) | (i == k)] = 0
        chosen = _disjoint(np.column_stack([i, j, k, new]), gain, self.enough / 100)
        while len(chosen):
            i_, j_, k_, l_, d_ = (each[chosen] for each in (i, j, k, new, d))
            rows, columns = np.concatenate([i_, k_, i_, k_]), np.concatenate([j_, l_, l_, j_])
            change = csr_array((np.concatenate([-d_, -d_, d_, d_]), (rows, columns)), self.shape)
            coupling = state.coupling + change
            moved = self._moved(state, coupling, state.duals, state.arcs, self.enough / 10)
            if moved is not None:
                return moved
            chosen = chosen[: len(chosen) // 2]  # together they did not help: fewer
        return None

    def _moved(
        self,
        state: _State,
        coupling: Sparse,
        duals: tuple[Array, Array],
        arcs: tuple[Index, Index],
        enough: float | None = None,
    ) -> _State | None:
        """The state at another vertex; None if its F is not larger."""
        change = _clean((coupling - state.coupling).tocsr())
        rows = np.flatnonzero(np.diff(change.indptr))
        # Costs are symmetric: their rows are copied faster than their columns.
        part = self.c1[rows].T @ (change[rows].astype(self.precision) @ self.c2)
        gradient = state.gradient + part
        moved = self._at(_clean(coupling), gradient, duals, arcs)
        least = self.enough if enough is None else enough
        return moved if moved.value > state.value + least else None

    def _at(
        self, coupling: Sparse, gradient: Array, duals: Any, arcs: tuple[Index, Index]
    ) -> _State:
        entries = coupling.tocoo()
        value = float(entries.data @ gradient[entries.coords].astype(np.float64))
        return _State(coupling, gradient, value, duals, arcs)

    def _linear(
        self,
        gradient: Array,
        duals: tuple[Array, Array],
        own: tuple[Index, Index],
        thorough: bool,
    ) -> tuple[Sparse, tuple[Array, Array], tuple[Index, Index]]:
        """Maximise Σ gradient T over the couplings of the arcs that the duals suggest.

        Args:
            gradient: [n, m].
            duals: of a similar problem.
            own: arcs that can carry a coupling.
            thorough: add every arc that the new duals ask for, until there is none: then the
                solution is that of all arcs.
        """
        from ot.lp import emd
        from scipy.sparse import coo_array, csr_array

        u, v = duals
        candidate = self._suggested(gradient, u, v)
        candidate[own] = True
        while True:
            at = np.flatnonzero(candidate)  # many times faster than `nonzero`
            i, j = np.divmod(at, self.shape[1])
            gains = gradient.ravel()[at].astype(np.float64)
            highest = gains.max()
            costs = coo_array((highest - gains, (i, j)), self.shape)
            coupling, log = emd(
                self.p, self.q, costs, numItermax=10**7, log=True, center_dual=False
            )
            u, v = log["u"] - highest, log["v"]
            if not thorough:
                break
            violated = self._reduced(gradient, u, v) < -TOLERANCE * highest
            violated[i, j] = False
            if not violated.any():
                break
            candidate |= violated
        return _clean(csr_array(coupling)), (u, v), (i, j)

    def _suggested(self, gradient: Array, u: Array, v: Array) -> NDArray[np.bool_]:
        if gradient.size <= _ALL:
            return np.ones(self.shape, dtype=bool)
        reduced = self._reduced(gradient, u, v)
        reduced -= reduced.min(axis=1)[:, None]
        reduced -= reduced.min(axis=0)
        sample = reduced.ravel()[::_EVERY_31ST]
        count = min(_ARCS * max(self.shape) // _EVERY_31ST, len(sample) - 1)
        chosen: NDArray[np.bool_] = reduced <= np.partition(sample, count)[count]
        return chosen

    def _reduced(self, gradient: Array, u: Array, v: Array) -> Array:
        reduced = -gradient
        reduced -= u.astype(self.precision)[:, None]
        reduced -= v.astype(self.precision)
        return reduced


def _clean(coupling: Sparse) -> Sparse:
    """Without the entries that rounding left."""
    coupling.data[np.abs(coupling.data) < 1e-15] = 0
    coupling.eliminate_zeros()
    return coupling


def _heaviest(coupling: Sparse) -> tuple[Index, Array]:
    """For each row the column and the mass of its largest entry."""
    rows = np.repeat(np.arange(coupling.shape[0]), np.diff(coupling.indptr))
    order = np.argsort(coupling.data, kind="stable")
    column, mass = np.zeros(coupling.shape[0], dtype=np.int64), np.zeros(coupling.shape[0])
    column[rows[order]] = coupling.indices[order]
    mass[rows[order]] = coupling.data[order]
    return column, mass


def _disjoint(quads: Index, gain: Array, least: float) -> Index:
    """The exchanges of largest gain of which no two touch the same point."""
    good = np.flatnonzero(gain > least)
    rows, columns, chosen = set[int](), set[int](), []
    for at in good[np.argsort(-gain[good], kind="stable")].tolist():
        i, j, k, new = quads[at].tolist()
        if rows.isdisjoint((i, k)) and columns.isdisjoint((j, new)):
            rows |= {i, k}
            columns |= {j, new}
            chosen.append(at)
    return np.array(chosen, dtype=np.int64)
