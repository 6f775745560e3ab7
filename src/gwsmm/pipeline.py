"""The whole program as one figure.

items → finetune → features → distances → plan → merge → heads → evaluate → report
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gwsmm.artefact import Member, Scorer
from gwsmm.distance.pairwise import Distance, Pairwise, load_distances
from gwsmm.distance.subjects import CloudOf, LabelsOf, Subject, WeightsOf
from gwsmm.encoder import Encoder
from gwsmm.evaluate import Evaluation, Tested
from gwsmm.execute import Execute
from gwsmm.features import Extraction, Features, check_layer, common_readings, own_readings
from gwsmm.finetune import Finetuning
from gwsmm.heads.fitting import HeadFitting, Heads, Moved
from gwsmm.items.split import Split
from gwsmm.merge.merging import Merge, Merging, check_base, group_for
from gwsmm.private.private import Private
from gwsmm.recipe import Recipe, Trainer, check_frozen
from gwsmm.results import Run, outcome, results
from gwsmm.store import Store
from gwsmm.tracking import Tracker
from gwsmm.types import Grouping, InputError, Item, Plan


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
    """

    name: str
    seed: int
    store: str
    encoder: Encoder
    items: ItemSource
    split: Split
    finetune: Recipe
    features: Features
    distance: Distance[object, object]
    grouping: Grouping
    merge: Merge
    private: Private
    heads: Heads
    trainer: Trainer
    execute: Execute
    tracker: Tracker

    def __post_init__(self) -> None:
        for name, value in (("name", self.name), ("store", self.store)):
            if not isinstance(value, str):
                raise InputError(f"{name}={value!r}: give a text")
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed!r}: give a whole number from 0 to 2**32 - 1")


def run(x: Experiment, items: Sequence[Item]) -> Run:
    """Carry out the figure; whatever is in the store already is taken from there.

    Args:
        x: the choices.
        items: that `prepare` found usable.
    """
    store, execute = Store(Path(x.store)), x.execute
    names, unseen = [item.name for item in items], [item.without_test() for item in items]

    recipe = x.finetune.on_this_machine()
    finetune = Finetuning(encoder=x.encoder, recipe=recipe, trainer=x.trainer, seed=x.seed)
    made = store.each(finetune, unseen, execute)
    members = [Member(item, each) for item, each in zip(unseen, made, strict=True)]

    matrix = store.once(Pairwise(distance=x.distance), _compared(x, store, members), execute)
    distances = load_distances(names, matrix, x.distance)
    plan = x.grouping(distances)

    before = {member.item.name: Scorer(*[member.made] * 3) for member in members}
    after = before | _merge(x, store, members, plan)

    evaluate = Evaluation(encoder=x.encoder, trainer=x.trainer)
    subjects = [Tested(item, by[item.name]) for by in (before, after) for item in items]
    scored = store.each(evaluate, subjects, execute)
    outcomes = [
        outcome(item, individual, merged, (before[item.name], after[item.name]))
        for item, individual, merged in zip(
            items, scored[: len(items)], scored[len(items) :], strict=True
        )
    ]
    about = {"name": x.name, "seed": x.seed, "encoder": {"model": x.encoder.model}}
    content = results(outcomes, plan, distances, about)
    return Run(outcomes, members, distances, plan, content)


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
    check_frozen(x.finetune, x.encoder)
    check_layer(x.features, x.encoder)
    _ = x.encoder.digest  # finds the model, and reads its files once for all workers
    return items


def _compared(x: Experiment, store: Store, members: list[Member]) -> list[Subject]:
    """What the distance is given for each item."""
    if x.distance.compares == "weights":
        return [WeightsOf(member, x.encoder) for member in members]
    if x.distance.compares == "labels":
        return [LabelsOf(member.item) for member in members]
    readings = {"clouds": own_readings, "common": common_readings}[x.distance.compares]
    extract = Extraction(
        encoder=x.encoder, vector=x.features.vector, layer=x.features.layer, trainer=x.trainer
    )
    clouds = store.each(extract, readings(x.features, members), x.execute)
    return [CloudOf(member.item.name, c) for member, c in zip(members, clouds, strict=True)]


def _merge(x: Experiment, store: Store, members: list[Member], plan: Plan) -> dict[str, Scorer]:
    """What scores each item that shares its encoder after the merge."""
    groups = [
        [member for member in members if member.item.name in group]
        for group in plan.groups
        if len(group) > 1
    ]
    merge = Merging(encoder=x.encoder, merge=x.merge, private=x.private)
    subjects = [group_for(x.merge, group, members) for group in groups]
    trunks = store.each(merge, subjects, x.execute)
    shared = "pooler" in x.private.shared_parts
    moved = [
        Moved(member, trunk, trunk if shared else member.made)
        for group, trunk in zip(groups, trunks, strict=True)
        for member in group
    ]
    fit = HeadFitting(encoder=x.encoder, heads=x.heads, trainer=x.trainer, seed=x.seed)
    heads = store.each(fit, moved, x.execute)
    return {
        each.member.item.name: Scorer(each.trunk, each.pooler, head)
        for each, head in zip(moved, heads, strict=True)
    }
