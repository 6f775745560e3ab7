"""One bit per weight that says whether the merge's change is the item's too."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.private.delta import Still, decode_delta, encode_delta, pack, unpack
from gwsmm.private.private import Base, Pooler, shared_parts
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mask:
    """θ_i = θ_pre + λ · m ⊙ τ, with τ = θ_merged − θ_pre shared and a mask m of 0 and 1.

    With the item's τ_i = θ_i − θ_pre, m is 1 where `keep` holds. One bit per weight of the rows
    that moved, one λ per matrix, and O(m n) to compute; norms and biases are kept in fp16. The
    pretrained encoder has to be kept beside the merged ones. A group of one keeps its encoder.
    Choose it with a merge that loses no large change of any item, as `ties` with density 1 does.

    Attributes:
        keep: `sign`: where τ_i and τ have the same sign (EMR); `near`: where τ is nearer to τ_i
            than zero is (TALL masks).
        rescale: `magnitude`: λ gives m ⊙ τ the mean magnitude of τ_i (EMR); `least_squares`: λ
            minimises ‖τ_i − λ · m ⊙ τ‖; `none`: λ = 1 (TALL masks).
        still: rows whose norm is at most this share of the largest row's are left as in θ_pre.
        pooler: `own`, or `shared`: coded as the trunk is.

    Source: Huang et al. (2024), "EMR-merging", section 3, with a λ per matrix where theirs is one
    for the model; Wang et al. (2024), "Localizing task information for improved model merging and
    compression".
    """

    bases: ClassVar[tuple[Base, ...]] = ("pretrained", "merged")

    keep: Literal["sign", "near"]
    rescale: Literal["magnitude", "least_squares", "none"]
    still: Still
    pooler: Pooler

    @property
    def shared_parts(self) -> tuple[str, ...]:
        """The trunk, and the pooler if it is shared."""
        return shared_parts(self.pooler)

    def encode(
        self, member: State, bases: Sequence[State], loss: Callable[[State], float]
    ) -> State:
        """Mask and λ of every matrix; see `PrivateTrunk`."""
        pretrained, merged = bases

        def matrix(name: str, rows: "Tensor", own: "Tensor") -> State:
            tau = _rows(merged, pretrained, name, rows)
            kept = own * tau > 0 if self.keep == "sign" else (own - tau).abs() < own.abs()
            return {"mask": pack(kept.numpy(), 1), "scale": self._scale(own, kept * tau)}

        return encode_delta(member, pretrained, self.still, matrix)

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The pretrained tensors plus the masked change of the merge."""
        import torch

        pretrained, merged = bases

        def matrix(name: str, rows: "Tensor", fields: State) -> "Tensor":
            tau = _rows(merged, pretrained, name, rows)
            kept = torch.from_numpy(unpack(fields["mask"], 1, tau.numel()).astype(bool))
            return fields["scale"] * kept.reshape(tau.shape) * tau

        return decode_delta(code, pretrained, matrix)

    def _scale(self, own: "Tensor", masked: "Tensor") -> "Tensor":
        import torch

        over, under = {
            "magnitude": (own.abs().sum(), masked.abs().sum()),
            "least_squares": ((own * masked).sum(), masked.square().sum()),
            "none": (torch.ones(()), torch.ones(())),
        }[self.rescale]
        return over / under if under > 0 else torch.zeros(())


def _rows(merged: State, pretrained: State, name: str, rows: "Tensor") -> "Tensor":
    return (merged[name].float() - pretrained[name].float()).flatten(1)[rows]
