"""Every item keeps its own encoder."""

from collections.abc import Sequence

from pydantic.dataclasses import dataclass

from gwsmm.grouping.candidates import Candidates
from gwsmm.types import STRICT, Distances, Item, Plan, partition


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Alone:
    """No item shares an encoder: the individual models, N times the storage."""

    def check(self, items: Sequence[Item]) -> None:
        """Nothing can fail; see `Grouping`."""

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """One group per item."""
        return partition([[name] for name in distances.names], distances.names, "none")
