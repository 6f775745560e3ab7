"""Pictures: the distances and plan, the scores before and after, what they cost, and evidence."""

from collections.abc import Callable, Sequence
from io import StringIO
from itertools import zip_longest
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from numpy.typing import NDArray

from gwsmm.study.conditions import Condition
from gwsmm.study.geometry import positions, tree
from gwsmm.study.prediction import Place, Prediction
from gwsmm.types import Distances, Plan

mpl.use("Agg")
mpl.rcParams["text.parse_math"] = False  # a $ in the name of an item is a $
mpl.rcParams["legend.facecolor"] = "none"  # stands on dark pages too
_BLUE, _ORANGE, _GREY = "#336b92", "#d95f02", "#808080"  # 3 : 1 at least on light and dark pages
_MOST = 8  # runs that a picture tells apart
_LONG = 30  # letters of a name that takes a line of its own


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
    cells = axes.imshow(similarity, vmin=0, vmax=1, cmap="viridis_r").to_rgba(similarity)
    if len(names) <= 20:  # more numbers than that cannot be read
        for (i, j), value in np.ndenumerate(similarity):
            text = (
                f"{value:.2f}" + ("~" if estimated[i, j] else "") + ("" if converged[i, j] else "*")
            )
            colour = _readable_on(*cells[i, j, :3])
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


def _readable_on(*rgb: float) -> str:
    """Black or white, whichever has more contrast to the colour: at least 4.58 : 1 on any.

    Source: Web Content Accessibility Guidelines 2, relative luminance and contrast ratio.
    """
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    luminance = float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
    return "white" if (luminance + 0.05) ** 2 < 1.05 * 0.05 else "black"


def _outline() -> str:
    """The colour of the axes, in which shapes of any colour stand out from the page."""
    return str(mpl.rcParams["axes.edgecolor"])


def _edges() -> list[AbstractPathEffect]:
    """Edges for a line that crosses bars, from which its own colour does not stand out."""
    return [withStroke(linewidth=3.5, foreground=_outline())]


def item_bars(axes: Axes, conditions: Sequence[Condition]) -> None:
    """Micro F1 per item: individual models, and what each run merged; a line for the majority."""
    first = conditions[0]
    names = first.names
    some = conditions[:_MOST]
    own = _individual(some, lambda c: tuple(c.scores("individual", "micro_f1")))
    bars = [(name, c.scores("individual", "micro_f1")) for name, c in own]
    bars += [(c.name or "merged", c.scores("merged", "micro_f1")) for c in some]
    width, x = 0.8 / len(bars), np.arange(len(names))
    greys = mpl.colormaps["Greys"](np.linspace(0.55, 0.68, len(own))) if len(own) > 1 else [_GREY]
    colours = [*greys, *mpl.colormaps["viridis"](np.linspace(0.4, 0.9, len(some)))]
    for i, (label, values) in enumerate(bars):
        middle = x + (i + 0.5) * width - 0.4
        axes.bar(middle, values, width, label=label, color=colours[i], edgecolor=_outline(), lw=0.6)
    for at, value in zip(x, first.scores("majority", "micro_f1"), strict=True):
        axes.hlines(value, at - 0.4, at + 0.4, color=_ORANGE, lw=1.5, path_effects=_edges())
    axes.plot([], [], color=_ORANGE, label="majority labels")
    axes.set_xticks(x, names, rotation=40, ha="right", fontsize=8)
    axes.set_ylim(0, 1)
    axes.set_ylabel("micro F1 on test responses")
    if len(conditions) > _MOST:
        axes.plot([], [], " ", label=f"the first {_MOST} of {len(conditions)} runs")
    # grows upwards, so that it has room
    columns = 4 if max(len(label) for label, _ in bars) < _LONG else 1
    axes.legend(
        fontsize=8, ncols=min(len(bars) + 1, columns), loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )


def _individual(
    conditions: Sequence[Condition], alike: Callable[[Condition], tuple[float, ...]]
) -> list[tuple[str, Condition]]:
    """The individual models by name; those of most runs are the same, and count once."""
    found = dict[tuple[float, ...], Condition]()
    for condition in conditions:
        found.setdefault(alike(condition), condition)
    if len(found) == 1:
        return [("individual", conditions[0])]
    return [(f"individual: {c.name}", c) for c in found.values()]


def dendrogram(axes: Axes, distances: Distances, plan: Plan) -> None:
    """The tree of average linkage; the number before an item is that of its group in the plan."""
    from scipy.cluster.hierarchy import dendrogram as draw

    labels = [f"{plan.groups.index(plan.group_of(n)) + 1}  {n}" for n in distances.names]
    draw(
        tree(distances),
        orientation="left",
        labels=labels,
        ax=axes,
        color_threshold=0,
        above_threshold_color=_BLUE,
        leaf_font_size=8,
    )
    axes.set_xlabel(distances.quantity, fontsize=8)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


def item_map(axes: Axes, distances: Distances, plan: Plan) -> None:
    """The items in two dimensions, a colour and a number for each group of the plan."""
    at, share = positions(distances)
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    groups = [plan.groups.index(plan.group_of(name)) for name in distances.names]
    for group, (x, y) in zip(groups, at, strict=True):
        colour = colours[group % len(colours)]
        axes.plot(x, y, "o", color=colour, markeredgecolor=_outline(), mew=0.6, markersize=7)
    axes.set_aspect("equal", "datalim")
    axes.margins(x=0.45, y=0.2)  # room for names
    axes.set_xticks([])
    axes.set_yticks([])
    axes.autoscale_view()
    axes.apply_aspect()
    names = [f"{group + 1} {name}" for group, name in zip(groups, distances.names, strict=True)]
    _write(axes, names, at)
    axes.set_title(f"shows {100 * share:.0f} % of the squared distances", fontsize=9)


