"""From the cells of a table to responses: every text is a text, every rating 0 or 1."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gwsmm.items.ordinal import encode
from gwsmm.items.sheet import Cell, Row, is_empty, show, show_cell
from gwsmm.types import InputError, Responses

UNRATED = -1
# JSON can write both: a NUL, and half of a character ("\ud83d") that has no UTF-8 form.
NO_TEXT = re.compile("[\0\ud800-\udfff]")
MOST = 100  # score: beyond this it is a measurement, and its steps would be mostly empty


def whole(cell: Cell) -> int | None:
    """The whole number in a cell, UNRATED if the cell is empty or -1, None if it is neither."""
    if is_empty(cell):
        return UNRATED
    if not isinstance(cell, str | int | float):
        return None
    try:
        number = float(cell)  # pandas writes 1.0 where a column has empty cells
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and number >= UNRATED else None


def rating(row: Row, column: str) -> int:
    """0, 1 or UNRATED."""
    value = whole(row.cells[column])
    if value in (0, 1, UNRATED):
        return value
    raise InputError(
        f"{row.where}, column {show([column])}: {show_cell(row.cells[column])} is not 0 or 1: "
        "correct it, write -1 where nobody rated, or leave the column out"
    )


def rated_columns(rows: Iterable[Row], columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that hold at least one rating, in their order."""
    missing = dict.fromkeys(columns)
    for row in rows:
        for column in [c for c in missing if whole(row.cells[c]) != UNRATED]:
            del missing[column]
        if not missing:
            break
    return tuple(column for column in columns if column not in missing)


def responses(rows: Sequence[Row], text: str, labels: Sequence[str]) -> tuple[Responses, list[Row]]:
    """The responses that are rated on every label, and their rows.

    Raises:
        InputError: a rating is not 0, 1, -1 or empty, a rated row has no text, or no row is rated.
    """
    ratings = np.array([[rating(row, c) for c in labels] for row in rows], np.int64)
    rated = _rated(rows, ratings.reshape(len(rows), len(labels)))
    kept = [rows[i] for i in rated]
    return Responses(text_column(kept, text), ratings[rated].astype(np.uint8)), kept


def score(row: Row, column: str) -> int:
    """A score from 0 to MOST, or UNRATED."""
    value = whole(row.cells[column])
    if value is not None and value <= MOST:
        return value
    raise InputError(
        f"{row.where}, column {show([column])}: {show_cell(row.cells[column])} is no whole score "
        f"from 0 to {MOST}: correct it, or write -1 where nobody rated"
    )


def scored(rows: Sequence[Row], text: str, column: str, most: int) -> tuple[Responses, list[Row]]:
    """The responses with a score, as cumulative binaries, and their rows.

    Raises:
        InputError: a score is no whole number, a scored row has no text, or no row is scored.
    """
    scores = np.array([score(row, column) for row in rows], np.int64)
    rated = _rated(rows, scores[:, None])
    kept = [rows[i] for i in rated]
    return Responses(text_column(kept, text), encode(scores[rated], most)), kept


def _rated(rows: Sequence[Row], ratings: NDArray[np.int64]) -> list[int]:
    """Positions of the rows without UNRATED; refused if there are none."""
    rated = np.flatnonzero((ratings != UNRATED).all(axis=1))
    if not len(rated):
        raise InputError(
            f"none of the {len(rows)} rows that begin at {rows[0].where} is fully rated: "
            "rate some, or leave the label that has no ratings out"
        )
    return [int(i) for i in rated]


def text_column(rows: Sequence[Row], column: str) -> tuple[str, ...]:
    """The texts as they stand.

    Raises:
        InputError: a cell is empty, is no text, or holds what no text file can.
    """
    empty = [row for row in rows if is_empty(row.cells[column])]
    if empty:
        raise InputError(
            f"{empty[0].where}, column {show([column])}: the response is empty (in {len(empty)} of "
            f"{len(rows)} rows): remove these rows, or write what a grader saw, e.g. (blank)"
        )
    return tuple(_text(row, column) for row in rows)


def _text(row: Row, column: str) -> str:
    cell = row.cells[column]
    if not isinstance(cell, str):
        raise InputError(
            f"{row.where}, column {show([column])}: a value of type {type(cell).__name__} is no "
            "text: name the column of the responses, or write them as texts"
        )
    if NO_TEXT.search(cell):
        raise InputError(
            f"{row.where}, column {show([column])} holds a NUL or half of a surrogate pair: "
            "write the text again as UTF-8"
        )
    return cell


def dropped(count: int, part: str) -> list[str]:
    """The note on rows without a full rating, if there were any."""
    return [f"{count} {part} rows without a rating on every label were left out"] if count else []
