"""Groups that are tried: merged as those of a plan, on validation responses while there is none."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Artefact, Kept, Scorer, State, load_state
from gwsmm.assembly import Assembly
from gwsmm.comparing import clouds, matrix
from gwsmm.distance.cka import Cka
from gwsmm.distance.distance import Distance
from gwsmm.distance.drifting import Drifted, Drifting, load_drift
from gwsmm.distance.subjects import WeightsOf
from gwsmm.distance.task_vector_cosine import TaskVectorCosine
from gwsmm.evaluate import (
    Evaluation,
    Tested,
    cross_entropy,
    load_predictions,
    load_scores,
    validated,
)
from gwsmm.evidence.control import Attempt
from gwsmm.features import Reading, own_readings, own_responses
from gwsmm.grouping.candidates import Group, Signal
from gwsmm.metrics import Scores
from gwsmm.types import InputError, Item


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What `Candidates` asks for, computed through the store by the stages of the pipeline."""

    assembly: Assembly

    @property
    def items(self) -> list[Item]:
        """All items, without their test responses."""
        return [member.item for member in self.assembly.members]

    def losses(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """The validation loss of every item of each group; see `Candidates`."""
        found = self.evaluated(groups, [validated(item) for item in self.items])
        return _regrouped(groups, [tried(*each).loss for each in found])

    def evaluated(
        self, groups: Sequence[Group], items: Sequence[Item]
    ) -> list[tuple[Item, Artefact]]:
        """Every item of each group, group by group, with its evaluation, which is not read.

        Args:
            groups: to merge; a group of one is the item's own model.
            items: with the responses to score as their test responses.
        """
        x, by_name = self.assembly.x, {item.name: item for item in items}
        tested = [Tested(by_name[name], scorer) for name, scorer in self._scorers(groups)]
        evaluate = Evaluation(encoder=x.encoder, trainer=x.trainer)
        made = x.kept.each(evaluate, tested, x.execute)
        return [(each.item, by) for each, by in zip(tested, made, strict=True)]

    def drifts(self, groups: Sequence[Group], signal: Signal) -> list[tuple[float, ...]]:
        """How far the cloud of every item of each group moves; see `Candidates`."""
        return drifts_of(groups, self.drifted(groups, signal))

    def drifted(self, groups: Sequence[Group], signal: Signal) -> list[Artefact]:
        """The drifts of the items of all groups of several, one after the other, not read."""
        x, members = self.assembly.x, self.assembly.members
        distance = self._distance(signal)
        own = {e.name: e for e in clouds(x, own_readings(x.features, members), members)}
        several = [group for group in groups if len(group) > 1]
        moved = self.assembly.moved([self.assembly.group(group) for group in several])
        readings = [
            Reading(_Merged(each.trunk, each.pooler), own_responses(x.features, each.member).texts)
            for each in moved
        ]
        after = clouds(x, readings, [each.member for each in moved])
        pairs = [Drifted(own[each.name], each) for each in after]
        return x.kept.each(Drifting(distance=distance), pairs, x.execute)

    def cosines(self) -> NDArray[np.float64]:
        """One minus the cosine of every two task vectors; see `Candidates`."""
        x, members = self.assembly.x, self.assembly.members
        subjects = [WeightsOf(member, x.encoder) for member in members]
        return matrix(x, TaskVectorCosine(sketch=None, seed=0), members, subjects).values

    def _distance(self, signal: Signal) -> Distance[object, object]:
        if signal == "cka":
            return Cka(debiased=True)  # type: ignore[return-value]
        distance = self.assembly.x.distance
        if distance.compares != "clouds":
            raise InputError(
                f"grouping.signal={signal}: {distance.title} does not compare clouds of an item's "
                "own responses; choose such a distance, e.g. distance=gw_exact, or "
                "grouping.signal=cka"
            )
        return distance

    def _scorers(self, groups: Sequence[Group]) -> Iterator[tuple[str, Scorer]]:
        """Every item of every group with what scores it there."""
        several = [self.assembly.group(group) for group in groups if len(group) > 1]
        merged = iter(self.assembly.each_merged(several))
        for group in groups:
            by = next(merged) if len(group) > 1 else self.assembly.individual
            yield from ((name, by[name]) for name in group)


@dataclass(frozen=True)
class Tried:
    """How an item of a group is scored, and its binary cross-entropy."""

    scores: Scores
    loss: float


def tried(item: Item, made: Artefact) -> Tried:
    """What an evaluation of the item says."""
    return Tried(load_scores(made)["model"], cross_entropy(item, load_predictions(made)))


@dataclass(frozen=True)
class _Merged:
    """The encoder that an item has after a merge, as something that reads."""

    trunk: Kept
    pooler: Kept

    @property
    def digest(self) -> str:
        return f"{self.trunk.digest} {self.pooler.digest}"

    def state(self, part: str) -> State:
        return load_state(self.trunk if part == "trunk" else self.pooler, part)


def drifts_of(groups: Sequence[Group], made: Iterable[Artefact]) -> list[tuple[float, ...]]:
    """What `drifted` made, group by group; zero for a group of one."""
    found = iter([load_drift(each) for each in made])
    flat = [next(found) if len(group) > 1 else 0.0 for group in groups for _ in group]
    return _regrouped(groups, flat)


def _regrouped(groups: Sequence[Group], flat: Iterable[float]) -> list[tuple[float, ...]]:
    """One value for each item of each group, group by group."""
    values = iter(flat)
    return [tuple(next(values) for _ in group) for group in groups]


def attempts(trial: Trial, groups: Sequence[Group], items: Sequence[Item]) -> list[Attempt]:
    """Merge and score all these groups, and every item alone; nothing without groups.

    Args:
        trial: merges.
        groups: of two items or more.
        items: with their test responses, which nothing here chooses by.
    """
    if not groups:
        return []
    every = [*groups, *((item.name,) for item in items)]
    x = trial.assembly.x
    signals: list[Signal] = ["cka"] if x.evidence.drift else []
    if signals and x.distance.compares == "clouds":
        signals.append("distance")
    splits = {"validation": [validated(item) for item in items], "test": items}
    # all is computed before any of it is read
    drifted = {signal: trial.drifted(every, signal) for signal in signals}
    evaluated = {split: trial.evaluated(every, of) for split, of in splits.items()}

    names = [(group, name) for group in every for name in group]
    drifts = {
        signal: [value for of in drifts_of(every, made) for value in of]
        for signal, made in drifted.items()
    }
    unknown: Sequence[float | None] = [None] * len(names)
    by_distance, by_cka = (drifts.get(signal, unknown) for signal in ("distance", "cka"))
    return [
        Attempt(
            group=group,
            item=name,
            split=split,
            scores=found.scores,
            loss=found.loss,
            drift=moved,
            drift_cka=moved_cka,
            evaluation=by.digest,
        )
        for split, made in evaluated.items()
        for (group, name), (_, by), found, moved, moved_cka in zip(
            names, made, [tried(*each) for each in made], by_distance, by_cka, strict=True
        )
    ]
