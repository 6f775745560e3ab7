"""The item's own head, corrected for what the shared encoder changed of its features."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.asking import logits_of
from gwsmm.heads.fitting import Frozen
from gwsmm.heads.probing import Array, as_state, features, logits, standardised
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Surgery:
    """z = w (x + M x + c) + b, with M x + c what brings shared features x to the item's own x°.

    M and c minimise mean ‖x + M x + c − x°‖² + strength ‖M‖² over the training responses, on
    standardised features; w and b are the head as it was fine-tuned. As M is linear, w M is all of
    it that matters and becomes part of the head: no bytes, no pass more. The strength is the one
    of `strengths` with the least squared error of the logits on the validation responses. Looks at
    texts and never at labels; needs one pass of the item's own encoder over them. Choose it where
    there are responses but no ratings; where there are, `l2_sp` and `refit` know more.

    Attributes:
        strengths: candidates, per training response, on standardised features.

    Source: Yang et al. (2024), "Representation surgery for multi-task model merging", whose module
    has a bottleneck with a ReLU and is trained by the absolute error.
    """

    version: ClassVar[int] = 2

    strengths: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]

    def __call__(self, frozen: Frozen) -> State:
        """The corrected head; see `Heads`."""
        item, head = frozen.member.item, frozen.member.state("head")
        weight, bias = (head[name].double().numpy() for name in ("weight", "bias"))
        texts = [*item.train.texts, *item.validation.texts]
        seen = features(frozen, texts, lambda done: frozen.tick(0.5 * done))
        device = str(next(frozen.network.parameters()).device)
        wanted = logits_of(frozen.encoder, frozen.member, texts, {}, device).double().numpy()
        wrong = wanted - (seen @ weight.T + bias)
        n = len(item.train)
        frozen.tick(0.9)
        more = [_ridge(seen[:n], wrong[:n], strength) for strength in self.strengths]
        candidates = [as_state(weight + w, bias + b) for w, b in more]
        errors = [((logits(seen[n:], each) - wanted[n:]) ** 2).mean() for each in candidates]
        return candidates[int(np.argmin(errors))]


def _ridge(seen: Array, wanted: Array, strength: float) -> tuple[Array, Array]:
    """Weight [L, d] and bias [L] of the ridge regression of wanted [n, L] on features [n, d]."""
    standard, centre, spread = standardised(seen)
    gram = standard.T @ standard / len(seen) + strength * np.eye(seen.shape[1])
    weight = np.linalg.solve(gram, standard.T @ (wanted - wanted.mean(0)) / len(seen)).T / spread
    return weight, wanted.mean(0) - weight @ centre
