"""What every distance is, and what some can do besides."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from gwsmm.types import Pair

Loaded_contra = TypeVar("Loaded_contra", contravariant=True)
Prepared = TypeVar("Prepared")


class Distance(Protocol[Loaded_contra, Prepared]):
    """A strategy that says how far apart two items are; symmetric in the two."""

    @property
    def compares(self) -> str:
        """What `prepare` is given.

        `clouds`: a `Cloud` of each item's own responses under its own encoder; `common`: a `Cloud`
        of the same responses, row by row, under each item's encoder; `weights`: a `TaskVector`;
        `labels`: an `Item` without its test split; a `CloudWithFeatures`, the cloud of `clouds`
        with features of the same responses in a space common to all items:
        `clouds_with_embedding`: their vectors under the pretrained encoder;
        `clouds_with_label_statistics`: how many of the item's labels they show;
        `clouds_with_label_names`: which labels they show, by name.
        """

    @property
    def title(self) -> str:
        """What the values are, under a name that no other quantity has."""

    def prepare(self, subject: Loaded_contra) -> Prepared:
        """What is needed of one item for all its pairs."""

    def __call__(self, a: Prepared, b: Prepared) -> Pair:
        """The distance between two prepared items."""


@runtime_checkable
class SolvesTogether(Protocol):
    """A distance that is faster when it is given several pairs at once."""

    @property
    def together(self) -> int:
        """How many pairs to give."""

    def solve(self, pairs: Sequence[tuple[object, object]]) -> list[Pair]:
        """The distance of each pair, the same as one by one."""


class Choice(Protocol):
    """Which pairs are solved, round by round."""

    def next(self, solved: Mapping[tuple[int, int], Pair]) -> list[tuple[int, int]]:
        """The pairs to solve now; none at the end."""

    def rest(self, solved: Mapping[tuple[int, int], Pair]) -> dict[tuple[int, int], Pair]:
        """What to say of the pairs that were not solved."""


@runtime_checkable
class Screens(Protocol):
    """A distance that does not solve every pair."""

    def screen(self, prepared: Iterable[object]) -> Choice:
        """The choice among all pairs of these items, which are loaded one after the other."""
