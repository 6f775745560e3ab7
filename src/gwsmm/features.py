"""Member × responses → Cloud: one vector per response, from the item's own encoder."""

from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import Artefact, Member
from gwsmm.encoder import Encoder
from gwsmm.progress import write_fraction
from gwsmm.recipe import Trainer
from gwsmm.types import STRICT, Cloud, InputError, SplitName


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Features:
    """Which vectors make an item's cloud.

    Attributes:
        vector: `cls` (first token), `mean` (over the tokens), or `pooler` (what the head sees).
        layer: hidden layer counted from the end, -1 the last; has no meaning for `pooler`.
        split: `train` or `validation` responses.
        size: at most this many responses, drawn without replacement; None: all.
        seed: of the draw.
    """

    vector: Literal["cls", "mean", "pooler"]
    layer: Annotated[int, Field(le=-1)]
    split: SplitName
    size: Annotated[int, Field(ge=2)] | None
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


@plain_dataclass(frozen=True, kw_only=True)
class Extraction:
    """The stage: a member → `cloud.safetensors` with points [n, d] and weights [n]."""

    stage: ClassVar[str] = "features"
    version: ClassVar[int] = 1

    encoder: Encoder
    features: Features
    trainer: Trainer

    def __call__(self, subject: Member, folder: Path) -> None:
        """Run the member's encoder over its responses, in evaluation mode and fp32."""
        import torch
        from safetensors.torch import save_file

        from gwsmm.network import infer, pool

        chosen, network = self.features, self.encoder.network(len(subject.item.labels))
        for part in ("trunk", "pooler"):
            network.load_part(part, subject.state(part))
        network.to(self.trainer.device).eval()
        texts = subject.item.split(chosen.split).texts
        ids = self.encoder.tokenize([texts[i] for i in _draw(len(texts), chosen)])

        def vectors(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            if chosen.vector == "pooler":
                return network.represent(tokens, mask)
            return pool(network.hidden(tokens, mask, chosen.layer), mask, chosen.vector)

        points = infer(
            network, ids, self.encoder.padding, vectors, lambda done: write_fraction(folder, done)
        ).double()
        weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
        save_file({"points": points, "weights": weights}, folder / "cloud.safetensors")


def load_cloud(name: str, made: Artefact) -> Cloud:
    """The cloud that `Extraction` wrote for the item of this name."""
    from safetensors.numpy import load_file

    tensors = load_file(made.file("cloud.safetensors"))
    return Cloud(name, tensors["points"], tensors["weights"])


def _draw(n: int, features: Features) -> list[int]:
    if features.size is None or features.size >= n:
        return list(range(n))
    drawn = np.random.default_rng(features.seed).choice(n, features.size, replace=False)
    return sorted(int(i) for i in drawn)
