"""All items share one encoder."""

from collections.abc import Sequence

from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT, Distances, Plan, partition


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Together:
    """One group of all items: the least storage there is."""

    def check(self, names: Sequence[str]) -> None:
        """Nothing can fail; see `Grouping`."""

    def __call__(self, distances: Distances) -> Plan:
        """One group."""
        return partition([distances.names], distances.names, "all")
