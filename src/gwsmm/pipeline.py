"""The whole program as one figure.

items → finetune → features → distances → plan → merge → heads → decision → evaluate → report
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Artefact, Coded, Kept, Member, Scorer
from gwsmm.decision.deciding import Deciding, Undecided
from gwsmm.decision.rule import Decision
from gwsmm.distance.pairwise import Distance, Pairwise, load_distances
from gwsmm.distance.stability import Halving, Stability, load_stability
from gwsmm.distance.subjects import (
    CloudOf,
    CloudWithEmbeddingOf,
    CloudWithLabelsOf,
    LabelsOf,
    Subject,
    WeightsOf,
)
from gwsmm.encoder import Encoder
from gwsmm.evaluate import Evaluation, Tested
from gwsmm.execute import Execute
from gwsmm.features import (
    Extraction,
    Features,
    Reading,
    check_layer,
    common_readings,
    own_readings,
    own_responses,
    pretrained_readings,
)
from gwsmm.finetune import Finetuning
from gwsmm.heads.fitting import HeadFitting, Heads, Moved
from gwsmm.items.split import Split
from gwsmm.merge.diagnosing import Diagnosing, load_diagnosis
from gwsmm.merge.learning import LearnedMerge, Learning
from gwsmm.merge.merging import Group, Merge, Merging, check_base, group_for
from gwsmm.private.coding import Coding, Owner, Pretrained
from gwsmm.private.nothing import Nothing
from gwsmm.private.pooler import Pooler
from gwsmm.private.private import Base, Private, PrivateTrunk
from gwsmm.recipe import Finetune, Trainer, check_frozen
from gwsmm.results import Run, outcome, results
from gwsmm.rounding import Numbers, Rounding
from gwsmm.store import Store
from gwsmm.tracking import Tracker
from gwsmm.types import Grouping, InputError, Item, Plan

log = logging.getLogger(__name__)


class ItemSource(Protocol):
    """Where items come from."""

    def __call__(self, split: Split) -> tuple[Item, ...]:
        """The items, each split into training, validation and test responses."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One choice of everything; the root of the configuration.

    Attributes:
        name: part of the run's folder name.
        seed: of everything that draws; strategies that draw take it from the configuration.
        store: folder of finished results, shared by all runs.
        numbers: in which every encoder is kept and scored, those of one item too; what is compared
            and merged is not rounded before.
    """

    name: str
    seed: int
    store: str
    numbers: Numbers
    encoder: Encoder
    items: ItemSource
    split: Split
    finetune: Finetune
    features: Features
    distance: Distance[object, object]
    stability: Stability
    grouping: Grouping
    merge: Merge | LearnedMerge
    private: Private
    heads: Heads
    decision: Decision
    trainer: Trainer
    execute: Execute
    tracker: Tracker

    def __post_init__(self) -> None:
        for name, value in (("name", self.name), ("store", self.store)):
            if not isinstance(value, str):
                raise InputError(f"{name}={value!r}: give a text")
        if self.numbers not in get_args(Numbers):
            raise InputError(
                f"numbers={self.numbers!r}: give one of {', '.join(get_args(Numbers))}"
            )
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed!r}: give a whole number from 0 to 2**32 - 1")


def run(x: Experiment, items: Sequence[Item]) -> Run:
    """Carry out the figure; whatever is in the store already is taken from there.

    Args:
        x: the choices.
        items: that `prepare` found usable.
    """
    store, execute = Store(Path(x.store)), x.execute
    names = [item.name for item in items]
    members = trained(x, items)
    subjects = compared(x, members)
    matrix = store.once(Pairwise(distance=x.distance), subjects, execute)
    distances = load_distances(names, matrix, x.distance, _stability(x, subjects))
    plan = x.grouping(distances)
    diagnoses = _diagnosed(x, store, members, plan)

    own = dict(zip(names, _rounded(x, store, [member.made for member in members]), strict=True))
    alone = {name: Scorer(*[kept] * 3) for name, kept in own.items()}
    before = _decided(x, store, members, alone)
    after = before | _decided(x, store, members, _merge(x, store, members, own, plan))

    evaluate = Evaluation(encoder=x.encoder, trainer=x.trainer)
    tested = [Tested(item, by[item.name]) for by in (before, after) for item in items]
    scored = store.each(evaluate, tested, execute)
    outcomes = [
        outcome(item, individual, merged, (before[item.name], after[item.name]))
        for item, individual, merged in zip(
            items, scored[: len(items)], scored[len(items) :], strict=True
        )
    ]
    about = {"name": x.name, "seed": x.seed, "encoder": {"model": x.encoder.model}}
    content = results(outcomes, plan, distances, about)
    return Run(outcomes, members, distances, plan, diagnoses, content)


def prepare(x: Experiment) -> tuple[Item, ...]:
    """Read the items, and refuse before any work what can be seen to fail.

    Raises:
        InputError: the input cannot be used.
    """
    x.tracker.check()
    items = x.items(x.split)
    names = [item.name for item in items]
    if len(items) < 2:
        raise InputError(
            f"there is only the item {names[0]!r}: nothing can be merged; give two or more"
        )
    x.grouping.check(names)
    check_base(x.merge, names)
    check_frozen(x.finetune.training, x.encoder, "finetune")
    check_layer(x.features, x.encoder)
    _ = x.encoder.digest  # finds the model, and reads its files once for all workers
    return items


def trained(x: Experiment, items: Sequence[Item]) -> list[Member]:
    """The items with their fine-tuned models, which have not seen a test response."""
    recipe, unseen = x.finetune.on_this_machine(), [item.without_test() for item in items]
    finetune = Finetuning(encoder=x.encoder, recipe=recipe, trainer=x.trainer, seed=x.seed)
    made = Store(Path(x.store)).each(finetune, unseen, x.execute)
    return [Member(item, each) for item, each in zip(unseen, made, strict=True)]


def compared(x: Experiment, members: Sequence[Member]) -> list[Subject]:
    """What the distance is given for each item."""
    store, compares = Store(Path(x.store)), x.distance.compares
    if compares == "weights":
        return [WeightsOf(member, x.encoder) for member in members]
    if compares == "labels":
        return [LabelsOf(member.item) for member in members]
    extract = Extraction(
        encoder=x.encoder, vector=x.features.vector, layer=x.features.layer, trainer=x.trainer
    )

    def clouds(readings: Sequence[Reading]) -> list[CloudOf]:
        made = store.each(extract, readings, x.execute)
        return [CloudOf(member.item.name, c) for member, c in zip(members, made, strict=True)]

    if compares == "common":
        return [*clouds(common_readings(x.features, members))]
    own = clouds(own_readings(x.features, members))
    if compares == "clouds":
        return [*own]
    if compares == "clouds_with_embedding":
        shared = clouds(pretrained_readings(x.features, members))
        return [CloudWithEmbeddingOf(*pair) for pair in zip(own, shared, strict=True)]
    every = dict.fromkeys(label.name for member in members for label in member.item.labels)
    names = {"clouds_with_label_statistics": None, "clouds_with_label_names": tuple(every)}
    return [
        CloudWithLabelsOf(
            cloud, own_responses(x.features, member), member.item.labels, names[compares]
        )
        for cloud, member in zip(own, members, strict=True)
    ]


def _stability(x: Experiment, subjects: Sequence[Subject]) -> NDArray[np.float64] | None:
    """How alike the distances of disjoint samples are, where responses are what is compared."""
    clouds = [each for each in subjects if isinstance(each, CloudOf)]
    if not clouds or not x.stability.repeats or len(clouds) < 3:  # two items have one distance
        return None
    alike = x.distance.compares == "common"
    stage = Halving(distance=x.distance, stability=x.stability, alike=alike)
    return load_stability(Store(Path(x.store)).once(stage, clouds, x.execute))


def _rounded(x: Experiment, store: Store, made: Sequence[Artefact]) -> Sequence[Artefact]:
    """These encoders in the number type in which they are kept."""
    if x.numbers == "float32":  # as they are
        return made
    return store.each(Rounding(numbers=x.numbers), made, x.execute)


def _merge(
    x: Experiment,
    store: Store,
    members: list[Member],
    own: Mapping[str, Artefact],
    plan: Plan,
) -> dict[str, Scorer]:
    """What scores each item after the merge, unless it keeps its own encoder."""
    moved = _moved(x, store, members, own, plan)
    fit = HeadFitting(encoder=x.encoder, heads=x.heads, trainer=x.trainer, seed=x.seed)
    heads = store.each(fit, moved, x.execute)
    return {
        each.member.item.name: Scorer(each.trunk, each.pooler, head)
        for each, head in zip(moved, heads, strict=True)
    }


def _decided(
    x: Experiment, store: Store, members: Sequence[Member], scorers: dict[str, Scorer]
) -> dict[str, Scorer]:
    """These scorers, each with the rule that was fitted to it, if one is."""
    if not x.decision.fitted:
        return scorers
    items = [member.item for member in members if member.item.name in scorers]
    undecided = [Undecided(item, scorers[item.name]) for item in items]
    decide = Deciding(encoder=x.encoder, decision=x.decision, trainer=x.trainer)
    made = store.each(decide, undecided, x.execute)
    return {
        each.item.name: replace(each.scorer, decision=rule)
        for each, rule in zip(undecided, made, strict=True)
    }


def _moved(
    x: Experiment,
    store: Store,
    members: list[Member],
    own: Mapping[str, Artefact],
    plan: Plan,
) -> list[Moved]:
    """The items on their new encoders; `own` are their individual ones, as they are kept."""
    shares_pooler = "pooler" in x.private.shared_parts

    def moved(member: Member, trunk: Kept) -> Moved:
        return Moved(member, trunk, trunk if shares_pooler else own[member.item.name])

    if not isinstance(x.private, PrivateTrunk):
        return [moved(*each) for each in _merged(x, store, members, plan)]
    owners = _owners(x.private.bases, x, store, members, plan)
    coding = Coding(encoder=x.encoder, private=x.private, trainer=x.trainer)
    codes = store.each(coding, owners, x.execute)
    return [
        moved(owner.member, Coded(code, owner.bases, x.private))
        for owner, code in zip(owners, codes, strict=True)
    ]


def _owners(
    bases: tuple[Base, ...], x: Experiment, store: Store, members: list[Member], plan: Plan
) -> list[Owner]:
    """The items that keep a part of an encoder: those of a group, or all if none is merged."""
    pretrained: list[Artefact] = []
    if "pretrained" in bases:
        pretrained += _rounded(
            x, store, store.each(Pretrained(encoder=x.encoder), [None], x.execute)
        )
    if "merged" not in bases:
        return [Owner(member, tuple(pretrained)) for member in members]
    return [
        Owner(member, (*pretrained, merged)) for member, merged in _merged(x, store, members, plan)
    ]


def _merged(
    x: Experiment, store: Store, members: list[Member], plan: Plan
) -> list[tuple[Member, Artefact]]:
    """Every item that shares its encoder, with what its group was merged to."""
    shared = _shared(x)
    merge: Merging | Learning = (
        Learning(encoder=x.encoder, merge=x.merge, private=shared, trainer=x.trainer)
        if isinstance(x.merge, LearnedMerge)
        else Merging(encoder=x.encoder, merge=x.merge, private=shared)
    )
    groups = _groups(x, members, plan)
    made = _rounded(x, store, store.each(merge, groups, x.execute))
    return [
        (member, trunk)
        for group, trunk in zip(groups, made, strict=True)
        for member in group.members
    ]


def _diagnosed(
    x: Experiment, store: Store, members: list[Member], plan: Plan
) -> list[dict[str, Any]]:
    """What is seen of every group before its merge; none if nothing is merged."""
    if isinstance(x.private, PrivateTrunk) and "merged" not in x.private.bases:
        return []
    diagnose = Diagnosing(
        encoder=x.encoder, base=x.merge.base, private=_shared(x), trainer=x.trainer
    )
    made = store.each(diagnose, _groups(x, members, plan), x.execute)
    found = [load_diagnosis(each) for each in made]
    for each in found:
        for warning in each["warnings"]:
            log.warning("%s", warning)
    return found


def _shared(x: Experiment) -> Private:
    """What is merged; how an item's own part is coded changes no merge."""
    return Nothing() if "pooler" in x.private.shared_parts else Pooler()


def _groups(x: Experiment, members: list[Member], plan: Plan) -> list[Group]:
    """The groups of several items."""
    return [
        group_for(x.merge, [each for each in members if each.item.name in group], members)
        for group in plan.groups
        if len(group) > 1
    ]
