"""Isotropic merging: every direction of the merged task matrix gets the same weight."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from gwsmm.merge.matrices import (
    is_matrix,
    noise,
    orthogonal,
    summed,
    svd,
    task_matrices,
    task_mean,
)
from gwsmm.merge.merging import GROUP_MEAN, PRETRAINED, Base
from gwsmm.merge.stored import Tensors
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


def _not_group_mean(base: str) -> str:
    if base == GROUP_MEAN:
        raise ValueError(
            "around the mean of a group its task matrices sum to zero, so that nothing is left to "
            f"be made isotropic; give {PRETRAINED} or the name of an item that is in every group"
        )
    return base


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Iso:
    """θ = θ_base + λ σ̄ U Vᵀ for every weight of a linear layer, with Σ τ_i = U diag(σ) Vᵀ.

    Iso-C (`common` 1): the singular values of the summed task matrices are replaced by their mean
    σ̄, so that what few directions dominate no longer drowns the tasks of the others. Iso-CTS
    (`common` below 1): only the largest of these r directions are kept, and each of the T members
    fills an equal share of the others with the largest of what of τ_i lies outside of them; U and
    V are made orthonormal (Procrustes) and σ̄ is the mean over all that were chosen. Other tensors
    get λ times the mean task vector. Directions that rounding the weights to fp32 may have made up
    are left out: they would get as much weight as any. No data, no gradients; three singular
    value decompositions of every matrix, T + 3 for Iso-CTS.

    Neither equal members nor a single one are given back: their spectrum is flattened too.

    Attributes:
        scale: λ.
        common: share of the directions that are common to the members, rounded so that the members
            share the others evenly.
        base: `pretrained` or the name of an item that is in every group. Around `group_mean` the
            task matrices sum to zero.

    Source: Marczak et al. (2025), "No task left behind"; embeddings are averaged here and are
    matrices there.
    """

    version: ClassVar[int] = 3

    scale: Annotated[float, Field(gt=0)]
    common: Annotated[float, Field(gt=0, le=1)]
    base: Annotated[Base, AfterValidator(_not_group_mean)]

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """Merge the members around the base; see `Merge`."""
        if is_matrix(name, base):
            tau = _isotropic(
                task_matrices(base, members), [noise(each) for each in members], self.common
            )
        else:
            tau = task_mean(base, members)
        return (base.to(tau.dtype) + self.scale * tau).to(base.dtype)


def _isotropic(taus: Tensors, noises: Sequence[float], common: float) -> "Tensor":
    import torch

    total = summed(taus)
    rank = min(total.shape)
    own = min(round((rank - int(rank * common)) / len(taus)), rank // len(taus))
    shared = rank - own * len(taus)
    u, s, vh = svd(total, math.hypot(*noises))  # those of members are independent
    left, values, right = [u[:, :shared]], [s[:shared]], [vh[:shared]]
    for tau, noise_of_tau in zip(taus, noises, strict=True) if own else ():
        u, s, vh = svd(tau - left[0] @ (left[0].T @ tau), noise_of_tau)
        left.append(u[:, :own].clone())  # a slice would keep the whole in memory
        values.append(s[:own])
        right.append(vh[:own].clone())
    spectrum = torch.cat(values)
    if len(spectrum) == 0:
        return torch.zeros_like(total)
    return spectrum.mean() * orthogonal(torch.cat(left, dim=1)) @ orthogonal(torch.cat(right))
