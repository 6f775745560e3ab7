"""Agreement with the raters as measurement has it, and how far it differs between subgroups."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gwsmm.evidence.bootstrap import Interval, difference, mean
from gwsmm.evidence.counting import LABEL_KAPPAS, MEASUREMENT, METRICS, ORDINAL, Numbers, ahead
from gwsmm.study.estimates import Seeds, each_over_responses, over_responses
from gwsmm.study.reading import Decisions, RunFolder

MODELS = ("individual", "merged")
"""Whose decisions are held against the rater's."""
SCORERS = ("second", *MODELS)
"""Whoever scores beside the rater; `second` is the second rater."""

_AHEAD = ahead(METRICS["micro_f1"])


@dataclass(frozen=True)
class Agreement:
    """Of one item and scorer with the rater, by metric; the mean over the seeds that have one."""

    item: str
    scorer: str
    values: Mapping[str, Interval]


@dataclass(frozen=True)
class LabelAgreement:
    """Of one label: kappa, and how often each side gives it; the mean over the seeds.

    A seed in whose test responses nobody ever gives the label, or everybody does, has no kappa.
    """

    item: str
    label: str
    scorer: str
    kappa: Interval
    prevalence: float
    predicted: float


@dataclass(frozen=True)
class Subgroup:
    """Of one item, subgroup of the students and model; the mean over the seeds.

    Attributes:
        item: its name.
        group: of the subgroup.
        model: that scores.
        responses: to the item by the subgroup.
        micro_f1: of these.
        ahead: of the micro F1 of all others whose subgroup is known.
        change: of micro F1, merged minus individual.
        smd: the standardised mean difference from the rater.
    """

    item: str
    group: str
    model: str
    responses: float
    micro_f1: Interval
    ahead: Interval
    change: Interval
    smd: Interval


def agreements(runs: Sequence[RunFolder]) -> list[Agreement]:
    """Of every item and scorer."""
    found = []
    for item in runs[0].results["items"]:
        metrics = {**(ORDINAL if item["kind"] == "ordinal" else {}), **MEASUREMENT}
        for scorer, seeds in _scored(runs, item["name"]):
            values = {name: over_responses(own, seeds, mean) for name, own in metrics.items()}
            found.append(Agreement(item["name"], scorer, values))
    return found


def label_agreements(runs: Sequence[RunFolder]) -> list[LabelAgreement]:
    """Of every item, label and scorer."""
    return [
        LabelAgreement(
            item["name"],
            label,
            scorer,
            kappa,
            float(np.mean([truth[:, at].mean() for truth, _ in seeds])),
            float(np.mean([said[:, at].mean() for _, (said,) in seeds])),
        )
        for item in runs[0].results["items"]
        for scorer, seeds in _scored(runs, item["name"])
        for at, (label, kappa) in enumerate(
            zip(item["labels"], each_over_responses(LABEL_KAPPAS, seeds, _by_label), strict=True)
        )
    ]


def _by_label(kappas: Numbers) -> Numbers:
    """[..., m, L] → [..., L]: the mean over the models whose kappa is known."""
    return mean(np.moveaxis(kappas, -1, -2))


def subgroups(runs: Sequence[RunFolder]) -> list[Subgroup]:
    """Of every item, subgroup and model; empty where the table had no column of subgroups."""
    found: list[Subgroup] = []
    for item in runs[0].names:
        of = [run.subgroups(item) for run in runs]
        seeds = [
            _known(run.decisions(item), np.array(groups))
            for run, groups in zip(runs, of, strict=True)
            if groups is not None
        ]
        for name in sorted({str(each) for groups, _ in seeds for each in groups}):
            found += _of_subgroup(item, name, seeds)
    return found


def _known(
    decisions: Mapping[str, Decisions], groups: NDArray[np.str_]
) -> tuple[NDArray[np.str_], dict[str, Decisions]]:
    """The subgroups and decisions of the students whose subgroup is known."""
    known = groups != ""
    return groups[known], {who: said[known] for who, said in decisions.items()}


def _of_subgroup(
    item: str,
    name: str,
    seeds: Sequence[tuple[NDArray[np.str_], Mapping[str, Decisions]]],
) -> Iterator[Subgroup]:
    """Of both models."""
    responses = float(np.mean([(groups == name).sum() for groups, _ in seeds]))
    # a seed in whose test responses the subgroup has none says nothing of it
    here = [(groups == name, said) for groups, said in seeds if name in groups]
    own = [{who: each[inside] for who, each in said.items()} for inside, said in here]
    marked = [
        {who: np.column_stack([each, inside.astype(np.uint8)]) for who, each in said.items()}
        for inside, said in here
    ]
    micro_f1 = METRICS["micro_f1"]
    both = [(each["truth"], [each[model] for model in MODELS]) for each in own]
    change = over_responses(micro_f1, both, difference)
    for model in MODELS:
        inside, against = (
            [(each["truth"], [each[model]]) for each in part] for part in (own, marked)
        )
        yield Subgroup(
            item,
            name,
            model,
            responses,
            over_responses(micro_f1, inside, mean),
            over_responses(_AHEAD, against, mean),
            change,
            over_responses(MEASUREMENT["smd"], inside, mean),
        )


def _scored(runs: Sequence[RunFolder], item: str) -> Iterator[tuple[str, Seeds]]:
    """Per scorer the truth and what was said, seed by seed."""
    decisions = [run.decisions(item) for run in runs]
    seconds = [second for run in runs if (second := run.second(item)) is not None]
    for scorer in SCORERS:
        if scorer != "second":
            yield scorer, [(own["truth"], [own[scorer]]) for own in decisions]
        elif len(seconds) == len(runs):
            yield scorer, [(truth, [said]) for truth, said in seconds]
