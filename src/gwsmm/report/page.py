"""`report.html`: one page that needs nothing but itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TypeVar

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gwsmm.report import figures
from gwsmm.report.evidence import PREDICTION, STANDINGS
from gwsmm.report.figures import Draw
from gwsmm.report.table import Table, cell
from gwsmm.study.conditions import Condition
from gwsmm.study.prediction import Place, Prediction

_MOST = 6  # of what a kind of picture shows, unless there are more signals or runs
Shown = TypeVar("Shown")


@dataclass(frozen=True)
class Picture:
    """What the page shows as a figure.

    Attributes:
        title: a line above it.
        alt: what it shows, for who does not see it.
        svg: the picture.
    """

    title: str
    alt: str
    svg: Markup


def page(
    title: str,
    conditions: Sequence[Condition],
    tables: Sequence[Table],
    evidence: tuple[Sequence[Prediction], Sequence[Place]],
    notes: Sequence[str],
    paths: Mapping[Path, str],
) -> str:
    """The page. Names of items and labels, and whatever else runs hold, stand in it as text.

    Args:
        title: of the page.
        conditions: what is reported.
        tables: in their order.
        evidence: what predicts the loss, and where the plans stand among random ones.
        notes: that stand above everything.
        paths: of the runs' folders, as they are told.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("gwsmm.report").joinpath("page.html.j2").read_text("utf-8")
    signals, places = evidence
    scatters = _each_first(signals, lambda each: each.signal)
    histograms = _each_first(places, lambda each: each.condition)
    return environment.from_string(source).render(
        title=title,
        notes=notes,
        figures=[
            *_of_distances(conditions[0]),
            *_of_scores(conditions),
            *_of_evidence(scatters, histograms),
        ],
        undrawn={
            PREDICTION: len(signals) - len(scatters),
            STANDINGS: len(places) - len(histograms),
        },
        headline=_headline(conditions),
        first=conditions[0],
        several=len(conditions) > 1,
        tables=tables,
        configurations=[
            (c.name or "the run", yaml.safe_dump(dict(c.runs[0].config), sort_keys=False))
            for c in conditions
        ],
        overrides=[
            (paths[run.folder], " ".join(run.about["overrides"]))
            for c in conditions
            for run in c.all_runs
        ],
    )


def _headline(conditions: Sequence[Condition]) -> list[tuple[str, str, str]]:
    """Per condition what it keeps, and at which storage and passes."""
    found = []
    for condition in conditions:
        own, merged = (
            condition.overall(model, "micro_f1").mean() for model in ("individual", "merged")
        )
        after, before = (
            cell("passes", condition.storage(f"passes_{w}")) for w in ("after", "before")
        )
        less = condition.storage("bytes_before") / condition.storage("bytes_after")
        kept = f"{100 * merged / own:.1f} %" if own else "–"
        cost = f"{less:.1f} × less storage, {after} of {before} passes"
        found.append((condition.name or "merged", kept, cost))
    return found


def _of_distances(condition: Condition) -> list[Picture]:
    """The first seed's distances and plan, in three ways."""
    run = condition.runs[0]
    distances, plan = run.distances, run.plan
    said = f"by {distances.quantity}, {_of(condition.name, run.seed)}"
    side = min(9.0, 3 + 0.35 * len(distances.names))
    return [
        _picture(
            f"Similarity of the items {said}",
            f"Heat map of {len(distances.names)} items, those of a group framed; the plan: "
            + "; ".join(", ".join(group) for group in plan.groups),
            partial(figures.heat_map, distances=distances, plan=plan),
            (side, side),
        ),
        _picture(
            f"Tree of the items {said}",
            "Dendrogram of average linkage; items that join far to the right are near.",
            partial(figures.dendrogram, distances=distances, plan=plan),
            (5.5, 0.6 + 0.28 * len(distances.names)),
        ),
        _picture(
            f"Map of the items {said}",
            "Items as points, near ones near each other, by classical scaling of the distances.",
            partial(figures.item_map, distances=distances, plan=plan),
            (5.5, 4.2),
        ),
    ]


def _of_scores(conditions: Sequence[Condition]) -> list[Picture]:
    return [
        _picture(
            "Micro F1 of every item before and after",
            "Bars for every item: individual models beside what was merged; numbers in the table "
            "“Every item”.",
            partial(figures.item_bars, conditions=conditions),
            (max(7.0, 0.7 * len(conditions[0].names)), 4.6),
        ),
        _picture(
            "Scores against storage",
            "Micro F1 against megabytes; numbers in the table “Performance”.",
            partial(figures.frontier, conditions=conditions),
            (5.5, 3.8),
        ),
    ]


def _of_evidence(found: Sequence[Prediction], places: Sequence[Place]) -> list[Picture]:
    among = [
        _picture(
            "The plan among random plans of the same sizes",
            "Histogram of the scores of random plans with a line at the plan's own; numbers in "
            f"the table “{STANDINGS}”.",
            partial(figures.random_plans, place=place),
            (5.5, 3.6),
        )
        for place in places
    ]
    against = [
        _picture(
            f"What merging two items costs on {each.split} responses, against {each.signal}"
            + (", without the items' own shares" if apart else ""),
            f"A point for every pair of items, {each.signal} against {each.loss}; numbers in the "
            f"table “{PREDICTION}”.",
            partial(figures.pairs, found=each, apart=apart),
            (5.5, 3.8),
        )
        for each in found
        for apart in each.views
    ]
    return [*among, *against]


def _each_first(found: Sequence[Shown], kind: Callable[[Shown], str]) -> list[Shown]:
    """What is drawn: the first of every kind, then the second ones, as far as there is room."""
    kinds = [kind(each) for each in found]
    nth = [kinds[:at].count(each) for at, each in enumerate(kinds)]
    order = sorted(range(len(found)), key=nth.__getitem__)
    return [found[at] for at in order[: max(_MOST, len({*kinds}))]]


def _of(name: str, seed: int) -> str:
    return f"{name}, seed {seed}" if name else f"seed {seed}"


def _picture(title: str, alt: str, draw: Draw, size: tuple[float, float]) -> Picture:
    svg = figures.svg(draw, size)  # in which matplotlib escapes names
    return Picture(title, alt, Markup(svg))  # nosec B704
