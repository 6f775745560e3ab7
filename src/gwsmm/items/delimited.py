"""CSV and TSV: fields between delimiters, with the exact line of whatever is wrong."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from gwsmm.items.sheet import Row, check_header
from gwsmm.types import InputError

# csv's own limit of 128 KiB for one field would refuse long texts; this is the largest number that
# every platform takes.
csv.field_size_limit(2**31 - 1)

REMEDY = (
    "or, if quotes are plain characters, say so: items=table items.quoting=false, "
    "gwsmm score --no-quoting"
)


def delimited(
    path: Path, text: str, *, delimiter: str, quoting: bool
) -> tuple[tuple[str, ...], list[Row]]:
    """Column names and rows of a text whose first line is the header."""
    records = _records(path, text, delimiter, quoting)
    first, names = next(records)
    header = tuple(name.strip() for name in names)
    where = f"{path} line {first}"
    _check_delimiter(where, header, delimiter)
    check_header(where, header)
    rows = []
    for line, fields in records:
        if len(fields) != len(header):
            raise InputError(
                f"{path} line {line} has {len(fields)} fields and the header {len(header)}: put "
                f"texts that hold {delimiter!r} or a line break in double quotes, {REMEDY}"
            )
        rows.append(Row(f"{path} line", line, dict(zip(header, fields, strict=True))))
    return header, rows


def _records(
    path: Path, text: str, delimiter: str, quoting: bool
) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, fields) of every record; blank lines are passed over."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
    )
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            line += _open_quote(text, delimiter, line)
            raise InputError(
                f"{path} line {line}: a quote opens here and does not close before a "
                f"{delimiter!r} or the line's end: close it, double the quotes in a text, {REMEDY}"
            ) from error
        if fields:
            yield line, fields


def _open_quote(text: str, delimiter: str, first: int) -> int:
    """How many lines below line `first` the first badly closed quote opens.

    csv tells where the record begins and where it gave up, which may be a thousand lines apart.
    """
    record = "".join(list(io.StringIO(text, newline=""))[first - 1 :])
    edge = rf"{re.escape(delimiter)}\r\n"
    plain, quoted = rf'[^"{edge}][^{edge}]*+', rf'"(?:[^"]|"")*+"(?=[{edge}]|\Z)'
    well_formed = re.match(rf"(?:{plain}|{quoted}|[{edge}])*+", record)
    end = well_formed.end() if well_formed else 0
    return len(list(io.StringIO(record[: end + 1], newline=""))) - 1


def _check_delimiter(where: str, header: tuple[str, ...], delimiter: str) -> None:
    found = [other for other in ",;\t|" if len(header) == 1 and other in header[0]]
    if found:
        raise InputError(
            f"{where} is separated by {found[0]!r} and not by {delimiter!r}: save the file "
            f"with {delimiter!r}, or name it: items=table items.delimiter, gwsmm score --delimiter"
        )
