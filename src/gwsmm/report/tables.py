"""Tables of one run and of several, as Markdown, CSV and LaTeX."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from gwsmm.metrics import METRICS

HEADINGS = {
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "exact_match": "exact match",
    "label_accuracy": "label accuracy",
}
ALL, MERGED = "all items", "merged items only"
_MEGABYTE = 1e6

Results = Mapping[str, Any]
"""The content of a `results.json`."""


def comparison(runs: Mapping[str, Results]) -> pd.DataFrame:
    """One row per model: baseline, individual, and what each run merged.

    Args:
        runs: results by what tells the run apart; an empty name for a single run. A baseline that
            is the same in all runs, such as the individual models of one multirun, is given once.
    """
    rows: list[dict[str, object]] = []
    for scope, key in ((ALL, "overall"), (MERGED, "merged_only")):
        for model in ("majority", "individual", "merged"):
            named = {
                name: _row(model, results, key)
                for name, results in runs.items()
                if results[key] is not None
            }
            if model != "merged" and len(runs) > 1 and named and _all_equal(list(named.values())):
                named = {"": next(iter(named.values()))}
            rows += [{"scope": scope, "run": name, **row} for name, row in named.items()]
    table = pd.DataFrame(rows).astype({"encoders": "Int64"})
    return table if (table["run"] != "").any() else table.drop(columns="run")


def _row(model: str, results: Results, key: str) -> dict[str, object]:
    storage, scores = results["storage"], results[key][model]
    individual = results[key]["individual"]["micro_f1"]
    encoders, size = {
        "majority": (0, None),
        "individual": (storage["encoders_before"], storage["bytes_before"]),
        "merged": (storage["encoders_after"], storage["bytes_after"]),
    }[model]
    whole = key == "overall"  # storage is that of the whole item set
    return {
        "model": model,
        "encoders": encoders if whole else None,
        "MB": round(size / _MEGABYTE, 1) if whole and size is not None else None,
        **{HEADINGS[name]: scores[name] for name in METRICS},
        "micro F1 kept": scores["micro_f1"] / individual if individual else None,
    }


def _all_equal(rows: Sequence[dict[str, object]]) -> bool:
    return all(row == rows[0] for row in rows)


def items(results: Results) -> pd.DataFrame:
    """One row per item: sizes, group, and micro and macro F1 of every model."""
    rows = []
    for item in results["items"]:
        row = {
            "item": item["name"],
            "labels": len(item["labels"]),
            "train": item["train"] + item["validation"],
            "test": item["test"],
            "group": item["group"] + 1,
        }
        for metric in ("micro_f1", "macro_f1"):
            for model in ("majority", "individual", "merged"):
                row[f"{model} {HEADINGS[metric]}"] = item["scores"][model][metric]
        rows.append(row)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table with four decimals."""
    return tabulate(_cells(table), headers=list(table.columns), tablefmt="github", **_ALIGN)


def latex(table: pd.DataFrame) -> str:
    """A LaTeX table with booktabs rules, special characters escaped."""
    return tabulate(_cells(table), headers=list(table.columns), tablefmt="latex_booktabs", **_ALIGN)


_ALIGN: dict[str, Any] = {"disable_numparse": True}


def _cells(table: pd.DataFrame) -> list[list[str]]:
    return [
        [cell(name, value) for name, value in zip(table.columns, row, strict=True)]
        for row in table.itertuples(index=False)
    ]


def cell(column: str, value: object) -> str:
    """A value as a table shows it: a dash where there is none, a share as per cent."""
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "–"
    if column == "micro F1 kept":
        return f"{100 * float(value):.1f} %"  # type: ignore[arg-type]
    if column == "MB":
        return f"{value:.1f}"
    if column in ("encoders", "labels", "train", "test", "group"):
        return f"{value:.0f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write_tables(table: pd.DataFrame, folder: Path, heading: Sequence[str]) -> None:
    """Write `table.md`, `table.csv` and `table.tex`; the heading goes above the Markdown."""
    lines = [*[f"{line}\n" for line in heading], markdown(table), ""]
    (folder / "table.md").write_text("\n".join(lines), encoding="utf-8")
    table.to_csv(folder / "table.csv", index=False)
    note = "".join(f"% {line}\n" for line in heading)
    (folder / "table.tex").write_text(note + latex(table) + "\n", encoding="utf-8")
