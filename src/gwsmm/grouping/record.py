"""Plans and similarity matrices that somebody wrote down: people, or a language model."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from gwsmm.disk import locate
from gwsmm.grouping.linkage import Linkage, check_encoders, cut
from gwsmm.plain import read_yaml
from gwsmm.types import InputError, Plan, partition

_SHIPPED = Path(__file__).parent / "records"


class Origin(BaseModel):
    """Where a language model's answer came from.

    Attributes:
        model: that was asked for.
        stated: model that the answer says it is of, e.g. the snapshot that an alias stands for;
            None: it does not say.
        date: of the answer.
        prompt: the question, whole.
        sha256: of the answer.
        answer: its raw text; None: it was not kept, and nothing can be compared with it.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    stated: str | None = None
    date: str
    prompt: str
    sha256: str
    answer: str | None = None


class Record(BaseModel):
    """A written plan or similarity matrix; the `plan.json` of a run is one.

    Attributes:
        source: who wrote it, when, and for a language model which one.
        groups: names of the items that share an encoder.
        items: names of the rows of `similarity`.
        similarity: [N, N] in [0, 1], symmetric, one on the diagonal.
        origin: of a language model's answer.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    source: str
    groups: list[list[str]] | None = None
    items: list[str] | None = None
    similarity: list[list[float]] | None = None
    origin: Origin | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "Record":
        if (self.groups is None) == (self.similarity is None):
            raise ValueError("give either `groups`, or `items` with `similarity`")
        if self.similarity is not None:
            matrix, n = self.similarity, len(self.items or [])
            if n == 0 or len(matrix) != n or any(len(row) != n for row in matrix):
                raise ValueError(
                    f"`similarity` must have a row and a column for each of {n} `items`"
                )
            _check_matrix(np.array(matrix))
        return self

    @model_validator(mode="after")
    def _as_answered(self) -> "Record":
        if self.origin is None or self.origin.answer is None:
            return self
        raw = self.origin.answer
        own = self.model_dump(include={"groups", "items", "similarity"}, exclude_none=True)
        if sha256(raw.encode()).hexdigest() != self.origin.sha256 or json.loads(raw) != own:
            raise ValueError(
                "it is not what the language model answered by `origin`: it was altered since; "
                "give it as it was recorded, or remove it and ask again"
            )
        return self


def _check_matrix(matrix: NDArray[np.float64]) -> None:
    if not ((matrix >= 0) & (matrix <= 1)).all():
        raise ValueError("`similarity` must lie between 0 and 1")
    if not np.array_equal(matrix, matrix.T):
        raise ValueError("`similarity` must be symmetric")
    if not (np.diagonal(matrix) == 1).all():
        raise ValueError("`similarity` must be 1 on the diagonal")


def read_record(record: str) -> Record:
    """The record of this name or path.

    Args:
        record: the name of a record that the package ships, or the path of a JSON, YAML or CSV
            file.

    Raises:
        InputError: there is no such file, or it is no record.
    """
    shipped = {path.stem: path for path in sorted(_SHIPPED.glob("*.json"))}
    path = shipped.get(record) or locate(record, "grouping.record")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return record_of(_READERS.get(path.suffix.lower(), read_yaml)(text))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(
            f"grouping.record={record}: there is no such file; give the path of a plan, or one of: "
            + ", ".join(shipped)
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8"
        ) from None
    except (json.JSONDecodeError, yaml.YAMLError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: this is no JSON, YAML or CSV: {reason}") from None
    except RecursionError:
        raise InputError(f"{path}: it is nested too deeply to be a plan") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def record_of(content: object) -> Record:
    """A record of what was read or answered.

    Raises:
        ValueError: it is none; says where and why.
    """
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def named(content: object, fields: Sequence[str]) -> dict[str, object]:
    """An object of exactly these fields.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(content, dict) or set(content) != set(fields):
        raise ValueError(f"it is no JSON object of {' and '.join(fields)}")
    return content


def _from_csv(text: str) -> dict[str, object]:
    """What a table says: an item and its group in each row, or a matrix with names on two sides."""
    rows = [row for row in csv.reader(text.splitlines(), strict=True) if any(row)]
    source = {"source": "a table"}
    if not rows:
        raise csv.Error("there are no rows")
    if [cell.strip().lower() for cell in rows[0]] == ["item", "group"]:
        groups: dict[str, list[str]] = {}
        for number, row in enumerate(rows[1:], 2):
            if len(row) != 2:
                raise csv.Error(f"row {number} has {len(row)} cells and not an item and its group")
            if not row[1].strip():
                raise csv.Error(f"row {number}, item {row[0].strip()}, names no group: write one")
            groups.setdefault(row[1].strip(), []).append(row[0].strip())
        return source | {"groups": list(groups.values())}
    names = [cell.strip() for cell in rows[0][1:]]
    if [row[0].strip() for row in rows[1:]] != names:
        raise csv.Error(
            "the names in the first column are not those in the first row, in the same order; a "
            "plan has the two columns item and group"
        )
    return source | {"items": names, "similarity": [_numbers(row[1:]) for row in rows[1:]]}


def _numbers(cells: Sequence[str]) -> list[float | str]:
    """The cells as numbers; what is none stays a text, which the record refuses with its place."""
    found: list[float | str] = []
    for cell in cells:
        try:
            found.append(float(cell))
        except ValueError:
            found.append(cell)
    return found


_READERS: Mapping[str, Callable[[str], object]] = {".json": json.loads, ".csv": _from_csv}


def plan_of(record: Record, rule: Linkage, names: Sequence[str]) -> Plan:
    """The plan that a record gives for these items.

    Raises:
        InputError: it is not about exactly these items, or not a partition.
    """
    if record.similarity is None:
        return partition(record.groups or [], names, record.source)
    rows = record.items or []
    # A matrix must name every item once, which is what a partition into single items does.
    partition([[name] for name in rows], names, record.source)
    check_encoders(rule.encoders, len(names))
    order = [rows.index(name) for name in names]
    similarity = np.array(record.similarity)[np.ix_(order, order)]
    return cut(1 - similarity, names, rule, record.source)
