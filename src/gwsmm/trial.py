"""Groups that are tried: merged as those of a plan, on validation responses while there is none."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Artefact, Kept, Scorer, State, load_state
from gwsmm.assembly import Assembly
from gwsmm.comparing import clouds, matrix
from gwsmm.distance.cka import Cka
from gwsmm.distance.distance import Distance
from gwsmm.distance.drifting import Drifted, Drifting, load_drift
from gwsmm.distance.subjects import CloudOf, WeightsOf
from gwsmm.distance.task_vector_cosine import TaskVectorCosine
from gwsmm.dryrun import DryExperiment
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
from gwsmm.store import Stage
from gwsmm.types import InputError, Item

_AT_ONCE = 16  # groups whose merged encoders are on disk at the same time


class Ask(NamedTuple):
    """What is to be found of groups.

    Attributes:
        stage: that finds it.
        subjects: what the stage takes, group by group, where this trial merges.
    """

    stage: Stage[Any]
    subjects: "Callable[[Trial, Sequence[Group]], list[Any]]"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What `Candidates` asks for, computed through the store by the stages of the pipeline.

    What is found of a group is kept. Its merged encoder is not: of most groups nothing else is ever
    asked, and hundreds of encoders fill a disk.
    """

    assembly: Assembly

    @property
    def items(self) -> list[Item]:
        """All items, without their test responses."""
        return [member.item for member in self.assembly.members]

    def losses(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """The validation loss of every item of each group; see `Candidates`."""
        scored = self.scored([validated(item) for item in self.items])
        (found,) = self.found(groups, [scored])
        return _regrouped(groups, [tried(of.item, made).loss for of, made in found])

    def drifts(self, groups: Sequence[Group], signal: Signal) -> list[tuple[float, ...]]:
        """How far the cloud of every item of each group moves; see `Candidates`."""
        (found,) = self.found(groups, [self.moved(signal)])
        return drifts_of(groups, [made for _, made in found])

    def found(
        self, groups: Sequence[Group], asks: Sequence[Ask]
    ) -> list[list[tuple[Any, Artefact]]]:
        """For every ask each of its subjects, group by group, with what was found, not read.

        Args:
            groups: to merge; a group of one is the item's own model.
            asks: `scored` and `moved`.
        """
        x = self.assembly.x
        dry = DryExperiment.of(x)
        names = Trial(assembly=replace(self.assembly, x=dry))  # it computes nothing
        known = [[ask.subjects(names, [group]) for ask in asks] for group in groups]

        def is_there(subjects: Sequence[Sequence[Any]]) -> bool:
            pairs = zip(asks, subjects, strict=True)
            made = [each for ask, of in pairs for each in dry.kept.each(ask.stage, of, x.execute)]
            return all(dry.kept.asked[each.path].there for each in made)

        todo = [group for group, of in zip(groups, known, strict=True) if not is_there(of)]
        for start in range(0, len(todo), _AT_ONCE):
            with x.kept.passing() as place:
                here = Trial(assembly=replace(self.assembly, passing=place))
                for ask in asks:
                    subjects = ask.subjects(here, todo[start : start + _AT_ONCE])
                    x.kept.each(ask.stage, subjects, x.execute)
        flat = [[one for of_group in known for one in of_group[i]] for i in range(len(asks))]
        made = [x.kept.each(a.stage, of, x.execute) for a, of in zip(asks, flat, strict=True)]
        return [list(zip(of, by, strict=True)) for of, by in zip(flat, made, strict=True)]

    def scored(self, items: Sequence[Item]) -> Ask:
        """Ask for the evaluation of every item of each group.

        Args:
            items: with the responses to score as their test responses.
        """
        x, by_name = self.assembly.x, {item.name: item for item in items}
        return Ask(
            Evaluation(encoder=x.encoder, trainer=x.trainer),
            lambda trial, groups: [
                Tested(by_name[name], scorer) for name, scorer in trial._scorers(groups)
            ],
        )

    def moved(self, signal: Signal) -> Ask:
        """Ask how far every item of the groups of several moves."""
        return Ask(Drifting(distance=self._distance(signal)), Trial._clouds)

    def _clouds(self, groups: Sequence[Group]) -> list[Drifted]:
        """Every item's cloud before and after the merge of its group."""
        x = self.assembly.x
        several = [self.assembly.group(group) for group in groups if len(group) > 1]
        moved = self.assembly.moved(several)
        readings = [
            Reading(_Merged(each.trunk, each.pooler), own_responses(x.features, each.member).texts)
            for each in moved
        ]
        after = clouds(x, readings, [each.member for each in moved])
        return [Drifted(self._own_clouds[each.name], each) for each in after]

    @cached_property
    def _own_clouds(self) -> dict[str, CloudOf]:
        x, members = self.assembly.x, self.assembly.members
        return {e.name: e for e in clouds(x, own_readings(x.features, members), members)}

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
    asks = [*map(trial.moved, signals), *map(trial.scored, splits.values())]
    found = trial.found(every, asks)  # all is computed before any of it is read
    moved, evaluated = found[: len(signals)], found[len(signals) :]

    names = [(group, name) for group in every for name in group]
    drifts = {
        signal: [value for of in drifts_of(every, [by for _, by in each]) for value in of]
        for signal, each in zip(signals, moved, strict=True)
    }
    unknown: Sequence[float | None] = [None] * len(names)
    by_distance, by_cka = (drifts.get(signal, unknown) for signal in ("distance", "cka"))
    return [
        Attempt(
            group=group,
            item=name,
            split=split,
            scores=one.scores,
            loss=one.loss,
            drift=drift,
            drift_cka=drift_cka,
            evaluation=by.digest,
        )
        for split, made in zip(splits, evaluated, strict=True)
        for (group, name), (_, by), one, drift, drift_cka in zip(
            names, made, [tried(of.item, by) for of, by in made], by_distance, by_cka, strict=True
        )
    ]
