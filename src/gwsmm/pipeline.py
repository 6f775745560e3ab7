"""The whole program as one figure.

items → finetune → features → distances → plan → merge → heads → decision → evaluate → report
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from gwsmm.artefact import Absent, Artefact, Member, Scorer
from gwsmm.assembly import Assembly
from gwsmm.comparing import compared, halved, matrix, measured
from gwsmm.dryrun import DryExperiment, Forecast, unmeasured
from gwsmm.encoder import Layered
from gwsmm.evaluate import Evaluation, Tested
from gwsmm.execute import Processes, Serial
from gwsmm.experiment import Experiment
from gwsmm.features import check_layer
from gwsmm.finetune import Finetuning
from gwsmm.grouping.candidates import Asks
from gwsmm.merge.merging import check_base
from gwsmm.recipe import check_frozen
from gwsmm.results import Run, outcome, results
from gwsmm.trial import Trial, attempts
from gwsmm.types import InputError, Item, partition


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

    scored = evaluated(x, items, [before, after])
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


def foresee(x: Experiment, items: Sequence[Item]) -> Forecast:
    """What `run` would compute, as far as that hangs on nothing that is still to be computed."""
    x, names = DryExperiment.of(x), [item.name for item in items]
    members = trained(x, items)
    subjects = compared(x, members)
    try:
        distances = matrix(x, x.distance, members, subjects)
    except Absent as absent:
        distances = unmeasured(names, absent)
    halved(x, subjects)
    assembly = Assembly(x=x, members=members)
    trial = Trial(assembly=assembly)
    # While the plan is not known: every item alone, which asks for what all plans ask for.
    plan, waits = partition([[name] for name in names], names, "none"), None
    try:
        if _is_open(x, items):
            waits = "the language model's answer"
        else:
            plan = x.grouping(distances, trial)
    except Absent as absent:
        waits = absent.stage
    assembly.diagnoses(plan)
    evaluated(x, items, [assembly.individual, assembly.individual | assembly.merged(plan)])
    with suppress(Absent):  # asked for before anything of it is read
        attempts(trial, x.evidence(plan, names).groups, items)
    return Forecast(list(x.kept.asked.values()), waits)


def prepare(x: Experiment, *, ask: bool = True, train: bool = True) -> tuple[Item, ...]:
    """Read the items, and refuse before any work what can be seen to fail.

    Args:
        x: the choices.
        ask: whether a grouping may ask somebody outside what it was not told yet, and a remote be
            written to.
        train: whether models may have to be trained, on the devices that the trainer names.

    Raises:
        InputError: the input cannot be used.
    """
    x.tracker.check()
    if train and isinstance(x.execute, Serial | Processes):  # a cluster has devices of its own
        x.trainer.check()
    if x.kept.remote is not None:
        x.kept.remote.check(write=ask)
    items = x.items(x.split)
    names = [item.name for item in items]
    if len(items) < 2:
        raise InputError(
            f"there is only the item {names[0]!r}: nothing can be merged; give two or more"
        )
    if ask or not _is_open(x, items):
        x.grouping.check(items)
    check_base(x.merge, names)
    check_frozen(x.finetune.training, x.encoder, "finetune")
    for part in (x.merge, x.private):
        if isinstance(part, Layered):
            part.check(x.encoder)
    check_layer(x.features, x.encoder)
    _ = x.encoder.digest  # finds the model, and reads its files once for all workers
    return items


def trained(x: Experiment, items: Sequence[Item]) -> list[Member]:
    """The items with their fine-tuned models, which have not seen a test response."""
    recipe, unseen = x.finetune.on_this_machine(), [item.without_test() for item in items]
    finetune = Finetuning(encoder=x.encoder, recipe=recipe, trainer=x.trainer, seed=x.seed)
    made = x.kept.each(finetune, unseen, x.execute)
    return [Member(item, each) for item, each in zip(unseen, made, strict=True)]


def evaluated(
    x: Experiment, items: Sequence[Item], scorers: Sequence[Mapping[str, Scorer]]
) -> list[Artefact]:
    """What these do on the test responses: all items by the first, then all by the next."""
    evaluate = Evaluation(encoder=x.encoder, trainer=x.trainer)
    tested = [Tested(item, by[item.name]) for by in scorers for item in items]
    return x.kept.each(evaluate, tested, x.execute)


def _is_open(x: Experiment, items: Sequence[Item]) -> bool:
    """Whether the grouping would have to ask somebody outside."""
    return isinstance(x.grouping, Asks) and x.grouping.open(items)
