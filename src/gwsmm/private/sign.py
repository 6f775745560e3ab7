"""A delta of one bit per weight."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.private.delta import (
    Still,
    decode_delta,
    encode_delta,
    from_half,
    pack,
    to_half,
    unpack,
)
from gwsmm.private.private import Base, Pooler, shared_parts
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sign:
    """θ_i = θ_base + α · sign(Δ), with α = mean |Δ|, which minimises ‖Δ − α · sign(Δ)‖.

    One bit per weight of the rows that moved, and O(m n) to compute; norms and biases are kept in
    fp16. For Δ of a normal distribution the relative error is √(1 − 2/π) = 0.60. Choose it where
    Δ has many directions and a byte counts. The scales are not distilled, as Liu et al. do after.

    Attributes:
        scale: one α per `tensor`, or per `row`, which costs 2 bytes a row.
        still: rows whose norm is at most this share of the largest row's are left as in the base.
        base: `merged`: the group's encoder, and a group of one keeps its own; `pretrained`: nothing
            is merged, all items of all groups share one pretrained encoder.
        pooler: `own`, or `shared`: coded as the trunk is.

    Source: Liu et al. (2024), "BitDelta".
    """

    scale: Literal["tensor", "row"]
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
        """Signs and scales of every matrix; see `PrivateTrunk`."""

        def matrix(name: str, rows: "Tensor", delta: "Tensor") -> State:
            alpha = delta.abs().mean(1)
            if self.scale == "tensor":
                alpha = alpha.mean(0, keepdim=True)
            return {"signs": pack((delta > 0).numpy(), 1), **to_half("scales", alpha)}

        return encode_delta(member, bases[0], self.still, matrix)

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The base plus the scaled signs."""
        import torch

        (base,) = bases

        def matrix(name: str, rows: "Tensor", fields: State) -> "Tensor":
            shape = int(rows.sum()), base[name][0].numel()
            signs = torch.from_numpy(unpack(fields["signs"], 1, shape[0] * shape[1]).astype("f4"))
            return (2 * signs - 1).reshape(shape) * from_half("scales", fields).unsqueeze(1)

        return decode_delta(code, base, matrix)
