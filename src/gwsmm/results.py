"""What a run found out: the content of `results.json` and `predictions.parquet`.

The schema of `results.json` is documented in docs/results.md; it holds nothing that depends on
when, where or how fast a run was, so that the same experiment gives the same bytes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gwsmm.artefact import Artefact, Member, Scorer
from gwsmm.decision.rule import load_rule
from gwsmm.evaluate import (
    Cost,
    Predictions,
    load_calibration,
    load_cost,
    load_predictions,
    load_scores,
    majority,
)
from gwsmm.evidence.control import Attempt, Controls
from gwsmm.items.ordinal import decode
from gwsmm.metrics import Calibration, Scores, overall
from gwsmm.store import Store
from gwsmm.types import Distances, Item, Plan

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from pandas.api.extensions import ExtensionArray

SCHEMA = 1
MODELS = ("majority", "individual", "merged")


@dataclass(frozen=True, eq=False)
class Outcome:
    """One item's part of the results.

    Attributes:
        item: with its test responses.
        predictions: by model: `majority`, `individual`, `merged`.
        scores: by the same.
        before: what scores the item before the merge.
        after: what scores it after; the same where the item keeps its own encoder.
        calibration: of `individual` and `merged`, `before` and `after` the rule that was fitted;
            empty where none was.
        evaluations: of `individual` and `merged`, as they are in the store.
    """

    item: Item
    predictions: Mapping[str, Predictions]
    scores: Mapping[str, Scores]
    before: Scorer
    after: Scorer
    calibration: Mapping[str, Mapping[str, Calibration]]
    evaluations: Mapping[str, Artefact]


def outcome(
    item: Item, individual: Artefact, merged: Artefact, scorers: tuple[Scorer, Scorer]
) -> Outcome:
    """An item's part of the results, from its two evaluations and the scorers before and after."""
    before, after = load_scores(individual), load_scores(merged)
    return Outcome(
        item,
        {
            "majority": majority(item),
            "individual": load_predictions(individual),
            "merged": load_predictions(merged),
        },
        {
            "majority": before["majority"],
            "individual": before["model"],
            "merged": after["model"],
        },
        *scorers,
        {"individual": load_calibration(individual), "merged": load_calibration(merged)},
        {"individual": individual, "merged": merged},
    )


@dataclass(frozen=True, eq=False)
class Run:
    """What an experiment found out.

    Attributes:
        outcomes: of every item, in the order of the item set.
        members: the fine-tuned models.
        distances: between them.
        plan: that was carried out.
        diagnoses: of its groups before they were merged; see `Diagnosis`.
        controls: other groups and plans that it is held against.
        attempts: what became of the items of these groups; empty without controls.
        results: the content of `results.json`.
    """

    outcomes: Sequence[Outcome]
    members: Sequence[Member]
    distances: Distances
    plan: Plan
    diagnoses: Sequence[Mapping[str, Any]]
    controls: Controls
    attempts: Sequence[Attempt]
    results: Mapping[str, Any]


def results(
    outcomes: Sequence[Outcome], plan: Plan, distances: Distances, about: Mapping[str, object]
) -> dict[str, Any]:
    """The content of `results.json`.

    Args:
        outcomes: of every item, in the order of the item set.
        plan: that was carried out.
        distances: that were measured.
        about: name, seed and encoder of the experiment.
    """
    scores = {outcome.item.name: outcome.scores for outcome in outcomes}
    merged = [scores[name] for name in plan.merged_items]
    n = len(outcomes)
    open_pairs = int((~distances.converged).sum()) // 2
    return {
        "schema": SCHEMA,
        **about,
        "synthetic": any(outcome.item.synthetic for outcome in outcomes),
        "plan": plan_content(plan),
        "overall": _overall(list(scores.values())),
        "merged_only": _overall(merged) if merged else None,
        "storage": _storage(outcomes),
        "distances": {
            "quantity": distances.quantity,
            "pairs": n * (n - 1) // 2,
            "not_converged": open_pairs,
            "estimated": int(distances.details["estimated"].sum()) // 2,
            "triangle_violations": distances.violations(),
            "half_sample_spearman": _interval(distances.stability),
        },
        "items": [_item(outcome, plan, scores[outcome.item.name]) for outcome in outcomes],
    }


