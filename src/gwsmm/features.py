"""Encoder × responses → Cloud: one vector per response, as a rule from the item's own encoder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import Member, State
from gwsmm.encoder import Encoder
from gwsmm.progress import write_fraction
from gwsmm.recipe import Trainer
from gwsmm.types import STRICT, InputError, Responses, SplitName

Vector = Literal["cls", "mean", "pooler"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Features:
    """Which vectors make an item's cloud.

    Attributes:
        vector: `cls` (first token), `mean` (over the tokens), or `pooler` (what the head sees).
        layer: hidden layer counted from the end, -1 the last; has no meaning for `pooler`.
        split: `train` or `validation` responses.
        size: at most this many responses, drawn without replacement; None: all.
        common: responses that every encoder reads, drawn in equal numbers from all items, for the
            distances that compare the encoders on the same input.
        seed: of the draws.
    """

    vector: Vector
    layer: Annotated[int, Field(le=-1)]
    split: SplitName
    size: Annotated[int, Field(ge=2)] | None
    common: Annotated[int, Field(ge=2)]
    seed: Annotated[int, Field(ge=0)]


def check_layer(features: Features, encoder: Encoder) -> None:
    """Refuse, before any work, a layer that the encoder does not have.

    Raises:
        InputError: there are fewer layers.
    """
    lowest = -1 if features.layer == -1 else -1 - encoder.layers  # the embeddings
    if features.vector != "pooler" and features.layer < lowest:
        raise InputError(
            f"features.layer={features.layer}: the encoder has {encoder.layers} layers; give -1 "
            f"(the last) to {lowest} (the embeddings)"
        )


class Reader(Protocol):
    """An encoder that is kept somewhere, such as a `Member`'s."""

    @property
    def digest(self) -> str:
        """Its identity."""

    def state(self, part: str) -> State:
        """The tensors of its `trunk` or `pooler`."""


@plain_dataclass(frozen=True)
class Reading:
    """Responses that an encoder reads: an item's own, or those common to all items.

    Attributes:
        member: whose encoder reads them; None: the pretrained encoder, the same for all items.
    """

    member: Reader | None
    texts: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """The identity of the encoder and of the texts."""
        reader = "pretrained" if self.member is None else self.member.digest
        return sha256("\0".join((reader, *self.texts)).encode()).hexdigest()


def own_responses(features: Features, member: Member) -> Responses:
    """The chosen responses to the member's own item."""
    return _draw(member.item.split(features.split), features.size, features)


def own_readings(features: Features, members: Sequence[Member]) -> list[Reading]:
    """For each member the chosen responses to its own item."""
    return [Reading(member, own_responses(features, member).texts) for member in members]


def pretrained_readings(features: Features, members: Sequence[Member]) -> list[Reading]:
    """The responses of `own_readings`, row by row, for the pretrained encoder."""
    return [Reading(None, own_responses(features, member).texts) for member in members]


def common_readings(features: Features, members: Sequence[Member]) -> list[Reading]:
    """For each member the same responses, drawn in equal numbers from all items."""
    each = math.ceil(features.common / len(members))
    drawn = tuple(
        text
        for member in members
        for text in _draw(member.item.split(features.split), each, features).texts
    )
    return [Reading(member, drawn) for member in members]


@plain_dataclass(frozen=True, kw_only=True)
class Extraction:
    """The stage: a reading → `cloud.safetensors` with points [n, d] and weights [n].

    Attributes:
        vector: see `Features`.
        layer: see `Features`.
    """

    stage: ClassVar[str] = "features"
    version: ClassVar[int] = 3

    encoder: Encoder
    vector: Vector
    layer: int
    trainer: Trainer

    def __call__(self, subject: Reading, folder: Path) -> None:
        """Run the encoder over the responses, in evaluation mode and fp32."""
        import torch
        from safetensors.torch import save_file

        from gwsmm.network import infer, pool

        network = self.encoder.network(labels=1)  # the head does not matter
        if subject.member is not None:
            for part in ("trunk", "pooler"):
                network.load_part(part, subject.member.state(part))
        network.to(self.trainer.device).eval()

        def vectors(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            if self.vector == "pooler":
                return network.represent(tokens, mask)
            return pool(network.hidden(tokens, mask, self.layer), mask, self.vector)

        ids = self.encoder.tokenize(subject.texts)
        points = infer(
            network, ids, self.encoder.padding, vectors, lambda done: write_fraction(folder, done)
        ).double()
        weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
        save_file({"points": points, "weights": weights}, folder / "cloud.safetensors")


def _draw(responses: Responses, size: int | None, features: Features) -> Responses:
    if size is None or size >= len(responses):
        return responses
    drawn = np.random.default_rng(features.seed).choice(len(responses), size, replace=False)
    return responses.rows(sorted(drawn))
