"""The stage that rounds an encoder to the number type in which it is kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from gwsmm.artefact import Artefact, load_state

Numbers = Literal["float32", "float16", "bfloat16"]
"""Of the weights that are kept; they are computed with in fp32, whatever they are kept in."""


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """The stage: an encoder, merged or of one item → the same parts in fewer bytes.

    Attributes:
        numbers: of the weights.
    """

    stage: ClassVar[str] = "rounding"
    version: ClassVar[int] = 1

    numbers: Numbers

    def __call__(self, subject: Artefact, folder: Path) -> None:
        """Write what the subject has of `trunk`, `pooler` and `head`."""
        import torch
        from safetensors.torch import save_file

        kind: torch.dtype = getattr(torch, self.numbers)
        for part in ("trunk", "pooler", "head"):
            if state := load_state(subject, part):
                rounded = {name: tensor.to(kind) for name, tensor in state.items()}
                save_file(rounded, folder / f"{part}.safetensors")
