"""What makes probabilities and decisions of an item's logits, and what a decision strategy is."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import DECISION, Artefact
from gwsmm.items.ordinal import decode, encode

HALF = 0.5  # as published
Kind = Literal["multilabel", "ordinal"]


@dataclass(frozen=True)
class Rule:
    """How one model of an item gets from logits to what it says.

    Attributes:
        temperature: divides the logits that the reported probabilities are made of.
        thresholds: one per label, of the probabilities at temperature 1, so that a temperature can
            never change a decision, not even by rounding.
    """

    temperature: float
    thresholds: Sequence[float]

    def scaled(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [n, L] over the temperature."""
        return logits / np.float32(self.temperature)

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, L] of logits [n, L], at the temperature."""
        return sigmoid(self.scaled(logits))

    def decide(self, kind: Kind, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        """[n, L] decisions, for an ordinal item consistent steps of one score.

        Args:
            kind: of the item.
            probabilities: [n, L] at temperature 1.
        """
        decisions = (probabilities > np.asarray(self.thresholds, np.float64)).astype(np.uint8)
        if kind == "ordinal":
            decisions = encode(decode(decisions), decisions.shape[1])
        return decisions

    def write(self, folder: Path) -> None:
        """Keep the rule as `decision.json`."""
        (folder / DECISION).write_text(json.dumps(asdict(self)))


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of logits, the same whichever stage asks, so that a threshold fits exactly."""
    with np.errstate(over="ignore"):  # far below zero the probability is zero
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def half(labels: int) -> Rule:
    """The rule of an item with this many labels for which nothing was fitted."""
    return Rule(1.0, (HALF,) * labels)


def load_rule(made: Artefact) -> Rule:
    """The rule that `Deciding` wrote."""
    return Rule(**json.loads(made.file(DECISION).read_text()))


@dataclass(frozen=True, eq=False)
class Validated:
    """What a model says of an item's validation responses, and what the raters gave.

    Attributes:
        kind: of the item.
        logits: [n, L], n at least 1.
        labels: [n, L] of 0 and 1.
    """

    kind: Kind
    logits: NDArray[np.float32]
    labels: NDArray[np.uint8]


class Decision(Protocol):
    """A strategy that finds the rule of one model of one item."""

    @property
    def fitted(self) -> bool:
        """Whether it looks at validation responses; if not, the encoder does not read them."""

    def __call__(self, validated: Validated) -> Rule:
        """The rule, of validation responses alone."""
