"""TIES: trim, elect signs, merge what agrees."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
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
        base: `pretrained`, `group_mean`, `first_item` or the name of an item.

    Source: Yadav et al. (2023), "TIES-Merging", algorithm 1; trimmed per tensor as the authors of
    GW-SMM do, where Yadav et al. trim over the whole model.
    """

    density: Annotated[float, Field(gt=0, le=1)]
    scale: Annotated[float, Field(gt=0)]
    base: str

    def __call__(self, base: State, states: Sequence[State], sizes: Sequence[int]) -> State:
        """Merge the members around the base; see `Merge`."""
        merged = {}
        for name, start in base.items():
            origin = start.float()
            members = [state[name].float() for state in states]
            taus = [trim(member - origin, self.density) for member in members]
            tau = disjoint_mean(taus, _rounding(members))
            merged[name] = (origin + self.scale * tau).to(start.dtype)
        return merged


def trim(tau: "Tensor", density: float) -> "Tensor":
    """`tau` with all but its ceil(density · n) entries of largest magnitude set to zero.

    Entries that equal the smallest kept magnitude are all kept.
    """
    import torch

    kept = math.ceil(tau.numel() * density)
    magnitude = tau.abs()
    smallest = magnitude.flatten().kthvalue(tau.numel() - kept + 1).values
    return torch.where(magnitude >= smallest, tau, torch.zeros_like(tau))


def disjoint_mean(taus: Sequence["Tensor"], rounding: "Tensor") -> "Tensor":
    """The mean, entry by entry, of those non-zero values that have the sign of the sum.

    Zero where the sum is not larger than `rounding`: around the members' mean, task vectors cancel,
    and what is left of their sum must not elect a sign.
    """
    import torch

    stacked = torch.stack(list(taus))
    total = stacked.sum(0)
    elected = torch.where(total.abs() > rounding, total.sign(), torch.zeros_like(total))
    agrees = (stacked.sign() == elected) & (stacked != 0)
    agreeing = torch.where(agrees, stacked, torch.zeros_like(stacked)).sum(0)
    return agreeing / agrees.sum(0).clamp(min=1)


def _rounding(members: Sequence["Tensor"]) -> "Tensor":
    """How far from zero rounding alone can take a sum of differences to the members' mean."""
    import torch

    largest = torch.stack([member.abs() for member in members]).amax(0)
    return 2 * len(members) * torch.finfo(torch.float32).eps * largest
