"""The last layers stay the item's own."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.encoder import Encoder
from gwsmm.private.private import Base, Pooler, shared_parts
from gwsmm.types import STRICT, InputError

_LAYER = re.compile(r"\blayers?\.(\d+)\.")
_ABOVE = "final_norm"  # ModernBERT's, above all layers


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LastLayers:
    """θ_i = (merged embeddings and lower layers, own upper layers), as they were fine-tuned.

    What is low in a network is general and what is high is the task's, so a merge harms the upper
    layers most. An item keeps 4 bytes per weight of them: of MiniLM 7.1 MB a layer, of BERT base
    28 MB. Choose it for exactness: what is kept is not approximated.

    Attributes:
        layers: how many of the last ones an item keeps.
        pooler: `own`, or `shared`: merged with the trunk.

    Source: Yosinski et al. (2014), "How transferable are features in deep neural networks?".
    """

    bases: ClassVar[tuple[Base, ...]] = ("merged",)

    layers: Annotated[int, Field(ge=1)]
    pooler: Pooler

    @property
    def shared_parts(self) -> tuple[str, ...]:
        """The trunk, and the pooler if it is shared."""
        return shared_parts(self.pooler)

    def check(self, encoder: Encoder) -> None:
        """Refuse to keep more layers than there are."""
        self._check(encoder.layers)

    def _check(self, layers: int) -> None:
        if self.layers > layers:
            raise InputError(
                f"private.layers={self.layers}: the encoder has {layers} layers; give at most that"
            )

    def encode(
        self, member: State, bases: Sequence[State], loss: Callable[[State], float]
    ) -> State:
        """The tensors of the last layers; see `PrivateTrunk`.

        Raises:
            InputError: the encoder has fewer layers.
        """
        depth = _depth(member)
        self._check(depth)
        own = _from_layer(member, depth - self.layers)
        return {name: member[name].to(bases[0][name].dtype) for name in own}

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The merged tensors, with the item's own in their place."""
        return {**bases[0], **code}


def _depth(names: Iterable[str]) -> int:
    """How many layers the tensors of these names belong to."""
    return 1 + max((int(found[1]) for name in names if (found := _LAYER.search(name))), default=-1)


def _from_layer(names: Iterable[str], first: int) -> list[str]:
    """The names of the tensors from this layer on."""
    found = ((name, _LAYER.search(name)) for name in names)
    return [name for name, at in found if (int(at[1]) >= first if at else _ABOVE in name)]
