"""Groups by what their merge is measured to lose."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.agglomeration import agglomerated
from gwsmm.grouping.candidates import Candidates, Group
from gwsmm.grouping.linkage import check_encoders
from gwsmm.types import STRICT, Distances, Item, Plan, partition


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Validated:
    """Joins the two groups whose merge raises the validation loss least, until `encoders` remain.

    The loss is the sum over items of the binary cross-entropy of their validation responses with
    the merge and the heads of the experiment. Every candidate is merged, has heads fitted, and is
    run on the validation responses: for N items N (N − 1) / 2 pairs at first and at most N after
    every join. Choose it where the labels of the validation responses may be spent on the plan.

    Attributes:
        encoders: groups that remain.
    """

    encoders: Annotated[int, Field(ge=1)]

    def check(self, items: Sequence[Item]) -> None:
        """Refuse more encoders than items; see `Grouping`."""
        check_encoders(self.encoders, len(items))

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """Try the unions of every two groups, and carry out the best."""

        def cost(groups: Sequence[Group]) -> list[float]:
            return [sum(losses) for losses in candidates.losses(groups)]

        groups = agglomerated(distances.names, self.encoders, cost)
        return partition(groups, distances.names, "least validation loss, joined greedily")
