"""One shared encoder under the heads of a whole group."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gwsmm.artefact import Member, State
from gwsmm.merge.learning import Learners
from gwsmm.network import Network, pool


class Seen(NamedTuple):
    """What a batch of b responses becomes on its way.

    Attributes:
        vectors: [b, K + 1, d], the pooled vector of every layer, the lowest first, and then what
            the heads see.
        logits: [b, L], of the labels of all items side by side; those of other items than the
            response's own have no meaning.
    """

    vectors: Tensor
    logits: Tensor


class Student(nn.Module):
    """A trunk that the items of a group share, with the heads of all of them side by side.

    A batch may mix items: the trunk runs once, and every response passes its own item's pooler.

    Args:
        networks: one for each item, of like encoders. The trunk is that of the first, and so is the
            pooler if it is shared.
        shares_pooler: False: each item's own pooler is used as it is, and not trained.
    """

    pooler: nn.Linear | None

    def __init__(self, networks: Sequence[Network], *, shares_pooler: bool) -> None:
        super().__init__()
        first = networks[0]
        self.trunk, self.pooling, self.dropout = first.trunk, first.pooling, first.dropout
        self.pooler = first.pooler if shares_pooler else None
        own = [] if shares_pooler else [each.pooler for each in networks if each.pooler is not None]
        self.poolers = nn.ModuleList(own).requires_grad_(False)
        heads = [each.head for each in networks]
        labels = [head.out_features for head in heads]
        self.head = nn.Linear(heads[0].in_features, sum(labels))
        with torch.no_grad():
            self.head.weight.copy_(torch.cat([head.weight for head in heads]))
            self.head.bias.copy_(torch.cat([head.bias for head in heads]))
        owner = torch.arange(len(heads)).repeat_interleave(torch.tensor(labels))
        owns = owner == torch.arange(len(heads))[:, None]
        self.owns: Tensor
        self.register_buffer("owns", owns, persistent=False)  # [T, L]

    def forward(self, ids: Tensor, mask: Tensor, items: Tensor) -> Seen:
        """See a batch of token ids [b, t] with their mask [b, t] and the items [b] they answer."""
        out = self.trunk(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        vectors = [pool(hidden, mask, self.pooling) for hidden in out.hidden_states[1:]]
        last = self._pooled(pool(out.last_hidden_state, mask, self.pooling), items)
        return Seen(torch.stack([*vectors, last], 1), self.head(self.dropout(last)))

    def mean_over_own(self, values: Tensor, items: Tensor) -> Tensor:
        """Of values [b, L] the mean over the labels of a response's item, then over responses."""
        own = self.owns[items]
        return (torch.where(own, values, 0.0).sum(1) / own.sum(1)).mean()

    def shared_state(self) -> State:
        """A copy of what is shared, named `trunk.…` and, if it is, `pooler.…`."""
        state = {k: v for k, v in self.state_dict().items() if k.startswith(("trunk.", "pooler."))}
        return {k: v.detach().cpu().clone() for k, v in state.items() if v.is_floating_point()}

    def _pooled(self, vectors: Tensor, items: Tensor) -> Tensor:
        if self.pooler is not None:
            return torch.tanh(self.pooler(vectors))
        if not self.poolers:
            return vectors
        out = torch.zeros_like(vectors)
        for i, pooler in enumerate(self.poolers):
            out = torch.where((items == i)[:, None], torch.tanh(pooler(vectors)), out)
        return out


def soft_loss(student: Student, logits: Tensor, wanted: Tensor, items: Tensor) -> Tensor:
    """KL(wanted ‖ σ(logits)) of each label, mean over a response's own labels and over responses.

    Of labels 0 and 1 this is the binary cross-entropy; of probabilities it is that less what cannot
    be avoided, so that it is zero where they are met.

    Args:
        student: knows which labels are whose.
        logits: [b, L].
        wanted: [b, L] probabilities.
        items: [b].
    """
    entropy = torch.special.entr(wanted) + torch.special.entr(1 - wanted)
    cross = binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return student.mean_over_own(cross - entropy, items)


def student_of(
    learners: Learners, members: Sequence[Member], shared: State | None, frozen_layers: int = 0
) -> Student:
    """A student on the learners' device, without dropout.

    Args:
        learners: make the networks, and say by the names of `base` whether the pooler is shared.
        members: whose heads it has.
        shared: tensors of its encoder; None: those of the first member.
        frozen_layers: that do not learn; see `Recipe`.
    """
    networks: list[Network] = []
    for member in members:
        network = learners.network(member, shared)
        if networks:  # one trunk is enough
            network.trunk = networks[0].trunk
        networks.append(network)
    networks[0].freeze(frozen_layers)
    shares_pooler = any(name.startswith("pooler.") for name in learners.base)
    return Student(networks, shares_pooler=shares_pooler).to(learners.trainer.device).eval()
