"""The plain mean of the members."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.merge.merging import PRETRAINED, mean_state
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Average:
    """θ = mean of θ_i. No data, no gradients, no base.

    Source: Wortsman et al. (2022), "Model soups".
    """

    base: ClassVar[str] = PRETRAINED

    def __call__(self, base: State, states: Sequence[State], sizes: Sequence[int]) -> State:
        """The mean of the members; see `Merge`."""
        return mean_state(states, [1.0] * len(states))
