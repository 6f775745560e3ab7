"""A low-rank delta of the rank that the validation responses ask for."""

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.private.delta import Bits, Still
from gwsmm.private.private import Base, Pooler, shared_parts
from gwsmm.private.svd import decode_factors, encode_at
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SvdValidated:
    """The smallest rank r with loss(θ_base + Δ_r) ≤ (1 + tolerance) · loss(θ_i), for each item.

    The loss is the binary cross-entropy of the item's validation responses under its own head; if
    no rank is good enough, the largest is taken. As `svd`, which see for source, with one
    inference on the validation responses for each rank. Choose it where scores are to be bounded.

    Attributes:
        ranks: candidates.
        tolerance: share by which the loss may exceed that of the individual model.
        bits: of an entry of a factor; 16: fp16.
        still: rows whose norm is at most this share of the largest row's are left as in the base.
        base: `merged`: the group's encoder, and a group of one keeps its own; `pretrained`: nothing
            is merged, all items of all groups share one pretrained encoder.
        pooler: `own`, or `shared`: coded as the trunk is.
    """

    version: ClassVar[int] = 2

    ranks: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    tolerance: Annotated[float, Field(ge=0)]
    bits: Bits
    still: Still
    base: Base
    pooler: Pooler

    @property
    def shared_parts(self) -> tuple[str, ...]:
        """The trunk, and the pooler if it is shared."""
        return shared_parts(self.pooler)

    @property
    def bases(self) -> tuple[Base, ...]:
        """What Δ starts from."""
        return (self.base,)

    def encode(
        self, member: State, bases: Sequence[State], loss: Callable[[State], float]
    ) -> State:
        """Factors of every matrix; see `PrivateTrunk`."""
        *smaller, largest = sorted(self.ranks)
        allowed = (1 + self.tolerance) * loss(member)
        for rank in smaller:
            code = encode_at(rank, self.bits, member, bases[0], self.still)
            if loss(self.decode(code, bases)) <= allowed:
                return code
        return encode_at(largest, self.bits, member, bases[0], self.still)

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The base plus the products of the factors."""
        return decode_factors(code, bases[0], self.bits)
