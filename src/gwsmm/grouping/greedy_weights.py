"""Groups by how alike the changes of the weights are."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.candidates import Candidates
from gwsmm.grouping.linkage import check_encoders, cut, into
from gwsmm.types import STRICT, Distances, Item, Plan


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GreedyWeights:
    """Joins the two groups whose most unlike task vectors are most alike, until `encoders` remain.

    Likeness is the cosine, and of two groups that of the two members that are least alike, which is
    complete linkage. Whole encoders are joined, not block by block as at the source. No response
    is looked at, and no candidate is merged.

    Attributes:
        encoders: groups that remain.

    Source: Dhasade et al. (2025), "FlexMerge: navigating the accuracy-size trade-off with flexible
    model merging".
    """

    encoders: Annotated[int, Field(ge=1)]

    def check(self, items: Sequence[Item]) -> None:
        """Refuse more encoders than items; see `Grouping`."""
        check_encoders(self.encoders, len(items))

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """Cluster the items by the angles between their task vectors."""
        rule = into(self.encoders, "complete")
        return cut(candidates.cosines(), distances.names, rule, "greedily by task vector cosine")
