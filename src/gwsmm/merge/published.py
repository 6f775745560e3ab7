"""The merge as the authors of GW-SMM ran it, its wrong base included."""

import logging
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.merge.merging import FIRST_ITEM
from gwsmm.merge.ties import Ties
from gwsmm.types import STRICT

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Published:
    """TIES around the fine-tuned model of the item set's first item, whatever the group.

    Every group is thus anchored on a model that mostly is no member of it, and goes only `scale` of
    the way on `density` of the entries. For comparison, not for use.

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

    def __call__(self, base: State, states: Sequence[State], sizes: Sequence[int]) -> State:
        """Merge the first members around the first item's model; see `Merge`."""
        first = self.largest_group
        if len(states) > first:
            log.warning("published merge: only the first %d of %d enter it", first, len(states))
        ties = Ties(density=self.density, scale=self.scale, base=FIRST_ITEM)
        return ties(base, states[:first], sizes[:first])
