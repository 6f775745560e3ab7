"""TSV-Merge: few singular directions of every member, made orthogonal to those of the others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.merge.matrices import is_matrix, noise, orthogonal, svd, task_matrices, task_mean
from gwsmm.merge.merging import Base
from gwsmm.merge.stored import Tensors
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tsv:
    """θ = θ_base + λ U⊥ diag(σ_1, …, σ_T) V⊥ᵀ for every weight of a linear layer.

    With τ_i = U_i diag(σ_i) V_iᵀ, each of the T members keeps its r/T largest singular values (at
    least one; r is the smaller side of the matrix). U⊥ is the orthonormal matrix nearest to
    [U_1 … U_T] (Procrustes, which is the whitening of the paper), V⊥ likewise: directions that
    members share no longer add up. Other tensors get λ times the mean task vector. Directions
    that rounding the weights to fp32 may have made up are left out. No data, no gradients; T + 2
    singular value decompositions of every matrix.

    Equal members do not give that member but 1/T of its singular values; one member gives itself at
    λ = 1.

    Attributes:
        scale: λ.
        base: `pretrained`, `group_mean` or the name of an item that is in every group.

    Source: Gargiulo et al. (2025), "Task Singular Vectors", TSV-Merge; embeddings are averaged here
    and are matrices there.
    """

    version: ClassVar[int] = 3

    scale: Annotated[float, Field(gt=0)]
    base: Base

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """Merge the members around the base; see `Merge`."""
        if is_matrix(name, base):
            tau = _decorrelated(task_matrices(base, members), [noise(each) for each in members])
        else:
            tau = task_mean(base, members)
        return (base.to(tau.dtype) + self.scale * tau).to(base.dtype)


def _decorrelated(taus: Tensors, noises: Sequence[float]) -> "Tensor":
    import torch

    kept = max(1, min(taus.shape) // len(taus))
    left, values, right = [], [], []
    for tau, noise_of_tau in zip(taus, noises, strict=True):
        u, s, vh = svd(tau, noise_of_tau)
        left.append(u[:, :kept].clone())  # a slice would keep the whole in memory
        values.append(s[:kept])
        right.append(vh[:kept].clone())
    return orthogonal(torch.cat(left, dim=1)) * torch.cat(values) @ orthogonal(torch.cat(right))
