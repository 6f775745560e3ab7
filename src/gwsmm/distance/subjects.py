"""What a distance can be asked to compare, each loaded from the store where it is needed."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Artefact, Member
from gwsmm.encoder import Encoder
from gwsmm.types import Cloud, Item, Label, Responses, TaskVector


class Subject(Protocol):
    """One item, as a strategy sees it."""

    @property
    def digest(self) -> str:
        """The identity of what is loaded."""

    def load(self) -> object:
        """The `Cloud`, `CloudWithFeatures`, `TaskVector` or `Item`."""


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
class HalfOf:
    """A sample of one of two halves of a cloud.

    Attributes:
        own: the cloud.
        seed: of the split in two.
        half: 0 or 1.
        size: points at most.
    """

    own: CloudOf
    seed: tuple[int, ...]
    half: int
    size: int

    @property
    def digest(self) -> str:
        """The identity of the sample."""
        return f"{self.own.digest} {self.seed} {self.half} {self.size}"

    def load(self) -> Cloud:
        """The points that were drawn, in the order of the cloud."""
        cloud = self.own.load()
        order = np.random.default_rng(self.seed).permutation(len(cloud.points))
        return cloud.rows(np.sort(np.array_split(order, 2)[self.half][: self.size]))


@dataclass(frozen=True, eq=False)
class CloudWithFeatures:
    """A cloud with features [n, k] of the same responses, in a space common to all items."""

    cloud: Cloud
    features: NDArray[np.float64]


@dataclass(frozen=True)
class CloudWithEmbeddingOf:
    """A cloud with the vectors of its responses under the pretrained encoder."""

    own: CloudOf
    pretrained: CloudOf

    @property
    def digest(self) -> str:
        """The identity of both clouds."""
        return f"{self.own.digest} {self.pretrained.digest}"

    def load(self) -> CloudWithFeatures:
        """The cloud, and the pretrained vectors as features."""
        return CloudWithFeatures(self.own.load(), self.pretrained.load().points)


@dataclass(frozen=True)
class CloudWithLabelsOf:
    """A cloud with what the ratings of its responses say.

    Attributes:
        responses: those of the cloud, row by row.
        labels: of the item, one for each column of the ratings.
        names: one feature for each name; None: two features, the share of the item's labels that
            the response shows, and log(1 + their number): long rubrics must not dwarf the share.
    """

    own: CloudOf
    responses: Responses
    labels: tuple[Label, ...]
    names: tuple[str, ...] | None

    @property
    def digest(self) -> str:
        """The identity of the cloud, of the ratings and of the features that are made of them."""
        labels = [label.name for label in self.labels]
        return f"{self.own.digest} {self.responses.digest} {labels} {self.names}"

    def load(self) -> CloudWithFeatures:
        """The cloud, and one row of features per response."""
        shown = self.responses.labels.astype(np.float64)
        if self.names is None:
            features = np.column_stack([shown.mean(axis=1), np.log1p(shown.sum(axis=1))])
        else:
            features = np.zeros((len(shown), len(self.names)))
            features[:, [self.names.index(label.name) for label in self.labels]] = shown
        return CloudWithFeatures(self.own.load(), features)


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
