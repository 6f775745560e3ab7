"""Groups by how unlike the changes of the weights are."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.agglomeration import agglomerated
from gwsmm.grouping.candidates import Candidates, Group
from gwsmm.grouping.linkage import check_encoders
from gwsmm.types import STRICT, Distances, Item, Plan, partition


@dataclass(frozen=True, kw_only=True, config=STRICT)
class UnlikeWeights:
    """Joins the two groups that add least cosine between task vectors, until `encoders` remain.

    The sum of the cosines of all pairs inside a group is what it costs, so that groups stay small
    and hold what fine-tuning moved in different directions: orthogonal task vectors interfere least
    when they are added (Ilharco et al., 2023). The opposite of `greedy_weights`; of all signals
    that were held against measured losses here, the one that said which pairs merge well. No
    response is looked at, and no candidate is merged.

    Attributes:
        encoders: groups that remain.
    """

    encoders: Annotated[int, Field(ge=1)]

    def check(self, items: Sequence[Item]) -> None:
        """Refuse more encoders than items; see `Grouping`."""
        check_encoders(self.encoders, len(items))

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """Join the items by the angles between their task vectors, the widest first."""
        names = distances.names
        at = {name: i for i, name in enumerate(names)}
        cosines = 1 - candidates.cosines()

        def cost(groups: Sequence[Group]) -> list[float]:
            inside = [[at[name] for name in group] for group in groups]
            return [float(cosines[rows][:, rows].sum() - len(rows)) / 2 for rows in inside]

        return partition(
            agglomerated(names, self.encoders, cost), names, "least task vector cosine, greedily"
        )
