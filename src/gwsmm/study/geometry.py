"""Where the items lie by their distances: a map and a tree."""

import numpy as np
from numpy.typing import NDArray

from gwsmm.types import Distances

Numbers = NDArray[np.float64]


def positions(distances: Distances) -> tuple[Numbers, float]:
    """[N, 2]: a map by classical scaling, and the share of the squared distances that it shows.

    Of a loss its root is taken, as distances have to be. Source: Torgerson (1952).
    """
    values = distances.values
    squared = np.abs(values) if distances.quantity.endswith("loss") else values**2
    n = len(squared)
    centre = np.eye(n) - 1 / n
    eigenvalues, vectors = np.linalg.eigh(-0.5 * centre @ squared @ centre)
    largest = np.maximum(eigenvalues[::-1][:2], 0)
    total = np.abs(eigenvalues).sum()
    found = np.zeros((n, 2))
    found[:, : len(largest)] = vectors[:, ::-1][:, :2] * np.sqrt(largest)
    return found, float(largest.sum() / total) if total > 0 else 1.0


def tree(distances: Distances) -> Numbers:
    """[N − 1, 4]: scipy's linkage of the items by average distance."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    found: Numbers = linkage(squareform(distances.values, checks=False), "average")
    return found
