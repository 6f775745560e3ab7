"""What a split is, and how an item is put together from the parts that its source has."""

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field

from gwsmm.types import InputError, Item, Label, Responses

log = logging.getLogger(__name__)

Share = Annotated[float, Field(gt=0, lt=1)]

FEWEST = 10  # training responses; below this no model can be fitted, let alone validated
NAME = re.compile(r"\w[\w .-]{0,79}")
LONGEST = 200  # bytes; file systems take 255, with the ending
RESERVED = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)( *\..*)?")  # by Windows, in every folder


class Split(Protocol):
    """A rule that parts responses in two."""

    @property
    def validation(self) -> float:
        """Share of the training responses that validate, where the source has no such split."""

    @property
    def test(self) -> float:
        """Share of all responses that test, where the source has no such split."""

    def divide(self, responses: Responses, fraction: float) -> tuple[Responses, Responses]:
        """(rest, part): every response once; the part holds about this fraction of them."""


class _NoPunctuation(dict[int, str | None]):
    """Translation table without punctuation, filled as characters are met."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        self[code] = None if unicodedata.category(character).startswith("P") else character
        return self[code]


_NO_PUNCTUATION = _NoPunctuation()


def fingerprint(text: str) -> str:
    """The text without case, punctuation and spacing: equal for what a teacher calls a copy."""
    plain = unicodedata.normalize("NFKC", text.casefold()).translate(_NO_PUNCTUATION)
    return " ".join(plain.split())


def assemble(  # noqa: PLR0913 - an item has this many parts; each is named at the call
    name: str,
    labels: Sequence[Label],
    kind: Literal["multilabel", "ordinal"],
    *,
    train: Responses,
    test: Responses | None,
    validation: Responses | None,
    split: Split,
    prompt: str = "",
    synthetic: bool = False,
    notes: Sequence[str] = (),
) -> Item:
    """The item, with the parts that its source lacks divided from its training responses.

    Raises:
        InputError: the name is no plain file name, or too few responses remain in a part.
    """
    check_name(name)
    try:
        if test is None:
            train, test = split.divide(train, split.test)
        if validation is None:
            train, validation = split.divide(train, split.validation)
    except InputError as error:
        raise InputError(f"item {name!r}: {error}") from error
    _check_sizes(name, train, validation, test)
    constant = list(_constant_labels(labels, train))
    for note in constant:
        log.warning("item %s: %s", name, note)
    found = [*constant, *_copies(train.texts + validation.texts, test.texts)]
    return Item(
        name=name,
        labels=tuple(labels),
        kind=kind,
        train=train,
        validation=validation,
        test=test,
        prompt=prompt,
        synthetic=synthetic,
        notes=(*notes, *found),
    )


def check_name(name: str) -> None:
    """Refuse a name that could not be, or could leave, a folder of its own."""
    if (
        not NAME.fullmatch(name)
        or ".." in name
        or name != name.rstrip(" .")
        or len(name.encode()) > LONGEST
        or RESERVED.fullmatch(name)
    ):
        raise InputError(
            f"item name {name[:80]!r} cannot be a file name: use letters, digits, '_', '-', '.' "
            "and spaces, at most 80, beginning with a letter, a digit or '_', and no device's name"
        )


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are no file names, or the same where file names have no case."""
    seen = dict[str, str]()
    for name in names:
        check_name(name)
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            raise InputError(f"two items are named {other!r} and {name!r}: rename one of them")


def _check_sizes(name: str, train: Responses, validation: Responses, test: Responses) -> None:
    if len(train) < FEWEST:
        raise InputError(
            f"item {name!r} has {len(train)} training responses and needs {FEWEST}: add rated "
            "responses, raise `limit`, lower split.test and split.validation, or leave the item out"
        )
    for part, responses in (("validation", validation), ("test", test)):
        if not len(responses):
            raise InputError(
                f"item {name!r} has no {part} responses: add rated responses, "
                f"raise split.{part}, or leave the item out"
            )


def _constant_labels(labels: Sequence[Label], train: Responses) -> Iterator[str]:
    low, high = train.labels.min(axis=0), train.labels.max(axis=0)
    constant = [i for i in range(len(labels)) if low[i] == high[i]]
    for i in constant:
        yield f"label {labels[i].name} is always {low[i]} in training"
    if len(constant) == len(labels):
        yield "every label is constant in training: no model can learn anything from this item"


def _copies(known: Sequence[str], test: Sequence[str]) -> Iterator[str]:
    seen = set(map(fingerprint, known))
    copies = sum(fingerprint(text) in seen for text in test)
    if copies:
        yield f"{copies} of {len(test)} test responses have the same text as one outside the test"
