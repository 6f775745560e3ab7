"""What a grouping strategy is, and what it can find out by trying."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gwsmm.types import Distances, Item, Plan

Group = tuple[str, ...]
"""Names of items that would share an encoder, in the order of the item set."""

Signal = Literal["distance", "cka"]


class Candidates(Protocol):
    """Groups that could be merged; nothing is computed before it is asked for."""

    @property
    def items(self) -> Sequence[Item]:
        """All items, without their test responses."""

    def losses(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """What each group's items lose on their validation responses once they are merged.

        Binary cross-entropy, mean over responses and labels, of every item of the group with the
        merge, the private parts and the heads of the experiment; of a group of one, that of its
        own model.
        """

    def drifts(self, groups: Sequence[Group], signal: Signal) -> list[tuple[float, ...]]:
        """How far the cloud of each item moves when its group is merged; asks for no label.

        Between the item's responses under its own encoder and the same under the merged one, by
        the experiment's distance or by linear CKA; zero for a group of one.

        Raises:
            InputError: the experiment's distance does not compare clouds.
        """

    def cosines(self) -> NDArray[np.float64]:
        """[N, N]: 1 − cosine of the task vectors of every two items."""


@runtime_checkable
class Grouping(Protocol):
    """A strategy that decides which items share an encoder."""

    def check(self, items: Sequence[Item]) -> None:
        """Refuse, before any work, what can already be seen to fail for these items.

        Raises:
            InputError: e.g. more encoders than items, or a plan that names an unknown item.
        """

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """Partition the items, by their distances or by what candidates are found to do."""


@runtime_checkable
class Asks(Protocol):
    """A grouping that asks somebody outside in its `check`."""

    def open(self, items: Sequence[Item]) -> bool:
        """Whether it would ask now; what was answered once is not asked again."""
