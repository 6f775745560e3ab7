"""The stage that fits one item's head on a frozen encoder, and what a head strategy is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from gwsmm.artefact import Kept, Member, State, load_state
from gwsmm.encoder import Encoder
from gwsmm.progress import write_fraction
from gwsmm.recipe import Trainer

if TYPE_CHECKING:
    from gwsmm.network import Network


@dataclass(frozen=True, eq=False)
class Frozen:
    """A merged encoder with one item's private parts and its original head, not to be changed.

    Attributes:
        network: carries the item's original head.
        encoder: tokenizes for it.
        member: the item.
        tick: takes the fraction of the work that is done.
    """

    network: "Network"
    encoder: Encoder
    member: Member
    tick: Callable[[float], None]


class Heads(Protocol):
    """A strategy that gives an item a head for its new encoder."""

    def __call__(self, frozen: Frozen) -> State:
        """The head's `weight` [L, d] and `bias` [L]."""


@dataclass(frozen=True)
class Moved:
    """An item on its new encoder: where trunk and pooler are kept."""

    member: Member
    trunk: Kept
    pooler: Kept


@dataclass(frozen=True, kw_only=True)
class HeadFitting:
    """The stage: an item on its new encoder → `head.safetensors`."""

    stage: ClassVar[str] = "heads"
    version: ClassVar[int] = 2

    encoder: Encoder
    heads: Heads
    trainer: Trainer
    seed: int

    def __call__(self, subject: Moved, folder: Path) -> None:
        """Fit the head by the strategy, on training and validation responses."""
        import torch
        from safetensors.torch import save_file

        network = self.encoder.unfilled(len(subject.member.item.labels))
        network.load_part("trunk", load_state(subject.trunk, "trunk"))
        network.load_part("pooler", load_state(subject.pooler, "pooler"))
        network.load_part("head", subject.member.state("head"))
        network.to(self.trainer.device).eval()
        tick = partial(write_fraction, folder)
        torch.manual_seed(self.seed)
        head = self.heads(Frozen(network, self.encoder, subject.member, tick))
        save_file(dict(head), folder / "head.safetensors")
