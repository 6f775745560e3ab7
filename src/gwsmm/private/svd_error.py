"""A low-rank delta, every matrix of the rank that its error asks for."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.private.delta import Bits, Still, encode_delta, from_bits, to_bits, to_half
from gwsmm.private.private import Base, Pooler, shared_parts
from gwsmm.private.svd import decode_factors, factors, fields_of
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SvdError:
    """Per matrix the smallest rank r with ‖Δ − Δ_r‖ ≤ error · ‖Δ‖, Δ_r being what is decoded.

    As `svd`, which see for cost and source, but bytes go where Δ has many directions. Few bits take
    a higher rank, and where none is near enough the matrix is kept in fp16, as near as that is.
    Choose it where the error of every matrix is to be bounded and not its size.

    Attributes:
        error: largest relative error of a matrix, over the rows that moved.
        bits: of an entry of a factor; 16: fp16. Above what its rounding alone loses is room for
            directions to be left out: give `error` more than 0.01 at 8 bits, 0.15 at 4.
        still: rows whose norm is at most this share of the largest row's are left as in the base.
        base: `merged`: the group's encoder, and a group of one keeps its own; `pretrained`: nothing
            is merged, all items of all groups share one pretrained encoder.
        pooler: `own`, or `shared`: coded as the trunk is.
    """

    version: ClassVar[int] = 2

    error: Annotated[float, Field(ge=0, lt=1)]
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
        return encode_delta(
            member,
            bases[0],
            self.still,
            lambda name, rows, delta: self._matrix(delta),
        )

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The base plus the products of the factors."""
        return decode_factors(code, bases[0], self.bits)

    def _matrix(self, delta: "Tensor") -> State:
        left, right = factors(delta)
        good = errors(delta, left, right, self.bits) <= self.error
        if not good.any():
            return to_half("values", delta)
        return fields_of(delta, left, right, 1 + int(good.byte().argmax()), self.bits)


def errors(delta: "Tensor", left: "Tensor", right: "Tensor", bits: int) -> "Tensor":
    """[k]: ‖Δ − Δ_r‖ / ‖Δ‖ at the ranks 1 to k, Δ_r being the product of factors in these bits.

    From ‖Δ‖² − 2 ⟨Δ, Δ_r⟩ + ‖Δ_r‖² in double precision, as a direction is rounded by itself.
    """
    whole = delta.double().square().sum()
    tall = delta.double() if len(left) == len(delta) else delta.double().T
    left, right = (
        from_bits("", to_bits("", each, bits), bits, len(each)).double() for each in (left, right)
    )
    shared = (left * (tall @ right)).sum(0).cumsum(0)
    square = ((left.T @ left) * (right.T @ right)).cumsum(0).cumsum(1).diagonal()
    return ((whole - 2 * shared + square).clamp(min=0) / whole).sqrt()
