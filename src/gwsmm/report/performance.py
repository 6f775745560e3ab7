"""The paper's tables: the items, the plans, and how every model performs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gwsmm.metrics import METRICS
from gwsmm.report.table import Row, Table, best_of, named, spread
from gwsmm.results import MODELS
from gwsmm.study.conditions import Condition
from gwsmm.study.estimates import (
    LEVEL,
    gain_kept,
    gain_kept_of_merged,
    kept_enough,
    mean_over_items,
    mean_over_merged,
    share_kept,
    share_kept_of_merged,
)

HEADINGS = {
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "exact_match": "exact match",
    "label_accuracy": "label accuracy",
}
KEPT = "micro F1 kept"
_GAIN = "gain kept"
_GAIN_SAID = (
    " The gain is that of fine-tuning: how far micro F1 is above that of heads on the pretrained "
    "encoder as it came, which one of the runs is."
)
PUBLISHED = Path(__file__).parent / "published.json"
_ALL, _MERGED = "all items", "merged items only"
MEGABYTE = 1e6


def data(conditions: Sequence[Condition]) -> Table:
    """The paper's table 1: sizes of the items, and how often their labels are given."""
    condition = conditions[0]
    run = condition.runs[0]
    rows = []
    for item in run.results["items"]:
        shares = run.decisions(item["name"])["truth"].mean(axis=0)
        rows.append(
            {
                "item": item["name"],
                "kind": item["kind"],
                "labels": len(item["labels"]),
                "train": item["train"] + item["validation"],
                "test": item["test"],
                "rarest label": float(shares.min()),
                "commonest label": float(shares.max()),
            }
        )
    note = (
        f"Train includes validation; shares are of the test responses. Seed {run.seed}: of other "
        "seeds the sizes may differ by a response."
    )
    return Table("data", "Items", note, pd.DataFrame(rows), {}, {})


def plans(conditions: Sequence[Condition]) -> Table:
    """Which items share an encoder under each condition, seed by seed."""
    rows = []
    for condition in conditions:
        number = {name: i + 1 for i, name in enumerate(condition.names)}
        for run in condition.runs:
            groups = [[number[name] for name in group] for group in run.plan.groups]
            rows.append(
                {
                    "run": condition.name,
                    "seed": run.seed,
                    "encoders": len(groups),
                    "groups": " ".join(f"({', '.join(map(str, g))})" for g in groups),
                    "source": run.plan.source,
                }
            )
    note = "Items are numbered as in the first table."
    return Table("plans", "Plans", note, named(rows), {}, {})


def performance(conditions: Sequence[Condition]) -> Table:
    """The paper's table 2: every model, over all items and over those that are merged.

    Where a run asks for them, the paper's own figures stand beneath those over all items.
    """
    every, merged_only = (_rows(conditions, scope) for scope in ("overall", "merged_only"))
    published = any(condition.published for condition in conditions)
    record = _record()
    rows = [*every, *(_published(record) if published else []), *merged_only]
    frame = named(rows).astype({"encoders": float, "seeds": "Int64"})
    own = frame["scope"].isin([_ALL, _MERGED])
    merged = frame[own & (frame["model"] == "merged")]
    kept = [name for name in (KEPT, _GAIN) if name in frame]
    best = best_of(merged, "scope", (*HEADINGS.values(), *kept))
    first = conditions[0].runs
    note = (
        f"Means over {len(conditions[0].names)} items, weighted by their test responses"
        + (f", and over {len(first)} seeds" if len(first) > 1 else "")
        + "; in brackets the 95 % interval, items drawn with replacement. † keeps at least 99 % of "
        "the individual score (one-sided t-test over items, Holm over both F1, p < 0.05); in the "
        "test every item counts the same, as in the paper's, so that it can differ from what the "
        "weighted means say."
        + (" The items that are merged are each run's own." if len(conditions) > 1 else "")
        + (_GAIN_SAID if _GAIN in frame else "")
        + (f" {record['note']}" if published else "")
    )
    marks = {**_enough(conditions, frame), **(_better(record, frame) if published else {})}
    return Table("performance", "Performance", note, frame, best, marks)


