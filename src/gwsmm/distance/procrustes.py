"""Orthogonal Procrustes: what is left between two clouds after the best rotation."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from gwsmm.distance.common import Rows, centred, check_same
from gwsmm.distance.space import of_loss, title
from gwsmm.types import STRICT, Cloud, Pair


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Procrustes:
    """min over orthogonal Q of ‖X Q − Y‖²_F = ‖X‖²_F + ‖Y‖²_F − 2 ‖Xᵀ Y‖_*.

    X [n, d] and Y [n, e] are the features of the same n responses under two encoders, centred and
    of Frobenius norm one; the narrower is filled up with zeros; ‖·‖_* is the sum of the singular
    values. Unchanged by translation, rotation, reflection and isotropic scaling of either cloud;
    every response counts alike. A cloud whose points are all equal is 1 from any other and 0 from
    another such. O(n d e + d² e) per pair.

    Choose it where directions of small variance should count more than they do in CKA: singular
    values enter once, where CKA squares them. As for biased CKA, features that have nothing in
    common look alike unless n is many times d: normal ones have a loss of 0.65 at n = 512, d = 384.

    Attributes:
        quantity: `loss`, in [0, 2], or `root`: its square root, a metric in [0, √2].

    Source: Schönemann (1966); `loss`: Ding, Denain and Steinhardt (2021); `root`: Williams
    et al. (2021), among whose shape metrics it is. `scipy.spatial.procrustes` scales X too: its
    disparity is 1 − (1 − loss / 2)².
    """

    compares: ClassVar[str] = "common"

    quantity: Literal["loss", "root"]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return title("Procrustes", self.quantity)

    def prepare(self, subject: Cloud) -> Rows:
        """The centred features of norm one; see `centred`."""
        return centred(subject)

    def __call__(self, a: Rows, b: Rows) -> Pair:
        """The quantity between two encoders."""
        from scipy.linalg import svdvals

        check_same(a, b)
        x, y = a.values, b.values
        loss = float((x**2).sum() + (y**2).sum() - 2 * svdvals(x.T @ y).sum())
        return Pair(of_loss(loss, self.quantity))
