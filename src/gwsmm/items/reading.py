"""Reads CSV, TSV, JSON-lines and parquet files; whatever is wrong with one ends in one line."""

import io
import json
from pathlib import Path
from typing import Any

from gwsmm.items.delimited import delimited
from gwsmm.items.files import DELIMITERS, ENDINGS, JSON_LINES, LARGEST, decode, read_bytes
from gwsmm.items.sheet import Cell, Row, Sheet, check_header
from gwsmm.types import InputError

MOST_CELLS = 10**8  # of a parquet file, in which one byte may stand for a million equal ones


def read(path: Path, *, delimiter: str | None = None, quoting: bool = True) -> Sheet:
    """The table in this file.

    Args:
        path: a file with one of `ENDINGS`.
        delimiter: of a CSV or TSV file; None for a comma or a tab by the file's ending.
        quoting: whether a field of a CSV or TSV file may stand in double quotes.

    Raises:
        InputError: the file cannot be read as a table with a header and at least one row.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"{path} is no table: the name must end in one of {', '.join(ENDINGS)}")
    data = read_bytes(path)
    if ending == ".parquet":
        columns, rows = _parquet(path, data)
    elif ending in JSON_LINES:
        columns, rows = _json_lines(path, decode(path, data))
    else:
        separator = delimiter or DELIMITERS[ending]
        columns, rows = delimited(path, decode(path, data), delimiter=separator, quoting=quoting)
    if not rows:
        raise InputError(f"{path} has a header and no rows: add responses, or remove the file")
    return Sheet(path, columns, tuple(rows))


def _json_lines(path: Path, text: str) -> tuple[tuple[str, ...], list[Row]]:
    objects = {
        line: _json_object(path, line, content)
        for line, content in enumerate(io.StringIO(text), start=1)
        if content.strip()
    }
    columns = tuple(dict.fromkeys(name for cells in objects.values() for name in cells))
    check_header(str(path), columns)
    # A key that an object lacks is an empty cell: items differ in their labels.
    empty: dict[str, Cell] = dict.fromkeys(columns)
    return columns, [Row(f"{path} line", line, empty | cells) for line, cells in objects.items()]


def _json_object(path: Path, line: int, content: str) -> dict[str, Cell]:
    remedy = "write one JSON object per line"
    try:
        found = json.loads(content, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} line {line} is not JSON at character {error.pos + 1} ({error.msg}): {remedy}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} line {line} repeats a name, nests too deeply or holds a huge number: {remedy}"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{path} line {line} is of type {type(found).__name__}: {remedy}")
    return found


def _distinct(pairs: list[tuple[str, Cell]]) -> dict[str, Cell]:
    cells = dict(pairs)
    if len(cells) < len(pairs):
        raise ValueError("repeated name")
    return cells


def _check_unpacked(path: Path, about: Any) -> None:
    """Refuse a little file that says much; the reader checks that it says no more than this."""
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    cells = about.num_rows * about.num_columns
    if unpacked > LARGEST or cells > MOST_CELLS or any(g.num_rows < 0 for g in groups):
        raise InputError(
            f"{path} unpacks to {unpacked / 1e9:.1f} GB and {cells} cells; at most "
            f"{LARGEST / 1e9:.0f} GB and {MOST_CELLS} are read: divide it into several files"
        )


def _parquet(path: Path, data: bytes) -> tuple[tuple[str, ...], list[Row]]:
    import pyarrow as pa  # half a second that CSV users can spare
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_unpacked(path, file.metadata)
        table = file.read()
        values = [column.to_pylist() for column in table.columns]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is no parquet file or is damaged: write it again") from error
    # pandas keeps the index of its rows in such columns.
    kept = [i for i, name in enumerate(table.column_names) if not name.startswith("__index_level")]
    columns = tuple(table.column_names[i] for i in kept)
    check_header(str(path), columns)
    rows = zip(*(values[i] for i in kept), strict=True)
    return columns, [
        Row(f"{path} row", number, dict(zip(columns, cells, strict=True)))
        for number, cells in enumerate(rows, start=1)
    ]
