"""From a table of responses to a table of scores."""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gwsmm.artefact import MANIFEST
from gwsmm.bundle.manifest import Bundled, meant
from gwsmm.bundle.reading import Bundle, Scored
from gwsmm.disk import locate
from gwsmm.items.ordinal import decode
from gwsmm.items.ratings import text_column
from gwsmm.items.reading import read
from gwsmm.items.sheet import Cell, Row, Sheet, show
from gwsmm.items.source import name_of
from gwsmm.spreadsheet import plain
from gwsmm.types import InputError

ENDINGS = (".csv", ".parquet")
SCORE = "score"
_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair, which JSON alone can hold
TOKENS = 32  # of a batch, for each of its responses: of longer ones fewer are taken at a time


@dataclass(frozen=True)
class Columns:
    """Where the table has what is needed.

    Attributes:
        item: column of the item's name.
        text: column of the response.
    """

    item: str
    text: str


@dataclass(frozen=True)
class Asked:
    """The rows of a table that a bundle can score.

    Attributes:
        sheet: the table.
        names: the item of each row.
        texts: the response of each row.
    """

    sheet: Sheet
    names: tuple[str, ...]
    texts: tuple[str, ...]


def read_table(
    path: Path,
    columns: Columns,
    items: Sequence[str],
    *,
    delimiter: str | None = None,
    quoting: bool = True,
) -> Asked:
    """The rows, every one of them for one of these items; for the rest see `read`.

    Raises:
        InputError: the table cannot be read, lacks a column, has a row without a text, or one for
            an item that there is not, or a cell that cannot be written again.
    """
    sheet = read(locate(str(path)), delimiter=delimiter, quoting=quoting)
    sheet.check_column(columns.item, "--item")
    sheet.check_column(columns.text, "--text")
    names = tuple(_known(row, columns.item, items) for row in sheet.rows)
    _check_kept(sheet.rows)
    return Asked(sheet, names, text_column(sheet.rows, columns.text))


def _known(row: Row, column: str, items: Sequence[str]) -> str:
    name = name_of(row, column)
    if name in items:
        return name
    raise InputError(
        f"{row.where}, column {show([column])}: the bundle has no item {show([name])}; "
        f"{meant(name, items)}"
    )


def _check_kept(rows: Iterable[Row]) -> None:
    for row in rows:
        for column, cell in row.cells.items():
            if isinstance(cell, str) and _HALF.search(cell):
                raise InputError(
                    f"{row.where}, column {show([column])} holds half of a surrogate pair: write "
                    "the text again as UTF-8"
                )


def score_table(
    bundle: Bundle,
    asked: Asked,
    columns: Columns,
    *,
    probabilities: bool,
    batch: int,
    tick: Callable[[float], None] = lambda fraction: None,
) -> dict[str, list[Cell]]:
    """Columns with one cell for each row of the table, in its order.

    First those of the table but for the response and for columns that have the name of a new one;
    then one of 0 and 1 for every label of a multi-label item, `score` if any item is ordinal, and
    if asked for `LABEL probability` of every label. A cell is None where its row's item has no such
    label.

    Args:
        bundle: that scores.
        asked: by `read_table`.
        columns: where the table has items and texts.
        probabilities: whether they have columns too.
        batch: most responses in a batch.
        tick: takes the fraction of the work that is done.

    Raises:
        InputError: a file of the bundle is damaged, or a label has the name of the item's column.
    """
    new = dict[str, list[Cell]]()
    for name in new_columns(bundle.manifest.items, probabilities):
        new[name] = [None] * len(asked.texts)
    if columns.item in new:
        raise InputError(
            f"{asked.sheet.path}: the column {columns.item!r} of the items has the name of a label "
            f"of {bundle.folder / MANIFEST}: name it otherwise, and give that name by --item"
        )
    found = bundle.score(asked.names, asked.texts, batch=batch, tokens=TOKENS * batch, tick=tick)
    for name, scored in found.items():
        item = bundle.items[name]
        for column, values in _cells(item, scored, probabilities):
            cells = new[column]
            for row, value in zip(scored.rows.tolist(), values, strict=True):
                cells[row] = value
    kept = [each for each in asked.sheet.columns if each != columns.text and each not in new]
    return {each: [row.cells[each] for row in asked.sheet.rows] for each in kept} | new


def new_columns(items: Sequence[Bundled], probabilities: bool) -> list[str]:
    """The names of the columns that scoring adds, the same for every table."""
    labels = [label.name for item in items if item.kind == "multilabel" for label in item.labels]
    score = [SCORE] if any(item.kind == "ordinal" for item in items) else []
    every = [f"{label.name} probability" for item in items for label in item.labels]
    return list(dict.fromkeys([*labels, *score, *(every if probabilities else [])]))


def _cells(item: Bundled, scored: Scored, shown: bool) -> Iterator[tuple[str, list[Cell]]]:
    if item.kind == "ordinal":
        yield SCORE, decode(scored.decisions).tolist()
    else:
        for label, column in zip(item.labels, scored.decisions.T, strict=True):
            yield label.name, column.tolist()
    if shown:
        for label, column in zip(item.labels, scored.probabilities.T, strict=True):
            yield f"{label.name} probability", list(column)


def check_out(out: Path, table: Path) -> None:
    """Refuse, before any work, a file that scores cannot be written to.

    Raises:
        InputError: its name says no known format, its folder is not there, or it is the table.
    """
    if out.suffix.lower() not in ENDINGS:
        raise InputError(f"--out {out}: the name must end in one of {', '.join(ENDINGS)}")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir() or (out.exists() and table.exists() and out.samefile(table)):
        raise InputError(f"--out {out}: this is the table itself, or a folder: give another name")


def to_csv(columns: dict[str, list[Cell]]) -> str:
    """The columns as CSV, for spreadsheets too.

    Probabilities have the digits that give the same number again; a text that a spreadsheet would
    take for a formula stands behind an apostrophe.
    """
    rows = zip(*(map(_written, cells) for cells in columns.values()), strict=True)
    return "".join(f"{_line(row)}\n" for row in (map(plain, columns), *rows))


def _line(cells: Iterable[Cell]) -> str:
    text = io.StringIO(newline="")
    # Only what stands in the line's end is quoted, and a reader ends a line at either.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n")


def _written(cell: Cell) -> Cell:
    return f"{cell:.9g}" if isinstance(cell, np.float32) else plain(cell)


def write_table(out: Path, columns: dict[str, list[Cell]]) -> None:
    """Write CSV or parquet, by the file's ending; what stood there is replaced as a whole."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        if out.suffix.lower() == ".parquet":
            _write_parquet(part, columns)
        else:
            part.write_text(to_csv(columns), encoding="utf-8", newline="")
        part.replace(out)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)


def _write_parquet(path: Path, columns: dict[str, list[Cell]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def writable(kind: pa.DataType) -> bool:
        within = [kind.field(i).type for i in range(kind.num_fields)]
        return all(map(writable, within)) and bool(within or not pa.types.is_struct(kind))

    def array(cells: list[Cell]) -> object:
        # JSON lines may mix types in a column, and hold in a list what no text can
        with suppress(pa.ArrowException, OverflowError, UnicodeEncodeError):
            found = pa.array(cells)
            if writable(found.type):  # parquet has no objects without a field
                return found
        return pa.array([None if cell is None else str(cell) for cell in cells])

    pq.write_table(pa.table({name: array(cells) for name, cells in columns.items()}), path)
