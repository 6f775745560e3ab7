"""The angle between what fine-tuning changed in two encoders."""

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT, InputError, Pair, TaskVector


@plain_dataclass(frozen=True, eq=False)
class Direction:
    """A vector in parts, by name, and its length over all of them."""

    parts: Mapping[str, NDArray[Any]]
    length: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TaskVectorCosine:
    """1 − ⟨τ, τ′⟩ / (‖τ‖ ‖τ′‖), with τ = θ − θ_pretrained over all tensors of the trunk.

    In [0, 2]; task vectors of small models lie near 1. Unchanged by the length of a task vector,
    so by how long and fast an encoder was fine-tuned in a fixed direction; not by a symmetry of
    the network, as the exchange of two neurons is. A zero vector, of an encoder that did not move,
    has no angle: it is 1 from any other and 0 from another such. O(D) per pair for D parameters,
    summed in float64; an item takes 4 · D bytes, 88 MB for 22 million parameters.

    Choose it to ask of the weights themselves what merging adds up: orthogonal task vectors
    interfere least. It needs no responses, and no forward pass.

    Attributes:
        sketch: None, or how many numbers to keep of each task vector, for more items than memory
            holds: every entry is added, with a random sign, to one of so many sums. The cosine
            then has a standard error of about 1 / √sketch.
        seed: of the sketch; the same for every item.

    Source: Ilharco et al. (2023); the sketch: Charikar, Chen and
    Farach-Colton (2002), Weinberger et al. (2009).
    """

    compares: ClassVar[str] = "weights"

    sketch: Annotated[int, Field(ge=2)] | None
    seed: Annotated[int, Field(ge=0)]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return f"1 - {'' if self.sketch is None else 'sketched '}task vector cosine"

    def prepare(self, subject: TaskVector) -> Direction:
        """The task vector or its sketch, with its length.

        Raises:
            InputError: names the item and the tensor that is not finite.
        """
        for name, tensor in subject.tensors.items():
            if not np.isfinite(tensor).all():
                raise InputError(
                    f"item {subject.name!r}: the change of {name!r} is not finite; its encoder "
                    "diverged in fine-tuning: lower finetune.learning_rate"
                )
        parts: Mapping[str, NDArray[Any]] = subject.tensors
        if self.sketch is not None:
            parts = {"sketch": self._sketched(subject.tensors, self.sketch)}
        return Direction(parts, _dot(parts, parts) ** 0.5)

    def __call__(self, a: Direction, b: Direction) -> Pair:
        """One minus the cosine of two task vectors."""
        if a.length == 0 or b.length == 0:
            return Pair(float(a.length != b.length))
        return Pair(max(0.0, 1 - _dot(a.parts, b.parts) / (a.length * b.length)))

    def _sketched(
        self, tensors: Mapping[str, NDArray[np.float32]], size: int
    ) -> NDArray[np.float64]:
        random, sums = np.random.default_rng(self.seed), np.zeros(size)
        for name in sorted(tensors):
            entries = tensors[name].ravel()
            signs = random.integers(2, size=entries.size, dtype=np.int8) * 2 - 1
            slots = random.integers(size, size=entries.size, dtype=np.int32)
            sums += np.bincount(slots, weights=entries * signs, minlength=size)
        return sums


def _dot(a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]]) -> float:
    """Σ over all parts of a · b; `einsum` widens in small pieces, where `@` would need copies."""
    return sum(
        float(np.einsum("i,i->", a[name].ravel(), b[name].ravel(), dtype=np.float64)) for name in a
    )
