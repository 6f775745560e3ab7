"""Pairs of items."""

from collections.abc import Sequence

from pydantic.dataclasses import dataclass

from gwsmm.grouping.candidates import Candidates
from gwsmm.types import STRICT, Distances, Item, Plan, partition


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pairs:
    """The perfect matching of least total distance: every item shares its encoder with one other.

    Of an odd number of items one is left alone, the one without which the rest is nearest. O(N³),
    by networkx. Half the storage, and no group in which an item is drowned.

    Source: Edmonds (1965), the blossom algorithm, as of Galil (1986).
    """

    def check(self, items: Sequence[Item]) -> None:
        """Nothing can fail; see `Grouping`."""

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """Match the items."""
        return self.of(distances)

    def of(self, distances: Distances) -> Plan:
        """The plan, of the distances alone."""
        import networkx as nx

        n = len(distances.names)
        graph = nx.Graph()
        graph.add_weighted_edges_from(
            (i, j, float(distances.values[i, j])) for i in range(n) for j in range(i)
        )
        if n % 2:  # whoever is matched with nobody stays alone, at no cost
            graph.add_weighted_edges_from((i, n, 0.0) for i in range(n))
        matched = nx.min_weight_matching(graph)
        groups = [[distances.names[i] for i in pair if i < n] for pair in matched]
        return partition(groups, distances.names, f"nearest pairs by {distances.quantity}")
