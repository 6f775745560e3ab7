"""What stands beside the ratings and changes no model: a second rater's, and subgroups."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gwsmm.items.ordinal import encode
from gwsmm.items.ratings import UNRATED, rating, score
from gwsmm.items.sheet import NO_NAME, Row, is_empty, show, show_cell
from gwsmm.items.source import as_name
from gwsmm.types import InputError

LONGEST = 80  # characters of a subgroup's name; what is longer may be a response


def second_labels(rows: Sequence[Row], columns: Sequence[str]) -> NDArray[np.int8]:
    """[n, L] of 0 and 1; a row of UNRATED where the second rater did not rate every label.

    Raises:
        InputError: a rating is not 0, 1, -1 or empty.
    """
    ratings = np.array([[rating(row, c) for c in columns] for row in rows], np.int8)
    ratings[(ratings == UNRATED).any(axis=1)] = UNRATED
    return ratings


def second_scores(rows: Sequence[Row], column: str, most: int) -> NDArray[np.int8]:
    """[n, K] cumulative binaries of scores from 0 to `most`; a row of UNRATED where there is none.

    Raises:
        InputError: a score is no whole number or above `most`.
    """
    scores = np.array([score(row, column) for row in rows], np.int64)
    if (above := np.flatnonzero(scores > most)).size:
        row = rows[int(above[0])]
        raise InputError(
            f"{row.where}, column {show([column])}: {show_cell(row.cells[column])} is above "
            f"{most}, the highest score that the first rater gave: correct it, or write -1"
        )
    steps = encode(scores, most).astype(np.int8)
    steps[scores == UNRATED] = UNRATED
    return steps


def subgroup(row: Row, column: str) -> str | None:
    """The name of the student's subgroup; None where the cell is empty.

    Raises:
        InputError: the cell is no short text or number.
    """
    cell = row.cells[column]
    if is_empty(cell):
        return None
    name = as_name(cell)
    if name is None or len(name) > LONGEST or NO_NAME.search(name):
        raise InputError(
            f"{row.where}, column {show([column])}: {show_cell(cell)} names no subgroup: write at "
            f"most {LONGEST} plain characters, or nothing where it is unknown"
        )
    return name