def _interval(ranks: "NDArray[np.float64] | None") -> dict[str, float] | None:
    """The mean and the range that holds nine tenths of the repetitions."""
    if ranks is None:
        return None
    low, high = np.quantile(ranks, [0.05, 0.95])
    return {"mean": float(ranks.mean()), "low": float(low), "high": float(high)}


def write_json(path: Path, content: object) -> None:
    """Write readable JSON with a fixed order of keys; nobody ever sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def plan_content(plan: Plan) -> dict[str, object]:
    """The content of `plan.json`, which `grouping=expert grouping.record=…` reads again."""
    return {"source": plan.source, "groups": [list(group) for group in plan.groups]}


def predictions_frame(outcomes: Sequence[Outcome]) -> "pd.DataFrame":
    """One row per item, test response, label and model; never the response text.

    Columns: item, response (position in the test split), label, model, truth, probability,
    decision; for ordinal items also score_truth and score_decision, else missing. Where the items
    have them also group, second and score_second, missing where a response has none.
    """
    import pandas as pd

    frames = []
    for outcome in outcomes:
        item, truth = outcome.item, outcome.item.test.labels
        n, width = truth.shape
        # the same for all models
        labels = [label.name for label in item.labels] * n
        rows, score, beside = np.arange(n).repeat(width), _scores(item, truth), _beside(item)
        for model in MODELS:
            said = outcome.predictions[model]
            columns: dict[str, object] = {
                "item": item.name,
                "response": rows,
                "label": labels,
                "model": model,
                "truth": truth.ravel(),
                "probability": said.probabilities.ravel(),
                "decision": said.decisions.ravel(),
                "score_truth": score,
                "score_decision": _scores(item, said.decisions),
                **beside,
            }
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _scores(item: Item, labels: "NDArray[np.uint8]") -> "ExtensionArray":
    """For each of the labels [n, L] its response's score, which only an ordinal item has."""
    n, width = labels.shape
    scores = decode(labels) if item.kind == "ordinal" else np.full(n, -1)
    return _known(scores.repeat(width))


def _beside(item: Item) -> "dict[str, ExtensionArray]":
    """The columns of the subgroup and the second rater, as far as the item has them."""
    import pandas as pd

    columns: dict[str, ExtensionArray] = {}
    groups, second, width = item.test.groups, item.test.second, len(item.labels)
    if groups is not None:
        columns["group"] = pd.array(groups, dtype="string").repeat(width)
    if second is not None:
        columns["second"] = _known(second.ravel())
        if item.kind == "ordinal":
            columns["score_second"] = _known(decode(second)).repeat(width)
    return columns


def _known(values: "NDArray[Any]") -> "ExtensionArray":
    """Whole numbers, missing where they are negative."""
    import pandas as pd

    return pd.arrays.IntegerArray(values.astype(np.int64), values < 0)


def controls_content(controls: Controls) -> dict[str, object]:
    """The content of `controls.json`: what `attempts.parquet` numbers, and the plans made of it."""
    number = {group: at for at, group in enumerate(controls.groups)}
    return {
        "groups": [list(group) for group in controls.groups],
        "plans": [[number[g] for g in plan if len(g) > 1] for plan in controls.plans],
        "all_plans": controls.all_plans,
    }


def attempts_frame(controls: Controls, attempts: Sequence[Attempt]) -> "pd.DataFrame":
    """One row per group that was tried, item of it and split; group −1 for the item's own model."""
    import pandas as pd

    number = {group: at for at, group in enumerate(controls.groups)}
    rows = [
        {
            "group": number.get(each.group, -1),
            "item": each.item,
            "split": each.split,
            **each.scores.as_dict(),
            "loss": each.loss,
            "drift": each.drift,
            "drift_cka": each.drift_cka,
            "evaluation": each.evaluation,
        }
        for each in attempts
    ]
    return pd.DataFrame(rows)


