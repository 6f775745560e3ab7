"""What a choice of private parts says."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

from gwsmm.artefact import State

Base = Literal["merged", "pretrained"]
Pooler = Literal["own", "shared"]


class Private(Protocol):
    """Parts an encoder into what is shared and what an item keeps."""

    @property
    def shared_parts(self) -> tuple[str, ...]:
        """The parts, of `trunk` and `pooler`, that are shared; an item keeps the others whole."""


@runtime_checkable
class PrivateTrunk(Protocol):
    """A `Private` by which an item also keeps something of the shared parts.

    Tensors are named `trunk.…` and `pooler.…`, as in the encoder; decoding goes tensor by tensor,
    so that it can be asked for one part alone, its tensors then named without the part.
    """

    @property
    def shared_parts(self) -> tuple[str, ...]:
        """As of `Private`."""

    @property
    def bases(self) -> tuple[Base, ...]:
        """What the private part stands on: the group's `merged` encoder, the `pretrained` one."""

    def encode(
        self, member: State, bases: Sequence[State], loss: Callable[[State], float]
    ) -> State:
        """The private part, in the dtypes that are written; what went in is not changed.

        Args:
            member: the shared parts as they were fine-tuned for the item.
            bases: the same tensors of every one of `bases`.
            loss: of the item's validation responses, with these tensors under its own head.
        """

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The item's tensors: every name, shape and dtype of a base."""


def shared_parts(pooler: Pooler) -> tuple[str, ...]:
    """`shared_parts` of a choice that treats a shared pooler as it treats the trunk."""
    return ("trunk", "pooler") if pooler == "shared" else ("trunk",)
