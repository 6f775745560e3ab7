"""Norms and biases stay the item's own."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.private.private import Base, Pooler, shared_parts
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NormsAndBiases:
    """θ_i = (merged matrices, own vectors): the tensors of one dimension stay as fine-tuned.

    These are the weights and biases of all norms and the biases of all layers: one weight in 700
    of MiniLM's, 0.13 MB, and they set the scale and the offset of every feature. Choose it
    where an item may cost next to nothing.

    Attributes:
        pooler: `own`, or `shared`: treated as the trunk, so that only its bias is the item's.

    Source: Ben Zaken, Goldberg and Ravfogel (2022), "BitFit", which trains no other weights.
    """

    bases: ClassVar[tuple[Base, ...]] = ("merged",)

    pooler: Pooler

    @property
    def shared_parts(self) -> tuple[str, ...]:
        """The trunk, and the pooler if it is shared."""
        return shared_parts(self.pooler)

    def encode(
        self, member: State, bases: Sequence[State], loss: Callable[[State], float]
    ) -> State:
        """The tensors of at most one dimension; see `PrivateTrunk`."""
        return {k: v.to(bases[0][k].dtype) for k, v in member.items() if v.ndim <= 1}

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The merged tensors, with the item's own in their place."""
        return {**bases[0], **code}
