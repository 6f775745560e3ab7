"""Runs that differ in nothing but the experiment's seed are one condition."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gwsmm.study.reading import RunFolder, endings
from gwsmm.types import InputError

Numbers = NDArray[np.float64]
Settings = Mapping[str, str]

_NOT_SCIENCE = (  # change no result
    "name", "store", "remote", "published", "evidence", "objective", "execute", "trainer",
    "tracker",
)  # fmt: skip
_UNSAID = ("seed", "published", "evidence")  # tell no condition from another


@dataclass(frozen=True, eq=False)
class Condition:
    """One way to do it, seed by seed.

    Attributes:
        name: what was asked for and no other condition shares; empty for the only one.
        settings: everything but the experiment's seed, by its name in the configuration.
        runs: one for each seed.
        tried: those that merged groups beside their plan's: one for each seed and choice of groups.
    """

    name: str
    settings: Settings
    runs: tuple[RunFolder, ...]
    tried: tuple[RunFolder, ...]

    @property
    def all_runs(self) -> tuple[RunFolder, ...]:
        """Every run that some figure is of, by seed."""
        return firsts([*self.runs, *self.tried], id)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the items."""
        return self.runs[0].names

    def scores(self, model: str, metric: str) -> Numbers:
        """[N]: of every item, the mean over the seeds."""
        found: Numbers = self.by_seed(model, metric).mean(axis=0)
        return found

    def overall(self, model: str, metric: str, scope: str = "overall") -> Numbers:
        """[seeds]: of all items, or with `merged_only` of those that share an encoder."""
        return np.array([run.results[scope][model][metric] for run in self.runs])

    def storage(self, key: str) -> float:
        """Mean over the seeds of what the results say of the storage, e.g. `bytes_after`."""
        return float(np.mean([run.results["storage"][key] for run in self.runs]))

    def at(self, seeds: Collection[int]) -> "Condition":
        """The runs with these seeds, so that two conditions can be compared on the same ones."""
        return replace(self, runs=tuple(run for run in self.runs if run.seed in seeds))

    @property
    def published(self) -> bool:
        """Whether the paper's own figures are to stand beside these."""
        return any(run.config.get("published", False) for run in self.runs)

    @property
    def seeds(self) -> frozenset[int]:
        """Of the runs."""
        return frozenset(run.seed for run in self.runs)

    @cached_property
    def responses(self) -> Numbers:
        """[N]: test responses of every item, the mean over the seeds."""
        return self.scores("individual", "responses")

    def by_seed(self, model: str, metric: str) -> Numbers:
        """[seeds, N]: of every item."""
        return np.array(
            [[item["scores"][model][metric] for item in run.results["items"]] for run in self.runs],
            dtype=float,
        )

    def chosen(self, choice: str) -> Settings:
        """The settings of a choice, e.g. `merge`."""
        return {name: v for name, v in self.settings.items() if name.split(".")[0] == choice}

    @property
    def frozen(self) -> bool:
        """Whether every item is scored by the pretrained encoder as it came, with heads alone."""
        nothing = {
            "merge._target_": '"gwsmm.merge.frozen.Frozen"',
            "private._target_": '"gwsmm.private.nothing.Nothing"',
        }
        return nothing.items() <= self.settings.items() and bool(self.merged.all())

    @property
    def merged(self) -> NDArray[np.bool_]:
        """[seeds, N]: whether the item shares an encoder."""
        return np.array([[n in run.plan.merged_items for n in self.names] for run in self.runs])


def conditions(runs: Sequence[RunFolder]) -> list[Condition]:
    """The runs by what they are, in the order in which they were given; each counts once.

    Raises:
        InputError: runs of the same experiment and seed found different results, or with different
            seeds had different answers.
    """
    found: dict[str, list[RunFolder]] = {}
    for run in runs:
        alike = found.setdefault(json.dumps(_settings(run), sort_keys=True), [])
        for other in alike:
            _check_answers(other, run)
            if other.seed == run.seed and _results(other) != _results(run):
                raise InputError(
                    f"{other.folder} and {run.folder} are the same experiment with seed {run.seed} "
                    "and other results: the answers or gwsmm changed between them; report one of "
                    "them"
                )
        alike.append(run)
    groups = [firsts(alike, lambda run: run.seed) for alike in found.values()]
    tried = [
        firsts(
            [run for run in alike if run.attempts is not None],
            lambda run: json.dumps([run.seed, run.controls], sort_keys=True),
        )
        for alike in found.values()
    ]
    return [
        Condition(name, _settings(group[0]), group, beside)
        for name, group, beside in zip(_names(groups, _UNSAID), groups, tried, strict=True)
    ]


def _check_answers(one: RunFolder, other: RunFolder) -> None:
    """Refuse what no choice of a seed changes: labels, and how many responses an item has."""
    parts = ("train", "validation", "test")
    for a, b in zip(one.results["items"], other.results["items"], strict=True):
        for what, x, y in (
            ("labels", a["labels"], b["labels"]),
            ("kind", a["kind"], b["kind"]),
            ("number of responses", *(sum(each[part] for part in parts) for each in (a, b))),
        ):
            if x != y:
                raise InputError(
                    f"{one.folder} and {other.folder} are the same experiment, but differ in the "
                    f"{what} of item {a['name']} ({x} and {y}): the answers changed between them; "
                    "run both again, or report one of them"
                )


