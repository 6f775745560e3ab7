"""The best plan that validation can find."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.agglomeration import union
from gwsmm.grouping.candidates import Candidates, Group
from gwsmm.grouping.linkage import check_encoders
from gwsmm.types import STRICT, Distances, Item, Plan, partition

Plans = tuple[Group, ...]


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
            losses = _totals(candidates, groups)
            found = _best(names, self.encoders, losses)
            return partition(found, names, "least validation loss of all partitions")
        found = self._searched(names, lambda asked: _totals(candidates, asked))
        return partition(found, names, f"least validation loss, beam of {self.beam}")

    def _searched(
        self, names: Sequence[str], cost: Callable[[list[Group]], dict[Group, float]]
    ) -> Plans:
        beam: list[Plans] = [tuple((name,) for name in names)]
        known = cost(list(beam[0]))
        for _ in range(len(names) - self.encoders):
            nexts = dict.fromkeys(plan for each in beam for plan in _joined(names, each))
            asked = dict.fromkeys(g for plan in nexts for g in plan if g not in known)
            known |= cost(list(asked))
            ranked = sorted(nexts, key=lambda plan: sum(known[group] for group in plan))
            beam = ranked[: self.beam]
        return beam[0]


def _totals(candidates: Candidates, groups: list[Group]) -> dict[Group, float]:
    return dict(zip(groups, map(sum, candidates.losses(groups)), strict=True))


def _joined(names: Sequence[str], plan: Plans) -> list[Plans]:
    """Every plan in which two groups of this one are joined, in one order of the groups."""
    found = []
    for one, other in combinations(plan, 2):
        rest = [group for group in plan if group not in (one, other)]
        both = [*rest, union(names, one, other)]
        found.append(tuple(sorted(both, key=lambda group: names.index(group[0]))))
    return found


def _best(names: Sequence[str], encoders: int, losses: dict[Group, float]) -> Plans:
    """The partition of least loss, by the best partitions of all subsets into fewer groups."""
    by_mask = {sum(1 << names.index(name) for name in group): group for group in losses}
    whole = (1 << len(names)) - 1
    best: dict[int, tuple[float, Plans]] = {0: (0.0, ())}
    for _ in range(encoders):
        following = dict[int, tuple[float, Plans]]()
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
