"""What a run and a multirun leave in their folder, and the summary on the terminal."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Shown

from gwsmm.report import details, evidence, figures, performance
from gwsmm.report.page import page as paged
from gwsmm.report.table import cell, write_tables
from gwsmm.results import (
    Run,
    attempts_frame,
    controls_content,
    halves_frame,
    pairs_frame,
    plan_content,
    predictions_frame,
    write_json,
)
from gwsmm.study.conditions import Condition
from gwsmm.study.prediction import LOSSES, Prediction, places, predictions
from gwsmm.study.reading import RunFolder, paths_from
from gwsmm.study.stability import plan_stability

SYNTHETIC = "The responses of these items are synthetic: generated, not written by students."
_PAGE, _HEAT, _BARS, _PAIRS = _DRAWN = (
    "report.html",
    "heatmap.png",
    "items.png",
    "prediction.png",
)
_CONTROLS, _ATTEMPTS = "controls.json", "attempts.parquet"


def write_run(folder: Path, run: Run) -> None:
    """Write everything that a run found; the tables and pictures are made of these files."""
    names = run.distances.names
    frame = pd.DataFrame(run.distances.values, index=names, columns=names)
    frame.to_csv(folder / "distances.csv", index_label=run.distances.quantity)
    pairs_frame(run.distances).to_csv(folder / "pairs.csv", index=False)
    halves_frame(run.distances).to_csv(folder / "halves.csv", index=False)
    write_json(folder / "plan.json", plan_content(run.plan))
    write_json(folder / "diagnosis.json", run.diagnoses)
    if run.attempts:
        write_json(folder / _CONTROLS, controls_content(run.controls))
        attempts_frame(run.controls, run.attempts).to_parquet(folder / _ATTEMPTS, index=False)
    else:  # what another run tried that was here before is no evidence of this one
        (folder / _CONTROLS).unlink(missing_ok=True)
        (folder / _ATTEMPTS).unlink(missing_ok=True)
    predictions_frame(run.outcomes).to_parquet(folder / "predictions.parquet", index=False)
    write_json(folder / "results.json", run.results)


def write_report(
    folder: Path, conditions: Sequence[Condition], *, page: bool = True, pictures: bool = True
) -> dict[str, pd.DataFrame]:
    """Write the report of these runs, and return the tables by name.

    Args:
        folder: to write into.
        conditions: what is reported.
        page: whether the page is drawn; an old one goes.
        pictures: likewise.
    """
    first = conditions[0].runs[0]
    signals = predictions(conditions)
    stands = places(conditions)
    stable = [plan_stability(condition) for condition in conditions]
    paths = paths_from(folder, [run.folder for c in conditions for run in c.all_runs])
    made = [
        performance.data(conditions),
        performance.plans(conditions),
        performance.performance(conditions),
        details.items(conditions),
        details.tests(conditions),
        details.ablations(conditions),
        details.efficiency(conditions),
        evidence.predicting(signals),
        evidence.standings(stands),
        evidence.stability(stable),
        evidence.together(stable, first.names),
        evidence.agreement(conditions),
        evidence.labels(conditions),
        evidence.groups(conditions),
        details.sources(conditions, paths),
        details.keys(conditions, paths),
    ]
    tables = [table for table in made if table is not None]
    notes = _notes(conditions)
    write_tables(tables, folder, notes)
    for name in _DRAWN:
        (folder / name).unlink(missing_ok=True)
    if pictures:
        _draw(folder, conditions, signals)
    if page:
        shown = paged(_title(first), conditions, tables, (signals, stands), notes, paths)
        (folder / _PAGE).write_text(shown, encoding="utf-8")
    return {table.name: table.frame for table in tables}


def _draw(folder: Path, conditions: Sequence[Condition], signals: Sequence[Prediction]) -> None:
    """The pictures that stand beside the page as files."""
    first = conditions[0].runs[0]
    heat = partial(figures.heat_map, distances=first.distances, plan=first.plan)
    figures.save(heat, (7.5, 6.5), folder / _HEAT)
    bars = partial(figures.item_bars, conditions=conditions)
    figures.save(bars, (9, 4.5), folder / _BARS)
    scatters = [
        partial(figures.pairs, found=each, apart=apart)
        for each in signals
        if each.split == "test" and each.loss == LOSSES["micro_f1"]
        for apart in each.views
    ]
    if scatters:
        figures.save_several(scatters, (3.3, 2.8), folder / _PAIRS)


def _title(run: RunFolder) -> str:
    results = run.results
    return f"{results['name']}: {len(run.names)} items, {results['encoder']['model']}"


def summary(
    folder: Path,
    conditions: Sequence[Condition],
    frame: pd.DataFrame,
    hints: Sequence[str],
) -> None:
    """Show the table `performance`, where the files are, and what to try next."""
    console = _console()
    several = len(conditions[0].runs) > 1
    for scope, part in frame.groupby("scope", sort=False):
        shown = Shown(title=str(scope), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        hidden = {"scope", *(() if several else ("seeds",))}
        columns = [
            name
            for name in part.columns
            if name not in hidden
            and not name.endswith((" low", " high"))
            and part[name].notna().any()
        ]
        for name in columns:
            shown.add_column(name, justify="left" if name in ("model", "run") else "right")
        for row in part[columns].itertuples(index=False):
            shown.add_row(*[cell(n, v) for n, v in zip(columns, row, strict=True)])
        console.print(shown)
    for condition in conditions:
        console.print(_plan_line(condition), highlight=False)
    for note in _notes(conditions):
        console.print(note)
    console.print(f"Files: {_near(folder)}; look at report.html first", soft_wrap=True)
    for hint in hints:
        console.print(hint, highlight=False, soft_wrap=True)


def show_best(folder: Path, best: Sequence[Mapping[str, Any]]) -> None:
    """Show what a search found best, in the words of its `best.json`, and how to run it again."""
    console = _console()
    if not best:
        console.print("No trial keeps to the constraints.")
    else:
        shown = Shown("trial", *best[0]["values"], "settings", box=SIMPLE_HEAD)
        for each in best:
            values = [cell(name, value) for name, value in each["values"].items()]
            shown.add_row(str(each["trial"]), *values, " ".join(each["overrides"]))
        console.print(shown)
    console.print(f"Files: {_near(folder)}; all trials are in trials.csv", soft_wrap=True)
    for each in best[:1]:
        console.print(f"Again: {each['command']}", highlight=False, soft_wrap=True)


def _console() -> Console:
    console = Console(markup=False, emoji=False)  # names and settings are not to be interpreted
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width to respect
    return console


def _near(folder: Path) -> Path:
    here = folder.resolve()
    return here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here


def _plan_line(condition: Condition) -> str:
    plan = condition.runs[0].plan
    groups = "  ".join("{" + ", ".join(group) + "}" for group in plan.groups)
    seed = f", seed {condition.runs[0].seed}" if len(condition.runs) > 1 else ""
    return f"Plan{' ' + condition.name if condition.name else ''} ({plan.source}{seed}): {groups}"


def _notes(conditions: Sequence[Condition]) -> list[str]:
    runs = [run for condition in conditions for run in condition.runs]
    return [SYNTHETIC] if any(run.results["synthetic"] for run in runs) else []
