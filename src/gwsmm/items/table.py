"""Any tables of responses: one file per item, or one column that names the item."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from gwsmm.items.beside import second_labels, second_scores, subgroup
from gwsmm.items.files import tables
from gwsmm.items.ordinal import steps
from gwsmm.items.ratings import dropped, rated_columns, responses, score, scored
from gwsmm.items.reading import read
from gwsmm.items.sheet import Row, show
from gwsmm.items.source import Part, Source, long, wide
from gwsmm.items.split import Split, assemble, check_names
from gwsmm.types import STRICT, InputError, Item, Label, Responses


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Table:
    """CSV, TSV, JSON-lines or parquet files with one response per row.

    Wide: one file per item, named for it. Long: the column `item` names the item, and a label
    column that is empty for an item does not belong to it.

    Attributes:
        path: a file, a folder, a pattern such as `data/*.csv`, or a list of these.
        text: column of the response.
        item: column of the item's name; None for the wide layout.
        labels: columns of 0 and 1; None for every column that no other field names.
        score: column of a whole score 0..K, instead of labels: the item is ordinal.
        second: column of a second rater's score, or one column for each of `labels` in their order;
            None for no second rater. Reported, never learned from.
        group: column of the student's subgroup, e.g. gender; None for none. Reported likewise.
        split: column of `train`, `validation` or `test`; a part that no row names is divided off.
        prompt: column of the question; the first that an item has is taken.
        delimiter: of CSV and TSV files; None for what the file's ending says.
        quoting: whether CSV and TSV fields may stand in double quotes.
        limit: read at most this many training responses per item, from the top and before others
            are divided off; None for all.
    """

    path: str | tuple[str, ...]
    text: str
    item: str | None
    labels: Annotated[tuple[str, ...], Field(min_length=1)] | None
    score: str | None
    second: str | tuple[str, ...] | None
    group: str | None
    split: str | None
    prompt: str | None
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] | None
    quoting: bool
    limit: Annotated[int, Field(gt=0)] | None

    @model_validator(mode="after")
    def _each_column_once(self) -> Self:
        if self.labels and self.score:
            raise ValueError("`labels` and `score` exclude each other: set one of them to null")
        rated = len(self.labels) if self.labels else int(self.score is not None)
        if self.second is not None and len(self._seconds()) != rated:
            raise ValueError(
                "`second` is one column for `score`, or one for each of `labels` in their order"
            )
        named = [column for _, column in self._named()]
        twice = {name for name in named if named.count(name) > 1}
        if twice:
            raise ValueError(f"column {min(twice)!r} is given twice: each column has one meaning")
        return self

    def _named(self) -> list[tuple[str, str]]:
        """(field, column) of every column that is named."""
        fields = {
            "text": (self.text,),
            "item": (self.item,),
            "labels": self.labels or (),
            "score": (self.score,),
            "second": self._seconds(),
            "group": (self.group,),
            "split": (self.split,),
            "prompt": (self.prompt,),
        }
        return [(field, column) for field in fields for column in fields[field] if column]

    def _seconds(self) -> tuple[str, ...]:
        return (self.second,) if isinstance(self.second, str) else self.second or ()

    def __call__(self, split: Split) -> tuple[Item, ...]:
        """The items in the order of the files, or of their first rows."""
        paths = [self.path] if isinstance(self.path, str) else self.path
        sheets = [
            read(file, delimiter=self.delimiter, quoting=self.quoting) for file in tables(paths)
        ]
        for sheet in sheets:
            for field, column in self._named():
                sheet.check_column(column, f"items.{field}")
        sources = long(sheets, self.item) if self.item else wide(sheets)
        check_names(source.name for source in sources)
        return tuple(self._item(source, split) for source in sources)

    def _item(self, source: Source, split: Split) -> Item:
        labels, notes = self._labels(source)
        parts = dict[Part, Responses]()
        for part, rows in source.parts(self.split).items():
            if self.score:
                rated, kept = scored(rows, self.text, self.score, len(labels))
            else:
                names = [label.name for label in labels]
                rated, kept = responses(rows, self.text, names)
            parts[part] = replace(
                rated, second=self._second(kept, labels), groups=self._groups(kept)
            )
            notes += dropped(len(rows) - len(kept), part)
        train = parts["training"]
        return assemble(
            source.name,
            labels,
            "ordinal" if self.score else "multilabel",
            train=train.rows(range(len(train))[: self.limit]),
            test=parts.get("test"),
            validation=parts.get("validation"),
            split=split,
            prompt=source.first(self.prompt),
            notes=notes,
        )

    def _second(self, rows: Sequence[Row], labels: Sequence[Label]) -> NDArray[np.int8] | None:
        """[n, L] as in `Responses`."""
        if not self.second:
            return None
        if self.score:
            return second_scores(rows, self._seconds()[0], len(labels))
        column = dict(zip(self.labels or (), self._seconds(), strict=True))
        return second_labels(rows, [column[label.name] for label in labels])

    def _groups(self, rows: Sequence[Row]) -> tuple[str | None, ...] | None:
        return tuple(subgroup(row, self.group) for row in rows) if self.group else None

    def _labels(self, source: Source) -> tuple[tuple[Label, ...], list[str]]:
        """The item's labels, and the notes on those that it lacks."""
        if self.score:
            # K belongs to the item and not to a split: a score seen in the test alone has its step.
            most = max(score(row, self.score) for row in source.rows)
            if most < 1:
                raise InputError(f"item {source.name!r} has no score above 0: leave the item out")
            return steps(most), []
        named = [column for _, column in self._named()]
        wanted = self.labels or [column for column in source.columns if column not in named]
        rated = rated_columns(source.rows, wanted)
        if not rated:
            raise InputError(
                f"item {source.name!r} has no rating in {show(wanted) or 'any other column'}: "
                "name its label columns in items.labels, or leave the item out"
            )
        absent = [label for label in wanted if label not in rated and not self.item]
        notes = [f"label {label} has no rating at all and was left out" for label in absent]
        return tuple(Label(label) for label in rated), notes
