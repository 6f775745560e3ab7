"""The mean of the members, weighted by how much each has seen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.merge.merging import PRETRAINED, weighted_mean
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Weighted:
    """θ = Σ w_i θ_i with w_i ∝ n_i^power, where n_i counts the item's training responses.

    No data, no gradients, no base.

    Attributes:
        power: 1 weighs by the number of responses, 0 is the plain mean.

    Source: the weights of federated averaging (McMahan et al., 2017) applied to a merge.
    """

    base: ClassVar[str] = PRETRAINED
    version: ClassVar[int] = 2

    power: Annotated[float, Field(ge=0)]

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """The weighted mean of the members; see `Merge`."""
        return weighted_mean(members, [(size / max(sizes)) ** self.power for size in sizes])
