"""A plan or similarity matrix that people wrote, or that a language model answered."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.linkage import Linkage, Method
from gwsmm.grouping.record import plan_of, read_record
from gwsmm.types import STRICT, Distances, Plan


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recorded:
    """The grouping by what somebody thinks of the items, e.g. that two ask for the same practice.

    Attributes:
        record: path of a JSON or YAML record, or the name of a shipped one; see `Record`.
        method: linkage by which a similarity matrix is clustered; a written plan needs none.
        encoders: groups that remain of a similarity matrix.

    Source: the paper fills in a matrix and clusters it as it clusters the GW distances.
    """

    record: str
    method: Method
    encoders: Annotated[int, Field(ge=1)]

    def check(self, names: Sequence[str]) -> None:
        """Read the record and refuse one that is not about these items; see `Grouping`."""
        plan_of(read_record(self.record), self._rule(), names)

    def __call__(self, distances: Distances) -> Plan:
        """The recorded plan; the distances are not looked at."""
        return plan_of(read_record(self.record), self._rule(), distances.names)

    def _rule(self) -> Linkage:
        return Linkage(method=self.method, encoders=self.encoders, threshold=None)
