"""The whole program as one figure.

items → finetune → features → distances → plan → merge → heads → decision → evaluate → report
"""

from collections.abc import Sequence
from pathlib import Path

from gwsmm.artefact import Member
from gwsmm.assembly import Assembly
from gwsmm.comparing import measured
from gwsmm.evaluate import Evaluation, Tested
from gwsmm.experiment import Experiment
from gwsmm.features import check_layer
from gwsmm.finetune import Finetuning
from gwsmm.merge.merging import check_base
from gwsmm.recipe import check_frozen
from gwsmm.results import Run, outcome, results
from gwsmm.store import Store
from gwsmm.trial import Trial, attempts
from gwsmm.types import InputError, Item


def run(x: Experiment, items: Sequence[Item]) -> Run:
    """Carry out the figure; whatever is in the store already is taken from there.

    Args:
        x: the choices.
        items: that `prepare` found usable.
    """
    members = trained(x, items)
    distances = measured(x, members)
    assembly = Assembly(x=x, members=members)
    trial = Trial(assembly=assembly)
    plan = x.grouping(distances, trial)
    diagnoses = assembly.diagnosed(plan)
    before = assembly.individual
    after = before | assembly.merged(plan)

    evaluate = Evaluation(encoder=x.encoder, trainer=x.trainer)
    tested = [Tested(item, by[item.name]) for by in (before, after) for item in items]
    scored = Store(Path(x.store)).each(evaluate, tested, x.execute)
    outcomes = [
        outcome(item, individual, merged, (before[item.name], after[item.name]))
        for item, individual, merged in zip(
            items, scored[: len(items)], scored[len(items) :], strict=True
        )
    ]
    about = {"name": x.name, "seed": x.seed, "encoder": {"model": x.encoder.model}}
    content = results(outcomes, plan, distances, about)
    controls = x.evidence(plan, [item.name for item in items])
    tried = attempts(trial, controls.groups, items)
    return Run(outcomes, members, distances, plan, diagnoses, controls, tried, content)


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
    x.grouping.check(items)
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
