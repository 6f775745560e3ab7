"""Which groups are merged beside those of the plan, so that the plan can be judged."""

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from itertools import combinations
from math import comb
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.candidates import Group
from gwsmm.grouping.partitions import Groups, count, drawn, every, sizes_of
from gwsmm.metrics import Scores
from gwsmm.types import STRICT, Plan, partition


@plain_dataclass(frozen=True)
class Controls:
    """Groups to merge and score, and plans that consist of them.

    Attributes:
        groups: of two items or more.
        plans: of the same sizes as the plan; the plan itself is not among them unless all are.
        all_plans: whether these are all there are.
    """

    groups: tuple[Group, ...]
    plans: tuple[Groups, ...]
    all_plans: bool


@plain_dataclass(frozen=True, kw_only=True)
class Attempt:
    """One item of one group that was merged to see what it does.

    Attributes:
        group: that was merged; of one item: its own model.
        item: of the group.
        split: that was scored: `validation` or `test`.
        scores: of these responses.
        loss: binary cross-entropy of these responses, mean over responses and labels.
        drift: of the item's cloud by the experiment's distance; None: it compares no clouds, or
            drifts were not asked for.
        drift_cka: the same by linear CKA; None: not asked for.
        evaluation: key of the evaluation in the store.
    """

    group: Group
    item: str
    split: str
    scores: Scores
    loss: float
    drift: float | None
    drift_cka: float | None
    evaluation: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Control:
    """What a plan is held against: all groups of some sizes, and random plans of its own sizes.

    A plan's score is made of its groups', so that few merges serve many plans: of nine items in
    groups of 3, 3, 1, 1 and 1 there are 840 plans and 84 trios.

    Attributes:
        sizes: of which every group is tried, for the distances to predict what they lose.
        plans: random plans at most; all there are where they are fewer.
        most: groups that may be merged for the random plans; where all their groups are more, plans
            are drawn until the next would need more.
        drift: whether it is measured how far the items' clouds move, as signals to predict by; that
            reads the items' training responses once more for every group.
        seed: of the draws.
    """

    sizes: tuple[Annotated[int, Field(ge=2)], ...]
    plans: Annotated[int, Field(ge=0)]
    most: Annotated[int, Field(ge=0)]
    drift: bool
    seed: Annotated[int, Field(ge=0)]

    def __call__(self, plan: Plan, names: Sequence[str]) -> Controls:
        """The groups and plans for these items."""
        asked = dict.fromkeys(group for size in self.sizes for group in combinations(names, size))
        plans, complete = self._plans(plan, names) if self.plans else ((), False)
        if plans:
            asked |= dict.fromkeys(group for group in plan.groups if len(group) > 1)
        asked |= dict.fromkeys(group for each in plans for group in each if len(group) > 1)
        return Controls(tuple(asked), plans, complete)

    def _plans(self, plan: Plan, names: Sequence[str]) -> tuple[tuple[Groups, ...], bool]:
        sizes = sizes_of(plan.groups)
        if max(sizes) == 1 or len(sizes) == 1:
            return (), False  # there is no other plan
        merged = {size for size in sizes if size > 1}
        if sum(comb(len(names), size) for size in merged) <= self.most and (
            count(sizes) <= self.plans
        ):
            return tuple(_ordered(each, names) for each in every(names, sizes)), True
        return self._drawn(_ordered(plan.groups, names), names), False

    def _drawn(self, own: Groups, names: Sequence[str]) -> tuple[Groups, ...]:
        sizes = sizes_of(own)
        random = np.random.default_rng(self.seed)
        found = dict[Groups, None]()
        groups = set[Group]()
        for _ in range(20 * self.plans):  # so that few plans are not drawn for ever
            plan = _ordered(drawn(names, sizes, random), names)
            if plan == own:
                continue
            needed = groups | {group for group in plan if len(group) > 1}
            if len(needed) > self.most or len(found) == self.plans:
                break
            groups, found[plan] = needed, None
        return tuple(found)


def _ordered(groups: Groups, names: Sequence[str]) -> Groups:
    return partition(groups, names, "control").groups
