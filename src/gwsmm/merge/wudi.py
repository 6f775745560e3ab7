"""WUDI-Merging: the task vector that disturbs no layer's own inputs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.merge.matrices import is_matrix, summed, task_matrices, task_mean
from gwsmm.merge.merging import Base
from gwsmm.merge.stored import Tensors
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Wudi:
    """θ = θ_base + λ τ with τ = argmin Σ ‖(τ − τ_i) τ_iᵀ‖² / ‖τ_i‖² for every linear layer.

    The rows of a task matrix τ_i lie in the span of the inputs that the layer was fine-tuned on, so
    τ_i stands for them: where τ − τ_i is orthogonal to τ_i, member i's outputs are undisturbed. The
    loss is quadratic with the normal equations τ G = Σ τ_i G_i, G_i = τ_iᵀ τ_i / ‖τ_i‖², G = Σ G_i.
    Without `steps` they are solved: of all minima, the one nearest to Σ τ_i. With `steps`, Adam
    goes from Σ τ_i towards it, as the authors do; how far depends on the size of the task vectors.
    Other tensors get λ times the mean task vector; a member that equals the base has no part in G.

    Equal members, and a single one, are given back at λ = 1. No data; no gradients of the model.
    One pseudo-inverse of [d, d] for a layer with d inputs, or `steps` products with it.

    Attributes:
        scale: λ.
        steps: of Adam; None: the minimum itself.
        learning_rate: of Adam.
        base: `pretrained`, `group_mean` or the name of an item that is in every group.

    Source: Cheng et al. (2025), "Whoever started the interference should end it"; 300 steps of
    1e-5 in their code.
    """

    scale: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(ge=1)] | None
    learning_rate: Annotated[float, Field(gt=0)]
    base: Base

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """Merge the members around the base; see `Merge`."""
        if is_matrix(name, base):
            tau = self._undisturbing(task_matrices(base, members))
        else:
            tau = task_mean(base, members)
        return (base.to(tau.dtype) + self.scale * tau).to(base.dtype)

    def _undisturbing(self, taus: Tensors) -> "Tensor":
        import torch

        total = summed(taus)
        gram = total.new_zeros(total.shape[1], total.shape[1])
        wanted = torch.zeros_like(total)
        for tau in taus:
            if (square := tau.square().sum()) > 0:
                own = tau.T @ tau / square
                gram += own
                wanted += tau @ own
        if self.steps is not None:
            return adam(total, gram, wanted, self.steps, self.learning_rate)
        # Along directions that fp32 cannot tell from no move at all, the sum is kept.
        cutoff = torch.finfo(torch.float32).eps
        inverse: Tensor = torch.linalg.pinv(gram, hermitian=True, rtol=cutoff)
        return total + (wanted - total @ gram) @ inverse


def adam(
    start: "Tensor", gram: "Tensor", wanted: "Tensor", steps: int, learning_rate: float
) -> "Tensor":
    """`start` after this many steps towards the solution of τ G = W, by the loss's gradient."""
    import torch

    tau = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([tau], lr=learning_rate)
    for _ in range(steps):
        tau.grad = 2 * (tau.detach() @ gram - wanted)
        optimizer.step()
    return tau.detach()
