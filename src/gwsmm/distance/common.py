"""What the distances share that compare encoders on the same responses."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gwsmm.distance.space import check_finite
from gwsmm.types import Cloud, InputError

ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Rows:
    """What one encoder makes of the common responses.

    Attributes:
        name: the item's.
        n: how many responses.
        values: of the responses [n, d], or of their pairs [n · (n − 1) / 2].
    """

    name: str
    n: int
    values: NDArray[np.float64]


def centred(cloud: Cloud) -> Rows:
    """The features less their mean, ‖values‖_F = 1; zero where all points are equal.

    Raises:
        InputError: a feature is not finite.
    """
    check_finite(cloud)
    points = cloud.points - cloud.points.mean(axis=0)
    spread = float(np.linalg.norm(points))
    if spread <= ROUNDING * float(np.linalg.norm(cloud.points)):  # that of the mean, no spread
        return Rows(cloud.name, len(points), np.zeros_like(points))
    return Rows(cloud.name, len(points), points / spread)


def check_same(a: Rows, b: Rows) -> None:
    """Refuse clouds that cannot be of the same responses.

    Raises:
        InputError: they have different numbers of rows.
    """
    if a.n != b.n:
        raise InputError(
            f"items {a.name!r} and {b.name!r}: {a.n} and {b.n} rows of features are not of the "
            "same responses: give each encoder the same texts in the same order"
        )
