"""The best scores that fit into a budget."""

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.objective.objective import Direction, Goal, Measured
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MicroF1AtBudget:
    """Micro F1 on validation responses; a run over the budget is infeasible, whatever it scores.

    Attributes:
        budget: share of the individual models' bytes that the merged models may take.
    """

    directions: ClassVar[Mapping[str, Direction]] = {"micro F1": "maximize"}

    budget: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def __call__(self, measure: Callable[[], Measured]) -> Goal | None:
        """Measure; see `Objective`."""
        found = measure()
        return Goal((found.micro_f1,), {"budget": found.share - self.budget})
