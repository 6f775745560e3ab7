"""Where an item that is new to a bundle comes to stand: on a trunk that is there, or on its own.

It joins its nearest group on the trunk as it is, if its validation responses say that this is good
enough. As nothing of the other items changes, they cannot lose.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gwsmm.artefact import Artefact, Scorer
from gwsmm.assembly import Assembly
from gwsmm.bundle.changing import Old
from gwsmm.bundle.writing import group_place
from gwsmm.evaluate import Evaluation, Tested, load_scores, validated
from gwsmm.experiment import Experiment
from gwsmm.private.private import PrivateTrunk
from gwsmm.results import Outcome, Run, outcome
from gwsmm.store import Key
from gwsmm.types import Distances, InputError, Item, Plan


@dataclass(frozen=True, eq=False)
class Placed:
    """An item with its place in a bundle.

    Attributes:
        outcome: its evaluation there; `after` is what scores it.
        place: folder of what it shares, which is there already if it joins a group.
        plan: with the item in it.
        record: its line of `added.json`.
    """

    outcome: Outcome
    place: str
    plan: Plan
    record: Mapping[str, Any]


def placed(old: Old, x: Experiment, run: Run, name: str, tolerance: float) -> Placed:
    """The place of an item, decided by its validation responses alone.

    Args:
        old: the bundle.
        x: how the item's head, and what else it keeps, are fitted.
        run: of this experiment, with the item and all items of the bundle.
        name: of the item.
        tolerance: micro F1 that it may lose on its validation responses by joining.

    Raises:
        InputError: the run shares poolers and the nearest group does not; a file is damaged.
    """
    groups = old.plan.groups
    if isinstance(x.private, PrivateTrunk) and "merged" not in x.private.bases:
        # What stands on the pretrained encoder shares it, and not what an item keeps for itself.
        groups = tuple(each for each in groups if place_of(old, each) == "pretrained")
        if not groups:
            raise InputError(
                f"{old.folder}: no item is left that stands on the pretrained encoder, as "
                f"{name!r} would: bundle the run anew"
            )
    group, distance = nearest(groups, run.distances, name)
    place = place_of(old, group)
    member = next(each for each in run.members if each.item.name == name)
    found = next(each for each in run.outcomes if each.item.name == name)
    joined = Assembly(x=x, members=[member]).joined(member, _adopted(old, place, x))
    made = _evaluations(x, validated(member.item), (found.before, joined))
    own, shared = (load_scores(each)["model"].micro_f1 for each in made)
    accepted = own - shared <= tolerance
    after = joined if accepted else found.before
    individual, merged = _evaluations(x, found.item, (found.before, after))
    record = {
        "item": name,
        "experiment": x.name,
        "seed": x.seed,
        "quantity": run.distances.quantity,
        "nearest": list(group),
        "distance": distance,
        "validation": {
            "alone": own,
            "joined": shared,
            "responses": len(member.item.validation),
            "tolerance": tolerance,
        },
        "accepted": accepted,
    }
    return Placed(
        outcome=outcome(found.item, individual, merged, (found.before, after)),
        place=place if accepted else _new_place(old),
        plan=_extended(old.plan, name, group if accepted else ()),
        record=record,
    )


def nearest(
    groups: Sequence[tuple[str, ...]], distances: Distances, name: str
) -> tuple[tuple[str, ...], float]:
    """The group at the least mean distance between the item and the group's items, and this."""
    row = dict(zip(distances.names, distances.values[distances.names.index(name)], strict=True))
    means = [float(np.mean([row[other] for other in group])) for group in groups]
    best = int(np.argmin(means))
    return groups[best], means[best]


def place_of(old: Old, group: tuple[str, ...]) -> str:
    """The folder of the trunk that a group shares; `pretrained` where nothing was merged."""
    item = next(each for each in old.manifest.items if each.name == group[0])
    return PurePosixPath(item.trunk.shared[-1]).parent.as_posix()


def _new_place(old: Old) -> str:
    numbers = [int(found[1]) for name in old.manifest.files if (found := _NUMBER.match(name))]
    return group_place(1 + max(numbers, default=0))


_NUMBER = re.compile(r"groups/(\d+)/")


def _adopted(old: Old, place: str, x: Experiment) -> Artefact:
    """What a group shares, as a result of the store."""
    files = {part: f"{place}/{part}.safetensors" for part in ("trunk", "pooler")}
    sums = {
        part: old.manifest.files[f].sha256 for part, f in files.items() if f in old.manifest.files
    }
    if x.encoder.pooler and "pooler" in x.private.shared_parts and "pooler" not in sums:
        raise InputError(
            f"{old.folder}: the items that share {files['trunk']} have poolers of their own, and "
            "the run's private parts are made for a shared one: give a run with private=pooler"
        )

    def copy(folder: Path) -> None:
        for part in sums:
            shutil.copyfile(old.file(files[part]), folder / f"{part}.safetensors")

    digest = sha256(repr(sorted(sums.items())).encode()).hexdigest()[:32]
    return x.kept.fetch("adopted", Key(digest), copy)


def _evaluations(x: Experiment, item: Item, scorers: Sequence[Scorer]) -> list[Artefact]:
    """What each of these does on the item's test responses."""
    evaluate = Evaluation(encoder=x.encoder, trainer=x.trainer)
    tested = [Tested(item, scorer) for scorer in scorers]
    return x.kept.each(evaluate, tested, x.execute)


def _extended(plan: Plan, name: str, group: tuple[str, ...]) -> Plan:
    """The plan with the item in this group of it, or in one of its own."""
    others = [(*each, name) if each == group else each for each in plan.groups]
    return Plan((*others,) if group else (*others, (name,)), plan.source)
