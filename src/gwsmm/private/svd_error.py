"""A low-rank delta, every matrix of the rank that its error asks for."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.private.delta import Bits, Still, encode_delta
from gwsmm.private.private import Base, Pooler, shared_parts
from gwsmm.private.svd import decode_factors, factors
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SvdError:
    """Per matrix the smallest rank r with ‖Δ − Δ_r‖ ≤ error · ‖Δ‖, Δ_r being Δ's best of rank r.

    As `svd`, which see for cost and source, but bytes go where Δ has many directions.
    Choose it where the error of every matrix is to be bounded and not its size.

    Attributes:
        error: largest relative error of a matrix, over the rows that moved.
        bits: of an entry of a factor; 16: fp16.
        still: rows whose norm is at most this share of the largest row's are left as in the base.
        base: `merged`: the group's encoder, and a group of one keeps its own; `pretrained`: nothing
            is merged, all items of all groups share one pretrained encoder.
        pooler: `own`, or `shared`: coded as the trunk is.
    """

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
            lambda name, rows, delta: factors(delta, self._rank, self.bits),
        )

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The base plus the products of the factors."""
        return decode_factors(code, bases[0], self.bits)

    def _rank(self, energy: "Tensor") -> int:
        """The smallest rank at which the squared singular values that are left out are few."""
        left_out = energy.flip(0).cumsum(0).flip(0)  # by the ranks 0, 1, …
        allowed = math.pow(self.error, 2) * float(left_out[0])
        return max(1, int((left_out > allowed).sum()))
