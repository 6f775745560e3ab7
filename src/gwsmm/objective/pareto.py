"""What is lost for every byte that is saved."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.objective.objective import Direction, Goal, Measured
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pareto:
    """Micro F1 on validation responses and bytes, neither of which outweighs the other."""

    directions: ClassVar[Mapping[str, Direction]] = {"micro F1": "maximize", "bytes": "minimize"}

    def __call__(self, measure: Callable[[], Measured]) -> Goal | None:
        """Measure; see `Objective`."""
        found = measure()
        return Goal((found.micro_f1, float(found.bytes)))
