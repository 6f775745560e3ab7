"""The merge as the authors of GW-SMM ran it, its wrong base included."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.merge.merging import FIRST_ITEM
from gwsmm.merge.ties import ties
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Published:
    """TIES around the fine-tuned model of the item set's first item, whatever the group.

    Every group is thus anchored on a model that mostly is no member of it, and goes only `scale` of
    the way on `density` of the entries. For comparison, not for use. No data, no gradients.

    Attributes:
        density: 0.3 in the authors' calls.
        scale: 0.5 in the authors' calls.
        largest_group: members that enter a merge; of a larger group only the first ones do, and the
            others are scored by an encoder that knows nothing of them.

    Source: the authors' `model_merge.ipynb`.
    """

    base: ClassVar[str] = FIRST_ITEM

    density: Annotated[float, Field(gt=0, le=1)]
    scale: Annotated[float, Field(gt=0)]
    largest_group: Annotated[int, Field(ge=2)]

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """Merge the first members around the first item's model; see `Merge`."""
        first = self.largest_group
        if len(members) > first:
            warn_of_truncation(first, len(members))
        return ties(base, members[:first], density=self.density, scale=self.scale)


@cache  # a merge calls for every tensor
def warn_of_truncation(first: int, members: int) -> None:
    """Say, once for every size of a group, that not all of its members enter the merge."""
    log.warning("published merge: only the first %d of %d enter it", first, members)
