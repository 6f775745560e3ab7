"""A plan or similarity matrix that people wrote, or that a language model answered."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.candidates import Candidates
from gwsmm.grouping.linkage import Linkage, Method, into
from gwsmm.grouping.record import plan_of, read_record
from gwsmm.types import STRICT, Distances, Item, Plan


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recorded:
    """The grouping by what somebody thinks of the items, e.g. that two ask for the same practice.

    Attributes:
        record: path of a JSON, YAML or CSV record, or the name of a shipped one; see `Record`.
        method: linkage by which a similarity matrix is clustered; a written plan needs none.
        encoders: groups that remain of a similarity matrix.

    Source: the paper fills in a matrix and clusters it as it clusters the GW distances.
    """

    record: str
    method: Method
    encoders: Annotated[int, Field(ge=1)]

    def check(self, items: Sequence[Item]) -> None:
        """Read the record and refuse one that is not about these items; see `Grouping`."""
        plan_of(read_record(self.record), self._rule(), [item.name for item in items])

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """The recorded plan; the distances are not looked at."""
        return plan_of(read_record(self.record), self._rule(), distances.names)

    def _rule(self) -> Linkage:
        return into(self.encoders, self.method)
