"""No objective."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.objective.objective import Direction, Goal, Measured
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Off:
    """Nothing is measured: no sweeper asks."""

    directions: ClassVar[Mapping[str, Direction]] = {}

    def __call__(self, measure: Callable[[], Measured]) -> Goal | None:
        """Do nothing; see `Objective`."""
        return None
