"""DARE: thin the task vectors at random before another merge."""

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.merge.merging import Merge
from gwsmm.merge.stored import Reader, Tensors
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dare:
    """τ̃_i = m_i τ_i / density, entry by entry with P(m_i = 1) = density; then merge θ_base + τ̃_i.

    Drop And REscale: the thinned task vectors have the old ones as their mean and collide less.
    With density 1 it is the other merge. What is dropped follows from the seed, the tensor's name
    and the member's own values, and so neither from the order nor from the number of the members.
    Results vary with the seed: compare several. No data, no gradients; what is kept of a tensor is
    in memory, one bit for every entry of every member.

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
        kept = [self._kept(name, member.float()) for member in members]
        readers = [
            self._thinned(origin.flatten(), read, bits)
            for read, bits in zip(Tensors.of(members).readers, kept, strict=True)
        ]
        return self.then(name, origin, Tensors(base.shape, readers), sizes).to(base.dtype)

    def _kept(self, name: str, member: "Tensor") -> NDArray[np.uint8]:
        """Which entries are kept, eight to a byte."""
        import torch

        drawn = sha256(f"{self.seed} {name} ".encode())
        drawn.update(member.flatten().cpu().numpy().data)
        generator = torch.Generator().manual_seed(int.from_bytes(drawn.digest()[:8], "big"))
        kept = torch.rand(member.shape, generator=generator) < self.density
        return np.packbits(kept.numpy())

    def _thinned(self, start: "Tensor", read: Reader, kept: NDArray[np.uint8]) -> Reader:
        import torch

        def thin(at: slice) -> "Tensor":
            # Slices begin at whole bytes; see `Tensors.pieces`.
            bits = np.unpackbits(kept[at.start // 8 :], count=at.stop - at.start)
            here, origin = torch.from_numpy(bits).bool().to(start.device), start[at]
            return torch.where(here, origin + (read(at).float() - origin) / self.density, origin)

        return thin
