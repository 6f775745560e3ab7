"""Which rows of the tables belong to which item, and to which of its parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gwsmm.items.sheet import Cell, Row, Sheet, is_empty, show, show_cell
from gwsmm.types import InputError

Part = Literal["training", "validation", "test"]

PARTS: dict[str, Part] = {
    "train": "training",
    "training": "training",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Source:
    """What the tables hold of one item."""

    name: str
    columns: tuple[str, ...]
    rows: list[Row]

    def parts(self, column: str | None) -> dict[Part, list[Row]]:
        """The rows of each part that this column names; all for training without a column.

        Raises:
            InputError: a cell names no part, or no row is for training.
        """
        if column is None:
            return {"training": self.rows}
        parts = dict[Part, list[Row]]()
        for row in self.rows:
            parts.setdefault(_part(row, column), []).append(row)
        if "training" not in parts:
            raise InputError(
                f"item {self.name!r} has no row whose {show([column])} is train: "
                "mark some, or set items.split to null"
            )
        return parts

    def first(self, column: str | None) -> str:
        """The first text in this column; nothing without a column."""
        cells = [row.cells[column] for row in self.rows] if column else []
        return next((str(cell) for cell in cells if not is_empty(cell)), "")


def wide(sheets: Sequence[Sheet]) -> list[Source]:
    """One item per table, named for its file."""
    return [Source(sheet.path.stem, sheet.columns, list(sheet.rows)) for sheet in sheets]


def long(sheets: Sequence[Sheet], column: str) -> list[Source]:
    """One item per name in this column, in the order of their first rows."""
    columns = sheets[0].columns
    sources = dict[str, Source]()
    for sheet in sheets:
        other = set(columns) ^ set(sheet.columns)
        if other:
            raise InputError(
                f"{sheet.path} and {sheets[0].path.name} differ in their columns "
                f"({show(sorted(other))}): give them the same, or read them one by one"
            )
        for row in sheet.rows:
            name = name_of(row, column)
            sources.setdefault(name, Source(name, columns, [])).rows.append(row)
    return list(sources.values())


def name_of(row: Row, column: str) -> str:
    """The item's name."""
    name = as_name(row.cells[column])
    if name is None:
        raise InputError(f"{row.where}, column {show([column])} names no item: write its name")
    return name


def as_name(cell: Cell) -> str | None:
    """A text without the space around it, or a number as it is named; None for anything else."""
    if is_empty(cell) or not isinstance(cell, str | int | float):
        return None
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))  # pandas writes 1.0 where a column has empty cells
    return str(cell).strip()


def _part(row: Row, column: str) -> Part:
    cell = row.cells[column]
    part = PARTS.get(str(cell).strip().lower())
    if part is None:
        raise InputError(
            f"{row.where}, column {show([column])}: {show_cell(cell)} is no part: "
            f"write train, validation or test"
        )
    return part
