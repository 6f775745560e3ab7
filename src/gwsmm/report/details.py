"""Tables that the paper leaves out: every item, tests, ablations, costs, and the sources."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from gwsmm.metrics import METRICS
from gwsmm.report.performance import HEADINGS, KEPT, MEGABYTE
from gwsmm.report.table import Row, Table, best_of, named, spread
from gwsmm.results import MODELS
from gwsmm.study.conditions import Condition, axes
from gwsmm.study.estimates import compared, item_change, mean_over_items, share_kept


def items(conditions: Sequence[Condition]) -> Table:
    """Every item under every condition, before and after."""
    rows = []
    for condition in conditions:
        plan = condition.runs[0].plan
        for at, name in enumerate(condition.names):
            row: Row = {
                "run": condition.name,
                "item": name,
                "group": plan.groups.index(plan.group_of(name)) + 1,
            }
            for metric, heading in HEADINGS.items():
                for model in MODELS:
                    row[f"{model} {heading}"] = float(condition.scores(model, metric)[at])
                row |= spread(f"change of {heading}", item_change(condition.runs, name, metric))
            rows.append(row)
    note = (
        "Means over the seeds; the group is that of the first. In brackets the 95 % interval of "
        "merged − individual, responses drawn with replacement, the same for both."
    )
    frame = named(rows)
    best = best_of(frame, "item", [f"merged {heading}" for heading in HEADINGS.values()])
    return Table("items", "Every item", note, frame, best, {})


def tests(conditions: Sequence[Condition]) -> Table:
    """Merged against individual, and every condition against the first."""
    first = conditions[0]
    asked = [(c, "individual", c, "individual") for c in conditions]
    asked += [
        (c.at(first.seeds), first.name, first.at(c.seeds), "merged")
        for c in conditions[1:]
        if c.seeds & first.seeds  # the same seeds on both sides
    ]
    pairs = [
        (other.scores(model, metric), c.scores("merged", metric))
        for c, _, other, model in asked
        for metric in METRICS
    ]
    found = iter(compared(pairs, [c.responses for c, *_ in asked for _ in METRICS]))
    rows = [
        {
            "run": c.name,
            "against": name,
            "metric": HEADINGS[metric],
            **spread("change", (each := next(found)).change),
            "p (paired t)": each.t,
            "p (paired t, Holm)": each.t_holm,
            "p (Wilcoxon)": each.wilcoxon,
            "p (Wilcoxon, Holm)": each.wilcoxon_holm,
        }
        for c, name, *_ in asked
        for metric in METRICS
    ]
    note = (
        "Merged scores against those of the individual models, and of every run against the first, "
        "over the items, on the seeds that both have; Holm over the whole table. The change is "
        "weighted by test responses; in the tests every item counts the same, as in the paper's, "
        "so that the two can differ."
    )
    return Table("tests", "Tests", note, named(rows), {}, {})


def ablations(conditions: Sequence[Condition]) -> Table | None:
    """One setting against the metrics, the others as in a base; None: none varies."""
    slices = axes(conditions)
    if not slices:
        return None
    rows = [
        {
            "setting": axis,
            "run": condition.name,
            "encoders": condition.storage("encoders_after"),
            "MB": condition.storage("bytes_after") / MEGABYTE,
            **{
                column: figure
                for name in METRICS
                for column, figure in spread(
                    HEADINGS[name], mean_over_items(condition, "merged", name)
                ).items()
            },
            **spread(KEPT, share_kept(condition, "micro_f1")),
        }
        for axis, along in slices.items()
        for condition in along
    ]
    frame = pd.DataFrame(rows)
    best = best_of(frame, "setting", (*HEADINGS.values(), KEPT))
    base, *_ = next(iter(slices.values()))
    note = (
        f"What differs from the run “{base.name}” in one setting alone; in brackets the "
        "95 % interval, items drawn with replacement."
    )
    return Table("ablations", "Ablations", note, frame, best, {})


def efficiency(conditions: Sequence[Condition]) -> Table:
    """Bytes, passes, speed and memory, individual and merged."""
    rows = []
    for condition in conditions:
        for model, when in (("individual", "before"), ("merged", "after")):
            size = condition.storage(f"bytes_{when}")
            costs = [run.about["scoring"][model] for run in condition.runs]
            rows.append(
                {
                    "run": condition.name,
                    "model": model,
                    "encoders": condition.storage(f"encoders_{when}"),
                    "passes": condition.storage(f"passes_{when}"),
                    "MB": size / MEGABYTE,
                    "times less": condition.storage("bytes_before") / size,
                    **(_speed(costs) if None not in costs else {}),
                }
            )
    note = (
        "Bytes of the files that are kept; passes of a batch that holds every item; rows per "
        "second and memory of a process that scores one item, as measured when it was evaluated."
    )
    frame = named(rows)
    merged = frame[frame["model"] == "merged"]
    # how fast and how large a process was depends on what else ran then
    best = best_of(merged, "model", ["times less"], ["encoders", "passes", "MB"])
    return Table("efficiency", "Efficiency", note, frame, best, {})


def _speed(costs: Sequence[Mapping[str, float]]) -> Row:
    seconds = sum(cost["seconds"] for cost in costs)
    return {
        "rows per second": sum(cost["responses"] for cost in costs) / seconds,
        "peak memory, MB": max(cost["peak_memory"] for cost in costs) / MEGABYTE,
    }


def sources(conditions: Sequence[Condition], paths: Mapping[Path, str]) -> Table:
    """What every cell is made of: one row per run, item and model, with its key in the store.

    Args:
        conditions: what is reported.
        paths: of the runs' folders, as they are told.
    """
    rows = [
        {
            "run": condition.name,
            "seed": run.seed,
            "folder": paths[run.folder],
            "item": item["name"],
            "model": model,
            "evaluation": made.get(model, ""),
            "item's digest": run.digests.get(item["name"]),
            **{HEADINGS[name]: item["scores"][model][name] for name in METRICS},
            "responses": item["scores"][model]["responses"],
        }
        for condition in conditions
        for run in condition.runs
        for item, made in zip(run.results["items"], run.about["evaluations"], strict=True)
        for model in MODELS
    ]
    note = (
        "Every score with the run it is of, the key of its evaluation in the store, and the digest "
        "of the item's content, of which alone majority labels and the table “Items” are made."
    )
    return Table("sources", "Sources", note, named(rows), {}, {})


def keys(conditions: Sequence[Condition], paths: Mapping[Path, str]) -> Table:
    """What the figures that are no scores are made of: one row per run, with keys in the store.

    Args:
        conditions: what is reported.
        paths: of the runs' folders, as they are told.
    """
    rows = [
        {
            "run": condition.name,
            "seed": run.seed,
            "folder": paths[run.folder],
            **{stage: " ".join(run.keys(stage)) or None for stage in ("distances", "stability")},
        }
        for condition in conditions
        for run in condition.all_runs
    ]
    note = (
        "By run and seed the keys in the store of its distances and of those from half-samples; "
        "of groups that were merged as evidence, the keys are in the run's attempts.parquet."
    )
    return Table("keys", "Keys", note, named(rows), {}, {})
