"""Groups by how far merging moves the items' feature clouds."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.agglomeration import agglomerated
from gwsmm.grouping.candidates import Candidates, Group, Signal
from gwsmm.grouping.linkage import check_encoders
from gwsmm.types import STRICT, Distances, Item, Plan, partition


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Drift:
    """Joins the two groups whose merge moves the items' clouds least, until `encoders` remain.

    The drift of an item is the distance from its responses' cloud under its own encoder to that of
    the same responses under the candidate merged encoder. Where the paper's distance asks whether
    two items' clouds are alike, this asks what the merge at hand does to each of them. It needs
    a merge and a forward pass for every candidate, and no label. As many candidates as `validated`.

    Attributes:
        encoders: groups that remain.
        signal: `distance`: the distance of the experiment, which must compare clouds; `cka`: one
            minus linear CKA, which compares the two clouds response by response.
    """

    encoders: Annotated[int, Field(ge=1)]
    signal: Signal

    def check(self, items: Sequence[Item]) -> None:
        """Refuse more encoders than items; see `Grouping`."""
        check_encoders(self.encoders, len(items))

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """Try the unions of every two groups, and carry out the one that drifts least."""

        def cost(groups: Sequence[Group]) -> list[float]:
            return [sum(drifts) for drifts in candidates.drifts(groups, self.signal)]

        groups = agglomerated(distances.names, self.encoders, cost)
        return partition(groups, distances.names, f"least drift by {self.signal}, joined greedily")
