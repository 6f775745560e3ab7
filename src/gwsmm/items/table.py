"""Any tables of responses: one file per item, or one column that names the item."""

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from gwsmm.items.files import tables
from gwsmm.items.ordinal import steps
from gwsmm.items.ratings import dropped, rated_columns, responses, score, scored
from gwsmm.items.reading import read
from gwsmm.items.sheet import Sheet, show
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
    split: str | None
    prompt: str | None
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] | None
    quoting: bool
    limit: Annotated[int, Field(gt=0)] | None

    @model_validator(mode="after")
    def _each_column_once(self) -> Self:
        if self.labels and self.score:
            raise ValueError("`labels` and `score` exclude each other: set one of them to null")
        named = [*self._mapped(), *(self.labels or ())]
        twice = {name for name in named if named.count(name) > 1}
        if twice:
            raise ValueError(f"column {min(twice)!r} is given twice: each column has one meaning")
        return self

    def _mapped(self) -> list[str]:
        columns = (self.text, self.item, self.score, self.split, self.prompt)
        return [column for column in columns if column]

    def __call__(self, split: Split) -> tuple[Item, ...]:
        """The items in the order of the files, or of their first rows."""
        paths = [self.path] if isinstance(self.path, str) else self.path
        sheets = [
            read(file, delimiter=self.delimiter, quoting=self.quoting) for file in tables(paths)
        ]
        for sheet in sheets:
            self._check_columns(sheet)
        sources = long(sheets, self.item) if self.item else wide(sheets)
        check_names(source.name for source in sources)
        return tuple(self._item(source, split) for source in sources)

    def _check_columns(self, sheet: Sheet) -> None:
        named = {
            "text": self.text,
            "item": self.item,
            "score": self.score,
            "split": self.split,
            "prompt": self.prompt,
        }
        for field, column in named.items():
            if column:
                sheet.check_column(column, f"items.{field}")
        for column in self.labels or ():
            sheet.check_column(column, "items.labels")

    def _item(self, source: Source, split: Split) -> Item:
        labels, notes = self._labels(source)
        parts = dict[Part, Responses]()
        for part, rows in source.parts(self.split).items():
            if self.score:
                parts[part], unrated = scored(rows, self.text, self.score, len(labels))
            else:
                names = [label.name for label in labels]
                parts[part], unrated = responses(rows, self.text, names)
            notes += dropped(unrated, part)
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

    def _labels(self, source: Source) -> tuple[tuple[Label, ...], list[str]]:
        """The item's labels, and the notes on those that it lacks."""
        if self.score:
            # K belongs to the item and not to a split: a score seen in the test alone has its step.
            most = max(score(row, self.score) for row in source.rows)
            if most < 1:
                raise InputError(f"item {source.name!r} has no score above 0: leave the item out")
            return steps(most), []
        mapped = self._mapped()
        wanted = self.labels or [column for column in source.columns if column not in mapped]
        rated = rated_columns(source.rows, wanted)
        if not rated:
            raise InputError(
                f"item {source.name!r} has no rating in {show(wanted) or 'any other column'}: "
                "name its label columns in items.labels, or leave the item out"
            )
        absent = [label for label in wanted if label not in rated and not self.item]
        notes = [f"label {label} has no rating at all and was left out" for label in absent]
        return tuple(Label(label) for label in rated), notes
