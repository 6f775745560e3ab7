"""The tables of evidence: agreement with the raters, and what predicts the cost of a merge."""

from collections.abc import Sequence

import pandas as pd

from gwsmm.report.table import Row, Table, named, spread
from gwsmm.study.agreement import agreements, label_agreements, subgroups
from gwsmm.study.conditions import Condition
from gwsmm.study.prediction import Place, Prediction, adjusted
from gwsmm.study.stability import PlanStability

PREDICTION, STANDINGS = "Does it predict the loss?", "Among random plans"
_RESPONSES = "In brackets the 95 % interval, responses drawn with replacement."
_SAID = {
    "qwk": "quadratic weighted kappa",
    "kappa": "kappa",
    "label_kappa": "kappa of labels",
    "smd": "standardised mean difference",
}


def agreement(conditions: Sequence[Condition]) -> Table:
    """Every item's agreement with the rater, of the models and of a second rater."""
    rows = [
        {
            "run": condition.name,
            "item": each.item,
            "scored by": each.scorer,
            **{
                column: figure
                for name, value in each.values.items()
                for column, figure in spread(_SAID[name], value).items()
            },
        }
        for condition in conditions
        for each in agreements(condition.runs)
    ]
    note = (
        "With the rater whose scores are the truth; a standardised mean difference beyond ±0.15 is "
        "usually held to matter. Scores have kappas of their own; labels have the mean of theirs. "
        f"{_RESPONSES}"
    )
    return Table("agreement", "Agreement with raters", note, named(rows), {}, {})


def labels(conditions: Sequence[Condition]) -> Table:
    """Every label's kappa, and how often each side gives it."""
    rows = [
        {
            "run": condition.name,
            "item": each.item,
            "label": each.label,
            "scored by": each.scorer,
            **spread("kappa", each.kappa),
            "prevalence": each.prevalence,
            "predicted": each.predicted,
        }
        for condition in conditions
        for each in label_agreements(condition.runs)
    ]
    note = (
        "Prevalence is the share of responses to which the rater, and the scorer, give it. "
        f"{_RESPONSES}"
    )
    return Table("labels", "Every label", note, named(rows), {}, {})


def groups(conditions: Sequence[Condition]) -> Table | None:
    """How the scores differ between subgroups of the students; None: none are known."""
    rows = [
        {
            "run": condition.name,
            "item": each.item,
            "subgroup": each.group,
            "scored by": each.model,
            "responses": each.responses,
            **spread("micro F1", each.micro_f1),
            **spread("ahead of the others", each.ahead),
            **(spread("gained by merging", each.change) if each.model == "merged" else {}),
            **spread(_SAID["smd"], each.smd),
        }
        for condition in conditions
        for each in subgroups(condition.runs)
    ]
    if not rows:
        return None
    note = (
        "Micro F1 of the subgroup, how far it is ahead of that of all others whose subgroup is "
        "known, and what the subgroup gains by merging, in micro F1. Mean differences are from the "
        f"rater, within the subgroup. {_RESPONSES}"
    )
    return Table("subgroups", "Subgroups", note, named(rows), {}, {})


def predicting(found: Sequence[Prediction]) -> Table | None:
    """What says beforehand which pairs merge well; None: no run merged the pairs."""
    if not found:
        return None
    rows: list[Row] = [
        {
            "signal": each.signal,
            "in groups of": each.size,
            "predicts": each.loss,
            "responses": each.split,
            **spread("Spearman", each.raw.spearman),
            "p": each.raw.p,
            "p (Holm)": each.raw.p_holm,
            **spread("Spearman without item effects", each.apart.spearman),
            "p without item effects": each.apart.p,
            "p without item effects (Holm)": each.apart.p_holm,
        }
        for each in found
    ]
    note = (
        "Rank correlation over all pairs of items between a signal and what merging the two costs "
        "them on average (of larger groups, in all that hold the two); a distance that works has a "
        "positive one. Without item effects: what is left when every item's own share is taken "
        "from both sides. Intervals by the jackknife over items, p by Mantel's permutations of "
        "items, Holm over all tests of the table."
    )
    return Table("prediction", PREDICTION, note, pd.DataFrame(rows), {}, {})


def standings(found: Sequence[Place]) -> Table | None:
    """Plans among random ones; None: there were none."""
    if not found:
        return None
    rows = [
        {
            "run": each.condition,
            "seed": each.seed,
            "micro F1": each.score,
            "mean of random plans": sum(each.others) / len(each.others),
            "best of them": max(each.others),
            "random plans": each.standing.plans,
            "all there are": each.complete,
            "percentile": each.standing.percentile,
            "p": each.standing.p,
            "p (Holm)": p_holm,
        }
        for each, p_holm in zip(found, adjusted(found), strict=True)
    ]
    note = (
        "Test micro F1 over all items of the plan, and of random plans with groups of the same "
        "sizes; the percentile is the share of these that are worse, p that of those as good; Holm "
        "over the table."
    )
    return Table("standings", STANDINGS, note, named(rows), {}, {})


def stability(found: Sequence[PlanStability]) -> Table | None:
    """How far plans agree between half-samples and seeds; None: there is one plan of each."""
    rows: list[Row] = [
        {
            "run": each.condition,
            "plans of half-samples": each.half_samples,
            "adjusted Rand with the plan": each.with_half_samples,
            "plans of seeds": each.seeds,
            "adjusted Rand between them": each.between_seeds,
        }
        for each in _several(found)
    ]
    if not rows:
        return None
    note = (
        "1: the same plan; 0: no more alike than by chance. Half-samples are of the responses that "
        "the distances were measured on."
    )
    return Table("stability", "Is the plan stable?", note, named(rows), {}, {})


def together(found: Sequence[PlanStability], names: Sequence[str]) -> Table | None:
    """How often two items share an encoder; None: there is one plan of each."""
    rows: list[Row] = [
        {"run": each.condition, "item": f"{i + 1} {name}"}
        | {str(j + 1): float(share) for j, share in enumerate(each.together[i])}
        for each in _several(found)
        for i, name in enumerate(names)
    ]
    if not rows:
        return None
    note = "Share of all plans of a run, of half-samples and seeds, that put two items together."
    return Table("together", "Which items come together", note, named(rows), {}, {})


def _several(found: Sequence[PlanStability]) -> list[PlanStability]:
    """Those that have several plans to be compared."""
    return [each for each in found if each.half_samples or each.seeds > 1]
