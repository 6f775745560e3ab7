"""The stages that write what an item keeps of the shared parts, and what all items share."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gwsmm.artefact import PRIVATE, Artefact, Member, State, load_state, part_of
from gwsmm.asking import logits_of
from gwsmm.encoder import Encoder
from gwsmm.private.private import PrivateTrunk
from gwsmm.progress import write_fraction
from gwsmm.recipe import Trainer


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The stage: nothing → the pretrained `trunk` and `pooler`, as files that all items share."""

    stage: ClassVar[str] = "pretrained"
    version: ClassVar[int] = 1

    encoder: Encoder

    def __call__(self, subject: None, folder: Path) -> None:
        """Write what fine-tuning started from."""
        from safetensors.torch import save_file

        pretrained = self.encoder.pretrained()
        for part in ("trunk", "pooler"):
            if tensors := part_of(pretrained, part):
                save_file(dict(tensors), folder / f"{part}.safetensors")


@dataclass(frozen=True)
class Owner:
    """An item, and what its private part stands on, in the order of the strategy's `bases`."""

    member: Member
    bases: tuple[Artefact, ...]


@dataclass(frozen=True, kw_only=True)
class Coding:
    """The stage: an item and what it shares → `private.safetensors`."""

    stage: ClassVar[str] = "private"
    version: ClassVar[int] = 2  # of what a strategy decodes, too

    encoder: Encoder
    private: PrivateTrunk
    trainer: Trainer

    def __call__(self, subject: Owner, folder: Path) -> None:
        """Write what the item keeps of the shared parts."""
        from safetensors.torch import save_file

        write_fraction(folder, 0.0)
        member = self._state(subject.member.made)
        bases = [self._state(base) for base in subject.bases]
        code = self.private.encode(member, bases, lambda state: self._loss(subject.member, state))
        save_file(dict(code), folder / PRIVATE)

    def _state(self, made: Artefact) -> State:
        parts = self.private.shared_parts
        return {f"{p}.{name}": part for p in parts for name, part in load_state(made, p).items()}

    def _loss(self, member: Member, shared: State) -> float:
        """Binary cross-entropy of the validation responses, mean over responses and labels."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        held = member.item.validation
        logits = logits_of(self.encoder, member, held.texts, shared, self.trainer.device)
        labels = torch.from_numpy(held.labels).float()
        return float(binary_cross_entropy_with_logits(logits, labels))
