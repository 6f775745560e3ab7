"""Groups by chance."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.candidates import Asks, Candidates, Grouping
from gwsmm.grouping.partitions import drawn, sizes_of
from gwsmm.types import STRICT, Distances, Item, Plan, partition


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Random:
    """A partition drawn from all that have groups of the same sizes as another plan.

    The control of that plan: what the same storage keeps when nothing is known of the items. The
    draw does not depend on the order of the items.

    Attributes:
        like: the grouping whose sizes are taken.
        seed: of the draw.
    """

    like: Grouping
    seed: Annotated[int, Field(ge=0)]

    def check(self, items: Sequence[Item]) -> None:
        """As of the other grouping; see `Grouping`."""
        self.like.check(items)

    def open(self, items: Sequence[Item]) -> bool:
        """As of the other grouping; see `Asks`."""
        return isinstance(self.like, Asks) and self.like.open(items)

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """Draw groups of the sizes of the other plan."""
        sizes = sizes_of(self.like(distances, candidates).groups)
        groups = drawn(sorted(distances.names), sizes, np.random.default_rng(self.seed))
        return partition(groups, distances.names, f"random groups of the sizes {list(sizes)}")
