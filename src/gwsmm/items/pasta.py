"""The layout of the paper's authors: one pair of CSV files per item."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gwsmm.disk import locate
from gwsmm.items.files import decode, looking, read_bytes
from gwsmm.items.ratings import dropped, responses
from gwsmm.items.reading import read
from gwsmm.items.sheet import Sheet, show
from gwsmm.items.split import Split, assemble, check_names
from gwsmm.types import STRICT, InputError, Item, Label

TRAIN, TEST = "_train.csv", "_test.csv"
DESCRIPTIONS = "items.json"


class Described(BaseModel):
    """What `items.json` may say of an item."""

    item: str
    question: str = ""
    labels: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pasta:
    """A folder of `<item>_train.csv` and `<item>_test.csv`, items in alphabetical order.

    The first column is the response, every other one a 0/1 label, but for `Group`, which is left
    out, as are the rows that hold a -1 (arXiv 2503.09774, the authors' repository). A file
    `items.json` beside them, a list of {item, question, labels: {name: description}}, is read too.

    Attributes:
        path: the folder.
        limit: read at most this many training responses per item, from the top; None for all.
    """

    path: str
    limit: Annotated[int, Field(gt=0)] | None

    def __call__(self, split: Split) -> tuple[Item, ...]:
        """The items, their training responses divided for validation."""
        folder = locate(self.path)
        with looking(folder):
            names = _names(folder)
        about = _descriptions(folder / DESCRIPTIONS)
        return tuple(
            self._item(folder, name, about.get(name, Described(item=name)), split) for name in names
        )

    def _item(self, folder: Path, name: str, about: Described, split: Split) -> Item:
        train, test = read(folder / f"{name}{TRAIN}"), read(folder / f"{name}{TEST}")
        labels = _labels(train)
        _check_same_labels(train, test, labels)
        learned, _ = responses(train.rows, train.columns[0], labels)
        tested, _ = responses(test.rows, test.columns[0], labels)
        return assemble(
            name,
            [Label(label, about.labels.get(label, "")) for label in labels],
            "multilabel",
            train=learned.rows(range(len(learned))[: self.limit]),
            test=tested,
            validation=None,
            split=split,
            prompt=about.question,
            notes=[
                *dropped(len(train.rows) - len(learned), "training"),
                *dropped(len(test.rows) - len(tested), "test"),
            ],
        )


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder (relative paths start at {Path.cwd()}): "
            f"set items.path to the folder of the <item>{TRAIN} and <item>{TEST} files"
        )
    files = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
    parts = {
        ending: {name.removesuffix(ending) for name in files if name.endswith(ending)}
        for ending in (TRAIN, TEST)
    }
    if not parts[TRAIN] | parts[TEST]:
        raise InputError(
            f"{folder} holds no <item>{TRAIN} and <item>{TEST}: "
            "set items.path to the folder that does, or read other tables with items=table"
        )
    for ending, other in ((TRAIN, TEST), (TEST, TRAIN)):
        for name in sorted(parts[other] - parts[ending]):
            raise InputError(f"{folder / (name + other)} lacks its partner: add {name}{ending}")
    names = sorted(parts[TRAIN], key=lambda name: (name.casefold(), name))
    check_names(names)
    return names


def _labels(sheet: Sheet) -> list[str]:
    """Every column but the first and `Group`."""
    text, *others = sheet.columns
    labels = [column for column in others if column.lower() != "group"]
    if not labels:
        raise InputError(
            f"{sheet.path} has no label column beside {show([text])}: add columns of 0 and 1"
        )
    if all(str(row.cells[text]).strip() in {"0", "1", "-1"} for row in sheet.rows):
        raise InputError(
            f"{sheet.path}: the first column {show([text])} holds ratings, and the response must "
            f"stand first: move it there (the columns are {show(sheet.columns)})"
        )
    return labels


def _check_same_labels(train: Sheet, test: Sheet, labels: list[str]) -> None:
    tested = _labels(test)
    if set(labels) != set(tested):
        raise InputError(
            f"{test.path} and {train.path.name} differ in their labels "
            f"({show(sorted(set(labels) ^ set(tested)))}): give both the same columns"
        )


def _descriptions(path: Path) -> dict[str, Described]:
    if not path.exists():
        return {}
    try:
        found = TypeAdapter(list[Described]).validate_json(decode(path, read_bytes(path)))
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part!r}]" for part in first["loc"])
        raise InputError(
            f"{path}{place}: {first['msg']}: write a list of "
            '{"item", "question", "labels": {name: description}}, or remove the file'
        ) from error
    return {about.item: about for about in found}