def _write(axes: Axes, names: Sequence[str], at: NDArray[np.float64]) -> None:
    """A name beside each point [n, 2], on no other name; the limits of the axes are set before."""
    points = 72 * (axes.transData - axes.figure.dpi_scale_trans).transform(at)
    for name, place, up in zip(names, at, _raised(names, points), strict=True):
        axes.annotate(name, place, (6, 3 + up), textcoords="offset points", fontsize=7)


def _raised(names: Sequence[str], points: NDArray[np.float64]) -> list[float]:
    """By how many points each name beside a point of a picture goes up, to stand on no other."""
    height, letter, gap = 8, 3.8, 6  # points: of a line, of a letter, and to the name
    at = {i: points[i, 1] for i in np.argsort(points[:, 1])}
    done = list[int]()
    for i in at:
        for j in sorted(done, key=lambda j: at[j]):
            right = max((i, j), key=lambda k: points[k, 0])
            left = i + j - right
            aside = points[right, 0] - points[left, 0] >= letter * len(names[left]) + gap
            if not aside and abs(at[i] - at[j]) < height:
                at[i] = at[j] + height
        done.append(i)
    return [at[i] - points[i, 1] for i in range(len(names))]


def frontier(axes: Axes, conditions: Sequence[Condition]) -> None:
    """Micro F1 against the bytes that are kept, of individual and merged models."""
    own = _individual(
        conditions,
        lambda c: (c.storage("bytes_before"), *c.overall("individual", "micro_f1")),
    )
    points = [(name, "before", c, "individual") for name, c in own]
    points += [(c.name or "merged", "after", c, "merged") for c in conditions]
    at = [
        (c.storage(f"bytes_{when}") / 1e6, float(c.overall(model, "micro_f1").mean()))
        for _, when, c, model in points
    ]
    named = []
    for (name, _, _, model), (size, score) in zip(points, at, strict=True):
        axes.plot(size, score, "^" if model == "individual" else "o", color=_BLUE)
        beaten = any(s <= size and f > score for s, f in at)
        if len(conditions) <= _MOST or not beaten:  # of many, those that none beats have a name
            named.append((name, (size, score)))
    axes.margins(x=0.25, y=0.15)
    axes.autoscale_view()
    axes.set_xlim(left=0)
    _write(axes, [name for name, _ in named], np.array([place for _, place in named]))
    axes.set_xlabel("MB of all encoders, heads and codes", fontsize=8)
    axes.set_ylabel("micro F1 on test responses", fontsize=8)


def random_plans(axes: Axes, place: Place) -> None:
    """How random plans of the same sizes do, and the plan among them."""
    bins = min(30, max(5, len(place.others) // 10))
    axes.hist(place.others, bins=bins, color=_GREY, edgecolor=_outline(), lw=0.6)
    axes.axvline(place.score, color=_ORANGE, lw=2, path_effects=_edges())
    axes.set_xlabel("micro F1 on test responses", fontsize=8)
    axes.set_ylabel("random plans", fontsize=8)
    name = f"{place.condition} " if place.condition else ""
    axes.set_title(
        f"{name}seed {place.seed}: better than {place.standing.percentile:.0f} %", fontsize=9
    )


def pairs(axes: Axes, found: Prediction, *, apart: bool) -> None:
    """Every pair of items: a signal, and what merging the two costs.

    Args:
        axes: to draw on.
        found: the signal and the costs.
        apart: from the items' own shares, which are taken from both.
    """
    axes.plot(*found.points(apart=apart), "o", color=_BLUE, markersize=4)
    axes.axhline(0, color=_GREY, lw=0.8)
    axes.locator_params(axis="x", nbins=4)
    what, bracket, condition = found.signal.partition(" (")  # which would be too long for a line
    axes.set_xlabel("\n".join(filter(None, (what, bracket.strip() + condition))), fontsize=7)
    axes.set_ylabel(f"{found.loss}, groups of {found.size}", fontsize=8)
    value = (found.apart if apart else found.raw).spearman.value
    said = "without item effects: " if apart else ""
    axes.set_title(f"{said}Spearman {value:.2f}", fontsize=9)


Draw = Callable[[Axes], None]


def save(draw: Draw, size: tuple[float, float], path: Path) -> None:
    """Draw into a PNG file of so many inches."""
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    figure.savefig(path, dpi=150)


def save_several(draws: Sequence[Draw], size: tuple[float, float], path: Path) -> None:
    """Draw several pictures of so many inches side by side, four in a row, into a PNG file."""
    columns = min(4, len(draws))
    rows = -(-len(draws) // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, draw in zip_longest(places, draws):
        if draw is None:
            axes.set_axis_off()
        else:
            draw(axes)
    figure.savefig(path, dpi=110)


_INK = "#010203"  # stands for the colour of the page's text until the picture is in the page


def svg(draw: Draw, size: tuple[float, float]) -> str:
    """A picture of so many inches as SVG for a page, in whose colour its text and axes are."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gwsmm"}):
        for part in (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "xtick.color",
            "ytick.color",
        ):
            mpl.rcParams[part] = _INK
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        draw(axes)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue().replace(_INK, "currentColor")
    return text[text.index("<svg") :]
