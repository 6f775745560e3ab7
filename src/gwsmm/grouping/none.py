"""Every item keeps its own encoder."""

from collections.abc import Sequence

from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT, Distances, Plan, partition


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Alone:
    """No item shares an encoder: the individual models, N times the storage."""

    def check(self, names: Sequence[str]) -> None:
        """Nothing can fail; see `Grouping`."""

    def __call__(self, distances: Distances) -> Plan:
        """One group per item."""
        return partition([[name] for name in distances.names], distances.names, "none")
