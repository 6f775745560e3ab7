"""No merge at all: the pretrained encoder, as it came."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.merge.merging import PRETRAINED
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Frozen:
    """θ = θ_base, the pretrained encoder; the members have no part in it.

    A reference, no merge: with heads that are refitted it says what the encoder knows without any
    fine-tuning, so that what a merge adds can be told from what the heads alone reach. As a start
    of `distill` it is training from the pretrained encoder. No data, no gradients.
    """

    base: ClassVar[str] = PRETRAINED

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """A copy of the base; see `Merge`."""
        return base.clone()