def _rows(conditions: Sequence[Condition], scope: str) -> list[Row]:
    """Of every model and condition; what all conditions have alike counts once."""
    rows: list[Row] = []
    for model in MODELS:
        these = [c for c in conditions if all(run.results[scope] for run in c.runs)]
        made = [
            _performance(condition, model, scope)
            | (_gain(condition, conditions, scope) if model == "merged" else {})
            for condition in these
        ]
        if model != "merged" and len(made) > 1 and _alike(made):
            made = [{**made[0], "run": ""}]
        rows += made
    return rows


def _performance(condition: Condition, model: str, scope: str) -> Row:
    whole = scope == "overall"
    when = {"individual": "before", "merged": "after"}.get(model)
    row: Row = {
        "scope": _ALL if whole else _MERGED,
        "run": condition.name,
        "model": model,
        "seeds": len(condition.runs),
        "encoders": (condition.storage(f"encoders_{when}") if when else 0) if whole else None,
        "MB": condition.storage(f"bytes_{when}") / MEGABYTE if whole and when else None,
    }
    mean, share = (
        (mean_over_items, share_kept) if whole else (mean_over_merged, share_kept_of_merged)
    )
    for name in METRICS:
        row |= spread(HEADINGS[name], mean(condition, model, name))
    individual = condition.overall("individual", "micro_f1", scope).mean()
    kept = condition.overall(model, "micro_f1", scope).mean() / individual if individual else None
    row[KEPT] = kept
    if model == "merged":
        row |= spread(KEPT, share(condition, "micro_f1")) | {KEPT: kept}
    return row


def _gain(condition: Condition, others: Sequence[Condition], scope: str) -> Row:
    """What is kept of the gain, where one of the others is the control; see `Condition.frozen`."""
    controls = [
        each
        for each in others
        if each.frozen
        and condition.seeds <= each.seeds
        and all(condition.chosen(c) == each.chosen(c) for c in ("encoder", "items", "split"))
    ]
    if not controls:
        return {}
    kept = gain_kept if scope == "overall" else gain_kept_of_merged
    return spread(_GAIN, kept(condition, controls[0], "micro_f1"))


def _alike(rows: Sequence[Row]) -> bool:
    own = [{k: v for k, v in row.items() if k != "run"} for row in rows]
    return all(repr(row) == repr(own[0]) for row in own)  # nan is not equal to itself


def _enough(conditions: Sequence[Condition], frame: pd.DataFrame) -> Mapping[tuple[str, int], str]:
    """A dagger behind what keeps enough."""
    metrics = ("micro_f1", "macro_f1")
    here = (frame["model"] == "merged") & (frame["scope"] == _ALL)  # a row per condition
    return {
        (HEADINGS[metric], int(at)): " †"
        for metric, found in zip(metrics, kept_enough(conditions, metrics), strict=True)
        for at, p in zip(frame.index[here], found, strict=True)
        if p < LEVEL
    }


def _record() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(PUBLISHED.read_text("utf-8"))
    return found


def _published(record: Mapping[str, Any]) -> list[Row]:
    """The paper's own figures, which have no intervals and are of other answers."""
    whole = record["rows"][0]["micro_f1"]
    return [
        {
            "scope": record["scope"],
            **{HEADINGS.get(name, name): value for name, value in row.items() if name != "better"},
            KEPT: row["micro_f1"] / whole,
        }
        for row in record["rows"]
    ]


def _better(record: Mapping[str, Any], frame: pd.DataFrame) -> Mapping[tuple[str, int], str]:
    """A star behind what was published as better than a language model's plan."""
    here = frame.index[frame["scope"] == record["scope"]]
    return {
        (HEADINGS[metric], int(at)): " *"
        for at, row in zip(here, record["rows"], strict=True)
        for metric in row.get("better", [])
    }
