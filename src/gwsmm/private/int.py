"""A delta of a few bits per weight."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
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

_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # shares of the largest magnitude that are tried


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Int:
    """θ_i = θ_base + s · q, with whole numbers |q| < 2^(bits − 1) and a scale s for each group.

    q is Δ / s rounded and clipped, and s the one of eight candidates of least squared error. A
    group is so many weights of a row one after the other. Takes bits + 16 / group bits per weight
    of the rows that moved, and O(m n); norms and biases are kept in fp16. Choose it where sign
    or low rank lose too much: the error halves with every bit.

    Attributes:
        bits: per weight; 2 gives three levels.
        group: weights of one scale, two bytes each; at the end of the rows a group may be smaller.
        still: rows whose norm is at most this share of the largest row's are left as in the base.
        base: `merged`: the group's encoder, and a group of one keeps its own; `pretrained`: nothing
            is merged, all items of all groups share one pretrained encoder.
        pooler: `own`, or `shared`: coded as the trunk is.

    Source: Kim et al. (2025), "Task vector quantization"; groups and clipping as in Lin et al.
    (2024), "AWQ".
    """

    bits: Annotated[int, Field(ge=2, le=16)]
    group: Annotated[int, Field(ge=1)]
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

    @property
    def _most(self) -> int:
        return int(2 ** (self.bits - 1) - 1)

    def encode(
        self, member: State, bases: Sequence[State], loss: Callable[[State], float]
    ) -> State:
        """Whole numbers and scales of every matrix; see `PrivateTrunk`."""
        return encode_delta(
            member, bases[0], self.still, lambda name, rows, delta: self._quantised(delta)
        )

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The base plus the scaled whole numbers."""
        import torch

        (base,) = bases

        def matrix(name: str, rows: "Tensor", fields: State) -> "Tensor":
            shape = int(rows.sum()), base[name][0].numel()
            scales = from_half("scales", fields)
            packed = unpack(fields["values"], self.bits, shape[0] * shape[1])
            values = torch.from_numpy(packed.astype("f4")) - self._most
            every = scales.repeat_interleave(self.group)[: values.numel()]
            return (values * every).reshape(shape)

        return decode_delta(code, base, matrix)

    def _quantised(self, delta: "Tensor") -> State:
        import torch
        from torch.nn.functional import pad

        groups = pad(delta.flatten(), (0, -delta.numel() % self.group)).reshape(-1, self.group)
        largest = groups.abs().amax(1)
        best, least = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
        for clip in _CLIPS:
            scales = clip * largest / self._most
            error = (groups - self._rounded(groups, scales) * scales.unsqueeze(1)).square().sum(1)
            best, least = torch.where(error < least, scales, best), torch.minimum(error, least)
        fields = to_half("scales", best)
        values = self._rounded(groups, from_half("scales", fields)).flatten()[: delta.numel()]
        return {"values": pack((values + self._most).numpy(), self.bits), **fields}

    def _rounded(self, groups: "Tensor", scales: "Tensor") -> "Tensor":
        import torch

        divisor = torch.where(scales > 0, scales, torch.inf).unsqueeze(1)  # no scale: all zeros
        return (groups / divisor).round().clamp(-self._most, self._most)
