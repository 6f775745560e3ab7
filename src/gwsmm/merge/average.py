"""The plain mean of the members."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.merge.merging import PRETRAINED, weighted_mean
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Average:
    """θ = mean of θ_i. No data, no gradients, no base.

    Source: Wortsman et al. (2022), "Model soups".
    """

    base: ClassVar[str] = PRETRAINED

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """The mean of the members; see `Merge`."""
        return weighted_mean(members, [1.0] * len(members))
