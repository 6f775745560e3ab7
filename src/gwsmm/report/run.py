"""What a run and a multirun leave in their folder, and the summary on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gwsmm.report.figures import write_bars, write_heat_map
from gwsmm.report.tables import Results, cell, comparison, items, markdown, write_tables
from gwsmm.results import (
    Run,
    attempts_frame,
    controls_content,
    pairs_frame,
    plan_content,
    predictions_frame,
    write_json,
)

SYNTHETIC = "The responses of these items are synthetic: generated, not written by students."


def write_run(folder: Path, run: Run) -> dict[str, pd.DataFrame]:
    """Write everything that a run leaves, and return its tables by name."""
    names, results = run.distances.names, run.results
    frame = pd.DataFrame(run.distances.values, index=names, columns=names)
    frame.to_csv(folder / "distances.csv", index_label=run.distances.quantity)
    pairs_frame(run.distances).to_csv(folder / "pairs.csv", index=False)
    write_heat_map(run.distances, run.plan, folder)
    write_bars({"": results}, folder)
    tables = {"comparison": comparison({"": results}), "items": items(results)}
    write_tables(tables["comparison"], folder, _notes(results))
    with (folder / "table.md").open("a", encoding="utf-8") as file:
        file.write("\n" + markdown(tables["items"]) + "\n")
    write_json(folder / "plan.json", plan_content(run.plan))
    write_json(folder / "diagnosis.json", run.diagnoses)
    if run.attempts:
        write_json(folder / "controls.json", controls_content(run.controls))
        attempts_frame(run.controls, run.attempts).to_parquet(
            folder / "attempts.parquet", index=False
        )
    predictions_frame(run.outcomes).to_parquet(folder / "predictions.parquet", index=False)
    write_json(folder / "results.json", results)
    return tables


def write_multirun(folder: Path, runs: Mapping[str, Results]) -> None:
    """Write the tables and the picture that compare the jobs of a multirun."""
    write_tables(comparison(runs), folder, _notes(next(iter(runs.values()))))
    write_bars(runs, folder)


def summary(folder: Path, runs: Mapping[str, Results], hints: Sequence[str]) -> None:
    """Show the comparison, where the files are, and what to try next."""
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width to respect
    table = comparison(runs)
    for scope, part in table.groupby("scope", sort=False):
        shown = Table(title=str(scope), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        columns = [name for name in part.columns if name != "scope" and part[name].notna().any()]
        for name in columns:
            shown.add_column(name, justify="left" if name in ("model", "run") else "right")
        for row in part[columns].itertuples(index=False):
            shown.add_row(*[cell(n, v) for n, v in zip(columns, row, strict=True)])
        console.print(shown)
    for name, results in runs.items():
        console.print(_plan_line(name, results["plan"]), markup=False, highlight=False)
    for note in _notes(next(iter(runs.values()))):
        console.print(note, markup=False)
    here = folder.resolve()
    near = here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here
    console.print(f"Files: {near}", markup=False, soft_wrap=True)
    for hint in hints:
        console.print(hint, markup=False, highlight=False, soft_wrap=True)


def _plan_line(name: str, plan: Mapping[str, Any]) -> str:
    groups = "  ".join("{" + ", ".join(group) + "}" for group in plan["groups"])
    return f"Plan{' ' + name if name else ''} ({plan['source']}): {groups}"


def _notes(results: Results) -> list[str]:
    return [SYNTHETIC] if results["synthetic"] else []
