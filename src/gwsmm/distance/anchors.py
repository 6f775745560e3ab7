"""A space seen coarsely: its points gathered around anchors, and many cheap starts between two.

A coupling that is constant on blocks of points has the same loss on the whole space as its block
sums have on the space of block means, up to a constant that does not depend on the coupling. So
descending between anchors is descending on the full problem within block couplings, at a cost that
does not grow with the number of points; the best of many starts is then lifted.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from gwsmm.distance.bounds import (
    distance_signature,
    eccentricity_signature,
    spectral_signature,
)
from gwsmm.distance.descent import TOLERANCE, Array, Climbed, Sparse, Start, climb, scale, vertex
from gwsmm.distance.space import Space

_BINS = 256  # of each lower bound
_PROFILE = 64  # quantiles of an anchor's distances
_AXES = 3  # principal axes whose signs are tried
_FEW = 2  # steps after which most starts are given up
_MANY = 200
_SURVIVORS = 6  # of the starts, one in so many goes on
_TINY = 400  # arcs


@dataclass(frozen=True, eq=False)
class Anchors:
    """What is kept of a space when its points are given up.

    Attributes:
        space: K anchors: their mean costs [K, K] and their weights [K].
        energy: Σ C[i, k]² w[i] w[k] of all points.
        signatures: [3, bins], of all points: see `lower_bound`.
        profiles: [K, 64], quantiles of each anchor's costs, independent of the order of points.
        axes: [K, 3], coordinates on the principal axes of the anchors, signs arbitrary.
    """

    space: Space
    energy: float
    signatures: Array
    profiles: Array
    axes: Array


@dataclass(frozen=True, eq=False)
class Anchored:
    """A space with its anchors.

    Attributes:
        space: n points.
        anchors: K of them.
        labels: [n], the anchor of each point.
    """

    space: Space
    anchors: Anchors
    labels: NDArray[np.int64]

    @property
    def blocks(self) -> Sparse:
        """[n, K], each column the weights of an anchor's points, summing to one."""
        return _blocks(self.space.weights, self.anchors.space.weights, self.labels)

    @property
    def small(self) -> bool:
        """Whether every point is its own anchor."""
        return len(self.anchors.space.weights) == len(self.labels)


def anchors_of(space: Anchored | Anchors) -> Anchors:
    """The anchors, with or without the points that they stand for."""
    return space.anchors if isinstance(space, Anchored) else space


def anchored(points: Array, space: Space, count: int) -> Anchored:
    """Gather the points around at most `count` anchors, by k-means; few points are their own.

    The points are put in the order of their mean cost first, so that shuffling them changes
    nothing.
    """
    n = len(points)
    order = np.argsort(space.costs @ space.weights, kind="stable")
    labels = np.empty(n, dtype=np.int64)
    labels[order] = _gathered(points[order], space.weights[order], count)
    weights: Array = np.bincount(labels, space.weights)
    blocks = _blocks(space.weights, weights, labels)
    costs: Array = np.asarray(blocks.T @ (blocks.T @ space.costs).T)
    coarse = Space((costs + costs.T) / 2, weights)
    energy = float(space.weights @ space.costs**2 @ space.weights)
    anchors = Anchors(coarse, energy, _signatures(space), _profiles(coarse), _axes(coarse))
    return Anchored(space, anchors, labels)


def _blocks(points: Array, anchors: Array, labels: NDArray[np.int64]) -> Sparse:
    from scipy.sparse import csr_array

    shape = len(points), len(anchors)
    return csr_array((points / anchors[labels], (np.arange(len(points)), labels)), shape)


