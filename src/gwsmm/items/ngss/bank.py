"""What can be said about an item, read from `banks/`: sentence templates by rubric element."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from gwsmm.items.ngss.grammar import Template, compile_template

CONDITION = re.compile(r"\[([^]]+)\] ")


@dataclass(frozen=True)
class Line:
    """One template, used only where these labels (by name) have these values."""

    template: Template
    needs: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Idea:
    """A rubric element and how students say it (`yes`), deny it (`wrong`) or nearly say it."""

    name: str
    description: str
    positives: int
    claim: bool
    yes: tuple[Line, ...]
    wrong: tuple[Line, ...]
    partial: tuple[Line, ...]


@dataclass(frozen=True)
class Bank:
    """All that is known about one item.

    Attributes:
        train: number of training responses, validation included.
        test: number of test responses; each idea's `positives` are of these.
        talk: mean number of sentences that no rubric element asks for.
        miss: share of absent elements of which the student says something wrong or partial.
        contrast: share of statements that also turn down the opposite idea.
        context: sentences that restate the situation and earn nothing.
    """

    name: str
    title: str
    prompt: str
    train: int
    test: int
    talk: float
    miss: float
    contrast: float
    context: tuple[Line, ...]
    ideas: tuple[Idea, ...]


@dataclass(frozen=True)
class Common:
    """What is said with every item, and how words are misspelled."""

    contrast: tuple[Line, ...]
    open: tuple[Line, ...]
    close: tuple[Line, ...]
    aside: tuple[Line, ...]
    blank: tuple[Line, ...]
    spelling: Mapping[str, Sequence[str]]


@cache
def load_bank(name: str, family: str) -> Bank:
    """The bank of one item, with the lines that its family shares put in place of `@name`."""
    raw = _read(f"items/{name}")
    shared = _read(f"families/{family}")
    words = shared["words"] | raw["words"]

    def lines(text: str) -> tuple[Line, ...]:
        rows = list[str]()
        for row in text.strip().splitlines():
            is_shared = row.startswith("@")
            rows += shared["lines"][row[1:]].strip().splitlines() if is_shared else [row]
        return tuple(_line(row, words) for row in rows)

    ideas = tuple(
        Idea(
            name=label["name"],
            description=f"{label['description']} ({label['dimension']})",
            positives=label["positives"],
            claim=label.get("claim", False),
            yes=lines(label["yes"]),
            wrong=lines(label["wrong"]),
            partial=lines(label["partial"]),
        )
        for label in raw["labels"]
    )
    numbers = {key: raw[key] for key in ("train", "test", "talk", "miss", "contrast")}
    return Bank(
        name=name,
        title=raw["title"],
        prompt=raw["prompt"].strip(),
        context=lines(raw["context"]),
        ideas=ideas,
        **numbers,
    )


@cache
def load_common() -> Common:
    """What is said with every item."""
    raw = _read("common")
    spelling = {word: variants.split() for word, variants in raw.pop("spelling").items()}
    groups = {
        name: tuple(_line(row, {}) for row in text.strip().splitlines())
        for name, text in raw.items()
    }
    return Common(spelling=spelling, **groups)


def _read(name: str) -> dict[str, Any]:
    path = files("gwsmm.items.ngss") / "banks" / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _line(row: str, words: Mapping[str, str]) -> Line:
    """A line, with its condition if it begins with one, such as `[E2=0 E4=1]`."""
    condition = CONDITION.match(row)
    if not condition:
        return Line(compile_template(row, words))
    pairs = [pair.split("=") for pair in condition[1].split()]
    needs = tuple((name, int(value)) for name, value in pairs)
    return Line(compile_template(row[condition.end() :], words), needs)
