"""What an objective makes of a finished run, and what it is told of it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Measured:
    """What a run comes to, without a look at a test response.

    Attributes:
        micro_f1: of the merged models on the validation responses, mean over the items weighted by
            these.
        bytes: of the files that the merged models need.
        share: of the bytes that the individual models need.
    """

    micro_f1: float
    bytes: int
    share: float


@dataclass(frozen=True)
class Goal:
    """What a sweeper is told.

    Attributes:
        values: one for each direction.
        constraints: by name; what is above 0 is broken, and then the values do not count.
    """

    values: tuple[float, ...]
    constraints: dict[str, float] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Whether no constraint is broken."""
        return all(value <= 0 for value in self.constraints.values())

    def told(self) -> dict[str, object]:
        """As JSON."""
        return {"values": list(self.values), "constraints": self.constraints}


class Objective(Protocol):
    """What a run returns to the sweeper that asked for it."""

    directions: ClassVar[Mapping[str, Direction]]

    def __call__(self, measure: Callable[[], Measured]) -> Goal | None:
        """What the run comes to; None: nobody asked.

        Args:
            measure: scores the validation responses, which takes a while.
        """


def returned(goal: Goal, directions: Mapping[str, Direction]) -> float | tuple[float, ...]:
    """The goal for a sweeper that knows no constraints: the worst value where one is broken."""
    worst = [-math.inf if each == "maximize" else math.inf for each in directions.values()]
    values = goal.values if goal.feasible else tuple(worst)
    return values if len(values) > 1 else values[0]
