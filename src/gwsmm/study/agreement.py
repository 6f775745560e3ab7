"""Agreement with the raters as measurement has it, and how far it differs between subgroups."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gwsmm.evidence.counting import MEASUREMENT, METRICS, ORDINAL, by_label
from gwsmm.study.reading import Decisions, RunFolder

SCORERS = ("second", "individual", "merged")
"""Whoever scores beside the rater; `second` is the second rater."""


@dataclass(frozen=True)
class Agreement:
    """Of one item and scorer with the rater, by metric; the mean over the seeds that have one."""

    item: str
    scorer: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class LabelAgreement:
    """Of one label: kappa, and how often each side gives it; the mean over the seeds.

    A seed in whose test responses nobody ever gives the label, or everybody does, has no kappa.
    """

    item: str
    label: str
    scorer: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Subgroup:
    """Of one item and subgroup of the students: responses, micro F1 and the mean difference."""

    item: str
    group: str
    scorer: str
    responses: float
    values: Mapping[str, float]


def agreements(runs: Sequence[RunFolder]) -> list[Agreement]:
    """Of every item and scorer."""
    return [
        Agreement(item, scorer, _mean([_metrics(*each, ordinal=ordinal) for each in pairs]))
        for item, ordinal in _kinds(runs[0])
        for scorer, pairs in _pairs(runs, item)
    ]


def label_agreements(runs: Sequence[RunFolder]) -> list[LabelAgreement]:
    """Of every item, label and scorer."""
    found = []
    for item in runs[0].results["items"]:
        for scorer, pairs in _pairs(runs, item["name"]):
            each = [by_label(truth, said) for truth, said in pairs]
            for at, label in enumerate(item["labels"]):
                values = _mean([{name: v[at] for name, v in one.items()} for one in each])
                found.append(LabelAgreement(item["name"], label, scorer, values))
    return found


def subgroups(runs: Sequence[RunFolder]) -> list[Subgroup]:
    """Of every item, subgroup and scorer; empty where the table had no column of subgroups."""
    found = []
    for item in runs[0].names:
        own = [run.subgroups(item) for run in runs]
        names = sorted({name for groups in own if groups is not None for name in groups if name})
        for name in names:
            at = [np.array([g == name for g in groups]) for groups in own if groups is not None]
            for scorer, pairs in _pairs(runs, item):
                if scorer == "second":
                    continue
                parts = [
                    (truth[here], said[here])
                    for here, (truth, said) in zip(at, pairs, strict=True)
                    if here.any()
                ]
                values = _mean(
                    [
                        {
                            "micro_f1": METRICS["micro_f1"].of(*part),
                            "smd": MEASUREMENT["smd"].of(*part),
                        }
                        for part in parts
                    ]
                )
                n = float(np.mean([here.sum() for here in at]))
                found.append(Subgroup(item, name, scorer, n, values))
    return found


def _kinds(run: RunFolder) -> Iterator[tuple[str, bool]]:
    for item in run.results["items"]:
        yield item["name"], item["kind"] == "ordinal"


def _pairs(
    runs: Sequence[RunFolder], item: str
) -> Iterator[tuple[str, list[tuple[Decisions, Decisions]]]]:
    """Per scorer the truth and what was said, seed by seed."""
    decisions = [run.decisions(item) for run in runs]
    for scorer in SCORERS:
        if scorer != "second":
            yield scorer, [(own["truth"], own[scorer]) for own in decisions]
        elif all(run.second(item) is not None for run in runs):
            yield scorer, [s for run in runs if (s := run.second(item)) is not None]


def _metrics(truth: Decisions, said: Decisions, *, ordinal: bool) -> dict[str, float]:
    metrics = {**(ORDINAL if ordinal else {}), **MEASUREMENT}
    return {name: metric.of(truth, said) for name, metric in metrics.items()}


def _mean(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Over those that are known; nan: none is."""
    table = {name: [values[name] for values in each] for name in each[0]}
    known = {name: [v for v in values if not np.isnan(v)] for name, values in table.items()}
    return {name: float(np.mean(v)) if v else float("nan") for name, v in known.items()}
