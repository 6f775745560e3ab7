"""Entropic transport that is stable for any ε, and couplings with exact marginals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PLAIN = 10  # Sinkhorn iterations before Newton's
_RIDGE = 1e-12  # of the largest column sum: keeps Newton's matrix definite where rounding does not
_LEAST = -700.0  # of a logarithm: below, exponentials are subnormal, many times slower, or zero

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scaled:
    """The coupling exp((f[i] + g[j] - M[i, j]) / ε), whose row sums are exact.

    Attributes:
        plan: [n, m].
        f: [n] potentials of the rows, in the unit of the costs.
        g: [m] potentials of the columns.
        error: Σ |column sum - weight|.
    """

    plan: Array
    f: Array
    g: Array
    error: float


def sinkhorn(
    costs: Array,
    weights: tuple[Array, Array],
    epsilon: float,
    *,
    g: Array,
    tolerance: float,
    limit: int,
) -> Scaled:
    """The coupling T of these positive weights with the least <M, T> - ε H(T).

    All in the log domain: f always meets the row sums, so that the dual is a concave function of g
    alone. Sinkhorn's step sets g to meet the column sums; it is fast far from the solution and
    crawls where T is nearly sparse. Newton's step, g + ε S⁻¹ (q - T'1) with
    S = diag(T'1) - T' diag(1/p) T, is then taken; exponentials make the dual self-concordant, for
    which δ, the largest entry of the step in units of ε, is shortened to log(1 + δ).
    O(n m) per Sinkhorn and O(n m²) per Newton iteration.

    Args:
        costs: M, [n, m].
        weights: of the rows and of the columns.
        epsilon: ε > 0.
        g: [m] potentials to start from.
        tolerance: of `Scaled.error`.
        limit: of the iterations.

    Source: Peyré and Cuturi (2019), Computational Optimal Transport, section 4.4; Brauer, Clason,
    Lorenz and Wirth (2017), A Sinkhorn-Newton method for entropic optimal transport.
    """
    p, q = weights
    f = epsilon * (np.log(p) - _log_sum_exp((g - costs) / epsilon)[1])
    g = epsilon * (np.log(q) - _log_sum_exp((f - costs.T) / epsilon)[1])
    for iteration in range(limit):
        shares, sums = _log_sum_exp((g - costs) / epsilon)
        f = epsilon * (np.log(p) - sums)
        plan = p[:, None] * shares
        columns = plan.sum(0)
        error = float(np.abs(columns - q).sum())
        if error <= tolerance:
            break
        if iteration < _PLAIN:
            g = g + epsilon * np.log(q / columns)
        else:
            g = g + epsilon * _newton(plan, columns, p, q)
    return Scaled(plan, f, g, error)


def _newton(plan: Array, columns: Array, p: Array, q: Array) -> Array:
    """Newton's step of g / ε, shortened."""
    from scipy.linalg import cho_factor, cho_solve

    scaled = plan / np.sqrt(p)[:, None]
    matrix = np.diag(columns + _RIDGE * columns.max()) - scaled.T @ scaled
    matrix += columns.mean() / len(q)  # S is zero on constants, which change nothing
    step: Array = cho_solve(cho_factor(matrix), q - columns)
    longest = np.abs(step).max()
    step *= np.log1p(longest) / longest
    return step


def rounded(plan: Array, p: Array, q: Array) -> Array:
    """The plan made a coupling of p and q, moved by at most twice the error of its marginals.

    Source: Altschuler, Weed and Rigollet (2017), Near-linear time approximation algorithms for
    optimal transport via Sinkhorn iteration, algorithm 2.
    """
    plan = plan * (p / np.maximum(plan.sum(1), p))[:, None]
    plan = plan * (q / np.maximum(plan.sum(0), q))
    rows, columns = p - plan.sum(1), q - plan.sum(0)
    lacking = rows.sum()
    if lacking <= np.finfo(float).eps:
        return plan
    plan += np.outer(np.maximum(rows, 0), np.maximum(columns, 0)) / lacking
    return plan


def _log_sum_exp(exponents: Array) -> tuple[Array, Array]:
    """Of each row: the exponentials' shares in their sum, and the sum's logarithm."""
    largest = exponents.max(axis=1)
    shares: Array = np.exp(np.maximum(exponents - largest[:, None], _LEAST))
    sums: Array = shares.sum(axis=1)
    return shares / sums[:, None], largest + np.log(sums)
