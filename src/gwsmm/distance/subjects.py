"""What a distance can be asked to compare, each loaded from the store where it is needed."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gwsmm.artefact import Artefact, Member
from gwsmm.encoder import Encoder
from gwsmm.types import Cloud, Item, TaskVector


class Subject(Protocol):
    """One item, as a strategy sees it."""

    @property
    def digest(self) -> str:
        """The identity of what is loaded."""

    def load(self) -> object:
        """The `Cloud`, `TaskVector` or `Item`."""


@dataclass(frozen=True)
class CloudOf:
    """A cloud that the features stage wrote, of the item's own responses or of common ones."""

    name: str
    made: Artefact

    @property
    def digest(self) -> str:
        """The identity of the cloud."""
        return f"{self.name} {self.made.digest}"

    def load(self) -> Cloud:
        """Points [n, d] and weights [n]."""
        from safetensors.numpy import load_file

        tensors = load_file(self.made.file("cloud.safetensors"))
        return Cloud(self.name, tensors["points"], tensors["weights"])


@dataclass(frozen=True)
class WeightsOf:
    """What fine-tuning changed in an item's trunk."""

    member: Member
    encoder: Encoder

    @property
    def digest(self) -> str:
        """The identity of the member and of what it started from."""
        return f"{self.member.item.name} {self.member.digest} {self.encoder.digest}"

    def load(self) -> TaskVector:
        """The member's trunk minus the pretrained one."""
        base = self.encoder.pretrained()
        trunk = self.member.state("trunk")
        moved = {k: (v - base[f"trunk.{k}"]).float().numpy() for k, v in trunk.items()}
        return TaskVector(
            self.member.item.name, {k: np.asarray(v, np.float32) for k, v in moved.items()}
        )


@dataclass(frozen=True)
class LabelsOf:
    """The item with its rubric and its ratings, without its test split."""

    item: Item

    @property
    def digest(self) -> str:
        """The identity of the responses, labels and descriptions."""
        described = "\0".join(label.description for label in self.item.labels)
        return f"{self.item.digest} {self.item.prompt} {described}"

    def load(self) -> Item:
        """The item itself."""
        return self.item
