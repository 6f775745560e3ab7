"""A low-rank delta of a fixed rank."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.private.delta import (
    HALF,
    Bits,
    Still,
    decode_delta,
    encode_delta,
    from_bits,
    from_half,
    to_bits,
    to_half,
)
from gwsmm.private.private import Base, Pooler, shared_parts
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Svd:
    """θ_i = θ_base + A Bᵀ per matrix, with A Bᵀ nearest to Δ = θ_i − θ_base of all of this rank.

    The factors are the leading singular vectors of Δ, of the rows that moved; a matrix whose
    factors would be larger than itself is kept in fp16. An [m, n] matrix takes
    bits / 8 · rank · (m + n) bytes, and O(m n min(m, n)) to compute. Choose it where Δ has few
    directions, as that of a short fine-tuning has.

    Attributes:
        rank: of every matrix.
        bits: of an entry of a factor, relative to the largest of its column; 16: fp16. A direction
            of Δ is wrong by about 1 % at 8 bits and 15 % at 4, so that at a given size more
            directions in fewer bits are nearer to Δ.
        still: rows whose norm is at most this share of the largest row's are left as in the base.
        base: `merged`: the group's encoder, and a group of one keeps its own; `pretrained`: nothing
            is merged, all items of all groups share one pretrained encoder.
        pooler: `own`, or `shared`: coded as the trunk is.

    Source: Eckart and Young (1936); as a task's own part Gargiulo et al. (2025), "Task singular
    vectors".
    """

    rank: Annotated[int, Field(ge=1)]
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
            lambda name, rows, delta: fields_of(delta, *factors(delta), self.rank, self.bits),
        )

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The base plus the products of the factors."""
        return decode_factors(code, bases[0], self.bits)


def factors(delta: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Directions of an [m, n] matrix, the largest first: left [long, short], right [short, short].

    left rightᵀ is the matrix with its longer side upright. From the eigenvectors of the smaller
    Gram matrix, in double precision: precise far beyond fp16, and for a tall matrix much faster
    than a singular value decomposition.
    """
    import torch

    tall = (delta.T if delta.shape[1] > delta.shape[0] else delta).double()
    right = torch.linalg.eigh(tall.T @ tall).eigenvectors.flip(1)
    return tall @ right, right


def fields_of(delta: "Tensor", left: "Tensor", right: "Tensor", rank: int, bits: int) -> State:
    """Fields of an [m, n] matrix with these factors, of which it keeps so many directions."""
    if bits * rank * sum(delta.shape) >= HALF * delta.numel():
        return to_half("values", delta)
    return {**to_bits("left", left[:, :rank], bits), **to_bits("right", right[:, :rank], bits)}


def decode_factors(code: State, base: State, bits: int) -> State:
    """The base plus what `fields_of` made fields of."""

    def matrix(name: str, rows: "Tensor", fields: State) -> "Tensor":
        if "values" in fields:
            return from_half("values", fields)
        moved, width = int(rows.sum()), base[name][0].numel()
        wide, (short, long) = width > moved, sorted((moved, width))
        left, right = from_bits("left", fields, bits, long), from_bits("right", fields, bits, short)
        product = left @ right.T
        return product.T if wide else product

    return decode_delta(code, base, matrix)
