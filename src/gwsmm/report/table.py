"""A table of figures, and how it is written: Markdown, CSV and LaTeX."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from gwsmm.evidence.bootstrap import Interval
from gwsmm.spreadsheet import plain

_ENDINGS = (".md", ".csv", ".tex")
_ENDS = (" low", " high")
_BOLD = ("\ue000", "\ue001")  # private characters, which no table holds
_LATEX_BOLD = (r"\textbf{", "}")
_MARKDOWN_BOLD = ("**", "**")
_PER_CENT = ("kept", "percentile")
_COUNTS = ("encoders", "passes")  # means over seeds, of which most are whole
_ONE_DECIMAL = ("MB", "times less", "rows per second", "responses")


Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Table:
    """What a report shows as one table.

    Attributes:
        name: of its files.
        title: a line.
        note: how to read it, and where its figures come from.
        frame: every figure as a number; the columns `x low` and `x high` are the interval of `x`.
        best: positions of the rows to mark, by column.
        marks: what follows a cell, by column and position of the row, e.g. `*`.
    """

    name: str
    title: str
    note: str
    frame: pd.DataFrame
    best: Mapping[str, frozenset[int]]
    marks: Mapping[tuple[str, int], str]

    @cached_property
    def columns(self) -> list[str]:
        """What is shown: the ends of intervals stand in one cell with the figure."""
        return [str(name) for name in self.frame.columns if not str(name).endswith(_ENDS)]

    @cached_property
    def cells(self) -> list[list[str]]:
        """Rows of what is shown, without the marks of the best."""
        columns = [self._cells(name) for name in self.columns]
        return [list(row) for row in zip(*columns, strict=True)]

    @cached_property
    def texts(self) -> frozenset[str]:
        """The columns that hold words, which stand on the left."""
        numeric = pd.api.types.is_numeric_dtype
        return frozenset(name for name in self.columns if not numeric(self.frame[name]))

    def is_best(self, row: int, column: str) -> bool:
        """Whether a cell is to be marked."""
        return row in self.best.get(column, frozenset())

    def _cells(self, column: str) -> list[str]:
        texts = [cell(column, value) for value in self.frame[column]]
        if f"{column}{_ENDS[0]}" in self.frame:
            ends = zip(*(self.frame[column + end] for end in _ENDS), strict=True)
            for at, (low, high) in enumerate(ends):
                if not (pd.isna(low) or pd.isna(high)):
                    texts[at] += f" [{_end(column, low)}, {_end(column, high)}]"
        return [text + self.marks.get((column, at), "") for at, text in enumerate(texts)]


def spread(name: str, found: Interval) -> Row:
    """The three columns of an estimate."""
    return {name: found.value, f"{name} low": found.low, f"{name} high": found.high}


def named(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows, without the column of the run's name where there is one run alone."""
    frame = pd.DataFrame(rows)
    return frame.drop(columns="run") if (frame["run"] == "").all() else frame


def best_of(
    frame: pd.DataFrame, within: str, highest: Sequence[str], lowest: Sequence[str] = ()
) -> dict[str, frozenset[int]]:
    """The best of each column among the rows that have the same in another one.

    A row that is compared with none is not the best of anything.

    Args:
        frame: some or all rows of a table.
        within: the column that says what is compared.
        highest: columns of which more is better.
        lowest: of which less is.
    """
    compared = frame[frame.groupby(within)[within].transform("size") > 1]
    groups = compared.groupby(within)
    tops = {name: groups[name].transform("max") for name in highest}
    tops |= {name: groups[name].transform("min") for name in lowest}
    return {name: frozenset(compared.index[compared[name] == top]) for name, top in tops.items()}


def cell(column: str, value: object) -> str:
    """A value as a table shows it: a dash where there is none, a share as per cent."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, str):
        return " ".join(value.split())  # a line break would end the row
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if column.endswith(_PER_CENT):
        scale = 100 if column.endswith("kept") else 1
        return f"{scale * float(value):.1f} %"  # type: ignore[arg-type]
    if column.endswith(_COUNTS):
        return f"{value:.1f}".removesuffix(".0")
    if column.endswith(_ONE_DECIMAL):
        return f"{value:.0f}" if isinstance(value, Integral) else f"{value:.1f}"
    if column.startswith("p ") or column == "p":
        return "< 0.001" if float(value) < 0.001 else f"{value:.3f}"  # type: ignore[arg-type]
    return f"{value:d}" if isinstance(value, Integral) else f"{value:.4f}"


def _end(column: str, value: float) -> str:
    return f"{100 * value:.1f}" if column.endswith("kept") else f"{value:.3f}"


def markdown(table: Table) -> str:
    """A Markdown table; the best cells are bold."""
    shown = [[_escaped(text) for text in row] for row in _marked(table)]
    columns = [_escaped(name) for name in table.columns]
    return _with(_MARKDOWN_BOLD, tabulate(shown, headers=columns, tablefmt="github", **_PLAIN))


def _escaped(text: str) -> str:
    """Without what ends a cell or opens a tag."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text.replace("|", r"\|"))


def latex(table: Table) -> str:
    """A LaTeX table with booktabs rules, special characters escaped; the best cells are bold."""
    text = tabulate(_marked(table), headers=table.columns, tablefmt="latex_booktabs", **_PLAIN)
    return _with(_LATEX_BOLD, text)


_PLAIN: dict[str, Any] = {"disable_numparse": True}


def _marked(table: Table) -> list[list[str]]:
    return [
        [
            text.join(_BOLD) if table.is_best(at, column) else text
            for column, text in zip(table.columns, row, strict=True)
        ]
        for at, row in enumerate(table.cells)
    ]


def _with(bold: tuple[str, str], text: str) -> str:
    for mark, said in zip(_BOLD, bold, strict=True):
        text = text.replace(mark, said)
    return text


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.map(plain).rename(columns=plain).to_csv(index=False))


def write_tables(tables: Sequence[Table], folder: Path, heading: Sequence[str]) -> None:
    """Write `report.md` with all tables, and `tables/NAME` of each as Markdown, CSV and LaTeX.

    A table that another report left there and this one has not goes.
    """
    (folder / "tables").mkdir(exist_ok=True)
    names = {table.name for table in tables}
    for left in [path for path in (folder / "tables").glob("*.tex") if path.stem not in names]:
        for ending in _ENDINGS:
            left.with_suffix(ending).unlink(missing_ok=True)
    lines = [*heading]
    for table in tables:
        shown, path = [table.note, markdown(table)], folder / "tables" / table.name
        lines += [f"## {table.title}", *shown]
        comments = (" ".join(each.split()) for each in (*heading, table.title, table.note))
        said = "".join(f"% {line}\n" for line in comments)
        written = (
            "\n\n".join([*heading, *shown]) + "\n",
            _csv(table.frame),
            said + latex(table) + "\n",
        )
        for ending, text in zip(_ENDINGS, written, strict=True):
            path.with_suffix(ending).write_text(text, encoding="utf-8")
    (folder / "report.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
