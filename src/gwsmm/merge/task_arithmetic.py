"""Task arithmetic, with a factor for every layer."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.merge.matrices import task_mean
from gwsmm.merge.merging import Base
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor

_Number = Annotated[int, Field(ge=0)]
_Factor = Annotated[float, Field(ge=0)]
_LAYER = re.compile(r"\blayers?\.(\d+)\.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TaskArithmetic:
    """θ = θ_base + λ Σ τ_i with task vectors τ_i = θ_i − θ_base. No data, no gradients.

    With λ = 1/T for T members this is their mean. A smaller λ in the lower layers keeps what is
    general there and lets the upper layers take on the tasks.

    Attributes:
        scale: λ of every tensor that is in no layer (embeddings, pooler), and of the layers too
            where `layers` is None.
        layers: λ by the number of the layer, 0 the lowest: linear between the layers that are
            named, constant below the first and above the last of them.
        base: `pretrained`, `group_mean` or the name of an item that is in every group.

    Source: Ilharco et al. (2023), "Editing models with task arithmetic"; λ that grows linearly with
    depth: Wang et al. (2025), "LiNeS".
    """

    scale: Annotated[float, Field(gt=0)]
    layers: Annotated[Mapping[_Number, _Factor], Field(min_length=1)] | None
    base: Base

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """Add the scaled task vectors to the base; see `Merge`."""
        tau = task_mean(base, members) * (len(members) * self._scale(name))
        return (base.float() + tau).to(base.dtype)

    def _scale(self, name: str) -> float:
        found = _LAYER.search(name)
        if found is None or self.layers is None:
            return self.scale
        named = sorted(self.layers)
        return float(np.interp(int(found[1]), named, [self.layers[layer] for layer in named]))
