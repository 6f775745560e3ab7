"""AdaMerging: a coefficient for every tensor of every task vector, learned without labels."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.batching import Most, batches
from gwsmm.merge.learning import Learners
from gwsmm.merge.merging import Base
from gwsmm.recipe import SettledPrecision
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor

    from gwsmm.merge.lesson import Responses


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdaMerging:
    """θ_l = θ_base,l + Σ_i λ_li τ_i,l with λ = argmin of the mean entropy of what is predicted.

    The entropy stands for the loss that cannot be seen without labels: a model is sure where it is
    right. The authors' models choose one class by a softmax; ours say yes or no to every label, so
    here it is the binary entropy H(p) = −p log p − (1 − p) log(1 − p) of each label's sigmoid, mean
    over the labels of the item, each item through its own head (with `private=pooler` also its own
    pooler), and then over items. Adam, every step on a batch of every item; λ stays within 0 and 1
    as in the authors' code. `layer-wise` in the paper is by tensor in the code, and so it is here.

    Looks at the texts of training responses, at labels never; the authors use those of the test
    split, which are not opened here. Needs gradients of λ alone, but all task vectors in memory: T
    encoders beside that of the model. Choose it where no training of an encoder is wanted and one
    coefficient for all is too coarse.

    Attributes:
        initial: λ to begin with; after no steps this is task arithmetic by that scale.
        steps: of Adam.
        learning_rate: of Adam.
        batch_size: responses of each item in a step.
        precision: in which the model sees them; see `Recipe`. λ and the task vectors are in fp32.
        base: `pretrained`, `group_mean` or the name of an item that is in every group.
        seed: of the order of the responses.

    Source: Yang et al. (2024), "AdaMerging: adaptive model merging for multi-task learning",
    equation 5 and their code: 0.3, and 500 steps of 1e-3 on batches of 16.
    """

    version: ClassVar[int] = 2

    initial: Annotated[float, Field(ge=0, le=1)]
    steps: Annotated[int, Field(ge=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=1)]
    precision: SettledPrecision
    base: Base
    seed: Annotated[int, Field(ge=0)]

    def learn(self, learners: Learners) -> State:
        """Learn the coefficients; see `LearnedMerge`."""
        import torch
        from torch.func import functional_call

        from gwsmm.merge.lesson import Responses
        from gwsmm.merge.student import student_of
        from gwsmm.network import pad
        from gwsmm.scoring import computing

        group, device = learners.sorted_by_name(), learners.trainer.device
        responses = Responses.of(group)
        states = group.states
        base = {name: tensor.float().to(device) for name, tensor in group.base.items()}
        taus = {
            name: torch.stack([state[name].float().to(device) - start for state in states])
            for name, start in base.items()
        }
        table = torch.full((len(base), len(group.members)), self.initial, device=device)
        table.requires_grad_()

        def merged() -> dict[str, torch.Tensor]:
            rows = table.clamp(0, 1)
            return {
                name: start + torch.tensordot(row, taus[name], dims=1)
                for row, (name, start) in zip(rows, base.items(), strict=True)
            }

        def entropy(state: State, rows: Sequence[int]) -> torch.Tensor:
            ids, mask = pad([responses.ids[row] for row in rows], group.encoder.padding)
            items = responses.items[list(rows)].to(device)
            batch = ids.to(device), mask.to(device), items
            with computing(self.precision, learners.trainer):
                seen = functional_call(student, dict(state), batch)
            return student.mean_over_own(binary_entropy(seen.logits.float()), items)

        student = student_of(group, group.members, group.base).requires_grad_(False)
        optimizer = torch.optim.Adam([table], lr=self.learning_rate)
        for step, rows in enumerate(self._drawn(responses, len(group.members))):
            state = merged()
            leaves = {name: each.detach().requires_grad_() for name, each in state.items()}
            # In parts of like length: side by side, the responses of many items are mostly padding.
            for part in batches([responses.ids[row] for row in rows], Most()):
                loss = entropy(leaves, [rows[i] for i in part]) * (len(part) / len(rows))
                loss.backward()  # type: ignore[no-untyped-call]
            used = [name for name, leaf in leaves.items() if leaf.grad is not None]
            optimizer.zero_grad()
            torch.autograd.backward(
                [state[name] for name in used], [leaves[name].grad for name in used]
            )
            optimizer.step()
            group.tick((step + 1) / self.steps)
        with torch.no_grad():
            return {name: tensor.to(group.base[name].dtype) for name, tensor in merged().items()}

    def _drawn(self, responses: "Responses", items: int) -> Iterator[list[int]]:
        """For every step as many training responses of every item, in shuffled order."""
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        own = [(responses.items[: responses.train] == i).nonzero().flatten() for i in range(items)]
        waiting: list[list[int]] = [[] for _ in own]
        for _ in range(self.steps):
            batch: list[int] = []
            for rows, left in zip(own, waiting, strict=True):
                while len(left) < self.batch_size:
                    left += rows[torch.randperm(len(rows), generator=generator)].tolist()
                batch += left[: self.batch_size]
                del left[: self.batch_size]
            yield batch


def binary_entropy(logits: "Tensor") -> "Tensor":
    """H(σ(z)) entry by entry, in nats; finite, with a gradient, wherever the logits are."""
    from torch.nn.functional import softplus

    probability = logits.sigmoid()
    return probability * softplus(-logits) + (1 - probability) * softplus(logits)
