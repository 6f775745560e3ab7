"""One table, whatever file it came from: named columns and rows that know where they stand."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from gwsmm.types import InputError

Cell = object  # str from text files; from JSON and parquet also numbers, booleans, None

# A terminal would obey some of these, and a line break ends a row of a table.
NO_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
SHOWN = 30  # characters of a column name, and number of names, that a message shows


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of one row by column name, and where it stands."""

    source: str
    line: int
    cells: dict[str, Cell]

    @property
    def where(self) -> str:
        """File and line as an editor numbers them; in a parquet file the row, counted from 1."""
        return f"{self.source} {self.line}"


@dataclass(frozen=True)
class Sheet:
    """A table with unique, non-empty column names and at least one row."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def check_column(self, name: str, field: str) -> None:
        """Refuse a column that the table lacks, and name the one that was probably meant."""
        if name in self.columns:
            return
        lower = {column.lower(): column for column in self.columns}
        near = get_close_matches(name.lower(), lower, n=1)
        meant = f" (did you mean {lower[near[0]]!r}?)" if near else ""
        raise InputError(
            f"{self.path} has no column {name!r}{meant}: set {field} to one of {show(self.columns)}"
        )


def show(columns: Iterable[str], longest: int = SHOWN) -> str:
    """The names for a message; longer ones are left out, as they may be a response."""
    names = list(columns)
    short = [repr(name) if len(name) <= longest else "(a long name)" for name in names[:SHOWN]]
    return ", ".join(short) + (", …" if len(names) > SHOWN else "")


def check_header(where: str, names: Sequence[str]) -> None:
    """Refuse names that are missing, repeated, no plain text, or a row of data."""
    if not names:
        raise InputError(f"{where} has no columns: write a column of responses and their ratings")
    numbers = sum(name.lstrip("-").isdecimal() for name in names)
    if numbers and numbers >= len(names) - 1:
        raise InputError(f"{where} looks like a row of data: write names, not numbers, above it")
    for position, name in enumerate(names, start=1):
        if not name:
            raise InputError(f"{where}: column {position} has no name: write one, or remove it")
        if NO_NAME.search(name):
            raise InputError(
                f"{where}: the name of column {position} holds a line break or another control "
                "character: write it in plain text"
            )
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{where}: {count} columns are named {show([name])}: give each its own name"
        )


def is_empty(cell: Cell) -> bool:
    """True for nothing, blank text and not-a-number."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def show_cell(cell: Cell) -> str:
    """The cell for a message: short values only, as anything longer may be a response."""
    if isinstance(cell, bool | int | float) or (isinstance(cell, str) and len(cell) <= 8):
        return f"{cell!r:.20}"
    return f"a text of {len(cell)} characters" if isinstance(cell, str) else type(cell).__name__
