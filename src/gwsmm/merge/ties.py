"""TIES: trim, elect signs, merge what agrees."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.merge.merging import Base
from gwsmm.merge.stored import Tensors
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Ties:
    """θ = θ_base + λ · (mean, over members of the elected sign, of the trimmed task vectors).

    Tensor by tensor, with task vectors τ_i = θ_i − θ_base: trim each τ_i to its entries of largest
    magnitude; elect the sign of their sum; average the entries that have it. No data, no gradients.

    Attributes:
        density: share of each tensor's entries that is kept.
        scale: λ.
        base: `pretrained`, `group_mean` or the name of an item that is in every group.

    Source: Yadav et al. (2023), "TIES-Merging", algorithm 1; trimmed per tensor as the authors of
    GW-SMM do, where Yadav et al. trim over the whole model.
    """

    density: Annotated[float, Field(gt=0, le=1)]
    scale: Annotated[float, Field(gt=0)]
    base: Base

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """Merge the members around the base; see `Merge`."""
        return ties(base, members, density=self.density, scale=self.scale)


def ties(base: "Tensor", members: Sequence["Tensor"], *, density: float, scale: float) -> "Tensor":
    """The merged tensor; the members one at a time, and then in pieces side by side."""
    import torch

    origin = base.float()
    smallest = [smallest_kept(member.float() - origin, density) for member in members]
    merged = torch.empty_like(base).flatten()
    start = origin.flatten()
    for at, stored in Tensors.of(members).pieces():
        here = [each.float() for each in stored]
        taus = [trim(each - start[at], least) for each, least in zip(here, smallest, strict=True)]
        tau = disjoint_mean(taus, rounding(here))
        merged[at] = (start[at] + scale * tau).to(base.dtype)
    return merged.reshape(base.shape)


def smallest_kept(tau: "Tensor", density: float) -> float:
    """The smallest of the ceil(density · n) largest magnitudes."""
    magnitudes = tau.abs().flatten().cpu().numpy()
    dropped = len(magnitudes) - math.ceil(len(magnitudes) * density)
    # The value that torch.kthvalue gives, in a tenth of the time.
    return float(np.partition(magnitudes, dropped)[dropped])


def trim(tau: "Tensor", smallest: float) -> "Tensor":
    """`tau` with zero for every entry of a smaller magnitude; entries that equal it are kept."""
    import torch

    return torch.where(tau.abs() >= smallest, tau, torch.zeros_like(tau))


def disjoint_mean(taus: Sequence["Tensor"], rounding: "Tensor") -> "Tensor":
    """The mean, entry by entry, of those non-zero values that have the sign of the sum.

    Zero where the sum is not larger than `rounding`: around the members' mean, task vectors cancel,
    and what is left of their sum must not elect a sign.
    """
    import torch

    stacked = torch.stack(list(taus))
    total = stacked.sum(0)
    elected = torch.where(total.abs() > rounding, total.sign(), torch.zeros_like(total))
    agrees = stacked * elected > 0
    agreeing = torch.where(agrees, stacked, torch.zeros_like(stacked)).sum(0)
    return agreeing / agrees.sum(0).clamp(min=1)


def rounding(members: Sequence["Tensor"]) -> "Tensor":
    """How far from zero rounding alone can take a sum of differences to the members' mean."""
    import torch

    largest = torch.stack([member.abs() for member in members]).amax(0)
    return 2 * len(members) * torch.finfo(torch.float32).eps * largest
