"""What the lower bounds of Gromov-Wasserstein share: distributions of distances as vectors.

In one dimension the squared Wasserstein distance is ∫ (F⁻¹(u) − G⁻¹(u))² du over the quantile
functions. Averaging both over equal parts of [0, 1] can only lower it (Jensen's inequality in each
part), so the squared Euclidean distance of two signatures is a lower bound at every number of bins,
and the distance itself where every step of both quantile functions ends between two bins.
"""

import numpy as np
from numpy.typing import NDArray

from gwsmm.distance.space import Space


def quantile_means(
    values: NDArray[np.float64], weights: NDArray[np.float64], bins: int
) -> NDArray[np.float64]:
    """[bins]: the means of the weighted values' quantile function over equal parts, over √bins."""
    order = np.argsort(values)
    mass = np.concatenate([[0.0], np.cumsum(weights[order])])
    integral = np.concatenate([[0.0], np.cumsum((weights * values)[order])])
    # The integral of a step function is linear between the steps: interpolation is exact.
    edges = np.linspace(0, mass[-1], bins + 1)
    means: NDArray[np.float64] = np.diff(np.interp(edges, mass, integral)) * np.sqrt(bins)
    return means


def eccentricity_signature(space: Space, bins: int) -> NDArray[np.float64]:
    """[bins]: the distribution of the points' root-mean-square distances to the others.

    Squared Euclidean distances between signatures are lower bounds of the loss: many items against
    each other are one call of `scipy.spatial.distance.pdist`.
    """
    return quantile_means(np.sqrt(space.costs**2 @ space.weights), space.weights, bins)


def distance_signature(space: Space, bins: int) -> NDArray[np.float64]:
    """[bins]: the distribution of all distances; to be used as `eccentricity_signature`."""
    pairs = np.outer(space.weights, space.weights)
    return quantile_means(space.costs.ravel(), pairs.ravel(), bins)


def spectral_signature(space: Space, bins: int, eigenvalues: int) -> NDArray[np.float64]:
    """[bins + 1 + eigenvalues]: squared distances from the centre, and variances along axes.

    Costs with a zero diagonal are C[i, k] = r[i] + r[k] − 2 G[i, k] for the centred Gram matrix G
    and its diagonal r, so the loss of a coupling T with w its first weights is

        2 Σ (r1[i] − r2[j])² T[i, j] + 2 (Σ r1 w1 − Σ r2 w2)² + 4 Σ (G1[i, k] − G2[j, l])² T T

    and every term has a bound of its own: sorted r for the first, and the eigenvalues of the
    weighted Gram matrices, both falling, for the last (von Neumann's trace inequality; the costs
    are conditionally negative definite, so that none is negative). Leaving the smallest
    eigenvalues out can only lower it. To be used as `eccentricity_signature`.

    Source: Delon, Desolneux and Salmona (2022), "Gromov-Wasserstein distances between Gaussian
    distributions", who bound the last term for inner products.
    """
    centred = space.costs - space.weights @ space.costs
    gram = -0.5 * (centred - (centred @ space.weights)[:, None])
    far, root = gram.diagonal(), np.sqrt(space.weights)
    spectrum = np.linalg.eigvalsh(root[:, None] * gram * root)[::-1][:eigenvalues]
    signature = np.zeros(bins + 1 + eigenvalues)
    signature[:bins] = np.sqrt(2) * quantile_means(far, space.weights, bins)
    signature[bins] = np.sqrt(2) * (far @ space.weights)
    signature[bins + 1 : bins + 1 + len(spectrum)] = 2 * np.maximum(spectrum, 0)
    return signature


def profile_signatures(space: Space, bins: int) -> NDArray[np.float64]:
    """[n, bins]: the distribution of each point's distances."""
    return np.stack([quantile_means(row, space.weights, bins) for row in space.costs])