def _results(run: RunFolder) -> Mapping[str, object]:
    return {**run.results, "name": ""}


def firsts(runs: Sequence[RunFolder], kind: Callable[[RunFolder], object]) -> tuple[RunFolder, ...]:
    """The first of every kind, by seed."""
    found: dict[object, RunFolder] = {}
    for run in runs:
        found.setdefault(kind(run), run)
    return tuple(sorted(found.values(), key=lambda run: run.seed))


def apart_from_plans(found: Sequence[Condition]) -> list[Condition]:
    """One for all that differ in the plan alone: the first, and what any of them tried.

    Named by what else was asked for.
    """
    kinds: dict[str, list[Condition]] = {}
    for condition in found:
        settings = {k: v for k, v in condition.settings.items() if k.split(".")[0] != "grouping"}
        kinds.setdefault(json.dumps(settings, sort_keys=True), []).append(condition)
    names = _names([alike[0].runs for alike in kinds.values()], (*_UNSAID, "grouping"))
    return [
        replace(alike[0], name=name, tried=tuple(run for each in alike for run in each.tried))
        for name, alike in zip(names, kinds.values(), strict=True)
    ]


def _settings(run: RunFolder) -> Settings:
    """Every setting that can change a result, but for the experiment's seed and those it gives."""
    flat = dict(_flat({k: v for k, v in run.config.items() if k not in _NOT_SCIENCE}))
    asked = _asked(run).keys() - {"seed"}
    return {n: value for n, value in flat.items() if n.split(".")[-1] != "seed" or n in asked}


def _asked(run: RunFolder) -> dict[str, str]:
    """What was given on the command line, by its name."""
    return {_name(override): override.partition("=")[2] for override in run.about["overrides"]}


def _name(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _flat(node: object, at: str = "") -> list[tuple[str, str]]:
    if isinstance(node, Mapping) and node:
        return [
            pair for key, part in node.items() for pair in _flat(part, f"{at}.{key}".strip("."))
        ]
    return [(at, json.dumps(node))]


def _names(groups: Sequence[Sequence[RunFolder]], but: Collection[str]) -> list[str]:
    """What was asked for in one condition and not in all; where that says nothing, the folder.

    Args:
        groups: the runs of each condition.
        but: choices that no name says.
    """
    if len(groups) == 1:
        return [""]
    asked = [
        [o for o in group[0].about["overrides"] if _name(o).split(".")[0] not in but]
        for group in groups
    ]
    own = []
    for each in asked:
        apart = [o for o in each if not all(o in others for others in asked)]
        # the name of an experiment says less than what it varies
        said = [o for o in apart if not o.startswith("experiment=")] or apart
        own.append(" ".join(said) or "default")
    at = [group[0].folder for group, name in zip(groups, own, strict=True) if own.count(name) > 1]
    ends = iter(endings(at))
    return [name if own.count(name) == 1 else f"{name} ({next(ends)})" for name in own]


def axes(found: Sequence[Condition]) -> dict[str, list[Condition]]:
    """The ablations: per setting, a base and the conditions that differ from it in it alone.

    The base of all is the condition from which most others differ in one setting; of several such,
    the first. A choice, of a strategy or of an encoder, brings its own settings along: they count
    as one axis.
    """
    every = (_axes(base, near) for base, near in zip(found, _near(found), strict=True))
    return max(every, key=lambda slices: sum(len(along) - 1 for along in slices.values()))


def _near(found: Sequence[Condition]) -> list[list[Condition]]:
    """Of every condition those that differ from it in one choice, or in its settings."""
    choices = sorted({name.split(".")[0] for each in found for name in each.settings})
    texts = [
        [json.dumps(each.chosen(choice), sort_keys=True) for choice in choices] for each in found
    ]
    kinds = np.unique(texts, return_inverse=True)[1].reshape(len(found), len(choices))
    apart = [(kinds != own).sum(axis=1) for own in kinds]
    return [[found[int(at)] for at in np.flatnonzero(each == 1)] for each in apart]


def _axes(base: Condition, near: Sequence[Condition]) -> dict[str, list[Condition]]:
    slices: dict[str, list[Condition]] = {}
    for other in near:
        changed = {
            _axis(name, base, other)
            for name in base.settings.keys() | other.settings.keys()
            if base.settings.get(name) != other.settings.get(name)
        }
        if len(changed) == 1:
            slices.setdefault(changed.pop(), [base]).append(other)
    return slices


def _axis(name: str, base: Condition, other: Condition) -> str:
    choice = name.split(".")[0]
    target = f"{choice}._target_"
    made = [each.settings.get(target) for each in (base, other)]
    asked = [_asked(each.runs[0]).get(choice) for each in (base, other)]
    return choice if made[0] != made[1] or asked[0] != asked[1] else name
