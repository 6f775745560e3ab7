"""No information at all."""

from hashlib import sha256
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT, Item, Pair


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Random:
    """A number in (0, 1] that the seed and the two names fix, and nothing else.

    The first 64 bits of a hash of them: uniform, independent from pair to pair, symmetric, the
    same in every process and whatever other items there are. Not a metric; of an item to itself it
    is never asked. O(1).

    Choose it as the control: a distance whose groups score no better, over several seeds, has
    found nothing.

    Attributes:
        seed: another seed gives other numbers.
    """

    compares: ClassVar[str] = "labels"  # of what a distance can ask for, the cheapest
    title: ClassVar[str] = "random numbers"

    seed: Annotated[int, Field(ge=0)]

    def prepare(self, subject: Item) -> str:
        """The item's name."""
        return subject.name

    def __call__(self, a: str, b: str) -> Pair:
        """The number of two names."""
        hashed = sha256("\0".join((str(self.seed), *sorted((a, b)))).encode()).digest()
        return Pair((int.from_bytes(hashed[:8], "big") + 1) / 2**64)
