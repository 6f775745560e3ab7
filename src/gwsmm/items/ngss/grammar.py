"""Sentence templates: `{a|b|}` picks one alternative, `$word` picks one from a named list."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

Template: TypeAlias = "tuple[str | tuple[Template, ...], ...]"
"""A row of literal texts and choices; a choice is the row of its alternatives."""

T = TypeVar("T")
TOKEN = re.compile(r"[{}|]|\$\w+|[^{}|$]+")
BLOCK = 4096  # uniform numbers drawn at once: a call of numpy for each would cost a microsecond


class Dice:
    """Uniform numbers one by one, the same on every platform for the same generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._left = list[float]()

    def roll(self) -> float:
        """The next number in [0, 1)."""
        if not self._left:
            self._left = self._generator.random(BLOCK).tolist()
        return self._left.pop()

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, each equally likely."""
        if not self._left:  # not by `roll`: most of the time is spent here
            self._left = self._generator.random(BLOCK).tolist()
        return options[int(self._left.pop() * len(options))]

    def shuffle(self, items: list[T]) -> None:
        """Bring the list into random order, in place."""
        for i in range(len(items) - 1, 0, -1):
            j = int(self.roll() * (i + 1))
            items[i], items[j] = items[j], items[i]


def compile_template(text: str, words: Mapping[str, str]) -> Template:
    """The template that this text describes; `words` holds the alternatives behind each `$word`.

    Raises:
        ValueError: a brace is open or stray, or a `$word` is unknown.
    """
    tokens = TOKEN.findall(text)
    alternatives, used = _alternatives(tokens, 0, words)
    if used != len(tokens) or len(alternatives) != 1:
        raise ValueError(f"Expected balanced braces around every '|', but got {text!r}")
    return alternatives[0]


def _alternatives(
    tokens: list[str], at: int, words: Mapping[str, str]
) -> tuple[tuple[Template, ...], int]:
    """The alternatives from here to the closing brace or the end, and where reading stopped."""
    rows: list[list[str | tuple[Template, ...]]] = [[]]
    while at < len(tokens) and tokens[at] != "}":
        token = tokens[at]
        at += 1
        if token == "|":
            rows.append([])
        elif token == "{":
            inner, at = _alternatives(tokens, at, words)
            if at == len(tokens):
                raise ValueError(f"Expected a closing brace, but got {''.join(tokens)!r}")
            rows[-1].append(inner)
            at += 1
        elif token[0] == "$":
            rows[-1].append(_named(token[1:], words))
        else:
            rows[-1].append(token)
    return tuple(tuple(row) for row in rows), at


def _named(name: str, words: Mapping[str, str]) -> tuple[Template, ...]:
    if name not in words:
        raise ValueError(f"Expected a word of {sorted(words)}, but got ${name}")
    return _alternatives(TOKEN.findall(words[name]), 0, words)[0]


def fill(template: Template, dice: Dice) -> str:
    """One of the texts that the template describes, with single spaces."""
    parts = list[str]()
    _fill(template, dice, parts)
    return " ".join("".join(parts).split()).replace(" ,", ",").replace(" .", ".")


def _fill(template: Template, dice: Dice, parts: list[str]) -> None:
    for part in template:
        if isinstance(part, str):
            parts.append(part)
        else:
            _fill(dice.pick(part), dice, parts)