def _signatures(space: Space) -> Array:
    return np.stack(
        [
            eccentricity_signature(space, _BINS),
            distance_signature(space, _BINS),
            spectral_signature(space, _BINS // 2, _BINS // 2 - 1),
        ]
    )


def _gathered(points: Array, weights: Array, count: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    if len(points) <= count:
        return np.arange(len(points))
    distinct, labels = np.unique(points, axis=0, return_inverse=True)
    if len(distinct) <= count:
        return labels.astype(np.int64)
    means = KMeans(count, n_init=1, max_iter=20, random_state=0)
    return np.asarray(means.fit(points, sample_weight=weights).labels_, dtype=np.int64)


def in_order(a: Anchors, b: Anchors) -> bool:
    """Whether `a` comes first; solving every pair in this order makes a distance symmetric."""
    return (len(a.space.weights), a.energy) <= (len(b.space.weights), b.energy)


def lower_bound(a: Anchors, b: Anchors) -> float:
    """Of the loss between all points: the best of Mémoli's first and second and the spectral."""
    return float(((a.signatures - b.signatures) ** 2).sum(axis=1).max())


def explore(a: Anchors, b: Anchors, starts: int, seed: int) -> list[Climbed]:
    """The different minima that the best of many starts between the anchors lead to, best first.

    All starts go a few steps; the best sixth goes on to the end, and all between tiny clouds.
    """
    one, other = a.space, b.space
    share = 1 if len(one.weights) * len(other.weights) <= _TINY else _SURVIVORS
    tried = [climb(one, other, start, _FEW) for start in _starts(a, b, starts, seed)]
    tried.sort(key=lambda found: -found.value)
    kept = tried[: math.ceil(len(tried) / share)]
    ended = [climb(one, other, found.coupling, _MANY) for found in kept]
    ended.sort(key=lambda found: -found.value)
    apart = TOLERANCE * scale(one, other)  # nearer than that, they are the same minimum
    return [
        each for at, each in enumerate(ended) if not at or each.value < ended[at - 1].value - apart
    ]


def spread(losses: Sequence[float]) -> float:
    """(largest − smallest) / smallest; zero where the smallest is."""
    least = min(losses)
    return (max(losses) - least) / least if least > 0 else 0.0


def gradient_of(a: Anchored, b: Anchored, coupling: Array) -> Array:
    """[n, m]: C1 T C2 of the coupling T of all points that has these block sums [K, L]."""
    through = (a.blocks.T @ a.space.costs).T @ coupling
    gradient: Array = through @ (b.blocks.T @ b.space.costs)
    return gradient


def lifted(a: Anchored, b: Anchored, coupling: Array) -> Start:
    """Where the descent on all points begins, from a coupling of the anchors."""
    from ot.lp import emd

    one, other = a.anchors.space, b.anchors.space
    gradient = gradient_of(a, b, coupling)
    between = one.costs @ coupling @ other.costs
    highest = between.max()
    _, log = emd(one.weights, other.weights, highest - between, log=True)
    duals = (log["u"] - highest)[a.labels], log["v"][b.labels]
    i, j = np.nonzero((coupling > 0)[np.ix_(a.labels, b.labels)])
    return Start(gradient, duals, (i, j))


def _starts(a: Anchors, b: Anchors, count: int, seed: int) -> Iterator[Array]:
    """The product, matched profiles, matched principal axes under all signs, random vertices."""
    from scipy.spatial.distance import cdist

    one, other = a.space, b.space
    informed = [-cdist(a.profiles, b.profiles, "sqeuclidean")]
    informed += [
        -cdist(a.axes, b.axes * signs, "sqeuclidean") for signs in product((1, -1), repeat=_AXES)
    ]
    random = np.random.default_rng(seed)
    for at in range(count):
        if at == 0:
            yield np.outer(one.weights, other.weights)
        elif at <= len(informed):
            yield vertex(one, other, informed[at - 1])
        else:
            yield vertex(one, other, random.random((len(one.weights), len(other.weights))))


def _profiles(space: Space) -> Array:
    order = np.argsort(space.costs, axis=1)
    mass = np.cumsum(space.weights[order], axis=1)
    at = (np.arange(_PROFILE) + 0.5) / _PROFILE
    found = [np.searchsorted(row, at * row[-1]) for row in mass]
    return np.take_along_axis(np.take_along_axis(space.costs, order, 1), np.array(found), 1)


def _axes(space: Space) -> Array:
    """Weighted classical scaling."""
    root = np.sqrt(space.weights)
    centred = space.costs - space.weights @ space.costs
    centred = centred - (centred @ space.weights)[:, None]
    values, vectors = np.linalg.eigh(-0.5 * root[:, None] * centred * root)
    largest = slice(None, -_AXES - 1, -1)
    found = vectors[:, largest] / root[:, None] * np.sqrt(np.maximum(values[largest], 0))
    axes = np.zeros((len(root), _AXES))
    axes[:, : found.shape[1]] = found
    return axes
