"""The best plan that validation can find."""

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.agglomeration import agglomerated
from gwsmm.grouping.candidates import Candidates, Group
from gwsmm.grouping.linkage import check_encoders
from gwsmm.grouping.partitions import Groups
from gwsmm.types import STRICT, Distances, Item, Plan, partition


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Oracle:
    """The partition into `encoders` groups of least validation loss: what any grouping can reach.

    The loss is that of `validated`. A plan's is the sum of its groups', so that with every group
    tried once the best of all partitions is found by dynamic programming over subsets in O(3^N).
    Where there are more than `most` groups to try, a beam search joins groups two at a time and
    keeps the best `beam` partitions of every size. A reference for other groupings and not one
    to deploy: it chooses among many by few validation responses.

    Attributes:
        encoders: groups of the plan.
        most: groups that may be tried for the search over all partitions.
        beam: partitions that the search keeps where there are more.
    """

    encoders: Annotated[int, Field(ge=1)]
    most: Annotated[int, Field(ge=1)]
    beam: Annotated[int, Field(ge=1)]

    def check(self, items: Sequence[Item]) -> None:
        """Refuse more encoders than items; see `Grouping`."""
        check_encoders(self.encoders, len(items))

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """Search all partitions where they are few, else the best of a beam."""
        names = distances.names
        largest = len(names) - self.encoders + 1
        groups = [g for size in range(1, largest + 1) for g in combinations(names, size)]
        if len(groups) <= self.most:
            losses = dict(zip(groups, _totals(candidates, groups), strict=True))
            found = _best(names, self.encoders, losses)
            return partition(found, names, "least validation loss of all partitions")
        found = agglomerated(names, self.encoders, partial(_totals, candidates), self.beam)
        return partition(found, names, f"least validation loss, beam of {self.beam}")


def _totals(candidates: Candidates, groups: Sequence[Group]) -> list[float]:
    return [sum(losses) for losses in candidates.losses(groups)]


def _best(names: Sequence[str], encoders: int, losses: dict[Group, float]) -> Groups:
    """The partition of least loss, by the best partitions of all subsets into fewer groups."""
    by_mask = {sum(1 << names.index(name) for name in group): group for group in losses}
    whole = (1 << len(names)) - 1
    best: dict[int, tuple[float, Groups]] = {0: (0.0, ())}
    for _ in range(encoders):
        following = dict[int, tuple[float, Groups]]()
        for mask, (loss, plan) in best.items():
            first = (~mask) & (mask + 1)  # the first item that is in no group begins the next
            for group_mask, group in by_mask.items():
                if group_mask & first and not group_mask & mask:
                    total = loss + losses[group]
                    known = following.get(mask | group_mask)
                    if known is None or total < known[0]:
                        following[mask | group_mask] = (total, (*plan, group))
        best = following
    return best[whole][1]
