"""All items share one encoder."""

from collections.abc import Sequence

from pydantic.dataclasses import dataclass

from gwsmm.grouping.candidates import Candidates
from gwsmm.types import STRICT, Distances, Item, Plan, partition


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Together:
    """One group of all items: the least storage there is."""

    def check(self, items: Sequence[Item]) -> None:
        """Nothing can fail; see `Grouping`."""

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """One group."""
        return partition([distances.names], distances.names, "all")