def evaluations(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """Of every item the keys of its evaluations in the store."""
    return [
        {"item": each.item.name} | {by: made.digest for by, made in each.evaluations.items()}
        for each in outcomes
    ]


def keys_content(items: Sequence[Item], kept: Store) -> dict[str, object]:
    """The content of `keys.json`: what the items were, and by stage what was used of the store."""
    return {
        "items": {item.name: item.digest for item in items},
        "stages": {stage: sorted(keys) for stage, keys in kept.used.items()},
    }


def costs(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float] | None]:
    """By model what it took to score the test responses; None: that is not known of all."""
    return {
        model: _costs([load_cost(outcome.evaluations[model]) for outcome in outcomes])
        for model in ("individual", "merged")
    }


def _costs(of_items: Sequence[Cost | None]) -> dict[str, float] | None:
    each = [cost for cost in of_items if cost is not None]
    if len(each) < len(of_items):
        return None
    return {
        "seconds": sum(cost.seconds for cost in each),
        "responses": sum(cost.responses for cost in each),
        "peak_memory": max(cost.peak_memory for cost in each),
    }


def _overall(scores: Sequence[Mapping[str, Scores]]) -> dict[str, object]:
    return {model: overall([each[model] for each in scores]).as_dict() for model in MODELS}


def _item(outcome: Outcome, plan: Plan, scores: Mapping[str, Scores]) -> dict[str, object]:
    item = outcome.item
    return {
        "name": item.name,
        "kind": item.kind,
        "labels": [label.name for label in item.labels],
        "train": len(item.train),
        "validation": len(item.validation),
        "test": len(item.test),
        "group": plan.groups.index(plan.group_of(item.name)),
        "notes": list(item.notes),
        "scores": {model: scores[model].as_dict() for model in MODELS},
        **_decision(outcome),
    }


def _decision(outcome: Outcome) -> dict[str, object]:
    """The rules that were fitted for an item, and what they did to its probabilities."""
    scorers = {"individual": outcome.before, "merged": outcome.after}
    rules = {model: load_rule(each.decision) for model, each in scorers.items() if each.decision}
    content = {
        model: {
            **asdict(rule),
            **{f"nll_{when}": each.nll for when, each in outcome.calibration[model].items()},
            **{f"ece_{when}": each.ece for when, each in outcome.calibration[model].items()},
        }
        for model, rule in rules.items()
    }
    return {"decision": content} if content else {}


def _storage(outcomes: Sequence[Outcome]) -> dict[str, float]:
    before = _cost([outcome.before for outcome in outcomes])
    after = _cost([outcome.after for outcome in outcomes])
    return {
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_after": value for name, value in after.items()},
        "factor": before["bytes"] / after["bytes"],
    }


def _cost(scorers: Sequence[Scorer]) -> dict[str, int]:
    """What these scorers need to be kept and to be run, each file counted once."""
    files = {path for scorer in scorers for path in scorer.files()}
    return {
        "encoders": sum(path.name == "trunk.safetensors" for path in files),
        "passes": len({scorer.trunk.digest for scorer in scorers}),
        "bytes": sum(path.stat().st_size for path in files),
    }


def pairs_frame(distances: Distances) -> "pd.DataFrame":
    """One row per unordered pair of items: its value and how the solver got there."""
    import pandas as pd

    rows, columns = np.triu_indices(len(distances.names), 1)
    frame = {
        "item": [distances.names[i] for i in rows],
        "other": [distances.names[j] for j in columns],
        "value": distances.values[rows, columns],
        "gap": distances.gap[rows, columns],
    }
    return pd.DataFrame(frame | {k: v[rows, columns] for k, v in distances.details.items()})


def halves_frame(distances: Distances) -> "pd.DataFrame":
    """One row per half-sample and pair of items; empty where none were drawn."""
    import pandas as pd

    rows, columns = np.triu_indices(len(distances.names), 1)
    halves = np.zeros((0, 2, len(rows))) if distances.halves is None else distances.halves
    return pd.DataFrame(
        {
            "repetition": np.arange(len(halves)).repeat(2 * len(rows)),
            "half": np.tile(np.arange(2).repeat(len(rows)), len(halves)),
            "item": [distances.names[i] for i in rows] * 2 * len(halves),
            "other": [distances.names[j] for j in columns] * 2 * len(halves),
            "value": halves.ravel(),
        }
    )
