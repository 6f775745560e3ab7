"""DARE: thin the task vectors at random before another merge."""

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.merge.merging import Merge
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dare:
    """τ̃_i = m_i τ_i / density, entry by entry with P(m_i = 1) = density; then merge θ_base + τ̃_i.

    Drop And REscale: the thinned task vectors have the old ones as their mean and collide less.
    With density 1 it is the other merge. What is dropped follows from the seed, the tensor's name
    and the member's own values, and so neither from the order nor from the number of the members.
    Results vary with the seed: compare several. No data, no gradients; in memory are fp32 copies of
    one tensor of every member.

    Attributes:
        density: share of the entries that is kept, 1 − p of the paper.
        seed: of the draws.
        then: the merge that is given the thinned members.

    Source: Yu et al. (2024), "Language models are super Mario", section 3.
    """

    density: Annotated[float, Field(gt=0, le=1)]
    seed: Annotated[int, Field(ge=0)]
    then: Merge

    @property
    def base(self) -> str:
        """That of the merge that follows."""
        return self.then.base

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """Merge the thinned members; see `Merge`."""
        origin = base.float()
        thinned = [self._thin(name, origin, member.float()) for member in members]
        return self.then(name, origin, thinned, sizes).to(base.dtype)

    def _thin(self, name: str, origin: "Tensor", member: "Tensor") -> "Tensor":
        import torch

        drawn = sha256(f"{self.seed} {name} ".encode())
        drawn.update(member.flatten().cpu().numpy().data)
        generator = torch.Generator().manual_seed(int.from_bytes(drawn.digest()[:8], "big"))
        kept = (torch.rand(member.shape, generator=generator) < self.density).to(member.device)
        return torch.where(kept, origin + (member - origin) / self.density, origin)
