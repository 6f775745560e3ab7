"""From members and groups to what scores each item: its own encoder, or what its group shares."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from gwsmm.artefact import Artefact, Coded, Kept, Member, Scorer
from gwsmm.decision.deciding import Deciding, Undecided
from gwsmm.experiment import Experiment
from gwsmm.heads.fitting import HeadFitting, Moved
from gwsmm.merge.diagnosing import Diagnosing, load_diagnosis
from gwsmm.merge.learning import LearnedMerge, Learning
from gwsmm.merge.merging import Group, Merging, group_for
from gwsmm.private.coding import Coding, Owner, Pretrained
from gwsmm.private.nothing import Nothing
from gwsmm.private.pooler import Pooler
from gwsmm.private.private import Private, PrivateTrunk
from gwsmm.rounding import Rounding
from gwsmm.store import Store
from gwsmm.types import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """Merges groups of items, and fits what each of them keeps for itself.

    Attributes:
        x: the choices.
        members: of all items, in the order of the item set.
        passing: where merged encoders are that nobody keeps; None: they are kept as all else is.
    """

    x: Experiment
    members: Sequence[Member]
    passing: Store | None = None

    @cached_property
    def individual(self) -> dict[str, Scorer]:
        """What scores each item before the merge, by name."""
        alone = [Scorer(*[kept] * 3) for kept in self._own.values()]
        return dict(zip(self._own, self._decided(self.members, alone), strict=True))

    def merged(self, plan: Plan) -> dict[str, Scorer]:
        """What scores the items of a plan that do not keep their own encoder, by name."""
        return {k: v for each in self.each_merged(self._groups(plan)) for k, v in each.items()}

    def each_merged(self, groups: Sequence[Group]) -> list[dict[str, Scorer]]:
        """What scores the items of each group, by name; an item may stand in several groups."""
        scorers = iter(self._fitted(self.moved(groups)))
        return [{member.item.name: next(scorers) for member in each.members} for each in groups]

    def joined(self, member: Member, trunk: Artefact) -> Scorer:
        """What scores an item on a trunk that is there already, and stays as it is."""
        bases = (*self.pretrained, trunk) if self._merges else self.pretrained
        (scorer,) = self._fitted(self._moved([Owner(member, bases)]))
        return scorer

    def moved(self, groups: Sequence[Group]) -> list[Moved]:
        """The items of all groups, one group after the other, on their new encoders."""
        return self._moved(self._owners(groups))

    @cached_property
    def pretrained(self) -> tuple[Artefact, ...]:
        """The pretrained encoder as it is kept, if items keep a part of an encoder beside it."""
        private = self.x.private
        if not isinstance(private, PrivateTrunk) or "pretrained" not in private.bases:
            return ()
        made = self.x.kept.each(Pretrained(encoder=self.x.encoder), [None], self.x.execute)
        return tuple(self._rounded(made, self.x.kept))

    def _fitted(self, moved: Sequence[Moved]) -> list[Scorer]:
        """What scores these items with the heads, and the rules, that are fitted to them."""
        fit = HeadFitting(
            encoder=self.x.encoder, heads=self.x.heads, trainer=self.x.trainer, seed=self.x.seed
        )
        heads = self.x.kept.each(fit, moved, self.x.execute)
        scorers = [Scorer(m.trunk, m.pooler, head) for m, head in zip(moved, heads, strict=True)]
        return self._decided([each.member for each in moved], scorers)

    def _moved(self, owners: Sequence[Owner]) -> list[Moved]:
        """These items on their new encoders."""
        private, shares_pooler = self.x.private, "pooler" in self.x.private.shared_parts

        def on(member: Member, trunk: Kept) -> Moved:
            return Moved(member, trunk, trunk if shares_pooler else self._own[member.item.name])

        if not isinstance(private, PrivateTrunk):
            return [on(owner.member, *owner.bases) for owner in owners]
        coding = Coding(encoder=self.x.encoder, private=private, trainer=self.x.trainer)
        codes = self.x.kept.each(coding, owners, self.x.execute)
        return [
            on(owner.member, Coded(code, owner.bases, private))
            for owner, code in zip(owners, codes, strict=True)
        ]

    def group(self, names: Sequence[str]) -> Group:
        """The group of the items of these names.

        Raises:
            InputError: the base of the merge is an item that is no member of the group.
        """
        members = [member for member in self.members if member.item.name in names]
        return group_for(self.x.merge, members, self.members)

    def diagnosed(self, plan: Plan) -> list[dict[str, Any]]:
        """What is seen of every group before its merge, warnings logged; none if none is merged."""
        found = [load_diagnosis(each) for each in self.diagnoses(plan)]
        for warning in (line for each in found for line in each["warnings"]):
            log.warning("%s", warning)
        return found

    def diagnoses(self, plan: Plan) -> list[Artefact]:
        """The same as it is kept."""
        if not self._merges:
            return []
        diagnose = Diagnosing(
            encoder=self.x.encoder,
            base=self.x.merge.base,
            private=self._shared,
            trainer=self.x.trainer,
        )
        return self.x.kept.each(diagnose, self._groups(plan), self.x.execute)

    @cached_property
    def _own(self) -> dict[str, Artefact]:
        """The items' own models as they are kept."""
        made = self._rounded([member.made for member in self.members], self.x.kept)
        return dict(zip([member.item.name for member in self.members], made, strict=True))

    @property
    def _shared(self) -> Private:
        """What is merged; how an item's own part is coded changes no merge."""
        return Nothing() if "pooler" in self.x.private.shared_parts else Pooler()

    @property
    def _merges(self) -> bool:
        """Not where every item is coded over the pretrained encoder."""
        private = self.x.private
        return not isinstance(private, PrivateTrunk) or "merged" in private.bases

    def _groups(self, plan: Plan) -> list[Group]:
        """The groups of several items; where nothing is merged, all items as one."""
        if not self._merges:
            return [Group(tuple(self.members), None)]
        return [self.group(names) for names in plan.groups if len(names) > 1]

    @property
    def _merged_in(self) -> Store:
        """Where merged encoders go."""
        return self.passing or self.x.kept

    def _rounded(self, made: Sequence[Artefact], store: Store) -> Sequence[Artefact]:
        """These encoders in the number type in which they are kept."""
        if self.x.numbers == "float32":  # as they are
            return made
        return store.each(Rounding(numbers=self.x.numbers), made, self.x.execute)

    def _decided(self, members: Sequence[Member], scorers: Sequence[Scorer]) -> list[Scorer]:
        """These scorers, each with the rule that was fitted to it, if one is."""
        if not self.x.decision.fitted:
            return list(scorers)
        pairs = zip(members, scorers, strict=True)
        undecided = [Undecided(member.item, scorer) for member, scorer in pairs]
        decide = Deciding(encoder=self.x.encoder, decision=self.x.decision, trainer=self.x.trainer)
        rules = self.x.kept.each(decide, undecided, self.x.execute)
        return [replace(each, decision=rule) for each, rule in zip(scorers, rules, strict=True)]

    def _owners(self, groups: Sequence[Group]) -> list[Owner]:
        """Every item with what it is to stand on."""
        pretrained = self.pretrained
        if not self._merges:
            return [Owner(member, pretrained) for each in groups for member in each.members]
        return [Owner(member, (*pretrained, merged)) for member, merged in self._trunks(groups)]

    def _trunks(self, groups: Sequence[Group]) -> list[tuple[Member, Artefact]]:
        """Every item with what its group was merged to."""
        x, shared = self.x, self._shared
        if isinstance(x.merge, LearnedMerge):  # takes too long to be lost
            learn = Learning(encoder=x.encoder, merge=x.merge, private=shared, trainer=x.trainer)
            trunks = x.kept.each(learn, groups, x.execute)
        else:
            merge = Merging(encoder=x.encoder, merge=x.merge, private=shared, trainer=x.trainer)
            trunks = self._merged_in.each(merge, groups, x.execute)
        made = self._rounded(trunks, self._merged_in)
        return [
            (member, trunk)
            for group, trunk in zip(groups, made, strict=True)
            for member in group.members
        ]
