"""Pictures of a run: the distances and plan, and the scores before and after."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gwsmm.report.tables import Results
from gwsmm.types import Distances, Plan

mpl.use("Agg")
_DARK = 0.6  # similarity above which a number is written in white
_BLUE, _ORANGE, _GREY = "#31688e", "#d95f02", "#b0b0b0"


def heat_map(axes: Axes, distances: Distances, plan: Plan) -> None:
    """Similarities of the items, ordered by group, each group framed.

    `*` marks a pair that did not converge, `~` one that was estimated.
    """
    order = [distances.names.index(name) for group in plan.groups for name in group]
    similarity = distances.similarity()[np.ix_(order, order)]
    converged, estimated = (
        distances.details[name][np.ix_(order, order)] for name in ("converged", "estimated")
    )
    names = [distances.names[i] for i in order]
    axes.imshow(similarity, vmin=0, vmax=1, cmap="viridis_r")
    if len(names) <= 20:  # more numbers than that cannot be read
        for (i, j), value in np.ndenumerate(similarity):
            colour = "white" if value > _DARK else "black"
            text = (
                f"{value:.2f}" + ("~" if estimated[i, j] else "") + ("" if converged[i, j] else "*")
            )
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=7)
    start = 0
    for group in plan.groups:
        size = len(group)
        frame = Rectangle((start - 0.5, start - 0.5), size, size, fill=False, ec="red", lw=2)
        axes.add_patch(frame)
        start += size
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title(
        f"similarity 1 − d / d_max ({distances.quantity}); framed: one encoder", fontsize=9
    )


def write_heat_map(distances: Distances, plan: Plan, folder: Path) -> None:
    """Write `heatmap.png`."""
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    heat_map(figure.subplots(), distances, plan)
    figure.savefig(folder / "heatmap.png", dpi=150)


def item_bars(axes: Axes, runs: Mapping[str, Results]) -> None:
    """Micro F1 per item: individual models, and what each run merged; a line for the majority."""
    first = next(iter(runs.values()))
    names = [item["name"] for item in first["items"]]
    bars: list[tuple[str, list[float]]] = [("individual", _micro(first, "individual"))]
    bars += [(name or "merged", _micro(results, "merged")) for name, results in runs.items()]
    width, x = 0.8 / len(bars), np.arange(len(names))
    colours = [_GREY, *mpl.colormaps["viridis"](np.linspace(0.2, 0.85, len(bars) - 1))]
    for i, (label, values) in enumerate(bars):
        axes.bar(x + (i + 0.5) * width - 0.4, values, width, label=label, color=colours[i])
    for at, value in zip(x, _micro(first, "majority"), strict=True):
        axes.hlines(value, at - 0.4, at + 0.4, color=_ORANGE, lw=1.5)
    axes.plot([], [], color=_ORANGE, label="majority labels")
    axes.set_xticks(x, names, rotation=40, ha="right", fontsize=8)
    axes.set_ylim(0, 1)
    axes.set_ylabel("micro F1 on test responses")
    axes.legend(fontsize=8, ncols=len(bars) + 1, loc="upper center", bbox_to_anchor=(0.5, 1.13))


def write_bars(runs: Mapping[str, Results], folder: Path) -> None:
    """Write `items.png`."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    item_bars(figure.subplots(), runs)
    figure.savefig(folder / "items.png", dpi=150)


def _micro(results: Results, model: str) -> list[float]:
    listed: list[dict[str, Any]] = results["items"]
    return [float(item["scores"][model]["micro_f1"]) for item in listed]
